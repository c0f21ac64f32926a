"""If memory runs out in a stage, the command plans again with less and continues; it says so, and the plan is
part of the job's record."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hallo3.checkpoints import locate
from hallo3.cli import animate, memory, renderer, speech
from hallo3.cli.request import AnimateRequest
from hallo3.jobs.job import MEMORY
from hallo3.model.transformer import Hallo3Transformer
from hallo3.offload import budget, estimate
from support.out_of_memory import ERRORS, failing
from support.out_of_memory import STAGES as NETWORK_STAGES
from support.resume_runs import Command, before, command_in, frames_of, read_segments

STAGES = NETWORK_STAGES | {
    "speech": (speech, "encode_array_file"),
    "sample": (Hallo3Transformer, "forward"),
}
PLAN = "everything resident, branches batched; decode: VAE, whole height, caches on the device; peak 2 MB"
IN_SECOND = {"encode": 1, "listen": 2, "sample": 3, "decode": 1}
"""The number of a stage's call in the second segment."""
FEW = [("decode", "cuDNN"), ("prompt", "Python")]
"""All others are soak tests."""


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Two segments with a prompt, planned for a GPU of 3 MB: two thirds of it are needed."""
    monkeypatch.setattr(memory, "_limit_bytes", lambda _: 3_000_000)
    monkeypatch.setattr(budget, "RESERVE_BYTES", 0)
    monkeypatch.setattr(estimate, "SPEECH_BYTES", 0)
    return two_segments(command)


def two_segments(command: Command) -> Command:
    command.speak(1.2)
    command.inputs |= {"--prompt": "a face", "--dtype": "fp32"}
    return command


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, nano_folder: Path) -> np.ndarray:
    """The frames of a run without a plan."""
    command = two_segments(command_in(tmp_path_factory.mktemp("undisturbed"), nano_folder))
    assert command() == 0
    return frames_of(command.video).astype(int)


def note_of(command: Command) -> str:
    return json.loads(next(command.jobs.glob("*/job.json")).read_text())["what"][MEMORY]


def marked(stage: str, kind: str) -> Any:
    return pytest.param(stage, kind, marks=[] if (stage, kind) in FEW else [pytest.mark.soak])


@pytest.mark.parametrize(("stage", "kind"), [marked(stage, kind) for stage in STAGES for kind in ERRORS])
def test_a_stage_is_tried_again(command: Command, stage: str, kind: str, undisturbed: np.ndarray) -> None:
    """What was finished is not computed again; frames are those of a run under the smaller plan from that
    segment on, bit for bit, and those of a run that had the memory."""
    text, smaller = shrink(command, stage, kind)
    assert f"out of memory in the stage {stage}: {type(ERRORS[kind]()).__name__}" in text
    assert f"planned for 3 MB: {PLAN}. Again, with 90 % of that: {note_of(command)}." in text
    assert note_of(command) != PLAN
    assert command.rendered == [0, 1, 1][: 2 + (stage in ("listen", "sample"))]
    assert np.abs(frames_of(command.video).astype(int) - undisturbed).max() <= 1
    found = command.saved_segments()
    assert found == run_planned(command, smaller, stage in IN_SECOND)


def shrink(command: Command, stage: str, kind: str) -> tuple[str, AnimateRequest]:
    """What a run says whose memory runs out once, and its request from then on."""
    made, real = list[Any](), memory.shrink_memory
    with (
        pytest.MonkeyPatch.context() as patch,
        before(*STAGES[stage], failing(kind, IN_SECOND.get(stage, 0))),
    ):
        patch.setattr(renderer, "shrink_memory", lambda *v, **n: made.append(real(*v, **n)) or made[-1])
        text = command.stderr()
    assert len(made) == 1
    return text, made[0]


def run_planned(command: Command, plan: AnimateRequest, from_second: bool) -> dict[str, bytes]:
    """The segments of another run under a request's plan, or of one that is continued under it."""
    folder = command.video.parent / "planned"
    names: dict[str, object] = {"o": command.video.with_name("planned.mp4"), "jobs_folder": folder}
    if from_second:
        command.stop(1, **names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(animate, "plan_run_memory", lambda _: plan)
        assert command(**names) == 0
    assert command.rendered == [0, 1][from_second:]
    return read_segments(folder)


def test_a_smaller_plan_may_change_rounding(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the passes of guidance change, frames are still those of the smaller plan, to the last bit."""
    monkeypatch.setattr(memory, "_limit_bytes", lambda _: 1_800_000)
    text, smaller = shrink(command, "encode", "torch")
    assert text.index("branches batched") < text.index("Again") < text.index("branches layer-major")
    found = command.saved_segments()
    assert found == run_planned(command, smaller, True)
    monkeypatch.setattr(memory, "_limit_bytes", lambda _: 3_000_000)
    assert command("--fresh") == 0
    assert found != command.saved_segments()


def test_memory_runs_out_again_and_again(command: Command, undisturbed: np.ndarray) -> None:
    """At most two smaller plans; then the error says what to lower, and a later run resumes and says that
    its plan is another."""
    with before(Hallo3Transformer, "forward_layerwise", failing("torch", *range(3, 100))):
        text = command.stderr(code=1)
    assert [f"with {share} % of that" in text for share in (90, 80, 70)] == [True, True, False]
    end = "no smaller plan is left: use --dtype bf16 or --dtype fp8", "Out of memory.", "1 of 2 segments"
    assert [part for part in end if part not in text] == []
    assert note_of(command) == PLAN, "that of the finished segment"
    with before(*STAGES["decode"], failing("torch", 0)):
        assert "planned otherwise" not in command.stderr()
    assert command.rendered == [1]
    assert note_of(command) != PLAN
    assert np.abs(frames_of(command.video).astype(int) - undisturbed).max() <= 1
    told = f"planned otherwise than before ({note_of(command)}): {PLAN}; frames"
    assert told in command.stderr("--redo", "2")


def test_a_plan_made_by_hand_does_not_shrink(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(locate, "LARGE_BYTES", 0)
    with before(*STAGES["sample"], failing("torch", 0)):
        assert "--offload disk decides what is streamed" in command.stderr("--offload", "disk", code=1)
