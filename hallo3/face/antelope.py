"""Where antelopev2's files come from, and on which terms."""

from __future__ import annotations

from ..onnxfile.network import Origin

ANTELOPE = Origin(
    what="A face model",
    belongs_to="insightface's antelopev2",
    terms="Its weights are for non-commercial research only (insightface's antelopev2).",
    where=(
        "take it from face_analysis/models of fudan-generative-ai/hallo3 on huggingface.co, or from "
        "antelopev2.zip among insightface's releases, and put it there"
    ),
    need="Faces on photographs need",
    instead="use a saved identity or the built-in model",
)
"""SCRFD's and ArcFace's files, as Hallo3 was trained with them."""
