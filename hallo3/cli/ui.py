"""``hallo3 ui``: a page for portrait, voice and prompt. It fills in the options of ``hallo3 animate``.

Gradio draws the page. What was asked for stands beside each video as JSON, so that a run that was stopped, by
hand or by a crash, is chosen from a list and resumed.
"""

from __future__ import annotations

import ctypes
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from importlib import import_module
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DependencyError, Hallo3Error, InputError, describe_error, is_out_of_memory
from ..jobs.store import list_jobs
from ..messages import redirect_messages
from ..storage.files import read_json_or_empty, write_json
from ..storage.hashing import hash_file
from .animate import run_animate
from .network_options import UiOptions
from .options import AnimateOptions
from .places import JOBS_DIR

INPUTS = "inputs"
"""Folder of the files that were given, named by their content."""
NAME_DIGITS = 12
TITLE = "Hallo3: make a portrait talk"
CONSENT = "Only animate people who have consented, and label the result as AI-generated."


class Wishes(NamedTuple):
    """What the page asks for; files are paths."""

    portrait: str | None
    speech: str | None
    prompt: str = ""
    seed: float = 0
    steps: float = 0
    face: float = 0
    whole_picture: bool = False
    paste_back: bool = False
    enlarge: float = 4


@dataclass
class Studio:
    """Runs what the page asks for, one video at a time, in ``folder``."""

    folder: Path
    model: Path
    messages: list[str] = field(default_factory=list[str])
    _thread: int = 0
    _busy: threading.Lock = field(default_factory=threading.Lock)

    def check(self, wishes: Wishes) -> tuple[str, str]:
        """The picture of what is used of the portrait, and the estimate of a run. Raises ``Hallo3Error``."""
        preview = self.folder / INPUTS / "preview.png"
        with self._run():
            text = self._animate(self._options(wishes, preview=preview, plan=True))
        return str(preview), text

    def render(self, wishes: Wishes) -> str:
        """The finished video. The same wishes resume a run that was stopped, and reuse a finished one. Raises
        ``Hallo3Error``; ``KeyboardInterrupt`` after :meth:`stop`."""
        with self._run():
            wishes = self._keep(wishes)
            video = self._find(wishes) or self._new_video()
            write_json(video.with_suffix(".json"), wishes._asdict())
            self._animate(self._options(wishes, output=video))
        return str(video)

    def stop(self) -> None:
        """Stop the run; its finished segments stay."""
        if self._thread:
            stop = ctypes.py_object(KeyboardInterrupt)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), stop)

    def so_far(self) -> str | None:
        """The video of the finished segments of the last run, while it grows."""
        for job in list_jobs(self.folder / JOBS_DIR)[:1]:
            if (path := job.folder / "so_far.mp4").is_file():
                return str(path)
        return None

    def runs(self) -> list[tuple[str, str]]:
        """(description, name) of every video that was asked for here, the last used first."""
        states = {
            job.manifest.what.get("video", ""): "finished"
            if job.manifest.finished
            else f"{job.done} of {job.manifest.segments} segments"
            for job in reversed(list_jobs(self.folder / JOBS_DIR))
        }
        names = [path.stem for path in self.folder.glob("*.json")]
        known = [name for name in reversed(states) if Path(name).stem in names]
        return [(f"{name}: {states[name]}", Path(name).stem) for name in known]

    def wishes(self, name: str) -> Wishes:
        """What was asked for. Raises ``InputError``."""
        kept = read_json_or_empty(self.folder / f"{Path(name).name}.json")
        try:
            return Wishes(**kept)
        except TypeError as error:
            raise InputError(
                "What this video was made from is not known.",
                found=f"{name}.json, missing or damaged",
                expected="the file that was written beside the video",
                fix="choose portrait and voice again: the same ones resume the same video",
            ) from error

    def _keep(self, wishes: Wishes) -> Wishes:
        """With its files copied to this folder, where they outlive the page."""
        kept: dict[str, str] = {}
        for name in ("portrait", "speech"):
            source = getattr(wishes, name)
            if not source:
                raise InputError(
                    f"There is no {name}.", found="nothing", expected=f"a {name}", fix=f"add a {name} first"
                )
            path = Path(source)
            target = self.folder / INPUTS / f"{hash_file(path)[:NAME_DIGITS]}{path.suffix.lower()}"
            if not target.is_file():
                shutil.copyfile(path, target)
            kept[name] = str(target)
        return wishes._replace(**kept)

    def _find(self, wishes: Wishes) -> Path | None:
        """The video with the same wishes."""
        for path in sorted(self.folder.glob("*.json")):
            if read_json_or_empty(path) == wishes._asdict():
                return path.with_suffix(".mp4")
        return None

    def _new_video(self) -> Path:
        names = (self.folder / f"video-{number}.mp4" for number in count(1))
        return next(name for name in names if not (name.exists() or name.with_suffix(".json").exists()))

    def _options(self, wishes: Wishes, **more: Any) -> AnimateOptions:
        return AnimateOptions(
            portrait=Path(wishes.portrait) if wishes.portrait else None,
            speech=Path(wishes.speech) if wishes.speech else None,
            prompt=wishes.prompt,
            model=self.model,
            seed=int(wishes.seed),
            steps=int(wishes.steps) or None,
            face=int(wishes.face),
            whole_picture=wishes.whole_picture,
            paste_back=wishes.paste_back,
            enlarge=1 if wishes.paste_back else int(wishes.enlarge),
            **more,
        )

    def _animate(self, options: AnimateOptions) -> str:
        """What it prints."""
        self.messages.clear()
        with redirect_stdout(StringIO()) as printed, redirect_messages(self.messages.append):
            run_animate(options)
        return printed.getvalue().strip()

    @contextmanager
    def _run(self) -> Generator[None]:
        if not self._busy.acquire(blocking=False):
            raise InputError(
                "Another video is being made.",
                found="a run that has not ended",
                expected="one run at a time",
                fix="wait for it, or stop it",
            )
        self._thread = threading.get_ident()
        try:
            (self.folder / INPUTS).mkdir(parents=True, exist_ok=True)
            yield
        finally:
            self._thread = 0
            self._busy.release()


def run_ui(options: UiOptions) -> None:
    """Serve the page until the command is stopped. Raises ``DependencyError`` without Gradio."""
    try:
        gradio = import_module("gradio")  # takes seconds
    except ImportError as error:
        raise DependencyError(
            "The page needs the library gradio.",
            found="no gradio in this Python",
            expected="gradio",
            fix='pip install "hallo3[ui]", or pip install gradio',
        ) from error
    folder = options.folder.resolve()
    page = build_page(gradio, Studio(folder, options.model))
    page.queue(default_concurrency_limit=4).launch(
        server_name=options.host,
        server_port=options.port,
        allowed_paths=[str(folder)],
        show_error=True,
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"Hallo3 is at {page.local_url}  (Ctrl-C ends it; videos go to {folder})")
    page.block_thread()


def build_page(gr: Any, studio: Studio) -> Any:
    """The page, as a Gradio ``Blocks``."""

    def guarded(run: Any, *values: Any) -> Any:
        try:
            return run(Wishes(*values))
        except KeyboardInterrupt:
            raise gr.Error("Stopped. Press Render to resume.", title="Hallo3") from None
        except Exception as error:
            text = str(error) if isinstance(error, Hallo3Error) else describe_error(error)
            if is_out_of_memory(error):
                text = f"Out of memory: close other programs, or use hallo3 animate with --vram. ({text})"
            raise gr.Error(text.replace("\n", "<br>"), title="Hallo3", duration=None) from error

    def check(*values: Any) -> Any:
        preview, text = guarded(studio.check, *values)
        return preview, text, "\n".join(studio.messages)

    def render(*values: Any, progress: Any = gr.Progress(track_tqdm=True)) -> Any:  # noqa: B008
        del progress  # Gradio follows the command's own bars
        video = guarded(studio.render, *values)
        return video, "\n".join(studio.messages), gr.Dropdown(choices=studio.runs(), value=None)

    def choose(name: str | None) -> Any:
        wishes = Wishes(None, None)
        with suppress(Hallo3Error):
            wishes = studio.wishes(name) if name else wishes
        return list(wishes)

    def look() -> Any:
        """What there is while a video grows."""
        return studio.so_far() or gr.skip()

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        page.theme = theme
        gr.Markdown(f"# {TITLE}\n{CONSENT}")
        with gr.Row():
            with gr.Column():
                portrait = gr.Image(
                    label="Portrait", type="filepath", sources=["upload", "clipboard"], height=260
                )
                speech = gr.Audio(label="Voice", type="filepath", sources=["upload", "microphone"])
                prompt = gr.Textbox(label="Prompt", placeholder="What the picture shows; may be empty")
                with gr.Row():
                    check_button, stop_button = gr.Button("Check"), gr.Button("Stop", variant="stop")
                    render_button = gr.Button("Render", variant="primary")
                with gr.Accordion("More", open=False):
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                    steps = gr.Number(0, label="Steps (0: the model's own)", precision=0, minimum=0)
                    face = gr.Number(0, label="Face (0: the largest)", precision=0, minimum=0)
                    whole = gr.Checkbox(label="Use the whole picture if no face is found")
                    paste = gr.Checkbox(label="Paste back into the whole photograph")
                    enlarge = gr.Slider(1, 16, 4, step=1, label="Enlarge")
            with gr.Column():
                video = gr.Video(label="Video", interactive=False, height=400)
                with gr.Tab("Notes"):
                    notes = gr.Textbox(show_label=False, lines=3, interactive=False)
                with gr.Tab("What is used, and what it takes"):
                    preview = gr.Image(label="Portrait as it is used", interactive=False, height=300)
                    bill = gr.Code(label="Estimate", language=None, lines=8, interactive=False)
                runs = gr.Dropdown(studio.runs(), label="Resume or reuse a video", value=None)
        inputs = [portrait, speech, prompt, seed, steps, face, whole, paste, enlarge]
        check_button.click(check, inputs, [preview, bill, notes])
        render_button.click(render, inputs, [video, notes, runs], concurrency_limit=1)
        stop_button.click(studio.stop, None, None)
        runs.input(choose, runs, inputs)
        gr.Timer(5).tick(look, None, video, show_progress="hidden")
    return page
