"""Doctor: is everything there that the released model needs?"""

from __future__ import annotations

import fnmatch
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..hallo3.doctor import as_text, diagnose
from ..hallo3.weights.places import PLACES, ModelFolder


class Hallo3Doctor(io.ComfyNode):
    """A report of which files are there, and where the missing belong."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3Doctor",
            display_name="Hallo3 Doctor",
            category="Hallo3",
            description=(
                "Tells which files of the released model are there, which are missing or damaged, where each "
                "belongs and what this computer can run. It reads the beginning of files and changes nothing."
            ),
            search_aliases=["hallo3", "check models", "missing models", "diagnose"],
            inputs=[],
            outputs=[io.String.Output("report", tooltip="The report as text.")],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        folder = Path(folder_paths.models_dir)
        report = diagnose(ModelFolder(folder, _elsewhere()), headless=False)
        text = as_text(report)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def _elsewhere() -> dict[str, Path]:
    """Parts in any folder that ComfyUI knows, extra model paths included."""
    found: dict[str, Path] = {}
    for part, places in PLACES.items():
        for place in places:
            category, _, pattern = place.partition("/")
            if part in found or not pattern or category not in folder_paths.folder_names_and_paths:
                continue
            names = [n for n in folder_paths.get_filename_list(category) if _fits(n, pattern)]
            path = folder_paths.get_full_path(category, names[0]) if names else None
            if path is not None:
                found[part] = Path(path)
    return found


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name.replace("\\", "/"), pattern)
