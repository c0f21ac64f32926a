"""A segment's file is what was written, or none."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hallo3.checkpoints.tensor_file import TensorFile
from hallo3.jobs import segment_file
from hallo3.jobs.segment_file import (
    CHECK,
    JOB,
    MOTION,
    NOTE,
    PIECE,
    PIXELS,
    SegmentRecord,
    compute_link,
    read_note,
    read_segment,
    serialize_segment,
)
from hallo3.storage.hashing import hash_tensor, hash_text
from support.toy_renderer import FORM

MOVED = torch.arange(float(FORM.motion[2] * 72)).reshape(FORM.motion)
TENSORS = {
    PIECE: torch.arange(9 * 288).to(torch.uint8),
    MOTION: MOVED,
    PIXELS: torch.arange(9 * 72.0).reshape(9, 3, 4, 6),
}
LINK = "a" * 64, 7, 9, 2, hash_tensor(TENSORS[PIXELS]), MOVED
RECORD = SegmentRecord(
    index=7,
    frames=9,
    take=2,
    previous="a" * 64,
    link=compute_link(*LINK),
    piece=hash_tensor(TENSORS[PIECE]),
    pixels=LINK[4],
    seconds=1.5,
    measures={"seam": 0.5},
)


def write(path: Path, record: Any = RECORD, **tensors: Any) -> Path:
    path.write_bytes(b"".join(serialize_segment(record, "manifest", TENSORS | tensors)))
    return path


def test_a_link_is_everything_that_a_segment_shows() -> None:
    """As jobs of every version have it."""
    wanted = "|".join(("a" * 64, "7", "9", "2", LINK[4], hash_tensor(MOVED)))
    assert compute_link(*LINK) == hash_text(wanted)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    with TensorFile(path) as file:
        assert [*file.entries] == [MOTION, PIXELS, PIECE], "large elements first: all are aligned"
        note = json.dumps(asdict(RECORD), sort_keys=True)
        assert file.metadata == {NOTE: note, JOB: "manifest", CHECK: hash_text(note + "manifest")}
    assert read_note(path) == (RECORD, "manifest")
    for more in ((), (PIXELS,)):
        found = read_segment(path, FORM, *more)
        assert found is not None
        assert found[0] == RECORD
        assert found[1].keys() == {PIECE, MOTION, *more}
        assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in found[1].items())
    assert read_segment(tmp_path / "none", FORM) is None
    (tmp_path / "link").symlink_to(path)
    for other in (tmp_path, tmp_path / "link"):
        with pytest.raises(OSError, match=r"regular file|symbolic link"):
            read_note(other)


FRAMES = {**TENSORS, PIXELS: TENSORS[PIXELS] + 1}
NO_SEGMENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no piece": ({}, {PIECE: None}),
    "numbers as a piece": ({}, {PIECE: torch.zeros(9 * 288)}),
    "another piece": ({}, {PIECE: TENSORS[PIECE] + 1}),
    "a short piece": ({"piece": hash_tensor(TENSORS[PIECE][1:])}, {PIECE: TENSORS[PIECE][1:]}),
    "no motion": ({}, {MOTION: None}),
    "half motion": ({}, {MOTION: MOVED.half()}),
    "motion of another shape": ({}, {MOTION: MOVED.flatten()}),
    "another motion": ({}, {MOTION: MOVED + 1}),
    "another link": ({"link": "b" * 64}, {}),
    "NaN": ({"link": compute_link(*LINK[:-1], MOVED / 0)}, {MOTION: MOVED / 0}),
}


@pytest.mark.parametrize("case", NO_SEGMENTS)
def test_another_segment_is_none(tmp_path: Path, case: str) -> None:
    fields, tensors = NO_SEGMENTS[case]
    kept = {name: tensor for name, tensor in (TENSORS | tensors).items() if tensor is not None}
    raw = b"".join(serialize_segment(replace(RECORD, **fields), "manifest", kept))
    (tmp_path / "a").write_bytes(raw)
    assert read_segment(tmp_path / "a", FORM) is None
    assert read_note(tmp_path / "a") is not None


def test_frames_that_are_not_the_recorded_ones_are_left_out(tmp_path: Path) -> None:
    nothing = torch.full((9, 3, 4, 6), float("nan"))
    for pixels, note in (
        (TENSORS[PIXELS] + 1, {}),
        (TENSORS[PIXELS][:8], {}),
        (TENSORS[PIXELS].double(), {}),
        (nothing, {"pixels": hash_tensor(nothing)}),
    ):
        link = compute_link(*LINK[:4], note.get("pixels", LINK[4]), MOVED)
        found = read_segment(
            write(tmp_path / "a", replace(RECORD, link=link, **note), pixels=pixels), FORM, PIXELS
        )
        assert found is not None
        assert found[1].keys() == {PIECE, MOTION}


def test_sizes_are_bounded_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a")
    frames = 4 * (FORM.motion[2] + FORM.config.frames) * 72
    assert FORM.max_piece_bytes == FORM.config.frames * 24 * 8 + (1 << 20)
    assert FORM.max_file_bytes == (1 << 18) + frames + FORM.max_piece_bytes
    os.truncate(path, FORM.max_file_bytes + 1)
    monkeypatch.setattr(segment_file, "TensorFile", pytest.fail)
    assert read_segment(path, FORM) is None
    path.write_bytes(((1 << 18) + 1).to_bytes(8, "little") + bytes(1 << 19))
    assert read_note(path) is None


NOTES: tuple[dict[str, Any], ...] = (
    *({name: number} for name in ("index", "frames", "take") for number in (-1, True, 1.0, 10**18 + 1)),
    {"index": 1_000_000},
    {"frames": 100_000_001},
    *(
        {name: text}
        for name in ("previous", "link", "piece", "pixels")
        for text in ("", "a" * 63, "A" * 64, 1)
    ),
    {"stands_for": "x"},
    *({"seconds": seconds} for seconds in (-0.1, 1e9, 1, float("nan"))),
    *({"measures": measures} for measures in ([], {"seam": 1}, {"seam": 1e9}, {"seam": -1e9})),
    {"other": 1},
    {"measures": {"x" * (1 << 16): 1.0}},
)


def test_a_note_has_what_a_segment_can_have(tmp_path: Path) -> None:
    def note(change: dict[str, Any]) -> Any:
        text = json.dumps(asdict(RECORD) | change)
        metadata = {NOTE: text, JOB: "m", CHECK: hash_text(text + "m")}
        raw = json.dumps({"__metadata__": metadata}).encode()
        (tmp_path / "a").write_bytes(len(raw).to_bytes(8, "little") + raw)
        return read_note(tmp_path / "a")

    for change in NOTES:
        assert note(change) is None, change
    for change in (
        {"index": 999_999, "frames": 100_000_000, "take": 10**18},
        {"index": 0, "frames": 0, "take": 0, "seconds": 0.0},
        {"stands_for": "b" * 64, "seconds": 1e9 - 1, "measures": {"seam": 1e9 - 1}},
    ):
        assert note(change) == (replace(RECORD, **change), "m")
    raw = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(raw.replace(b'"m"', b'"n"'))
    assert read_note(tmp_path / "a") is None, "of another manifest"
