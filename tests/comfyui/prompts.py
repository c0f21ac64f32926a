"""Prompts in ComfyUI's API form, small enough to vary in a test."""

from __future__ import annotations

import json
from typing import Any

SIMPLE: dict[str, Any] = {
    "sample": {"class_type": "Hallo3Sample", "inputs": {}},
    "set": {"class_type": "Hallo3LoadBuiltIn", "inputs": {}},
    "speech": {
        "class_type": "Hallo3EncodeSpeech",
        "inputs": {"audio": ["sample", 1], "audio_encoder": ["set", 3]},
    },
    "identity": {
        "class_type": "Hallo3IdentityReference",
        "inputs": {"portrait": ["sample", 0], "vae": ["set", 2], "reference_network": ["set", 1]},
    },
    "extrapolate": {
        "class_type": "Hallo3Extrapolate",
        "inputs": {
            "model": ["set", 0],
            "vae": ["set", 2],
            "identity": ["identity", 0],
            "speech": ["speech", 0],
            "seed": 0,
            "steps": 4,
            "guidance_scale": 1.0,
            "motion_drop": 0.1,
        },
    },
    "save": {
        "class_type": "SaveVideo",
        "inputs": {
            "video": ["extrapolate", 0],
            "filename_prefix": "hallo3",
            "format": "auto",
            "format.codec": "auto",
            "codec": "auto",
        },
    },
}


def simple(**changes: Any) -> dict[str, Any]:
    """The simple prompt with other inputs: ``extrapolate__steps=50``, or a whole node: ``node={...}``."""
    prompt = json.loads(json.dumps(SIMPLE))
    for key, value in changes.items():
        node, _, name = key.partition("__")
        if name:
            prompt[node]["inputs"][name] = value
        else:
            prompt[node] = value
    return prompt
