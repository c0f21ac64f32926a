"""Sound of every kind in memory, row by row of the catalogue of bad inputs (A02, A03, A06, A08, A12, A13, A19
to A22); what other files test of it is not here again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import speech_of
from hallo3.config import SegmentConfig
from hallo3.errors import AudioError
from hallo3.media.audio import (
    FASTEST,
    LONGEST_HOURS,
    SLOWEST,
    Recording,
    check_audio_format,
    measure_recording,
    read_recording,
    to_mono,
)
from hallo3.models import Models
from hallo3.pipeline import encode_speech
from hallo3.segments import plan_segments
from support.audio_files import encoded, wav
from support.audio_samples import RATE, tone
from support.messages import collect_messages, expect_message

HOUR = 3600


@settings(max_examples=60, deadline=None)
@given(rate=st.sampled_from([8000, RATE, 44100, 48000]), share=st.floats(0, 1, exclude_max=True))
def test_a02_less_than_a_frame_is_refused_with_the_least(rate: int, share: float) -> None:
    """At 16 kHz: any number of samples below 640."""
    samples = max(1, int(share * rate * 639 / RATE))
    mono = to_mono(Recording(torch.ones(1, samples), rate), RATE)
    with pytest.raises(AudioError, match=r"too short to animate(.|\n)*0\.04 s"):
        plan_segments(len(mono), SegmentConfig())


@pytest.mark.parametrize(
    ("samples", "rate", "frames"),
    [(640, RATE, 1), (641, RATE, 2), (800, RATE, 2), (1764, 44100, 1), (2205, 44100, 2), (320, 8000, 1)],
    ids=lambda value: f"A03-{value}",
)
@torch.inference_mode()
def test_the_shortest_sound_has_its_frames(nano: Models, samples: int, rate: int, frames: int) -> None:
    speech = encode_speech(Recording(torch.from_numpy(tone(rate, 1.0))[:, :samples], rate), nano)
    assert speech.plan.frames == frames
    assert bool(speech.segment(0).isfinite().all())


@torch.inference_mode()
@pytest.mark.parametrize("channels", [1, 2])
def test_a06_silence_runs_with_one_warning(nano: Models, channels: int) -> None:
    with expect_message("digital silence") as said:
        speech = encode_speech(Recording(torch.zeros(channels, 20000), RATE), nano)
    assert len(said) == 1
    assert bool(speech.segment(0).isfinite().all())


def test_a08_six_channels_are_their_mean() -> None:
    """The rule of ``to_mono``; no channel counts more or less than another."""
    samples = torch.randn(6, 5000, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(to_mono(Recording(samples, RATE), RATE), samples.sum(0) / 6)


def long_flac(path: Path, seconds: int) -> Path:
    """A FLAC whose header says that it lasts so long."""
    content = bytearray(encoded(path, tone(8000), 8000, "flac").read_bytes())
    at = content.index(b"fLaC") + 8 + 13  # the last 36 bits of 18 bytes: the number of samples
    count = seconds * 8000
    content[at] = content[at] & 0xF0 | count >> 32
    content[at + 1 : at + 5] = (count & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(content)
    return path


def long_wav(path: Path, seconds: int) -> Path:
    """A WAV of silence that takes no room on the disk."""
    with path.open("wb") as file:
        file.write(wav(rate=1000, bits=8, size=1000 * seconds))
        file.truncate(44 + 1000 * seconds)
    return path


REFUSED = r"too long(.|\n)*13\.00 h(.|\n)*at most 12 h"


@pytest.mark.parametrize(
    "look",
    [
        lambda _: to_mono(Recording(torch.zeros(1, 1).expand(2, 13 * HOUR * RATE), RATE), RATE),
        lambda folder: measure_recording(long_flac(folder / "a.flac", 13 * HOUR)),
        lambda folder: read_recording(long_wav(folder / "a.wav", 13 * HOUR)),
    ],
    ids=["A12-memory", "A12-FLAC", "A12-WAV"],
)
def test_more_than_half_a_day_is_refused_at_once(tmp_path: Path, look: Callable[[Path], object]) -> None:
    begun = time.monotonic()
    with pytest.raises(AudioError, match=REFUSED):
        look(tmp_path)
    assert time.monotonic() - begun < 1


def test_a12_a_length_that_no_header_states_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encoded(tmp_path / "a.ogg", tone(48000, 4.0), 48000, "libopus")
    monkeypatch.setattr("hallo3.media.audio.LONGEST_HOURS", 3 / HOUR)
    with pytest.raises(AudioError, match="too long"):
        read_recording(path)


def test_a12_half_a_day_is_accepted() -> None:
    for rate in (SLOWEST, RATE, FASTEST):
        check_audio_format(rate, 64, LONGEST_HOURS * HOUR * rate)
        with pytest.raises(AudioError, match="too long"):
            check_audio_format(rate, 64, LONGEST_HOURS * HOUR * rate + 1)


@torch.inference_mode()
@pytest.mark.parametrize("factor", [1e6, 1e-9], ids=lambda value: f"A13-{value:g}")
def test_very_loud_and_very_quiet_sound_gives_finite_features(nano: Models, factor: float) -> None:
    recording = Recording(speech_of(16000).waveform * factor, RATE)
    assert bool(encode_speech(recording, nano).segment(0).isfinite().all())


@torch.inference_mode()
def test_a13_clipped_sound_gives_the_features_of_what_is_left(nano: Models) -> None:
    """Twice as loud or not: clipping has taken place, loudness does not matter."""
    clipped = (speech_of(16000).waveform * 40).clamp(-1, 1)
    one, two = (encode_speech(Recording(k * clipped, RATE), nano).segment(0) for k in (1, 2))
    assert bool(one.isfinite().all())
    torch.testing.assert_close(one, two, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "rate", [0, -RATE, 1, SLOWEST - 1, FASTEST + 1, 2**40], ids=lambda value: f"A19-{value}"
)
def test_rates_that_no_recording_has_are_refused(rate: int) -> None:
    with pytest.raises(AudioError, match=rf"sample rate cannot be used(.|\n)*{rate} Hz(.|\n)*1000 to 768000"):
        to_mono(Recording(torch.ones(1, 5000), rate), RATE)


@pytest.mark.parametrize(("rate", "samples"), [(SLOWEST, 1000), (FASTEST, FASTEST)], ids=["A19-1", "A19-768"])
def test_the_slowest_and_the_fastest_are_heard(rate: int, samples: int) -> None:
    assert len(to_mono(Recording(torch.ones(1, samples), rate), RATE)) == RATE


def in_a_thread(waveform: Tensor) -> Tensor:
    """The same in memory that another thread has made."""
    made: list[np.ndarray] = []
    maker = threading.Thread(target=lambda: made.append(waveform.numpy().copy()))
    maker.start()
    maker.join()
    return torch.from_numpy(made[0])


LYING: dict[str, Callable[[Tensor], Tensor]] = {
    "A20-channels last": lambda plain: plain.T.contiguous().T,
    "A20-every second": lambda plain: plain.repeat_interleave(2, dim=1)[:, ::2],
    "A20-a part": lambda plain: torch.cat((plain, plain), dim=1)[:, : plain.shape[1]],
    "A20-another thread's": in_a_thread,
}


@pytest.mark.parametrize("laid", LYING.values(), ids=LYING.keys())
@pytest.mark.parametrize("rate", [RATE, 44100])
def test_how_it_lies_in_memory_does_not_matter(laid: Callable[[Tensor], Tensor], rate: int) -> None:
    plain = torch.randn(2, 9000, generator=torch.Generator().manual_seed(1))
    other = laid(plain)
    assert torch.equal(to_mono(Recording(other, rate), RATE), to_mono(Recording(plain, rate), RATE))


def test_a20_an_expanded_channel_is_the_channel() -> None:
    plain = torch.randn(1, 9000, generator=torch.Generator().manual_seed(1))
    four = plain.expand(4, -1)
    assert torch.equal(to_mono(Recording(four, 44100), RATE), to_mono(Recording(plain, 44100), RATE))


def test_a22_nothing_needs_torchaudio(tmp_path: Path) -> None:
    """It is often there and made for another build of torch: then it refuses to be imported."""
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("raise OSError('made for another CUDA')")
    script = (
        "import torch, hallo3.pipeline\n"
        "from hallo3.media.audio import resample\n"
        "print(len(resample(torch.ones(44100), 44100, 16000)))\n"
        "import torchaudio"
    )
    places = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    command, environment = [sys.executable, "-c", script], {**os.environ, "PYTHONPATH": places}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert made.stdout.split() == ["16000"], made.stderr
    assert made.stderr.rstrip().endswith("made for another CUDA")


def test_warnings_of_a_cut_file_are_one(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(bytes(20000), size=64000))
    with collect_messages() as said:
        assert read_recording(path).waveform.shape == (1, 10000)
    assert len(said) == 1
