"""Recordings with damage, holes and clocks that are set, against a decoder that places each frame at its
timestamp. There is a click every quarter second."""

import os
import random
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from hallo3.errors import AudioError
from hallo3.media import audio
from hallo3.media.audio import measure_recording, read_recording, stream_mono
from hallo3.media.mux import encode_soundtrack
from support.audio_files import encode_audio, video
from support.messages import collect_messages, expect_message

RATE, SECONDS, FRAME = 48000, 3.2, 0.04
CODECS = {"mp3": "libmp3lame", "aac": "aac", "m4a": "aac", "ogg": "libopus", "oga": "flac", "flac": "flac"}
CODECS |= {"webm": "libopus", "mka": "aac", "mkv": "pcm_s16le", "ts": "aac", "ac3": "ac3", "flv": "aac"}
CODECS |= {"mov": "alac", "mpg": "mp2", "caf": "alac", "mp4": "ac3"}


@cache
def make_clicks() -> np.ndarray:
    sound = 0.01 * np.random.default_rng(3).standard_normal((1, int(RATE * SECONDS)))
    for start in range(RATE // 8, sound.shape[1], RATE // 4):
        sound[:, start : start + 300] += 0.7 * np.sign(np.sin(np.arange(300) * 0.3))
    return sound.astype(np.float32)


def find_clicks(sound: np.ndarray, rate: int) -> np.ndarray:
    loud = np.flatnonzero(np.abs(sound) > 0.35)
    return loud[np.diff(loud, prepend=-rate) > rate // 10] / rate


def place_frames(path: Path) -> tuple[np.ndarray, int]:
    """What a file holds, each frame at its timestamp, from the first packet on."""
    frames: list[tuple[float, np.ndarray]] = []
    packets = list[float]()
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        rate, shift, before = track.rate, 0.0, 0.0
        if path.suffix == ".flac":  # else damage is noise
            track.codec_context.options = {"err_detect": "crccheck+explode"}
        for packet in container.demux(track):
            if packet.pts is not None:
                packets.append(max(0.0, float(packet.pts * packet.time_base)))
            try:
                decoded = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in decoded:
                time = before if frame.time is None else frame.time + shift
                if time < before - 1:  # the clock was set
                    shift, time = shift + before - time, before
                before = time + frame.samples / rate
                values = frame.to_ndarray()[0].astype(np.float64)
                scale = {"s16": 2**15, "s16p": 2**15, "s32": 2**31, "s32p": 2**31}.get(frame.format.name, 1)
                frames.append((time, values / scale))
    start = min(frames[0][0], min(packets) if packets[0] < frames[0][0] - 0.03 else frames[0][0])
    placed = np.zeros(max(round((time - start) * rate) + len(values) for time, values in frames))
    for time, values in frames:
        at = round((time - start) * rate)
        placed[at : at + len(values)] = values
    return placed, rate


Damage = Callable[[Path], None]


def overwrite(size: int, *places: float) -> Damage:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        for place in places or (0.5,):
            at = int(len(content) * place)
            content[at : at + size] = random.Random(5).randbytes(size)
        path.write_bytes(content)

    return damage


def remux(change: Callable[[int, Any], bool]) -> Damage:
    """Write the packets that ``change`` keeps; it may change their times."""

    def damage(path: Path) -> None:
        fresh = path.with_stem("fresh")
        with av.open(str(path)) as source, av.open(str(fresh), "w") as target:
            track = source.streams.audio[0]
            copy = target.add_stream_from_template(track)
            for number, packet in enumerate(source.demux(track)):
                if packet.size and change(number, packet):
                    packet.stream = copy
                    target.mux(packet)
        fresh.replace(path)

    return damage


def lose(*numbers: int) -> Damage:
    return remux(lambda number, _: number not in numbers)


def shift(seconds: float, at: int) -> Damage:
    def change(number: int, packet: Any) -> bool:
        if number >= at:
            packet.pts = packet.dts = packet.pts + round(seconds / packet.time_base)
        return True

    return remux(change)


def double(path: Path) -> None:
    """Two files one after the other, the second with a tag before it."""
    tag = b"ID3\x04\x00\x00\x00\x00\x07\x76" + bytes(1014) if path.suffix == ".mp3" else b""
    path.write_bytes(path.read_bytes() + tag + path.read_bytes())


HOLES = {"mka": 60, "webm": 60, "mkv": 60, "m4a": 60, "ts": 60, "flv": 60, "ogg": 60, "mp4": 40, "oga": 9}
CASES: dict[str, tuple[str, Damage]] = {}
for name in CODECS:
    CASES |= {f"{size} bytes in {name}": (name, overwrite(size)) for size in (40, 600)}
for name, at in HOLES.items():
    CASES[f"lost packets in {name}"] = name, lose(*range(at, at + 8))
    CASES[f"hole in {name}"] = name, shift(0.7, at)
CASES |= {
    f"four places in {name}": (name, overwrite(30, 0.2, 0.4, 0.6, 0.8)) for name in ("mp3", "m4a", "mov")
}
CASES |= {f"start of {name}": (name, overwrite(400, 0.02)) for name in ("aac", "ac3", "mpg")}
CASES |= {f"end of {name}": (name, overwrite(400, 0.93)) for name in ("m4a", "ac3", "mka")}
CASES |= {f"two {name} in one": (name, double) for name in ("mp3", "aac", "ac3", "ogg", "ts", "mpg")}
UNNOTICED = {f"two {name} in one" for name in ("aac", "ac3", "ts", "mpg")}  # nothing is missing
UNNOTICED |= {f"40 bytes in {name}" for name in ("mkv", "ts", "mpg")}  # they decode as other samples


@pytest.mark.parametrize("case", CASES)
def test_sound_is_at_its_timestamp(tmp_path: Path, case: str) -> None:
    """For the model and in the video's sound; one message of each kind, from the first reading only."""
    name, damage = CASES[case]
    path = encode_audio(tmp_path / f"a.{name}", make_clicks(), RATE, CODECS[name])
    damage(path)
    placed, rate = place_frames(path)
    expected = find_clicks(placed, rate)
    with collect_messages() as messages:
        heard = torch.cat(list(stream_mono(path, rate))).numpy()
        encode_soundtrack([(path, Fraction(len(heard), rate))], tmp_path / "sound.mp4")
    assert abs(len(heard) - len(placed)) / rate <= FRAME
    assert len(messages) == len({text.split(" s ")[-1] for text in messages})
    assert bool(messages) == (case not in UNNOTICED)
    played = read_recording(tmp_path / "sound.mp4").waveform[0].numpy()
    for sound in (heard, played):
        assert np.abs(find_clicks(sound, rate) - expected).max() <= 0.005


def test_a_whole_file_is_unchanged(tmp_path: Path) -> None:
    """Sample for sample what PyAV decodes, without a message."""
    for name, codec in CODECS.items():
        path = encode_audio(tmp_path / f"a.{name}", make_clicks(), RATE, codec)
        with av.open(str(path)) as container:
            to_float = av.AudioResampler("fltp")
            frames = [block for frame in container.decode(audio=0) for block in to_float.resample(frame)]
            whole = np.concatenate([block.to_ndarray()[0] for block in frames])
        assert np.array_equal(read_recording(path).waveform[0].numpy(), whole), name


def test_a_plan_measures_packets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a frame of the codec; holes count, and what is known of a file is a message."""
    monkeypatch.setattr(audio, "QUICK_SECONDS", 1)
    for name, codec in (*list(CODECS.items())[::2], ("wav", "pcm_s16le")):
        path = encode_audio(tmp_path / f"a.{name}", make_clicks(), RATE, codec)
        assert abs(measure_recording(path, quick=True).samples - measure_recording(path).samples) <= 4608, (
            name
        )
    shift(0.7, 60)(path := tmp_path / "a.m4a")
    assert measure_recording(path, quick=True).samples == round((SECONDS + 0.7) * RATE)
    with expect_message("2 sound tracks"):
        measure_recording(mux_tracks(tmp_path / "b.mkv", make_clicks(), make_clicks()), quick=True)


def test_most_of_a_recording_must_be_there(tmp_path: Path) -> None:
    path = encode_audio(tmp_path / "a.mka", make_clicks(), RATE, "aac")
    shift(4, 60)(path)
    with pytest.raises(AudioError, match=r"Most of the recording is missing(.|\n)*4\.00 of 7\.20 s"):
        read_recording(path)


def test_a_clock_that_jumps_by_hours_is_no_silence(tmp_path: Path) -> None:
    for name in ("mka", "ts"):
        path = encode_audio(tmp_path / f"a.{name}", make_clicks(), RATE, CODECS[name])
        shift(10 * 3600, 60)(path)
        with expect_message(r"jump far ahead at 1\.2"):
            recording = read_recording(path)
        assert abs(recording.seconds - SECONDS) < 2 * FRAME
        shift(0.9 * 3600, 30)(path)  # far more than the sound that there is: refused before it is made
        with pytest.raises(AudioError, match="Most of the recording is missing"):
            read_recording(path)


def mux_tracks(path: Path, *sounds: np.ndarray) -> Path:
    with av.open(str(path), "w") as target:
        for _ in sounds:
            target.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for track, sound in zip(target.streams, sounds, strict=True):
            for start in range(0, sound.shape[1], 4800):
                block = (sound[:, start : start + 4800] * 32767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
                target.mux(track.encode(frame))
    return path


def test_a_sound_track_is_chosen_by_number(tmp_path: Path) -> None:
    """A silent track is used with a message that names one with sound; several are named."""
    clicks = make_clicks()
    path = mux_tracks(tmp_path / "a.mkv", 0 * clicks, 0 * clicks, clicks)
    with collect_messages() as messages:
        assert measure_recording(path).peak == 0
    assert len(messages) == 2
    assert "3 sound tracks: the first is used; --track 2" in messages[0]
    assert messages[1].endswith("Track 3 has sound: --track 3.")
    recording, stats = read_recording(path, 3), measure_recording(path, 3)  # without a message
    assert np.abs(recording.waveform[0].numpy() - clicks[0]).max() < 1e-4
    assert torch.equal(torch.cat(list(stream_mono(path, RATE, stats))), recording.waveform[0])
    encode_soundtrack([(path, Fraction(1)), (path, Fraction(3))], tmp_path / "sound.mp4", 3)
    played = read_recording(tmp_path / "sound.mp4").waveform[0]
    assert float(played[: RATE * 9 // 10].abs().max()) == 0
    assert len(find_clicks(played.numpy(), RATE)) == 12
    for number in (-1, 0, 4):
        with pytest.raises(AudioError, match=rf"track {number}; a.mkv has 3(.|\n)*from 1 to 3"):
            read_recording(path, number)


def test_a_film_that_ends_early_is_named(tmp_path: Path) -> None:
    """The sound of a film may be shorter than its picture, but not both than its header."""
    path = video(tmp_path / "a.mkv", "mpeg4", "aac", 2)
    assert abs(read_recording(path).seconds - 2) < FRAME  # without a message
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with expect_message(r"shorter than its header says: 2\.\d+ s are stated and [01]\.\d+ s exist"):
        read_recording(path)


def wav_file(data: bytes, *, kind: int = 1, block: int = 2, extra: bytes = b"", size: int = -1) -> bytes:
    """With a byte rate that is wrong."""
    form = struct.pack("<HHIIHHH", kind, 1, 16000, 999, block, 16 if kind == 1 else 4, len(extra)) + extra
    head = b"fmt " + struct.pack("<I", len(form)) + form
    head += b"data" + struct.pack("<I", len(data) if size < 0 else size)
    return b"RIFF" + struct.pack("<I", 4 + len(head) + len(data)) + b"WAVE" + head + data


NOISE = np.random.default_rng(5).integers(-9000, 9000, 32000).astype("<i2").tobytes()
IMA = {"kind": 17, "block": 256, "extra": struct.pack("<H", 505)}
MORE, LESS = "seems to be sound", "shorter than its header says: {} s"
WAVS: dict[str, tuple[bytes, str]] = {
    "a wrong byte rate": (wav_file(NOISE), ""),
    "ADPCM": (wav_file(bytes(256 * 60), **IMA), ""),
    "ADPCM, cut": (wav_file(bytes(256 * 30), **IMA, size=256 * 60), LESS.format("1.89")),
    "half its size": (wav_file(NOISE, size=32000), f"1.00 s of what {MORE} follow the end (.*), at 1.00 s"),
    "two in one": (wav_file(NOISE) * 2, f"2.00 s of what {MORE}"),
    "zeros behind": (wav_file(NOISE + bytes(64000), size=64000), ""),
    "a tag behind": (wav_file(NOISE + b"ID3" + NOISE, size=64000), ""),
    "a chunk behind": (wav_file(NOISE + b"LIST" + struct.pack("<I", 64000) + NOISE, size=64000), ""),
}


@pytest.mark.parametrize("case", WAVS)
def test_a_wav_header_is_believed_or_named(tmp_path: Path, case: str) -> None:
    content, message = WAVS[case]
    (tmp_path / "a.wav").write_bytes(content)
    with collect_messages() as messages:
        read_recording(tmp_path / "a.wav")
    assert [bool(re.search(message, each)) for each in messages] == [True] * bool(message), messages


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "a.wav")
    for path in (tmp_path / "a.wav", Path("/dev/null")):
        with pytest.raises(AudioError, match=r"a pipe or device(.|\n)*save the recording as a file"):
            read_recording(path)


def spoil_bytes(path: Path, draw: random.Random) -> None:
    """Bytes overwritten, removed or repeated, and numbers that are too large, anywhere or in the header."""
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 1, 3, 10))):
        at, size = draw.randrange(draw.choice((400, len(content)))), draw.choice((1, 4, 40, 600, 5000))
        old, huge = content[at : at + size], (b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4))
        new = [draw.randbytes(size), b"", 2 * old, bytes(size), draw.choice(huge) + old[4:]]
        content[at : at + size] = draw.choice(new)
    path.write_bytes(content)


def spoil_packets(path: Path, draw: random.Random) -> None:
    """Lost packets, and clocks that jump."""
    share, late = draw.choice((0.02, 0.1, 0.5)), 0.0

    def change(_: int, packet: Any) -> bool:
        nonlocal late
        if draw.random() < share:
            late += draw.choice((0, 0.01, 0.5, 3, 100, 4000, 40000, 1e7))
        if packet.pts is not None:
            packet.pts = packet.dts = packet.pts + round(late / packet.time_base)
        return draw.random() > share / 2

    remux(change)(path)


@pytest.mark.parametrize("seeds", [range(15), pytest.param(range(15, 3000), marks=pytest.mark.soak)])
def test_a_spoilt_file_is_read_or_an_audio_error(tmp_path: Path, seeds: range) -> None:
    """In little time and memory, by every way to read it."""
    pytest.importorskip("resource")
    import resource

    clicks, codecs = make_clicks()[:, : 2 * RATE], {**CODECS, "wav": "adpcm_ima_wav", "avi": "libmp3lame"}
    whole = {
        name: encode_audio(tmp_path / f"w.{name}", clicks, RATE, codec) for name, codec in codecs.items()
    }
    before = resource.getrusage(resource.RUSAGE_SELF)
    for seed in seeds:
        draw = random.Random(seed)
        name = draw.choice(sorted(whole))
        path = tmp_path / f"a.{name}"
        path.write_bytes(whole[name].read_bytes())
        with suppress(av.error.FFmpegError):  # times that the format cannot hold
            draw.choice((spoil_bytes, spoil_bytes, spoil_packets))(path, draw)
        for read in (
            lambda path=path: read_recording(path),
            lambda path=path: measure_recording(path, quick=True),
            lambda path=path: encode_soundtrack([(path, Fraction(2))], tmp_path / "sound.mp4"),
        ):
            with collect_messages(), suppress(AudioError):
                read()
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < 2 * len(seeds)
    assert after.ru_maxrss - before.ru_maxrss < 200_000, "KiB"
