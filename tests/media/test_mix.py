"""Several recordings that sound at the same time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hallo3.media.audio import Recording, measure_recording, read_recording
from hallo3.media.mix import Mix, add_streams, mix_recordings
from support.audio_samples import tone, write_wav


def mix_files(*paths: Path) -> Recording:
    mix = Mix(tuple((path, measure_recording(path)) for path in paths))
    pieces = list(mix.pieces())
    assert {piece.sample_rate for piece in pieces} == {mix.sample_rate}
    return Recording(torch.cat([piece.waveform for piece in pieces], dim=1), mix.sample_rate)


def test_levels_are_kept_and_it_is_as_long_as_the_longest(tmp_path: Path) -> None:
    one = write_wav(tmp_path / "one.wav", 0.5 * tone(16000, 2.3), 16000)
    two = write_wav(tmp_path / "two.wav", -0.7 * tone(16000, 1.1), 16000)
    mixed = mix_files(one, two)
    first, second = read_recording(one).waveform, read_recording(two).waveform
    expected = first.clone()
    expected[:, : second.shape[1]] += second
    torch.testing.assert_close(mixed.waveform, expected)
    in_memory = mix_recordings([Recording(first, 16000), Recording(second, 16000)])
    torch.testing.assert_close(in_memory.waveform, expected)


def test_it_never_clips(tmp_path: Path) -> None:
    """One factor for all of it, so that a voice does not change where another begins."""
    loud = write_wav(tmp_path / "loud.wav", 1.9 * tone(16000, 1.5), 16000)
    other = write_wav(tmp_path / "other.wav", 1.9 * tone(16000, 0.7), 16000)
    mixed, alone = mix_files(loud, other).waveform, read_recording(loud).waveform
    assert float(mixed.abs().max()) == pytest.approx(1, abs=1e-6)
    ratio = (mixed / alone)[:, 12000:][alone[:, 12000:].abs() > 0.1]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), atol=1e-3, rtol=0)


def test_other_rates_and_channels_are_joined(tmp_path: Path) -> None:
    mono = write_wav(tmp_path / "mono.wav", 0.2 * tone(16000, 1.0), 16000)
    sides = np.concatenate((0.3 * tone(44100, 0.5), 0 * tone(44100, 0.5)))
    stereo = write_wav(tmp_path / "stereo.wav", sides, 44100)
    mixed = mix_files(mono, stereo)
    assert (mixed.sample_rate, mixed.channels) == (44100, 2)
    assert abs(mixed.seconds - 1) < 1e-3
    assert float(mixed.waveform[1, :20000].abs().max()) == pytest.approx(0.1, abs=0.01)
    assert float(mixed.waveform[0, 2000:20000].abs().max()) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("sizes", [((3, 1), (2, 2, 2)), ((1,), (4,)), ((5,), (5,)), ((2, 2), ())])
def test_pieces_of_any_lengths(sizes: tuple[tuple[int, ...], ...]) -> None:
    streams, total = list[list[Tensor]](), torch.zeros(1, 6)
    for number, each in enumerate(sizes):
        whole = torch.arange(1.0, sum(each) + 1)[None] * 10**number
        total[:, : whole.shape[1]] += whole
        streams.append(list(torch.split(whole, list(each), dim=1)))
    mixed = torch.cat(list(add_streams([iter(each) for each in streams])), dim=1)
    assert torch.equal(mixed, total[:, : max(map(sum, sizes))])
