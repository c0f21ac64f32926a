"""One bar over a whole run, with a preview, the time that is left, and a place to be interrupted."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management as mm
import comfy.utils
import latent_preview
import torch
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor

from ...hallo3.errors import Hallo3Error, InputError, is_out_of_memory
from ...hallo3.messages import redirect_messages

ADVICE = "disconnect images and use the video output: it works at any length"


def compute_device() -> str:
    """The kind of device that ComfyUI computes on."""
    return str(mm.get_torch_device().type)


def stoppable(*_: object) -> None:
    """A place to be interrupted."""
    mm.throw_exception_if_processing_interrupted()


def check_memory(needed: int, what: str, fix: str = ADVICE) -> None:
    """Raise ``InputError`` if the machine has less memory than ``needed`` bytes."""
    there = int(mm.get_total_memory(torch.device("cpu")))
    if needed > there:
        raise InputError(
            "The video does not fit in memory.",
            found=f"{what}: {needed / 2**30:.1f} GiB",
            expected=f"at most the {there / 2**30:.1f} GiB of this computer",
            fix=fix,
        )


def show(text: str) -> None:
    """Text under the node that runs; nothing where no node runs."""
    context = get_executing_context()
    if context is not None:
        PromptServer.instance.send_progress_text(text, context.node_id)


def warn(text: str) -> None:
    """Text under the node that runs, and in the log."""
    logging.warning("Hallo3: %s", text)
    show(text)


@contextmanager
def show_messages() -> Generator[None]:
    """Show the package's messages under the node that runs, and in the log."""
    found: list[str] = []
    with redirect_messages(found.append):
        yield
    for text in found:
        logging.warning("Hallo3: %s", text)
    if found:
        show("\n\n".join(found))


class RunProgress:
    """Counts sampling steps and decoded slices of the segments that are still to be done, ``todo`` of
    ``segments``; never goes back."""

    def __init__(self, model: Any, todo: Sequence[int], segments: int, steps: int, slices: int) -> None:
        self._places = {segment: place for place, segment in enumerate(todo)}
        self._segments, self._steps, self._per_segment = segments, steps, steps + slices
        self._bar = comfy.utils.ProgressBar(max(1, len(todo)) * self._per_segment)
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._begun, self._value, self._segment = time.monotonic(), 0, min(todo, default=0)

    def sampler(self, segment: int) -> Any:
        """The callback that ComfyUI's samplers call after a step of a segment (counted from 0)."""
        self._segment = segment

        def report(step: int, denoised: Tensor, latents: Tensor, steps: int) -> None:
            del latents, steps
            reached = self._place(segment) * self._per_segment + min(step + 1, self._steps)
            self._advance(reached, self._preview(denoised))

        return report

    def slice_done(self) -> None:
        """A slice of a segment has been decoded."""
        self._advance(self._value + 1, None)

    def segment_done(self, segment: int) -> None:
        """All of a segment is finished, however many steps and slices it took."""
        self._advance((self._place(segment) + 1) * self._per_segment, None)

    def _place(self, segment: int) -> int:
        """Which of those to be done; one that turned out to be damaged is done with the last."""
        return self._places.get(segment, len(self._places) - 1)

    def _advance(self, reached: int, preview: Any) -> None:
        mm.throw_exception_if_processing_interrupted()
        self._value = min(max(self._value, reached), self._bar.total)
        self._bar.update_absolute(self._value, preview=preview)
        self._tell()

    def _preview(self, denoised: Tensor) -> Any:
        if self._previewer is None:
            return None
        middle = denoised.shape[2] // 2
        return self._previewer.decode_latent_to_preview_image("JPEG", denoised[:, :, middle : middle + 1])

    def _tell(self) -> None:
        """Under the node: which segment, and how long the rest will take at the pace so far."""
        if self._segments == 1:
            return
        taken, total = time.monotonic() - self._begun, self._bar.total
        left = taken / max(1, self._value) * (total - self._value)
        text = f"segment {self._segment + 1} of {self._segments}, {minutes(left)} left"
        if self._value == total:
            done = len(self._places)
            some = "" if done == self._segments else f"{done} of "
            text = f"{some}{self._segments} segments in {minutes(taken)}"
        show(text)


def minutes(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class OutOfMemory(torch.OutOfMemoryError):
    """Memory ran out: ComfyUI unloads its models on this, and on no other error."""


@contextmanager
def memory_told(advice: str) -> Generator[None]:
    """Raise memory errors of any library as :class:`OutOfMemory` with advice."""
    try:
        yield
    except (OutOfMemory, Hallo3Error):
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        first = (str(error).splitlines() or [""])[0]
        told = Hallo3Error("Out of memory.", found=f"{type(error).__name__} {first}".strip(), fix=advice)
        raise OutOfMemory(str(told)) from error
