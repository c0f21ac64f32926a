"""Damaged, foreign and malicious files. Malicious ones would create ``MARK`` if they could run code."""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MARK = "hallo3-was-here"


def checkpoint(**beside: Any) -> bytes:
    """A well-formed torch file in DeepSpeed's layout."""
    state: OrderedDict[str, Tensor] = OrderedDict(
        a=torch.arange(6.0).reshape(2, 3), b=torch.ones(4, dtype=torch.bfloat16)
    )
    buffer = io.BytesIO()
    torch.save({"module": state, "iteration": 1, **beside}, buffer)
    return buffer.getvalue()


def archive(pickled: bytes, compression: int = zipfile.ZIP_STORED, /, **members: bytes) -> bytes:
    """A zip archive like torch's around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", b"little")
        for name, content in {"0": bytes(24), **members}.items():
            file.writestr(name if "/" in name else f"archive/data/{name}", content)
    return buffer.getvalue()


def storage(
    key: Any = "0", numel: Any = 6, word: Any = "storage", device: Any = "cpu", raw: bytes = b""
) -> bytes:
    """A reference to a storage, as pickle instructions; ``raw`` ones replace its key."""
    name = raw or _plain(key)
    return b"(" + _plain(word) + b"ctorch\nFloatStorage\n" + name + _plain(device) + _plain(numel) + b"tQ"


def _parameter(inner: bytes) -> bytes:
    return b"ctorch._utils\n_rebuild_parameter\n(" + inner + b"\x89}tR"


def tensor(stored: bytes | None = None, offset: Any = 0, shape: Any = (2, 3), stride: Any = (3, 1)) -> bytes:
    """A tensor, as pickle instructions."""
    head = b"ctorch._utils\n_rebuild_tensor_v2\n(" + (stored or storage())
    return head + _plain(offset) + _plain(shape) + _plain(stride) + b"\x89ccollections\nOrderedDict\n)RtR"


def state(*entries: bytes) -> bytes:
    """A pickle of a state dict with these values."""
    items = b"".join(_plain(f"t{n}") + entry for n, entry in enumerate(entries))
    return b"\x80\x02}(" + items + b"u."


def _plain(value: Any) -> bytes:
    """A plain value's pickle instructions, without frame and memo."""
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def by_name(module: str, name: str, *arguments: Any) -> bytes:
    """A state dict whose value is a call by name."""
    call = f"c{module}\n{name}\n".encode() + _plain(tuple(arguments)) + b"R"
    return state(call)


def programs(mark: Path) -> Iterator[tuple[str, bytes]]:
    """Pickles that run code in a plain unpickler."""
    touch = f"open({str(mark)!r}, 'w').close()"
    shell = f"touch {mark}"
    yield "os.system", by_name("posix", "system", shell)
    yield "eval", by_name("builtins", "eval", touch)
    yield "subprocess", by_name("subprocess", "check_call", ["touch", str(mark)])
    yield "getattr", by_name("builtins", "getattr", "x", "y")
    yield "pickle in a pickle", by_name("pickle", "loads", pickle.dumps(1))
    yield "torch.load", by_name("torch.serialization", "load", "x.pt")
    yield "numpy.load", by_name("numpy", "load", "x.npy")
    yield "open", by_name("io", "open", str(mark), "w")
    yield "attrgetter", by_name("operator", "attrgetter", "__class__.__base__")
    yield "sparse tensor", by_name("torch._utils", "_rebuild_sparse_tensor", 1, ())
    yield "dotted name", state(b"ctorch\nserialization.os.system\n" + _plain((shell,)) + b"R")
    yield "name from the stack", state(_plain("posix") + _plain("system") + b"\x93" + _plain((shell,)) + b"R")
    yield "built object", state(b"cposix\nsystem\n)\x81}b")
    yield "instance", state(b"(" + _plain(shell) + b"iposix\nsystem\n")
    yield "object", state(b"(cposix\nsystem\n" + _plain(shell) + b"o")
    yield "extension", state(b"\x82\x01" + _plain((shell,)) + b"R")
    yield "reduce protocol", pickle.dumps({"a": Calls(eval, touch)}, 2)
    yield "persistent text", state(b"Pposix\n")
    yield "allowed name, called", state(b"ctorch\nFloatStorage\n)R")
    yield "after a good tensor", state(tensor(), b"cposix\nsystem\n" + _plain((shell,)) + b"R")


def bombs() -> Iterator[tuple[str, bytes]]:
    """Pickles that take too much memory or time."""
    yield "memo far ahead", b"\x80\x02}r\xff\xff\xff\x7f."
    yield "deep nesting", b"\x80\x02" + b"(" * 400_000 + b"l" * 1 + b"."
    yield "deep tuples", b"\x80\x02)" + b"\x85" * 399_000 + b"."
    yield "deep tuple as a key", b"\x80\x02})" + b"\x85" * 300_000 + b"Ns."
    yield "many instructions", b"\x80\x02" + b"N0" * 700_000 + b"."
    yield "long pickle", b"\x80\x02" + b"N" * (20 << 20) + b"."
    yield "64 MB pickle", b"\x80\x02" + b"N" * (64 << 20) + b"."
    yield "long text", b"\x80\x02X\xff\xff\xff\x7fabc."
    yield "doubling", b"\x80\x02]" + b"(hq\x00" * 50_000 + b"."


def liars() -> Iterator[tuple[str, bytes]]:
    """Pickles with contradictory tensors."""
    yield "beyond its storage", state(tensor(shape=(3, 3)))
    yield "offset beyond", state(tensor(offset=1))
    yield "huge shape, no steps", state(tensor(shape=(1 << 30, 1 << 30), stride=(0, 0)))
    yield "overlapping", state(tensor(shape=(2, 3), stride=(1, 1)))
    yield "negative offset", state(tensor(offset=-6))
    yield "negative stride", state(tensor(stride=(-3, 1)))
    yield "negative extent", state(tensor(shape=(-2, 3)))
    yield "strides of another number", state(tensor(stride=(1,)))
    yield "huge number", state(tensor(shape=(1 << 200, 1), stride=(1, 1)))
    yield "a shape of text", state(tensor(shape=("a", 1)))
    yield "storage of another length", state(tensor(storage(numel=7)))
    yield "storage of no length", state(tensor(storage(numel=-1)))
    yield "storage elsewhere", state(tensor(storage(key="../0")))
    yield "storage that is missing", state(tensor(storage(key="17")))
    yield "storage key of digits that are none", state(tensor(storage(key="\u0660")))
    yield "storage by number", state(tensor(storage(key=0)))
    yield "another word", state(tensor(storage(word="module")))
    yield (
        "four values",
        state(tensor(b"(" + _plain("storage") + b"ctorch\nFloatStorage\n" + _plain("0") * 2 + b"tQ")),
    )
    doubled = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60
    yield "storage key without end", state(tensor(storage(raw=doubled)))
    yield "storage key of great depth", state(tensor(storage(raw=b")" + b"\x85" * 100_000)))
    yield "parameter in a parameter", state(_parameter(_parameter(tensor())))
    yield "a number as a name", b"\x80\x02}(K\x01" + tensor() + b"u."
    yield "no tensors", state(_plain(1))
    yield "not a dictionary", b"\x80\x02]."
    yield "nothing", b""
    yield "no end", b"\x80\x02}"
