"""Socket types, the inputs that several nodes share, and the texts of all nodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, wraps
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

from comfy_api.latest import io

from ..hallo3.errors import InputError, check_choice, check_range
from ..hallo3.media.video import CODECS
from ..hallo3.noise import MAX_SEED
from ..hallo3.sampling.schedule import TRAIN_STEPS
from ..hallo3.settings import MAX_GUIDANCE
from .comfy.progress import explain_errors
from .convert import describe_value

ReferenceNetworkType = io.Custom("HALLO3_REFERENCE_NETWORK")
"""A :class:`nodes.comfy.loading.ReferenceSocket`."""
SpeechType = io.Custom("HALLO3_SPEECH")
"""A :class:`nodes.comfy.speech.SpeechSocket`."""
IdentityType = io.Custom("HALLO3_IDENTITY")
"""A :class:`hallo3.identity.Identity`."""

ENTRY_POINTS = ("define_schema", "validate_inputs", "fingerprint_inputs", "check_lazy_status", "execute")
"""What ComfyUI calls of a node."""
FREE_MEMORY = "unload ComfyUI's models or close other programs"
KEEP = "hallo3_keep"
"""Entry of a LATENT: its segment's first new frame, the end of the new ones, its number of latent frames."""
MAX_COUNT = 1_000_000


@cache
def _read_texts() -> dict[str, Any]:
    path = Path(__file__).resolve().parents[1] / "locales" / "en" / "nodeDefs.json"
    return json.loads(path.read_text(encoding="utf-8"))


class Hallo3Node(io.ComfyNode):
    """Base class of the nodes: ComfyUI survives whatever fails in one, and shows what to do."""

    MEMORY_ADVICE: ClassVar[str]
    """What to change when memory runs out."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ENTRY_POINTS:
            method = cls.__dict__.get(name)
            # ComfyUI makes locked copies of a class for each run
            if isinstance(method, classmethod) and not hasattr(method.__func__, "__wrapped__"):
                setattr(cls, name, classmethod(_guard(method.__func__)))


def _guard(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def guarded(cls: type[Hallo3Node], **inputs: Any) -> Any:
        with explain_errors(cls.MEMORY_ADVICE, every=True):
            if function.__name__ == "execute":
                for widget in cls.define_schema().inputs:
                    if widget.id in inputs and type(widget) in WIDGETS:
                        inputs[widget.id] = to_widget_value(widget, inputs[widget.id])
            return function(cls, **inputs)

    guarded.__signature__ = signature(function)  # ComfyUI looks at the names of inputs
    return guarded


MAX_TEXT_LENGTH = 10_000
WIDGETS: dict[type, str] = {
    io.Int.Input: "a whole number",
    io.Float.Input: "a number",
    io.Boolean.Input: "true or false",
    io.Combo.Input: "one of the node's choices",
    io.String.Input: f"a text of at most {MAX_TEXT_LENGTH:,} letters",
}


def to_widget_value(widget: Any, value: Any) -> Any:
    """A value for a widget; ComfyUI does not check what comes from another node. Raises ``InputError`` for a
    value of another kind, out of range or not among the choices."""
    kind, name = type(widget), widget.id.replace("_", " ")
    if getattr(value, "ndim", None) == 0:  # a number of torch or numpy
        value = value.item()
    if kind in (io.Int.Input, io.Float.Input) and isinstance(value, int | float):
        check_range(name, value, widget.min, widget.max)
        if kind is io.Float.Input:
            return float(value)
        if value == int(value):
            return int(value)
    if kind is io.Boolean.Input and isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if kind is io.Combo.Input and isinstance(value, str):
        check_choice(value, widget.options, name)
        return value
    limit = MAX_TEXT_LENGTH * (100 if getattr(widget, "multiline", False) else 1)
    if kind is io.String.Input and isinstance(value, str) and len(value) <= limit:
        return value
    numbers = isinstance(value, int | float)
    raise InputError(
        f"The {name} cannot be used.",
        found=str(value)[:60] if numbers else describe_value(value),
        expected=WIDGETS[kind],
        fix="set it in the node, or connect an output of that kind",
    )


def make_schema(
    node_id: str, inputs: list[io.Input], outputs: list[io.Output], category: str = "Hallo3", **fields: Any
) -> io.Schema:
    """A schema with display name, description and tooltips from ``locales/en/nodeDefs.json``, where they are
    beside their translations."""
    texts = _read_texts()[node_id]
    for socket in inputs:
        socket.tooltip = texts["inputs"][socket.id]["tooltip"]
    for index, output in enumerate(outputs):
        output.tooltip = texts["outputs"][str(index)]["tooltip"]
    names = {name: texts[name] for name in ("display_name", "description")}
    return io.Schema(node_id=node_id, inputs=inputs, outputs=outputs, category=category, **names, **fields)


def render_inputs(*, single_segment: bool, sampled: bool = True) -> list[io.Input]:
    """Inputs of the video; for a single segment, of Sampler and, not ``sampled``, Segment Conditioning."""
    segment = [io.Int.Input("segment", default=0, min=0, max=MAX_COUNT)]
    comfy_sampling = [
        io.Guider.Input("guider", optional=True),
        io.Sampler.Input("sampler", optional=True),
        io.Sigmas.Input("sigmas", optional=True),
    ]
    return [
        io.Model.Input("model"),
        io.Vae.Input("vae"),
        IdentityType.Input("identity"),
        SpeechType.Input("speech"),
        *(segment if single_segment else ()),
        seed_input(),
        *(steps_and_guidance() if sampled else ()),
        io.Float.Input("motion_drop", default=0.1, min=0.0, max=1.0, step=0.01, advanced=True),
        io.Conditioning.Input("positive", optional=True),
        *([io.Image.Input("motion_frames", optional=True)] if single_segment else ()),
        *(comfy_sampling if sampled else ()),
    ]


def seed_input() -> io.Input:
    """Fixed between runs: a stopped run is resumed by its seed too."""
    fixed = io.ControlAfterGenerate.fixed
    return io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=fixed)


def steps_input() -> io.Input:
    """0 is the model's own number."""
    return io.Int.Input("steps", default=0, min=0, max=TRAIN_STEPS)


def steps_and_guidance() -> list[io.Input]:
    return [steps_input(), io.Float.Input("guidance_scale", default=0.0, min=0.0, max=MAX_GUIDANCE, step=0.1)]


def codec_input() -> io.Input:
    return io.Combo.Input("codec", options=list(CODECS), default="h264", optional=True, advanced=True)


def paste_back_input() -> io.Input:
    return io.Boolean.Input("paste_back", default=False, optional=True)


def job_inputs() -> list[io.Input]:
    """The file's encoding, and what happens to segments that are already rendered."""
    advanced = {"optional": True, "advanced": True}
    return [
        codec_input(),
        io.Int.Input("quality", default=-1, min=-1, max=51, **advanced),
        io.String.Input("redo", default="", **advanced),
        io.Int.Input("take", default=1, min=1, max=MAX_COUNT, **advanced),
        io.String.Input("continue_from", default="", **advanced),
        io.Int.Input("start_again", default=0, min=0, max=MAX_COUNT, **advanced),
        io.Boolean.Input("mark", default=True, **advanced),
        paste_back_input(),
        io.String.Input("sign", default="", **advanced),
    ]
