"""Parts of a recording: exact to the sample, equal files, silence around them."""

from pathlib import Path

import pytest
import torch

from hallo3.errors import AudioError, InputError
from hallo3.media.audio import read_recording
from hallo3.media.excerpt import Excerpt
from support.audio_samples import tone, write_wav

RATE = 16000


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(
    "excerpt",
    [
        Excerpt(start=0.5),
        Excerpt(stop=1.25),
        Excerpt(start=1.999, stop=3.001),
        Excerpt(before=1.5, after=0.25),
        Excerpt(start=0.1, stop=0.2, before=2.0),
        Excerpt(stop=99.0),
    ],
)
def test_a_part_is_exact_to_the_sample(tmp_path: Path, channels: int, excerpt: Excerpt) -> None:
    source = write_wav(tmp_path / "s.wav", tone(RATE, 3.3, channels), RATE)
    excerpt.write(source, tmp_path / "a.wav")
    excerpt.write(source, tmp_path / "b.wav")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    whole, found = read_recording(source).waveform, read_recording(tmp_path / "a.wav")
    whole = whole.mean(dim=0, keepdim=True) if channels > 2 else whole
    stop = None if excerpt.stop is None else round(excerpt.stop * RATE)
    part = whole[:, round(excerpt.start * RATE) : stop]
    silence = [torch.zeros(len(whole), round(each * RATE)) for each in (excerpt.before, excerpt.after)]
    assert found.sample_rate == RATE
    assert torch.equal(found.waveform, torch.cat((silence[0], part, silence[1]), dim=1))


def test_parts_that_are_not_there_are_refused(tmp_path: Path) -> None:
    source = write_wav(tmp_path / "s.wav", tone(RATE, 1.0), RATE)
    with pytest.raises(AudioError, match="ends before") as caught:
        Excerpt(start=2.0).write(source, tmp_path / "a.wav")
    assert "1.00 s, and a part from 2 s" in caught.value.found
    for wrong in (
        {"start": 2.0, "stop": 1.0},
        {"start": -1.0},
        {"stop": 0.0},
        {"before": 601.0},
        {"after": -1.0},
    ):
        with pytest.raises(InputError, match="no such part"):
            Excerpt(**wrong)
    with pytest.raises(InputError):
        Excerpt(start=float("nan"))
