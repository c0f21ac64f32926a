"""Progress, messages and errors of a running node, as ComfyUI shows them."""

from __future__ import annotations

import logging
import time
from asyncio import CancelledError
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import comfy.model_management as mm
import comfy.utils
import latent_preview
import torch
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor

from ...hallo3.errors import Hallo3Error, InputError, describe_error, is_out_of_memory, sanitize
from ...hallo3.messages import redirect_messages
from ...hallo3.progress import ProgressCallback
from ...hallo3.storage.files import DISK_FULL, write_error
from ...hallo3.units import format_bytes, format_clock

MAX_LINES = 100
"""Of a text that is shown."""
USE_VIDEO = "disconnect images and use the video output: it works at any length"


def compute_device() -> str:
    """The type of ComfyUI's compute device."""
    return str(mm.get_torch_device().type)


def make_room(size: int) -> torch.device:
    """ComfyUI's compute device, from which it has unloaded models until ``size`` bytes are free."""
    device = mm.get_torch_device()
    mm.free_memory(size, device)
    mm.soft_empty_cache()
    return device


def check_interrupted(*_: object) -> None:
    """Raise ComfyUI's exception if the user has pressed stop; usable as a progress callback."""
    mm.throw_exception_if_processing_interrupted()


def check_memory(needed: int, what: str, fix: str = USE_VIDEO) -> None:
    """Raise ``InputError`` if the machine has less memory than ``needed`` bytes."""
    available = int(mm.get_total_memory(torch.device("cpu")))
    if needed > available:
        raise InputError(
            "The video does not fit in memory.",
            found=f"{what}: {format_bytes(needed)}",
            expected=f"at most the {format_bytes(available)} of this computer",
            fix=fix,
        )


def clean_text(text: str) -> str:
    """Lines without control characters, and not many of them."""
    lines = text.splitlines()
    return "\n".join(map(sanitize, (*lines[:MAX_LINES], *("...",) * (len(lines) > MAX_LINES))))


def show_text(text: str) -> None:
    """Show text under the running node, if there is one."""
    if (context := get_executing_context()) is not None:
        lines = clean_text(text).replace("\n", "  \n")  # Nodes 2.0 renders Markdown
        PromptServer.instance.send_progress_text(lines, context.node_id)


def show_warning(text: str) -> None:
    """Show text under the running node and in the log."""
    logging.warning("Hallo3: %s", clean_text(text))
    show_text(text)


@contextmanager
def show_messages() -> Generator[None]:
    """Show the package's messages, after the block, under the running node and in the log."""
    messages: list[str] = []
    with redirect_messages(messages.append):
        yield
    for text in messages:
        logging.warning("Hallo3: %s", clean_text(text))
    if messages:
        show_text("\n\n".join(messages))


@contextmanager
def show_progress(what: str, total: int) -> Generator[ProgressCallback]:
    """ComfyUI's progress bar, interruptible; ``what`` goes into the log."""
    logging.info("Hallo3: %s", clean_text(what))
    bar = comfy.utils.ProgressBar(total)

    def advance(amount: int) -> None:
        mm.throw_exception_if_processing_interrupted()
        bar.update(amount)

    yield advance


class RunProgress:
    """One progress bar, with preview and remaining time, over the sampling steps and decoded slices of the
    segments ``missing`` of ``segments``. It never goes back, and can be interrupted. The time left is counted
    from the first step: until it is done, ComfyUI loads the networks."""

    def __init__(self, model: Any, missing: Sequence[int], segments: int, steps: int, slices: int) -> None:
        self._positions = {segment: position for position, segment in enumerate(missing)}
        self._segments, self._steps, self._per_segment = segments, steps, steps + slices
        self._bar = comfy.utils.ProgressBar(max(1, len(missing)) * self._per_segment)
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._start, self._value, self._segment = time.monotonic(), 0, min(missing, default=0)
        self._stage, self._counted, self._loading = "", (self._start, 0), 0.0

    def sampler(self, segment: int) -> Any:
        """The callback of ComfyUI's samplers after a step of a segment (counted from 0)."""
        self._segment = segment
        times, is_first = [time.monotonic()], not self._value

        def report(step: int, denoised: Tensor, latents: Tensor, steps: int) -> None:
            del latents, steps
            times.append(time.monotonic())
            if is_first and step and step + 1 == self._steps:
                first, *others = (after - before for before, after in pairwise(times))
                self._loading = max(0.0, first - max(others))
            preview, middle = None, denoised.shape[2] // 2
            if self._previewer is not None:
                frame = denoised[:, :, middle : middle + 1]
                preview = self._previewer.decode_latent_to_preview_image("JPEG", frame)
            before = self._position(segment) * self._per_segment
            self._advance(before + min(step + 1, self._steps), preview)

        return report

    def clock(self) -> float:
        """Seconds of work: without those by which the first step, before which ComfyUI loads the model, was
        longer than any other of its segment."""
        return time.monotonic() - self._loading

    def stage(self, segment: int, name: str) -> None:
        """Encoding, sampling, decoding or saving of a segment starts."""
        self._segment, self._stage = segment, name
        self._show_left()

    def slice_done(self) -> None:
        self._advance(self._value + 1)

    def segment_done(self, segment: int, frame: Tensor) -> None:
        """A segment is finished, however many steps and slices it took. Its last frame [3, h, w] in 0..1 is
        shown whatever ``--preview-method`` says: nothing is computed for it."""
        picture = latent_preview.preview_to_image(frame.movedim(0, -1), do_scale=False)
        preview = "JPEG", picture, latent_preview.MAX_PREVIEW_RESOLUTION
        self._advance((self._position(segment) + 1) * self._per_segment, preview)
        if self._value == self._bar.total:
            rendered = len(self._positions)
            of = "" if rendered == self._segments else f"{rendered} of "
            elapsed = format_clock(time.monotonic() - self._start)
            show_text(f"Done: {of}{self._segments} segment{'s' * (self._segments > 1)} in {elapsed}")

    def _position(self, segment: int) -> int:
        """A segment's place among the missing; a saved one that proved damaged counts as the last."""
        return self._positions.get(segment, len(self._positions) - 1)

    def _advance(self, value: int, preview: Any = None) -> None:
        mm.throw_exception_if_processing_interrupted()
        self._value = min(max(self._value, value), self._bar.total)
        self._bar.update_absolute(self._value, preview=preview)
        if not self._counted[1] and self._value:
            self._counted = time.monotonic(), self._value
        if self._stage:
            self._show_left()

    def _show_left(self) -> None:
        """The segment, what is done with it, and the time left."""
        (since, before), text = (
            self._counted,
            f"segment {self._segment + 1} of {self._segments}, {self._stage}",
        )
        if (counted := self._value - before) > 0:
            left = (time.monotonic() - since) / counted * (self._bar.total - self._value)
            text += f", {format_clock(left)} left"
        show_text(text)


class OutOfMemory(torch.OutOfMemoryError):
    """ComfyUI unloads its models on this, and on no other error. ``found`` says what ran out of memory."""

    __module__ = Hallo3Error.__module__

    def __init__(self, found: str, advice: str) -> None:
        self.found = found
        super().__init__(str(Hallo3Error("Out of memory.", found=found, fix=advice)))


CALLBACK_ADVICE = "use a smaller weight_dtype in Load Hallo3 Model, or close other programs"
"""For what ComfyUI's own nodes run of ours."""
PASSED = (mm.InterruptProcessingException, GeneratorExit, CancelledError)
"""Exceptions that ComfyUI and Python expect and handle."""


@contextmanager
def explain_errors(advice: str = CALLBACK_ADVICE, *, every: bool = False) -> Generator[None]:
    """Raise what would end ComfyUI's worker, such as a library's ``SystemExit``, as :class:`Hallo3Error`, and
    memory errors of any library as :class:`OutOfMemory` with advice, the outermost block's; with ``every``
    also all other errors, which are a library's or ours, as :class:`Hallo3Error`."""
    try:
        yield
    except PASSED:
        raise
    except BaseException as error:
        by_hand = isinstance(error, KeyboardInterrupt) and current_thread() is main_thread()
        if by_hand or (isinstance(error, Exception) and not every and not _is_out_of_memory(error)):
            raise
        if _is_out_of_memory(error):
            found = error.found if isinstance(error, OutOfMemory) else describe_error(error)
            raise OutOfMemory(found, advice) from error
        if isinstance(error, Hallo3Error):
            raise
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise write_error("A file cannot be written.", Path(error.filename or "."), error) from error
        ends = "" if isinstance(error, Exception) else " A library wanted to end ComfyUI."
        raise Hallo3Error(
            f"The node failed unexpectedly.{ends}",
            found=describe_error(error),
            fix="report this with the end of ComfyUI's log",
        ).with_traceback(error.__traceback__) from error


def _is_out_of_memory(error: BaseException) -> bool:
    return bool(mm.is_oom(error)) or is_out_of_memory(error)  # ComfyUI also clears CUDA's error
