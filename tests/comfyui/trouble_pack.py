"""Another pack: its node has outputs that no node should have, and a route makes a function of ours fail."""

import sys
from importlib import import_module
from typing import Any

import torch

VALUES: dict[str, Any] = {
    "nothing": None,
    "number": 7,
    "list": [],
    "mapping": {},
    "text": "\x1b[2J\0" * 2000,
    "NaN sound": {"waveform": torch.full((1, 1, 16000), float("nan")), "sample_rate": 16000},
    "no picture": torch.zeros(0, 64, 64, 3),
    "NaN picture": torch.full((1, 96, 96, 4), float("nan")),
}


class Panic(BaseException):
    """As a library in Rust raises it."""


ERRORS = {
    "exit": SystemExit(2),
    "panic": Panic("\x1b[2Jindex out of bounds"),
    "allocator": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 12 bytes"),
    "memory": MemoryError(),
    "other": ValueError("\x1b[2J" + "x" * 5000),
}


def find_place(name: str) -> tuple[Any, str]:
    """A function or method of ours by its path: where it is, and its name there."""
    path, _, function = name.rpartition(".")
    pack = next(each for each in sys.modules if each.endswith(".nodes.extension"))
    pack = pack.removesuffix(".nodes.extension")
    try:
        return import_module(f"{pack}.{path}"), function
    except ImportError:
        module, _, kind = path.rpartition(".")
        return getattr(import_module(f"{pack}.{module}"), kind), function


def fail_once(error: BaseException, name: str) -> None:
    place, function = find_place(name)
    real = vars(place)[function]

    def fail(*_: Any, **__: Any) -> Any:
        setattr(place, function, real)
        raise error

    setattr(place, function, fail)


class Anything(str):
    """A type that goes into every socket."""

    def __ne__(self, other: object) -> bool:
        return False


class Trouble:
    RETURN_TYPES, FUNCTION, CATEGORY = (Anything("*"),), "output", "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"value": ("STRING",)}}

    def output(self, value: str) -> tuple[Any]:
        return (VALUES[value],)


NODE_CLASS_MAPPINGS = {"Trouble": Trouble}


def add_route() -> None:
    from aiohttp.web import Response
    from server import PromptServer

    @PromptServer.instance.routes.post("/trouble")
    async def trouble(request: Any) -> Any:
        asked = await request.json()
        fail_once(ERRORS[asked["error"]], asked["place"])
        return Response()


if not __name__.startswith("comfyui."):  # loaded by ComfyUI
    add_route()
