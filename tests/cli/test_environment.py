"""The command where its streams, Python or its words are not as usual."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conftest import REPOSITORY
from hallo3.cli import session
from hallo3.cli.main import main
from hallo3.errors import InputError
from hallo3.media.audio import measure_recording
from hallo3.segments import SegmentPlan
from hallo3.storage.hashing import hash_text
from hallo3.text_encoder import check_prompt
from support.audio_samples import tone, write_wav
from support.own_process import run_alone
from support.resume_runs import Command

ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="shells, /dev/full")
NOT_UTF8 = "n\udcff\udcfe\udcc3"
HALVES = "\ud83d smiles", NOT_UTF8, "\udc00", "a\ud800\udc00"


class Case(NamedTuple):
    """What is closed, full or without a reader; code and words of what is then printed to the other."""

    words: str
    code: int
    out: str = ""
    err: str = ""
    closed: str = ""
    full: str = ""
    unread: str = ""
    encoding: str = "utf-8"


CASES = {
    "as usual": Case("jobs {}", 0, "no jobs in"),
    "stderr closed": Case("jobs {}", 0, "no jobs in", closed="2"),
    "stderr closed, refused": Case("inspect absent", 2, closed="2"),
    "stderr closed, wrong option": Case("jobs --absent", 2, closed="2"),
    "stdout closed": Case("jobs {}", 0, closed="1"),
    "stdout closed, refused": Case("inspect absent", 2, err="absent", closed="1"),
    "all closed": Case("jobs {}", 0, closed="012"),
    "stdout full": Case("jobs {}", 1, err="What the command prints cannot be written", full="1"),
    "stderr full": Case("inspect absent", 2, full="2"),
    "both full": Case("jobs {}", 1, full="12"),
    "stdout unread": Case("jobs {}", 0, unread="1"),
    "stderr unread": Case("inspect absent", 2, unread="2"),
    "ascii": Case("jobs {}", 0, r"n\udcff\udcfe\udcc3", encoding="ascii"),
    "not UTF-8": Case("jobs {}", 0, r"n\udcff\udcfe\udcc3"),
}


def try_streams(folder: str) -> dict[str, tuple[int, str, str]]:
    """Code, stdout and stderr of every case: its descriptors are what a shell leaves, and ``sys`` has what
    Python makes of them."""
    found, kept = dict[str, tuple[int, str, str]](), [os.dup(number) for number in range(3)]
    for name, case in CASES.items():
        files = [Path(folder).with_name(f"{name} {number}") for number in range(3)]
        unread, pipe = os.pipe()
        os.close(unread)
        for number, stream in enumerate(("stdin", "stdout", "stderr")):
            full = os.open("/dev/full", os.O_WRONLY) if str(number) in case.full else None
            os.dup2(
                pipe
                if str(number) in case.unread
                else full or os.open(files[number], os.O_RDWR | os.O_CREAT),
                number,
            )
            if str(number) in case.closed:
                setattr(sys, stream, None)
            else:
                mode, lines = "w" if number else "r", 1 if number == 2 else -1
                file = open(number, mode, lines, encoding=case.encoding, closefd=False)  # noqa: SIM115
                setattr(sys, stream, file)
        for number in map(int, case.closed):
            os.close(number)
        sys.argv = ["hallo3", *case.words.format(folder).split()]
        try:
            code = main()
        except SystemExit as error:
            code = int(error.code or 0)
        assert all(os.fstat(number) for number in range(3)), "no file that opens later gets these numbers"
        texts = [file.read_text(encoding="utf-8") if file.exists() else "" for file in files[1:]]
        found[name] = code, *texts
    for number in range(3):
        os.dup2(kept[number], number)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    return found


@ON_LINUX
def test_streams_as_they_come(tmp_path: Path) -> None:
    """Only what is expected is printed, and nothing of it to another stream."""
    found = run_alone("cli.test_environment", f"try_streams({str(tmp_path / NOT_UTF8)!a})")
    for name, case in CASES.items():
        code, out, err = found[name]
        assert (code, bool(out), bool(err)) == (case.code, bool(case.out), bool(case.err)), (name, out, err)
        assert case.out in out, name
        assert case.err in err, name


SLOW = (
    *("diffusers", "transformers", "huggingface_hub", "sentencepiece", "tokenizers", "gguf", "onnxruntime"),
    *("mediapipe", "librosa", "numba", "scipy", "sympy", "torch._dynamo", "torch._inductor", "triton"),
)


def test_the_built_in_model_imports_nothing_slow(tmp_path: Path, samples: Path) -> None:
    """With a prompt, which T5 reads."""
    speech = write_wav(tmp_path / "s.wav", tone(16000, 0.3), 16000)
    words = ["animate", "--portrait", str(samples / "portrait.png"), "--speech", str(speech)]
    words += ["-o", str(tmp_path / "v.mp4"), "--prompt", "A person talks."]
    program = f"import gc, sys; from hallo3.__main__ import main; sys.argv[1:] = {words}; "
    program += "print(main(), *sys.modules, gc.isenabled(), gc.get_freeze_count() > 10**5)"
    environment = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    code, *modules, collects, imported = done.stdout.splitlines()[-1].split()
    assert (code, set(SLOW) & set(modules)) == ("0", set()), done.stderr[-2000:]
    assert (collects, imported) == ("True", "True"), "no garbage is looked for among imported objects"


@ON_LINUX
@pytest.mark.soak
@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", ">&- 2>/dev/full"])
def test_a_video_is_whole_without_streams(command: Command, streams: str) -> None:
    """No library's message gets into a file, and a full log stops nothing."""
    command.speak(0.3)
    assert command() == 0
    video = command.video.with_name("2.mp4")
    shell = f'exec {sys.executable} -m hallo3 "$@" {streams}'
    words = command.words("--fresh", o=video)
    subprocess.run(["bash", "-c", shell, "sh", *words], cwd=REPOSITORY, check=True)
    assert video.read_bytes() == command.video.read_bytes()


@pytest.mark.parametrize("prompt", HALVES)
def test_a_prompt_that_is_no_text_is_refused(command: Command, prompt: str) -> None:
    assert "The prompt is not valid Unicode text" in command.stderr(prompt=prompt, code=2)
    with pytest.raises(InputError, match="at letter"):
        check_prompt(prompt)
    check_prompt("\U0001f600 日本 \0")


@ON_LINUX
def test_any_name_that_the_disk_has_can_be_used(command: Command, nano_folder: Path, tmp_path: Path) -> None:
    """Of inputs, outputs, the model and the jobs."""
    command.speak(0.3)
    folder = tmp_path / NOT_UTF8
    folder.mkdir()
    changes: dict[str, Any] = {"o": folder / f"{NOT_UTF8}.mp4", "save_identity": folder / "i.safetensors"}
    for name in ("portrait", "speech"):
        path = Path(command.inputs[f"--{name}"])
        changes[name] = path.rename(folder / f"{NOT_UTF8}{path.suffix}")
    (folder / "model").symlink_to(nano_folder)
    model = nano_folder.rename(nano_folder.with_name(NOT_UTF8))
    try:
        assert command(**changes, model=model) == 0, command.err
        assert "all 1 segments" in command.stderr(**changes | {"save_identity": None}, model=model)
        identity = {"portrait": None, "identity": changes.pop("save_identity"), "o": folder / "2.mp4"}
        assert command(**changes | identity, model=model) == 0
        assert main(["jobs", str(folder)]) == 0
    finally:
        model.rename(nano_folder)


def test_hashes_of_valid_text_are_those_of_utf_8() -> None:
    assert hash_text("ä日") == sha256("ä日".encode()).hexdigest()
    assert len({hash_text(text) for text in HALVES}) == len(HALVES)


def test_eleven_hours_are_planned_without_a_look_at_a_segment(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = replace(measure_recording(command.speech), samples=11 * 3600 * 16000)
    monkeypatch.setattr(session, "measure_recording", lambda *_, **__: stats)
    monkeypatch.setattr(SegmentPlan, "__getitem__", None)
    assert json.loads(command.stdout("--plan", "--json"))["frames"] == 11 * 3600 * 25
