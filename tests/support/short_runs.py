"""Short runs that tests compare."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hallo3.media.audio import Recording
from hallo3.models import Models
from hallo3.pipeline import animate
from hallo3.settings import Settings, settings_for


def settings(models: Models, **changes: Any) -> Settings:
    return replace(settings_for(models.config.defaults), **changes)


def video(portrait: Tensor, speech: Recording, models: Models, prompt: str = "", **changes: Any) -> Tensor:
    segments = animate(portrait, speech, prompt, models, settings(models, **changes))
    return torch.cat([segment.pixels for segment in segments])


@contextmanager
def unused_network() -> Generator[Any]:
    raise AssertionError("this network is not needed")
    yield
