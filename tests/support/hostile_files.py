"""Damaged, foreign and malicious files. Malicious ones would create ``MARK`` if they could run code."""

import io
import json
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

MARK = "hallo3-was-here"


def checkpoint(**beside: Any) -> bytes:
    """A well-formed torch file in DeepSpeed's layout."""
    buffer, a, b = io.BytesIO(), torch.arange(6.0).reshape(2, 3), torch.ones(4, dtype=torch.bfloat16)
    torch.save({"module": OrderedDict([("a", a), ("b", b)]), "iteration": 1, **beside}, buffer)
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


def tensor(stored: bytes | None = None, offset: Any = 0, shape: Any = (2, 3), stride: Any = (3, 1)) -> bytes:
    """A tensor, as pickle instructions."""
    head = b"ctorch._utils\n_rebuild_tensor_v2\n(" + (stored or storage())
    return head + _plain(offset) + _plain(shape) + _plain(stride) + b"\x89ccollections\nOrderedDict\n)RtR"


def state(*entries: bytes) -> bytes:
    """A pickle of a state dict with these values."""
    items = b"".join(_plain(f"t{n}{'n' * 90}") + entry for n, entry in enumerate(entries))
    return b"\x80\x02}(" + items + b"u."


def _plain(value: Any) -> bytes:
    """A plain value's pickle instructions, without frame and memo."""
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]


class EvalCall:
    """Pickles as a call of ``eval``."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return eval, (self.text,)


def by_name(module: str, name: str, *arguments: Any) -> bytes:
    """A state dict whose value is a call by name."""
    return state(f"c{module}\n{name}\n".encode() + _plain(tuple(arguments)) + b"R")


def programs(mark: Path) -> Iterator[tuple[str, bytes]]:
    """Pickles that run code in a plain unpickler."""
    touch, shell = f"open({str(mark)!r}, 'w').close()", f"touch {mark}"
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
    yield "reduce protocol", pickle.dumps({"a": EvalCall(touch)}, 2)
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
    yield "storage on a numbered device", state(tensor(storage(device=7)))
    yield "a large number as a key", b"\x80\x02}" + _plain(1 << 31) + b"Ns."
    four = b"(" + _plain("storage") + b"ctorch\nFloatStorage\n" + _plain("0") * 2 + b"tQ"
    yield "four values", state(tensor(four))
    doubled = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60
    yield "storage key without end", state(tensor(storage(raw=doubled)))
    yield "storage key of great depth", state(tensor(storage(raw=b")" + b"\x85" * 100_000)))
    parameter = b"ctorch._utils\n_rebuild_parameter\n("
    yield "parameter in a parameter", state(parameter * 2 + tensor() + b"\x89}tR" * 2)
    yield "a number as a name", b"\x80\x02}(K\x01" + tensor() + b"u."
    yield "no tensors", state(_plain(1))
    yield "not a dictionary", b"\x80\x02]."
    others = "torch.storage QuarterStorage", "torch complex64", "__torch__.x Net", "torch.nn.x Linear"
    yield from (
        (name, by_name(*name.split())) for name in (*others, "x DataParallel", "torch.x FloatStorage")
    )
    yield "nothing", b""
    yield "no end", b"\x80\x02}"


def zips(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Archives that break the reader's rules."""
    ok = state(tensor())
    yield "compressed", archive(ok, zipfile.ZIP_DEFLATED)
    yield "zip bomb", archive(ok, zipfile.ZIP_DEFLATED, **{"1": bytes(50 << 20)})
    twice = archive(ok, **{"archive/data.pkX": b"other"})
    yield "duplicate member", twice.replace(b"archive/data.pkX", b"archive/data.pkl")
    long = "x" * 90
    for name in (f"../../{long}", f"C:{long}", f"a\\{long}", f"{long}/.."):
        yield f"a name that leads outside: {name[:4]}", archive(ok, **{f"archive/{name}": b""})
    yield "absolute", archive(ok, **{f"/etc/{long}": b""})
    yield "two roots", archive(ok, **{"other/data.pkl": b""})
    yield "no pickle", archive(ok, **{f"archive/{long}": b""}).replace(b"data.pkl", b"data.pkk")
    program, word = "serialized_exported_program.json", "word/document.xml"
    for name in ("archive/constants.pkl", f"archive/{program}", "archive/models/model.json", word):
        yield f"another program: {name}", archive(ok, **{name: b""})
    for at, what in ((26, "length"), (30, "name")):
        changed = bytearray(archive(ok))
        changed[at] ^= 1
        yield f"another {what} in a member", bytes(changed)
    encrypted = bytearray(archive(ok))
    encrypted[encrypted.rindex(b"PK\1\2") + 8] |= 1
    yield "encrypted", bytes(encrypted)
    for words in ((), (1,), ("storage",) * 5, ("storage", 1, "0", "cpu", 6)):
        yield f"storage of {len(words)} values: {words[:2]}", archive(state(tensor(_plain(words) + b"Q")))
    for arguments in ((), (1,) * 6, (1,) * 9):
        call = by_name("torch._utils", "_rebuild_tensor_v2", *arguments)
        yield f"tensor of {len(arguments)} values", archive(call)
        yield f"typed tensor of {len(arguments)} values", archive(call.replace(b"_v2", b"_v3"))
    yield "a parameter of nothing", archive(by_name("torch._utils", "_rebuild_parameter"))
    yield "big-endian", archive(ok).replace(b"little", b"bigend")
    yield "a comment", good[:-2] + b"\x03\x00abc"
    yield "bytes before", b"PK\x03\x04" + bytes(60) + good
    at = good.rindex(b"PK\1\2")
    resized = good[: at + 20] + struct.pack("<2I", 1 << 30, 1 << 30) + good[at + 28 :]
    yield "member beyond the end", resized
    directory = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 60_000, 60_000, 9 << 20, 0, 0)
    yield "huge directory", good[:-22] + directory
    real = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 9, 9, (4 << 20) + 1, 90, 0)
    yield "a directory of 4 MB", b"PK\3\4" + bytes((4 << 20) + 87) + real


def headers() -> Iterator[tuple[str, bytes]]:
    """safetensors files that contradict themselves."""

    def file(text: bytes, data: int = 8, length: int | None = None) -> bytes:
        return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data)

    def one(**changed: Any) -> bytes:
        fields = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changed
        return json.dumps({"a" * 90: {key: each for key, each in fields.items() if each != "none"}}).encode()

    yield "cut data", file(one(), 7)
    yield "more data", file(one(), 9)
    yield "header beyond the end", file(one(), length=10_000)
    yield "huge header", file(one(), length=90 << 20)
    yield "no JSON", file(b"{" + b" " * 30)
    yield "a list", file(b"{}" + b" " * 8)[:8] + b"[]" + b" " * 8
    yield "deep JSON", file(b'{"a":' * 100_000)
    yield "duplicate name", file(one()[:-1] + b"," + one()[1:])
    yield "a gap", file(one(data_offsets=[8, 16]), 16)
    yield "an overlap", file(one()[:-1] + b"," + one()[1:].replace(b'"a', b'"b'))
    shapes = {"negative": [-2], "huge shape": [1 << 40, 1 << 40], "fraction": [2.0], "text": "2"}
    yield from ((name, file(one(shape=shape))) for name, shape in shapes.items())
    yield "nine dimensions", file(one(shape=[1] * 8 + [2]))
    yield "a large extent", file(one(shape=[(1 << 40) + 1], data_offsets=[0, 4 << 40]))
    yield "true", file(one(shape=[True, 2]))
    yield "three places", file(one(data_offsets=[0, 8, 8]))
    yield "another size", file(one(data_offsets=[0, 7]))
    yield "no shape", file(one(shape="none"))
    yield "no place", file(one(data_offsets="none"))
    yield "a number", file(b'{"' + b"a" * 90 + b'":7}' + b" " * 8)
    yield "one byte", file(b"{}")[:8]
    yield "metadata that is a list", file(one()[:-1] + b',"__metadata__":[]}')
    yield "many brackets", file(b'{"a":[' + b",".join([b"[]"] * 120_001) + b"]}")
    yield "many commas", file(b'{"a":"' + b"," * 960_001 + b'"}')
    yield "not UTF-8", file(b'{"\xff":1}' + b" " * 8)
    yield "unknown type", file(one(dtype="F4" * 20))
    yield "no type", file(one(dtype=7))
    yield "extra field", file(one(program="x"))
    yield "a million names", file(b"{" + b",".join(b'"%d":[]' % n for n in range(200_000)) + b"}")
    yield "empty lists", file(b'{"a":[' + b",".join([b"[]"] * 3_000_000) + b"]}")
    yield "metadata of numbers", file(one()[:-1] + b',"__metadata__":{"a":1}}')


def foreign(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Other kinds of files, and cut ones."""
    yield "empty", b""
    for word in ("<!DOCTYPE html>", "\n<HTML>", "<?xml version", "<head>"):
        yield (
            f"web page{'' if '!' in word else ': ' + word.strip()}",
            f"{word}<html>Not Found</html>".encode(),
        )
    yield "LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    yield "text", b"Entry not found"
    yield "zeros", bytes(4096)
    yield "7z", b"7z\xbc\xaf\x27\x1c" + bytes(100)
    yield "gzip", b"\x1f\x8b" + bytes(100)
    yield "legacy torch", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    yield "picture", b"\x89PNG\r\n\x1a\n" + bytes(100)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    yield "numpy", buffer.getvalue()
    yield "random bytes", bytes(range(7, 255))
    for where in (1, 10, len(good) // 2, len(good) - 22, len(good) - 1):
        yield f"cut at {where}", good[:where]


def gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_field(kind: int, value: bytes, name: str = "x") -> bytes:
    return gguf_text(name) + struct.pack("<I", kind) + value


GGUFRow = tuple[str, tuple[int, ...], int, int]  # name, dimensions (the fastest first), kind, place


def gguf(
    rows: list[GGUFRow], fields: list[bytes], data: bytes = b"", version: int = 3, alignment: int = 32
) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", version, len(rows), len(fields)) + b"".join(fields)
    for name, dimensions, kind, place in rows:
        header += gguf_text(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        header += struct.pack("<IQ", kind, place)
    return header + bytes(-len(header) % alignment) + data


def aligned(size: int) -> bytes:
    return gguf_field(4, struct.pack("<I", size), "general.alignment")


def ggufs() -> Iterator[tuple[str, bytes]]:
    """GGUF headers that promise too much."""

    def head(tensors: int, fields: int, rest: bytes = b"") -> bytes:
        return b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + rest

    yield "endless array", head(0, 1, gguf_field(9, struct.pack("<IQ", 0, 1 << 60)))
    yield "many texts", head(0, 1, gguf_field(9, struct.pack("<IQ", 8, 1_000_001)) + bytes(9_000_000))
    yield "endless text", head(0, 1, struct.pack("<Q", 1 << 62))
    yield (
        "header beyond 64 MB",
        head(0, 1, gguf_field(9, struct.pack("<IQ", 0, 67_108_816))) + bytes(64 << 20),
    )
    yield "many fields", head(0, 4097)
    yield "many tensors", head(20_001, 0)
    yield "unknown kind", head(0, 1, gguf_field(77, b""))
    yield "array of arrays", head(0, 1, gguf_field(9, struct.pack("<IQ", 9, 1)))
    yield "cut", head(3, 0)
    for version in (0, 1, 4):
        yield f"version {version}", gguf([("a", (8,), 0, 0)], [], bytes(32), version)
    for size in (0, 7, 9, 24, 4097):
        yield f"alignment {size}", gguf([("a", (8,), 0, 0)], [aligned(size)], bytes(32))
    name = "n" * 90
    yield "tensor beyond the end", gguf([(name, (8,), 0, 1)], [], bytes(32))
    yield "quantised tensor beyond the end", gguf([(name, (32, 2), 8, 0)], [], bytes(67))
    yield "five dimensions", gguf([(name, (1, 1, 1, 1, 8), 0, 0)], [], bytes(32))
    yield "huge extent", gguf([(name, (1 << 41,), 0, 0)], [], bytes(32))
    yield "two of one name", gguf([("a", (8,), 0, 0)] * 2, [], bytes(32))
    yield "parts of a group", gguf([(name, (48, 2), 8, 0)], [], bytes(200))
    yield "no group", gguf([(name, (), 8, 0)], [], bytes(200))
    yield "unknown numbers", gguf([(name, (8,), 999, 0)], [], bytes(32))
