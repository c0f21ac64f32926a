"""What ComfyUI is told: the nodes, in menu order."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .decode import Hallo3VAEDecode
from .doctor import Hallo3Doctor
from .extrapolate import Hallo3Extrapolate
from .identity import Hallo3IdentityReference
from .load_identity import Hallo3LoadIdentity
from .loaders import Hallo3LoadBuiltIn, Hallo3LoadModel, Hallo3LoadReferenceNetwork
from .paste_back import Hallo3PasteBack
from .plan import Hallo3Plan
from .sample import Hallo3Sample
from .sampler import Hallo3Sampler, Hallo3SegmentConditioning
from .save_identity import Hallo3SaveIdentity
from .schedule import Hallo3OriginalSampler, Hallo3OriginalSchedule
from .speech import Hallo3EncodeSpeech

NODES: list[type[io.ComfyNode]] = [
    Hallo3LoadBuiltIn,
    Hallo3LoadModel,
    Hallo3LoadReferenceNetwork,
    Hallo3Plan,
    Hallo3EncodeSpeech,
    Hallo3IdentityReference,
    Hallo3SaveIdentity,
    Hallo3LoadIdentity,
    Hallo3Sampler,
    Hallo3VAEDecode,
    Hallo3Extrapolate,
    Hallo3PasteBack,
    Hallo3SegmentConditioning,
    Hallo3OriginalSampler,
    Hallo3OriginalSchedule,
    Hallo3Sample,
    Hallo3Doctor,
]
"""In menu order."""


class Hallo3Extension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
