"""Socket types of our own, for what ComfyUI has no type for."""

from __future__ import annotations

from comfy_api.latest import io

ReferenceNetworkType = io.Custom("HALLO3_REFERENCE_NETWORK")
"""A :class:`nodes.host.loading.ReferenceSocket`."""
SpeechType = io.Custom("HALLO3_SPEECH")
"""A :class:`nodes.host.speech.SpeechSocket`."""
IdentityType = io.Custom("HALLO3_IDENTITY")
"""A :class:`hallo3.identity.Identity`."""
FaceAnalyzerType = io.Custom("HALLO3_FACE_ANALYZER")
"""Anything that satisfies :class:`hallo3.face.analysis.FaceAnalyzer`."""

KEEP = "hallo3_keep"
"""Entry of a LATENT: the first frame of its segment that is new, the one after its last, and how many latent
frames it had then."""
