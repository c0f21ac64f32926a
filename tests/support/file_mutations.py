"""Files changed at random along their own structure: values of JSON, fields of protobuf, instructions of a
pickle in its archive, numbers of a header, bytes."""

import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, cast

from hallo3.onnx_model import read_fields
from support.onnx_builder import field

NUMBERS = (0, 1, -1, 2, 3, 127, 255, 1 << 15, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, 10**40)
WORDS = ("", "x", "\x1b[2J\ud800", "a" * 70_000, "../../x", "Split", "(a+)+b")
NESTED = cast("tuple[Any, ...]", ([], [[]], {}, {"a": 1}, [1] * 7, [[[[[[[[]]]]]]]]))
VALUES: tuple[Any, ...] = (*NUMBERS, 0.5, -1e300, float("nan"), float("inf"), True, None, *WORDS, *NESTED)
PARTS = 1, 2, 5, 7, 11, 13, 14, 15, 25


def mutate_bytes(raw: bytes, random: Random) -> bytes:
    data = bytearray(raw)
    for _ in range(random.randint(1, 4)):
        at, count = random.randrange(len(data) + 1), random.choice((1, 1, 2, 4, 8, 40))
        number = struct.pack("<Q", random.choice(NUMBERS) % (1 << 64))[: random.choice((4, 8))]
        piece = data[at : at + count]
        data[at : at + count] = random.choice((random.randbytes(count), b"", piece * 2, piece * 100, number))
    return bytes(data)


def mutate_value(value: Any, random: Random) -> Any:
    """JSON with one value or name of it changed, at any depth."""
    if isinstance(value, str) and value.startswith("{") and random.random() < 0.9:
        with suppress(ValueError):  # JSON in JSON, as in safetensors' metadata
            return json.dumps(mutate_value(json.loads(value), random))
    if not value or not isinstance(value, dict | list) or random.random() < 0.15:
        return random.choice(VALUES)
    if isinstance(value, list):
        items = cast("list[Any]", value)
        at = random.randrange(len(items))
        changed = [mutate_value(items[at], random), *items[at + 1 :]]
        return items[:at] + random.choice((items[at + 1 :], [items[at]] * 3 + items[at:], changed))
    fields = cast("dict[str, Any]", value)
    name = random.choice(list(fields))
    rest = {key: each for key, each in fields.items() if key != name}
    renamed = rest | {str(random.choice(VALUES)): fields[name]}
    inside = [fields | {name: mutate_value(fields[name], random)}] * 6
    return random.choice((rest, renamed, *inside))


def mutate_json(raw: bytes, random: Random) -> bytes:
    text = json.dumps(mutate_value(json.loads(raw), random)).encode()
    return text.replace(b"{", b'{"a":1,"a":2,', random.choice((0,) * 9 + (1,)))  # a name that comes twice


def mutate_safetensors(raw: bytes, random: Random) -> bytes:
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    if "hallo3" in header.get("__metadata__", {}) and random.random() < 0.6:  # what our own files say
        facts = mutate_value(json.loads(header["__metadata__"]["hallo3"]), random)
        text = json.dumps(header | {"__metadata__": {"hallo3": json.dumps(facts)}}).encode()
    else:
        text = mutate_json(raw[8 : 8 + length], random)
    return len(text).to_bytes(8, "little") + text + (data if random.random() < 0.9 else data[8:] + bytes(4))


def mutate_protobuf(raw: bytes, random: Random) -> bytes:
    """One field dropped, repeated, given another number, type or content, at any depth."""
    fields = [(n, v if isinstance(v, int) else bytes(v)) for n, v in read_fields(memoryview(raw))]
    at = random.randrange(len(fields))
    number, value = fields[at]
    content: int | bytes = random.choice(
        (random.choice(NUMBERS) % (1 << 64), random.randbytes(9), b"Loop", b"")
    )
    if isinstance(value, bytes) and random.random() < 0.7:
        with suppress(ValueError, IndexError):
            content = mutate_protobuf(value, random)
        fields[at] = number, content
    else:
        other = [(random.choice(PARTS), value)]
        fields[at : at + 1] = random.choice(([], [(number, value)] * 3, other, [(number, content)]))
    return b"".join(field(*each) for each in fields)


def mutate_torch(raw: bytes, random: Random) -> bytes:
    """The archive's pickle with instructions dropped, repeated, exchanged or with other numbers."""
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    (name,) = (each for each in members if each.endswith("data.pkl"))
    starts = [at or 0 for _, _, at in pickletools.genops(members[name])]
    ends = [*starts[1:], len(members[name])]
    steps = [members[name][start:end] for start, end in zip(starts, ends, strict=True)]
    for _ in range(random.randint(1, 3)):
        at, other = random.randrange(len(steps)), random.randrange(len(steps))
        number = struct.pack("<cI", b"J", random.choice(NUMBERS) % (1 << 32))
        changed = list[bytes](), [steps[at]] * 2, [steps[other]], [number], [b"\x85", steps[at]]
        steps[at : at + 1] = random.choice(changed)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for each, content in (members | {name: b"".join(steps)}).items():
            file.writestr(each, content)
    return buffer.getvalue()


MUTATIONS: dict[str, Callable[[bytes, Random], bytes]] = {
    ".json": mutate_json,
    ".safetensors": mutate_safetensors,
    ".onnx": mutate_protobuf,
    ".model": mutate_protobuf,
    ".pt": mutate_torch,
    ".gguf": mutate_bytes,
    ".task": mutate_bytes,
}


def mutate(suffix: str, raw: bytes, random: Random) -> bytes:
    """A file of this kind, changed once to three times, mostly along its structure."""
    for _ in range(random.randint(1, 3)):
        change = MUTATIONS[suffix] if random.random() < 0.8 else mutate_bytes
        try:
            raw = change(raw, random)
        except Exception:  # no longer of its form
            raw = mutate_bytes(raw, random)
    return raw
