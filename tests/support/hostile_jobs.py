"""Job folders as a stranger could make them: a genuine one, changed in up to three places."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

import torch

from hallo3.errors import InputError, OutputError
from hallo3.jobs.segment_file import (
    MOTION,
    PIECE,
    PIXELS,
    compute_link,
    read_note,
    read_segment,
    serialize_segment,
)
from hallo3.jobs.store import find_finished_job, remove_stale_jobs
from hallo3.jobs.video_job import open_parent
from hallo3.media.video import VideoEncoding, encode_segment
from hallo3.storage.hashing import hash_bytes, hash_file, hash_tensor
from support.fault_injection import flip_bit
from support.own_process import memory_mb, reset_peak
from support.toy_renderer import VIDEO_FORM, make_video

Spoil = Callable[[Path, Path, Random], str]
"""(the job's folder, a folder that is not ours, what to draw from) -> changes the job."""
FILES = (
    "job.json",
    "holder.json",
    "lock",
    "so_far.mp4",
    "video.mp4",
    "JOB.JSON",
    "job.json.unfinished",
    "sound.0123456789abcdef.mp4",
    "segments/000001.safetensors",
    "segments/000003.safetensors.unfinished",
    "speech/layer_00.f32",
)
CPU_SECONDS = 2
"""In which a spoiled job is resumed, rendering included."""
BESIDE = ("pace.json", "contents.json", "ages.json", "pace.json.unfinished", "ages.json.unfinished")
PATHS = ("../../other/file", "/etc/passwd", "..", "", "\0", "\x1b[2J", "g" * 64, "A" * 64, "0" * 10**5)
NUMBERS: tuple[Any, ...] = (10**8, -1, 0, True, 1e300, 10**4000, float("nan"), None, [], {})
MANIFEST: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("key", "root", "headers"), (*PATHS, *NUMBERS)),
    **dict.fromkeys(("segments", "frames"), NUMBERS),
    "format": (10**9, -1, "x", *NUMBERS[4:]),
    "finished": (1, "yes", True),
    "what": (
        {"video": "\x1b[2J\x07" * 10**4, "\x1b]0;": "\u202e"},
        {str(n): "x" for n in range(10**4)},
        *({name: text} for name in ("goes on from", "content", "made with", "threads") for text in PATHS),
        *NUMBERS,
    ),
}
RECORD: dict[str, tuple[Any, ...]] = {
    "index": (*NUMBERS, 4),
    "frames": (*NUMBERS, 14),
    "take": (*NUMBERS[1:], 10**30),
    "seconds": (-1.0, 1e308, float("inf"), 3, "x"),
    "measures": ({"seam": 1e308}, {"face": "x"}, {"seam": 10**400}, [], {"x" * 10**5: 1.0}),
    **dict.fromkeys(("previous", "link", "stands_for", "piece", "pixels"), (*PATHS, *NUMBERS)),
}
TEXTS = (
    b"",
    b"{",
    b"[]",
    b"[" * 10**5,
    b'{"a":' * 10**5,
    b"\0" * 100,
    b" " * (2 << 20),
    b"\xff\xfe{}",
    b"1" * 5000,
)


def foreign_media(other: Path, draw: Random) -> bytes:
    """What FFmpeg opens and no job has."""
    file = other / "file.mp4"
    sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    sdp += "m=video 50000 RTP/AVP 96\r\n"
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n"
    real = file.read_bytes()
    return draw.choice(
        (
            f"ffconcat version 1.0\nfile '{file}'\n".encode(),
            f"{sdp}a=rtpmap:96 H264/90000\r\n".encode(),
            f"{hls}file://{file}\n#EXT-X-ENDLIST\n".encode(),
            f"{hls}http://127.0.0.1:9/a.ts\n".encode(),
            b"<?xml version='1.0'?><MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>",
            b"",
            draw.randbytes(1000),
            real,
            real[:24] + draw.randbytes(1000),
            real + b"behind",
            encode_segment([torch.rand(3, 4, 6)] * 9, VIDEO_FORM.encoding, 25),
            encode_segment([torch.rand(3, 4, 6)] * 15, VideoEncoding(codec="ffv1"), 25),
        )
    )


def is_plain(path: Path) -> bool:
    """Whether it can be read and written here."""
    return path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1


def put(path: Path, other: Path, draw: Random) -> str:
    """Something else in place of a file or folder."""
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name("moved"))
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    targets = (
        other / "file",
        other,
        other / "absent",
        Path("/proc/self/environ"),
        Path("/dev/zero"),
        Path(".."),
    )
    how = draw.choice(("link", "link", "pipe", "hard link", "folder"))
    if how == "link":
        path.symlink_to(draw.choice(targets))
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "hard link":
        os.link(other / "file", path)
    else:
        path.mkdir()
    return f"{how} as {path.name}"


def spoil_place(job: Path, other: Path, draw: Random) -> str:
    return put(job / draw.choice(FILES), other, draw)


def spoil_folder(job: Path, other: Path, draw: Random) -> str:
    return put(job / draw.choice(("segments", "speech", ".")), other, draw)


def spoil_beside(job: Path, other: Path, draw: Random) -> str:
    name = draw.choice(
        (*BESIDE, f"{job.name}-2", f"{job.name}.gone", f"{job.name}.old-1", "\x1b[2J\n", "a.gone")
    )
    if name in BESIDE and draw.random() < 0.5 and not os.path.lexists(job.parent / name):
        (job.parent / name).write_bytes(
            draw.choice((*TEXTS, b'{"days": 9e99, "last": -1, "jobs": {"a": {}}}'))
        )
        return f"{name} of other bytes"
    return put(job.parent / name, other, draw)


def spoil_manifest(job: Path, _: Path, draw: Random) -> str:
    path = job / "job.json"
    if not is_plain(path):
        return ""
    if draw.random() < 0.2:
        path.write_bytes(draw.choice(TEXTS))
        return "text of a manifest"
    fields, name = json.loads(path.read_text()), draw.choice([*MANIFEST])
    fields[name] = draw.choice(MANIFEST[name])
    path.write_text(json.dumps(fields))
    return f"{name}={fields[name]!r:.40}"


def segment_of(job: Path, draw: Random) -> Path:
    return draw.choice(sorted(filter(is_plain, (job / "segments").glob("*.safetensors"))))


def forge(path: Path, fields: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Write a segment with other fields or tensors whose hashes are right."""
    found, note = read_segment(path, VIDEO_FORM), read_note(path)
    if found is None or note is None:
        return
    stored = {**found[1], **tensors}
    record = replace(found[0], **{name: fields[name] for name in fields if name != "link"})
    hashes = {"piece": hash_tensor(stored[PIECE])} if "piece" not in fields else {}
    if PIXELS in tensors:
        hashes["pixels"] = hash_tensor(tensors[PIXELS])
    record = replace(record, **hashes)
    link = compute_link(
        f"{record.previous}", record.index, record.frames, record.take, f"{record.pixels}", stored[MOTION]
    )
    record = replace(record, link=fields.get("link", link))
    path.write_bytes(b"".join(serialize_segment(record, note[1], stored)))


def spoil_record(job: Path, _: Path, draw: Random) -> str:
    name = draw.choice([*RECORD])
    value = draw.choice(RECORD[name])
    forge(segment_of(job, draw), {name: value}, {})
    return f"a segment's {name}={value!r:.40}"


def spoil_tensors(job: Path, _: Path, draw: Random) -> str:
    shape = VIDEO_FORM.motion
    motion = (
        torch.full(shape, float("nan")),
        torch.zeros(0),
        torch.zeros(shape).double(),
        torch.zeros(1, 3, 2, 9, 9),
    )
    pixels = (
        torch.zeros(2, 3, 4, 6),
        torch.zeros(15, 3, 4, 6).half(),
        torch.full((15, 3, 4, 6), float("nan")),
    )
    name, choices = draw.choice(((MOTION, motion), (PIXELS, pixels)))
    forge(segment_of(job, draw), {}, {name: draw.choice(choices)})
    return f"another {name}"


def spoil_piece(job: Path, other: Path, draw: Random) -> str:
    media = foreign_media(other, draw)
    forge(segment_of(job, draw), {}, {PIECE: torch.tensor(list(media), dtype=torch.uint8)})
    return f"{media[:20]!r} as an encoded segment"


def spoil_sound(job: Path, other: Path, draw: Random) -> str:
    for path in job.glob("sound.*"):
        path.unlink()
    media = foreign_media(other, draw)
    (job / f"sound.{hash_bytes(media)[:16]}.mp4").write_bytes(media)
    return f"{media[:20]!r} as sound"


def spoil_bytes(job: Path, _: Path, draw: Random) -> str:
    path = draw.choice(sorted(path for path in job.rglob("*") if is_plain(path) and path.stat().st_size))
    size, how = path.stat().st_size, draw.randrange(5)
    if how == 0:
        os.truncate(path, draw.randrange(size))
    elif how == 1:
        os.truncate(path, 10 << 30)
    elif how == 2:
        flip_bit(path, draw.randrange(size), draw.randrange(8))
    elif how == 3:
        path.write_bytes((1 << 40).to_bytes(8, "little") + path.read_bytes()[8:])
    else:
        path.with_name(path.name + ".part").touch()
    return f"{('cut', 'sparse', 'flipped', 'header', 'part')[how]} {path.name}"


SPOILS: tuple[Spoil, ...] = (
    spoil_place,
    spoil_folder,
    spoil_beside,
    spoil_manifest,
    spoil_record,
    spoil_tensors,
    spoil_piece,
    spoil_sound,
    spoil_bytes,
)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes | str]]:
    """Everything below a folder by name: inode, and content or where a link leads."""
    found = dict[str, tuple[int, bytes | str]]()
    for place, _, names in os.walk(folder):
        for path in (Path(place), *(Path(place) / name for name in names)):
            content: bytes | str = str(path.readlink()) if path.is_symlink() else ""
            if not content and path.is_file() and path.stat().st_size < 1 << 20:
                content = path.read_bytes()
            found[str(path.relative_to(folder))] = path.lstat().st_ino, content
    return found


def resume_spoiled(base: Path, numbers: range) -> list[str]:
    """Resume a hostile folder for each number; what went wrong: calls that reach another place, sockets,
    errors, another video, much time or memory, changes of what is no job."""
    wrong, label, inside = list[str](), "", list[Path]()
    make_video(base / "genuine", base / "wanted.mp4")
    wanted = hash_file(base / "wanted.mp4")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if not inside:
            return
        if event.startswith("socket."):
            wrong.append(f"{label}: {event}")
        paths = arguments[:1] if event == "open" else arguments[:2]
        if event.startswith(("open", "os.", "shutil.")):
            for path in (Path(os.fsdecode(each)) for each in paths if isinstance(each, str | bytes | Path)):
                place = Path(os.path.realpath(path.parent)) / path.name
                if not any(place.is_relative_to(each) for each in inside):
                    wrong.append(f"{label}: {event} {place}")

    sys.addaudithook(watch)
    for number in numbers:
        draw, folder = Random(number), base / str(number)
        jobs, other, out = folder / "jobs", folder / "other", folder / "out"
        (other / "segments").mkdir(parents=True)
        out.mkdir()
        shutil.copytree(base / "genuine", jobs)
        (other / "file").write_text("precious")
        (other / "job.json").write_text("{}")
        shutil.copyfile(base / "wanted.mp4", other / "file.mp4")
        job, spoils = next(path for path in jobs.iterdir() if path.is_dir()), list[str]()
        for _ in range(draw.randint(1, 3)):
            with suppress(OSError, IndexError, ValueError):  # it was spoiled before
                spoils.append(draw.choice(SPOILS)(job, other, draw))
        label, before = f"{number} {spoils}", (snapshot(other), snapshot(job))
        base_mb, inside[:], started = reset_peak(), [jobs, out], process_time()
        try:
            with suppress(InputError, OutputError):
                if (found := find_finished_job(jobs, job.name)) is not None:
                    with open_parent(jobs, found, VIDEO_FORM):
                        pass
            make_video(jobs, out / "v.mp4")
            remove_stale_jobs(jobs, "0" * 64)
        except BaseException as error:
            wrong.append(f"{label}: {type(error).__name__} {error!s:.300}")
        inside.clear()
        if process_time() - started > CPU_SECONDS:
            wrong.append(f"{label}: {process_time() - started:.1f} CPU seconds")
        if memory_mb("VmHWM") - base_mb > 100:
            wrong.append(f"{label}: {memory_mb('VmHWM') - base_mb:.0f} MB")
        if (out / "v.mp4").is_file() and hash_file(out / "v.mp4") != wanted:
            wrong.append(f"{label}: another video")
        if snapshot(other) != before[0]:
            wrong.append(f"{label}: changed what is not ours")
        if (jobs / f"{job.name}-2" / "job.json").is_file() and snapshot(job) != before[1]:
            wrong.append(f"{label}: changed what is no job")
        shutil.rmtree(folder)
    return wrong
