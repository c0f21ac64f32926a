"""A real server on this computer, with a worker that needs no process of its own."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from hallo3.cli.batch import render_row
from hallo3.cli.network_options import ServeOptions
from hallo3.cli.options import AnimateOptions
from hallo3.cli.session import Session
from hallo3.client import Client
from hallo3.fleet.dispatch import Outcome, Task
from hallo3.fleet.workers import render_task
from hallo3.progress import FollowShare
from support.audio_samples import tone, write_wav

SESSION = Session()


def render_video(options: AnimateOptions, follow: FollowShare) -> str:
    return render_row(options, follow, SESSION)


class ThreadWorker:
    """A ``Worker`` that renders in the server's own thread."""

    def __init__(self, render: Callable[[Any, FollowShare], object]) -> None:
        self.render, self.runs, self._ending = render, list[Any](), threading.Event()

    def run(self, options: Any, follow: Any, stop: threading.Event, limit: float) -> Outcome:
        until = time.monotonic() + limit

        def tell(share: float) -> None:
            follow(share)
            if stop.is_set() or self._ending.is_set() or time.monotonic() > until:
                raise KeyboardInterrupt

        def render(task: Task, tell: Any) -> str:
            return str(self.render(task.payload, tell))

        self.runs.append(options)
        try:
            return render_task(render, Task(number=0, key="", group=(), cost=0.0, payload=options), tell)
        except KeyboardInterrupt:
            stopped = stop.is_set() or self._ending.is_set()
            return Outcome("stopped") if stopped else Outcome("late", "too long")

    def interrupt(self) -> None:
        self._ending.set()

    def close(self) -> None:
        pass


@dataclass
class Running:
    """A server; ``stop`` ends it, and :attr:`start` begins another one in the same folder."""

    folder: Path
    port: int
    videos: Any
    worker: ThreadWorker
    client: Client
    server: Any = None
    thread: threading.Thread = field(default_factory=threading.Thread)

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.folder.glob("video_*")}

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path, nano_folder: Path) -> Iterator[Start]:
    """Start a server with a ``render``, options of the command and a token."""
    import uvicorn

    from hallo3.cli.serve import LOCAL, UPLOADS, Requests
    from hallo3.server.app import Access, create_app
    from hallo3.server.videos import Limits, Videos

    running = list[Running]()

    def begin(render: Any = render_video, token: str = "", **options: Any) -> Running:
        folder = tmp_path / "server"
        folder.mkdir(exist_ok=True)
        given = replace(ServeOptions(folder=folder, model=nano_folder, device="cpu"), **options)
        requests, worker = Requests(given), ThreadWorker(render)
        limits = Limits(max_queue=given.max_queue, max_seconds=60 * given.max_minutes, keep=given.keep)
        videos = Videos(folder, requests, {"cpu": worker}, limits)  # type: ignore[dict-item]
        access = Access(token=token, hosts=LOCAL, max_bytes=int(1e6 * given.max_upload))
        app = create_app(videos, access, UPLOADS, requests.form)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1)
        socket = config.bind_socket()
        socket.listen()
        port = socket.getsockname()[1]
        new = Running(folder, port, videos, worker, Client(f"http://127.0.0.1:{port}", token))
        new.server = uvicorn.Server(config)
        new.thread = threading.Thread(target=new.server.run, args=([socket],))
        new.thread.start()
        running.append(new)
        return new

    yield begin
    for each in running:
        each.stop()


@pytest.fixture(scope="session")
def speech_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two NANO segments or three."""
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    write_wav(path, tone(16000, 1.2), 16000)
    return path
