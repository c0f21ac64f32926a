"""Containers that contradict themselves, and files of other kinds."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from support.hostile_pickles import archive, state, tensor


def zips(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Archives that break the reader's rules."""
    ok = state(tensor())
    yield "compressed", archive(ok, zipfile.ZIP_DEFLATED)
    yield "zip bomb", archive(ok, zipfile.ZIP_DEFLATED, **{"1": bytes(50 << 20)})
    yield "duplicate member", _twice(ok)
    yield "leads outside", archive(ok, **{"archive/../../x": b""})
    yield "absolute", archive(ok, **{"/etc/x": b""})
    yield "another drive", archive(ok, **{"archive/C:x": b""})
    yield "two roots", archive(ok, **{"other/data.pkl": b""})
    yield "TorchScript", archive(ok, **{"archive/constants.pkl": b""})
    yield "big-endian", archive(ok).replace(b"little", b"bigend")
    yield "a comment", good[:-2] + b"\x03\x00abc"
    yield "bytes before", b"PK\x03\x04" + bytes(60) + good
    yield "member beyond the end", _resized(good)
    yield (
        "huge directory",
        good[:-22] + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 60_000, 60_000, 9 << 20, 0, 0),
    )


def _twice(pickled: bytes) -> bytes:
    once = archive(pickled, **{"archive/data.pkX": b"other"})
    return once.replace(b"archive/data.pkX", b"archive/data.pkl")


def _resized(good: bytes) -> bytes:
    at = good.rindex(b"PK\1\2")
    return good[: at + 20] + struct.pack("<2I", 1 << 30, 1 << 30) + good[at + 28 :]


def headers() -> Iterator[tuple[str, bytes]]:
    """safetensors files that contradict themselves."""

    def file(text: bytes, data: int = 8, length: int | None = None) -> bytes:
        return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data)

    def one(**changed: Any) -> bytes:
        return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changed}).encode()

    yield "cut data", file(one(), 7)
    yield "more data", file(one(), 9)
    yield "header beyond the end", file(one(), length=10_000)
    yield "huge header", file(one(), length=90 << 20)
    yield "no JSON", file(b"{" + b" " * 30)
    yield "a list", file(b"{}" + b" " * 8)[:8] + b"[]" + b" " * 8
    yield "deep JSON", file(b'{"a":' * 100_000)
    yield "duplicate name", file(one()[:-1] + b"," + one()[1:])
    yield "a gap", file(one(data_offsets=[8, 16]), 16)
    yield "an overlap", file(one()[:-1] + b"," + one()[1:].replace(b'"a"', b'"b"'))
    yield "negative", file(one(shape=[-2]))
    yield "huge shape", file(one(shape=[1 << 40, 1 << 40]))
    yield "fraction", file(one(shape=[2.0]))
    yield "text", file(one(shape="2"))
    yield "unknown type", file(one(dtype="F4"))
    yield "no type", file(one(dtype=7))
    yield "extra field", file(one(program="x"))
    yield "a million names", file(b"{" + b",".join(b'"%d":[]' % n for n in range(200_000)) + b"}")
    yield "empty lists", file(b'{"a":[' + b",".join([b"[]"] * 3_000_000) + b"]}")
    yield "metadata of numbers", file(one()[:-1] + b',"__metadata__":{"a":1}}')


def foreign(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Other kinds of files, and cut ones."""
    yield "empty", b""
    yield "web page", b"<!DOCTYPE html><html>Not Found</html>"
    yield "LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    yield "text", b"Entry not found"
    yield "zeros", bytes(4096)
    yield "7z", b"7z\xbc\xaf\x27\x1c" + bytes(100)
    yield "gzip", b"\x1f\x8b" + bytes(100)
    yield "legacy torch", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    yield "picture", b"\x89PNG\r\n\x1a\n" + bytes(100)
    yield "numpy", _saved(np.zeros(3))
    yield "random bytes", bytes(range(7, 255))
    for where in (1, 10, len(good) // 2, len(good) - 22, len(good) - 1):
        yield f"cut at {where}", good[:where]


def ggufs() -> Iterator[tuple[str, bytes]]:
    """GGUF headers that promise too much."""

    def head(tensors: int, fields: int, rest: bytes = b"") -> bytes:
        return b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + rest

    def named(kind: int, rest: bytes) -> bytes:
        return struct.pack("<Q", 1) + b"x" + struct.pack("<I", kind) + rest

    yield "endless array", head(0, 1, named(9, struct.pack("<IQ", 0, 1 << 60)))
    yield "many texts", head(0, 1, named(9, struct.pack("<IQ", 8, 5_000_000)) + bytes(40_000_000))
    yield "endless text", head(0, 1, struct.pack("<Q", 1 << 62))
    yield "many fields", head(0, 1 << 60)
    yield "many tensors", head(1 << 60, 0)
    yield "unknown kind", head(0, 1, named(77, b""))
    yield "cut", head(3, 0)
    tensor = struct.pack("<Q", 1) + b"x" + struct.pack("<IQQ", 2, 1 << 20, 1 << 20)
    yield "tensor beyond the end", head(1, 0, tensor + struct.pack("<IQ", 0, 0))
    yield "unknown numbers", head(1, 0, tensor + struct.pack("<IQ", 999, 0))


def _saved(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()
