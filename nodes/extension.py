"""The pack's nodes, in menu order."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .doctor import Hallo3Doctor
from .extrapolate import Hallo3Extrapolate
from .identity import Hallo3IdentityReference, Hallo3LoadIdentity, Hallo3PasteBack, Hallo3SaveIdentity
from .loaders import Hallo3LoadBuiltIn, Hallo3LoadModel, Hallo3LoadReferenceNetwork, Hallo3Sample
from .people import Hallo3CombineSpeech, Hallo3IdentitySpeakers
from .plan import Hallo3Plan
from .sampling import (
    Hallo3Guider,
    Hallo3OriginalSampler,
    Hallo3OriginalSchedule,
    Hallo3Sampler,
    Hallo3SegmentConditioning,
    Hallo3VAEDecode,
)
from .script import Hallo3Script
from .speech import Hallo3EncodeSpeech

NODES: list[type[io.ComfyNode]] = [
    Hallo3LoadBuiltIn,
    Hallo3LoadModel,
    Hallo3LoadReferenceNetwork,
    Hallo3Plan,
    Hallo3EncodeSpeech,
    Hallo3Script,
    Hallo3IdentityReference,
    Hallo3SaveIdentity,
    Hallo3LoadIdentity,
    Hallo3Sampler,
    Hallo3VAEDecode,
    Hallo3Extrapolate,
    Hallo3PasteBack,
    Hallo3IdentitySpeakers,
    Hallo3CombineSpeech,
    Hallo3SegmentConditioning,
    Hallo3OriginalSampler,
    Hallo3OriginalSchedule,
    Hallo3Guider,
    Hallo3Sample,
    Hallo3Doctor,
]
"""In menu order."""


class Hallo3Extension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
