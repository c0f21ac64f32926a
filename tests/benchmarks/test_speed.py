"""The one promise about time that tests rely on: NANO is quick."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from conftest import speech_of
from hallo3.models import Models
from hallo3.pipeline import animate
from hallo3.settings import settings_for


def test_a_nano_segment_takes_a_tenth_of_a_second(nano: Models, portrait: Tensor) -> None:
    """At 2 steps on one core, the best of 20: what the machine can do when nothing else asks for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = settings_for(nano.config.defaults)
        assert settings.steps == 2
        made = animate(portrait, speech_of(16000 * 13), "", nano, settings)
        next(made)
        times: list[float] = []
        for _ in range(20):
            start = time.perf_counter()
            next(made)
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    assert min(times) <= 0.1
