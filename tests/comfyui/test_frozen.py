"""In a server: the same frames and the same job keys as recorded, so that jobs of today are resumed tomorrow.

``python -m comfyui.test_frozen`` in ``tests``, with ComfyUI's Python, records them again.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from comfyui.client import simple
from comfyui.server import Server
from contract.frozen import machine
from hallo3.jobs.segment_file import read_note

RECORD = Path(__file__).with_name("frozen.json")
PROMPTS: dict[str, dict[str, Any]] = {
    "own settings": {"extrapolate__steps": 1},
    "guided": {"extrapolate__guidance_scale": 3.5, "extrapolate__seed": 2**63},
    "lossless": {"extrapolate__codec": "ffv1", "extrapolate__motion_drop": 0.5},
    "framed": {"identity__framing": "original", "extrapolate__paste_back": True, "speech__silence": "muted"},
}


def server_machine() -> dict[str, str]:
    """The server inherits this process' number of threads, which decides the last bits too."""
    return machine() | {"threads": str(torch.get_num_threads())}


def render(server: Server, name: str) -> dict[str, Any]:
    """The job of a prompt, rendered now or by an earlier test, and the hashes of its frames."""
    folder = server.base / "output" / "hallo3_jobs"
    result = server.run(simple(**PROMPTS[name]))
    assert result["outputs"], json.dumps(result["status"], indent=1)
    jobs = [job for job in folder.iterdir() if job.is_dir()]
    job = max(jobs, key=lambda job: (job / "holder.json").stat().st_mtime_ns)  # last used
    segments = map(read_note, sorted(job.glob("segments/*.safetensors")))
    return {"job": job.name, "frames": [record.pixels for record, *_ in segments]}


@pytest.mark.parametrize("name", PROMPTS)
def test_jobs_and_frames_are_as_recorded(server: Server, name: str) -> None:
    recorded = json.loads(RECORD.read_text())
    rendered, here, wanted = render(server, name), server_machine(), recorded["prompts"][name]
    if here["av"] == recorded["machine"]["av"]:
        assert rendered["job"] == wanted["job"]
    assert len(rendered["frames"]) == len(wanted["frames"])
    if here == recorded["machine"]:
        assert rendered["frames"] == wanted["frames"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as base:
        running = Server(Path(base))
        try:
            prompts = {name: render(running, name) for name in PROMPTS}
        finally:
            running.stop()
    RECORD.write_text(json.dumps({"machine": server_machine(), "prompts": prompts}, indent=1) + "\n")
