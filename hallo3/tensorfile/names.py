"""The names a checkpoint's pickle may mention. All others are refused.

The first lists are torch's own words for tensors; ``INERT`` is bookkeeping that torch, SAT and DeepSpeed keep
beside them (facts: checkpoint manifest, other top-level entries).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import CheckpointError

ORDERED = "collections OrderedDict"
PARAMETER = "torch._utils _rebuild_parameter"
TENSOR, TYPED_TENSOR = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"

_STORED = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
STORAGES: dict[str, torch.dtype] = {
    **{f"torch {name}Storage": dtype for name, dtype in _STORED.items()},
    "torch.storage UntypedStorage": torch.uint8,
    "torch UntypedStorage": torch.uint8,
}
"""Storages, and the type in which their length is counted."""

TYPES: dict[str, torch.dtype] = {
    f"torch {str(dtype).removeprefix('torch.')}": dtype
    for dtype in (*_STORED.values(), torch.float8_e4m3fn, torch.float8_e5m2)
}

_BUILTINS = ("set", "frozenset", "slice", "dict", "list", "complex", "bytearray")
_NUMPY = ("_reconstruct", "scalar", "_frombuffer")

INERT = frozenset(
    {
        *(f"{module} {name}" for module in ("__builtin__", "builtins") for name in _BUILTINS),
        *(
            f"{module} {name}"
            for module in ("numpy.core.multiarray", "numpy._core.multiarray")
            for name in _NUMPY
        ),
        "_codecs encode",
        "argparse Namespace",
        "collections defaultdict",
        "datetime date",
        "datetime datetime",
        "datetime timedelta",
        "numpy ndarray",
        "numpy dtype",
        "pathlib PosixPath",
        "pathlib PurePosixPath",
        "pathlib WindowsPath",
        "torch Generator",
        "torch Size",
        "torch device",
        "deepspeed.runtime.fp16.loss_scaler DynamicLossScaler",
        "deepspeed.runtime.fp16.loss_scaler LossScaler",
        "deepspeed.runtime.zero.config DeepSpeedZeroConfig",
        "deepspeed.runtime.zero.config ZeroStageEnum",
        "deepspeed.utils.tensor_fragment fragment_address",
        "deepspeed.utils.tensor_fragment tensor_fragment",
    }
)
"""Names whose objects become placeholders."""

CALLED = INERT | {ORDERED, PARAMETER, TENSOR, TYPED_TENSOR}
KNOWN = CALLED | frozenset(STORAGES) | frozenset(TYPES)


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle mentions. It stays a name."""

    path: str


@dataclass(frozen=True, slots=True)
class Inert:
    """Where an object of bookkeeping was."""

    path: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A reference to bytes beside the pickle, as it was written: unchecked."""

    fields: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A tensor's description: the function that would build it, and from what; unchecked."""

    path: str
    arguments: tuple[Any, ...]


def refused(path: str) -> CheckpointError:
    """A name that no checkpoint of tensors needs, told for what it is."""
    module, _, name = path.partition(" ")
    dotted = path.replace(" ", ".")
    if module in ("torch", "torch.storage") and (
        name.endswith("Storage") or isinstance(vars(torch).get(name), torch.dtype)
    ):
        return CheckpointError(
            "The file holds numbers of a type that is not read.",
            found=dotted,
            expected=", ".join(str(dtype).removeprefix("torch.") for dtype in TYPES.values()),
            do="save the network's state_dict() in one of these",
        )
    if module.startswith(("torch.nn.", "__torch__")) or name == "DataParallel":
        return CheckpointError(
            "The file holds a whole program, not only its weights.",
            found=dotted,
            expected="a dictionary of tensors",
            do="save its state_dict() instead, or take the weights as safetensors",
        )
    return CheckpointError(
        "The file asks for something to be run, which weights never need.",
        found=dotted,
        expected="tensors and the usual bookkeeping of torch and DeepSpeed",
        do="do not open it with other programs; take the weights from their publisher",
    )
