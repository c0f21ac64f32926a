"""Doctor: which files of the released model are here and can be used, and where the rest belongs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..hallo3.checkpoints.inspect import inspect
from ..hallo3.checkpoints.locate import RELEASE, ModelFolder
from ..hallo3.doctor import Machine, diagnose, format_report
from ..hallo3.errors import CheckpointError
from ..hallo3.speed.device import DeviceSpeed
from .comfy.faces import PortLandmarks, find_landmarks
from .comfy.model import attention_in_use
from .comfy.places import find_faces, find_vocals
from .comfy.progress import make_room, show_progress, show_text
from .loaders import SAFE
from .schema import FREE_MEMORY, Hallo3Node, make_schema

MEASURED_BYTES = 6_000_000_000
"""Of the GPU, while it is measured."""


class Hallo3Doctor(Hallo3Node):
    MEMORY_ADVICE = FREE_MEMORY

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3Doctor",
            search_aliases=["hallo3", "check models", "missing models", "diagnose"],
            inputs=[io.Boolean.Input("measure", default=False, optional=True)],
            outputs=[io.String.Output("report")],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        """Look again each time."""
        return float("nan")  # a new one: ComfyUI takes the same object for equal

    @classmethod
    def execute(cls, measure: bool = False) -> io.NodeOutput:
        folder = Path(folder_paths.models_dir)
        machine = Machine.here(folder, (attention_in_use(),))
        given, landmarks = _find_components() | {"vocals": find_vocals()}, find_landmarks()
        if (faces := find_faces()) is not None:
            given["faces"] = faces
        if isinstance(landmarks, PortLandmarks):
            given["landmarks"] = landmarks.model
        report = diagnose(ModelFolder(folder, given), machine, headless=False)
        text = format_report(report)
        if measure:
            speed = DeviceSpeed(device=make_room(MEASURED_BYTES))
            speed.measure(show_progress)
            text += f"\n\nMeasured, with the command's own networks\n{speed.text()}"
        show_text(text)  # the page shows no text output on a node
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def _find_components() -> dict[str, Path]:
    """Component -> file, in every folder that ComfyUI knows, extra model paths included; found by content,
    not by name. Usable files come before others."""
    usable: dict[str, Path] = {}
    others: dict[str, Path] = {}
    for category in sorted({component.folder for component in RELEASE.values()}):
        for name in folder_paths.get_filename_list(category):
            path = folder_paths.get_full_path(category, name)
            if path is None or not name.lower().endswith(SAFE):
                continue
            with suppress(CheckpointError):  # the loader says why
                for component in inspect(Path(path)).parts:
                    (others if component.wrong else usable).setdefault(component.part, Path(path))
    return {**others, **usable}
