"""Nodes for tests only, put among a server's custom nodes: sound and pictures as no node gives them, and
what became of them. Nothing here knows the pack."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

RATE = 16000
SIDE = 96


RATES = (0, -16000, 1, 999, 768_001, "16000", 16000.0, 16000.5, True, float("nan"), float("inf"), None)
STRIPS = ((16, 4096), (4096, 16), (64, 4096), (4096, 64))


COMFYUI = ("collections", "comfy", "comfy_execution")


class Lazy(Mapping[str, Any]):
    """Audio that is no dict and read when it is asked for, as VideoHelperSuite gives it.

    ComfyUI itself looks through what nodes put out, to know its size: it gets nothing and is not counted.
    """

    def __init__(self, read: Callable[[], dict[str, Any]]) -> None:
        self._read, self.asked = read, Counter[str]()

    def __getitem__(self, key: str) -> Any:
        if sys._getframe(1).f_globals["__name__"].split(".")[0] in COMFYUI:
            return None
        self.asked[key] += 1
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("waveform", "sample_rate"))

    def __len__(self) -> int:
        return 2


def broken() -> dict[str, Any]:
    raise Exception("ffmpeg gave up")


def speech(samples: int = RATE, rate: int = RATE) -> Tensor:
    """Something like a voice, [1, 1, samples]."""
    time = torch.arange(samples, dtype=torch.float64) / rate
    loud = (2 * torch.pi * 3 * time).sin().clamp_min(0)
    return (0.5 * loud * (2 * torch.pi * (120 + 300 * time) * time).sin()).float()[None, None]


def sound(waveform: Any, rate: Any = RATE) -> dict[str, Any]:
    return {"waveform": waveform, "sample_rate": rate}


def spoilt(value: float) -> dict[str, Any]:
    waveform = speech()
    waveform[0, 0, 4000] = value
    return sound(waveform)


SOUNDS: dict[str, Callable[[], Any]] = {
    "plain": lambda: sound(speech()),
    "zero": lambda: sound(torch.zeros(1, 1, 0)),
    "c0": lambda: sound(torch.zeros(1, 0, 9000)),
    **{f"{n} samples": lambda n=n: sound(speech()[..., :n]) for n in (1, 639, 640, 800)},
    **{name: lambda name=name: spoilt(float(name)) for name in ("nan", "inf", "-inf")},
    "silence": lambda: sound(torch.zeros(1, 2, RATE)),
    **{
        f"{rate} Hz": lambda rate=rate: sound(speech(rate, rate), rate)
        for rate in (1000, 8000, 44100, 192000)
    },
    "equal stereo": lambda: sound(speech().repeat(1, 2, 1)),
    "opposite stereo": lambda: sound(torch.cat((speech(), -speech()), dim=1)),
    "c6": lambda: sound(speech().repeat(1, 6, 1)),
    "c9000": lambda: sound(torch.zeros(1, 9000, 2)),
    "batch3": lambda: sound(speech().repeat(3, 1, 1)),
    "batch0": lambda: sound(torch.zeros(0, 1, 9000)),
    "13 h": lambda: sound(torch.zeros(1, 1, 1).expand(1, 2, 13 * 3600 * RATE)),
    "clipped": lambda: sound((20 * speech()).clamp(-1, 1)),
    "loud": lambda: sound(1e6 * speech()),
    "quiet": lambda: sound(1e-9 * speech()),
    "i16": lambda: sound((speech() * 2**15).round().to(torch.int16)),
    "i32": lambda: sound((speech().double() * 2**31).round().to(torch.int32)),
    "u8": lambda: sound((speech() * 128 + 128).round().to(torch.uint8)),
    "i64": lambda: sound((speech() * 2**15).to(torch.int64)),
    "bool": lambda: sound(speech() > 0),
    "f64": lambda: sound(speech().double()),
    "f16": lambda: sound(speech().half()),
    "bf16": lambda: sound(speech().bfloat16()),
    "none": lambda: None,
    "no waveform": lambda: {"sample_rate": RATE},
    "no rate": lambda: {"waveform": speech()},
    "other keys": lambda: {"samples": speech(), "rate": RATE},
    "list": lambda: [speech(), RATE],
    "text": lambda: "speech.wav",
    "numpy": lambda: sound(speech().numpy()),
    "lazy": lambda: Lazy(lambda: sound(speech())),
    "broken": lambda: Lazy(broken),
    "ndim1": lambda: sound(speech()[0, 0]),
    "ndim2": lambda: sound(speech()[0]),
    **{f"rate {rate!r}": lambda rate=rate: sound(speech(), rate) for rate in RATES},
    "channels last": lambda: sound(speech().repeat(1, 2, 1).transpose(1, 2).contiguous().transpose(1, 2)),
    "every second": lambda: sound(speech().repeat_interleave(2, dim=2)[..., ::2]),
    "expanded": lambda: sound(speech().expand(1, 4, -1)),
}


def picture(height: int = SIDE, width: int = SIDE) -> Tensor:
    """Something like a drawn face, [1, height, width, 3]."""
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)[None]
    drawn = torch.tensor([0.6, 0.7, 0.75]).expand(height, width, 3).clone()
    drawn[(x / 0.55) ** 2 + ((y - 0.1) / 0.7) ** 2 < 1] = torch.tensor([0.88, 0.67, 0.55])
    for side in (-1, 1):
        drawn[((x - side * 0.22) / 0.08) ** 2 + (y / 0.08) ** 2 < 1] = 0.1
    return drawn[None]


def spotted(value: float) -> Tensor:
    """A value at x 40, y 30."""
    drawn = picture()
    drawn[0, 30, 40, 1] = value
    return drawn


def transparent(alpha: float) -> Tensor:
    return torch.cat((picture(), torch.full((1, SIDE, SIDE, 1), alpha)), dim=-1)


PICTURES: dict[str, Callable[[], Any]] = {
    "plain": picture,
    "8k": lambda: picture(8192, 8192),
    "clear": lambda: transparent(0.5),
    "opaque": lambda: transparent(1.0),
    "grey1": lambda: picture()[..., :1],
    "grey3": lambda: picture()[..., :1].repeat(1, 1, 1, 3),
    "grey3d": lambda: picture()[..., 0],
    "c2": lambda: picture()[..., :2],
    "batch4": lambda: picture().repeat(4, 1, 1, 1),
    "batch0": lambda: picture()[:0],
    **{name: lambda name=name: spotted(float(name)) for name in ("nan", "inf", "-inf", "-0.5", "1.2")},
    "255": lambda: picture() * 255,
    "1.1": lambda: spotted(1.1),
    "-0.1": lambda: spotted(-0.1),
    "rounding": lambda: spotted(1.001),
    "u8": lambda: (picture() * 255).round().to(torch.uint8),
    "of u8": lambda: (picture() * 255).round() / 255,
    "i32": lambda: (picture() * 255).to(torch.int32),
    "bool": lambda: picture() > 0.5,
    "f16": lambda: picture().half(),
    "f64": lambda: picture().double(),
    "bf16": lambda: picture().bfloat16(),
    "chw": lambda: picture().permute(0, 3, 1, 2),
    "none": lambda: None,
    "text": lambda: "portrait.png",
    "numpy": lambda: picture().numpy(),
    **{
        f"{w}x{h}": lambda w=w, h=h: picture(h, w)
        for w, h in ((16, 4096), (4096, 16), (64, 4096), (4096, 64))
    },
}


def digest(*tensors: Tensor) -> str:
    """What a tensor holds, in how many dimensions and in which type."""
    found = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        found.update(f"{plain.dtype} {list(plain.shape)}".encode())
        found.update(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return found.hexdigest()


def facts(value: Any) -> dict[str, Any]:
    """A sound, a picture, a speech or an identity in numbers."""
    if isinstance(value, Lazy):
        return {"asked": dict(value.asked)}
    if isinstance(value, Mapping):
        return {"hash": digest(value["waveform"]), "rate": value["sample_rate"]}
    if isinstance(value, Tensor):
        return {"hash": digest(value) if value.numel() < 1e7 else "", "shape": list(value.shape)}
    if hasattr(value, "speech"):
        features = value.speech.segment(0)
        heard = value.recording.waveform[:, :: max(1, value.recording.waveform.shape[1] // 300)]
        return {
            "hash": digest(features), "finite": bool(features.isfinite().all()),
            "frames": value.speech.plan.frames, "heard": heard[0].tolist(),
        }  # fmt: skip
    parts = (value.canvas.pixels, value.face_embedding, *value.reference_features)
    return {"hash": digest(*parts), "finite": all(bool(part.isfinite().all()) for part in parts)}


class SaboteurSound:
    """AUDIO of a kind."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("AUDIO",), "give", "tests"
    KINDS = SOUNDS

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"kind": (list(cls.KINDS),)}}

    def give(self, kind: str) -> tuple[Any]:
        return (self.KINDS[kind](),)


class SaboteurPicture(SaboteurSound):
    """IMAGE of a kind."""

    RETURN_TYPES = ("IMAGE",)
    KINDS = PICTURES


class SaboteurTell:
    """What a value holds, told in the history; ``after`` says when."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "tell", "tests", True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"value": ("*",)}, "optional": {"after": ("*",)}}

    def tell(self, value: Any, after: Any = None) -> dict[str, Any]:
        del after
        return {"ui": {"told": [json.dumps(facts(value))]}}


NODE_CLASS_MAPPINGS = {node.__name__: node for node in (SaboteurSound, SaboteurPicture, SaboteurTell)}
