"""Videos that were asked for: a folder for each, with its uploads, its options, its job and its state; their
queue; and the threads that have them rendered.

A video exists from the moment its ``video.json`` does, and is gone when that is: whatever else such a folder
holds then is a leftover of an upload or a deletion that was stopped.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import Hallo3Error, describe_error
from ..fleet.dispatch import BLOCKED, DONE, ELSEWHERE, FAILED, STOPPED, TRIES, Outcome
from ..fleet.workers import DIED
from ..messages import logger
from ..storage.files import read_json_object, sync_folder, write_json
from .worker import Worker, describe

QUEUED, RUNNING, COMPLETED, CANCELLED = "queued", "in_progress", "completed", "cancelled"
ENDED = {COMPLETED, FAILED, CANCELLED}
NOTE = "video.json"
ID = re.compile(r"video_[0-9a-f]{32}")
RETRY_SECONDS = 1.0
LOOK_SECONDS, DAY_SECONDS = 60.0, 24 * 3600.0
ABSOLUTE = re.compile(r"(?<![\w.~-])(?:/|[A-Za-z]:\\)[^\s,;:'\"]+")


class FullError(Hallo3Error):
    """The queue is full."""


class Engine(Protocol):
    """What knows the options and renders."""

    def check(self, given: list[tuple[str, str]], folder: Path) -> dict[str, Any]:
        """Facts of the video: ``model``, ``size``, ``seconds``, ``prompt``, and the name of its ``output`` in
        ``folder``, where the uploads are. Raises ``Hallo3Error`` for what a run would refuse."""
        ...

    def options(self, given: list[tuple[str, str]], folder: Path, device: str) -> Any:
        """What a worker's process renders. Raises ``Hallo3Error``."""
        ...


@dataclass
class Video:
    """``created`` and ``ended`` in seconds since 1970; ``progress`` 0 to 1; ``fields`` as they were given."""

    id: str
    created: float
    fields: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    status: str = QUEUED
    progress: float = 0.0
    ended: float | None = None
    error: dict[str, str] | None = None
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    idle: threading.Event = field(default_factory=threading.Event, repr=False)
    """Set while no worker has it."""

    def note(self) -> dict[str, Any]:
        """What is kept on disk."""
        names = ("id", "created", "fields", "facts", "status", "progress", "ended", "error")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """``max_seconds`` to render a video; finished ones are kept ``keep`` days, 0 for ever."""

    max_queue: int
    max_seconds: float
    keep: float


class Videos:
    """All videos in ``folder``. Call :meth:`start` once and :meth:`stop` at the end."""

    def __init__(self, folder: Path, engine: Engine, workers: Mapping[str, Worker], limits: Limits) -> None:
        self._folder, self.engine, self._workers, self.limits = folder, engine, workers, limits
        self._videos, self._coming, self._stopping = dict[str, Video](), 0, False
        self._changed, self._threads = threading.Condition(), list[threading.Thread]()
        for place in sorted(folder.glob("video_*")):
            if ID.fullmatch(place.name) and place.is_dir() and not place.is_symlink():
                self._load(place)
        ordered = sorted(self._videos.values(), key=lambda video: video.created)
        self._videos = {video.id: video for video in ordered}

    def start(self) -> None:
        for device, worker in self._workers.items():
            thread = threading.Thread(target=self._work, args=(device, worker), name=f"hallo3-{device}")
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the workers; what they were rendering continues at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for worker in self._workers.values():
            worker.interrupt()
        for thread in self._threads:
            thread.join()

    def __iter__(self) -> Iterator[Video]:
        """The oldest first."""
        with self._changed:
            return iter([*self._videos.values()])

    def get(self, name: str) -> Video | None:
        return self._videos.get(name)

    def place(self, video: Video) -> Path:
        return self._folder / video.id

    def output(self, video: Video) -> Path:
        return self.place(video) / video.facts["output"]

    @contextmanager
    def new_folder(self) -> Generator[Video]:
        """A video to be added, with an empty folder, which is removed unless :meth:`add` was called. Raises
        ``FullError``."""
        with self._changed:
            waiting = self._coming + sum(video.status == QUEUED for video in self._videos.values())
            if waiting >= self.limits.max_queue:
                found, expected = f"{waiting} videos that wait", f"up to {self.limits.max_queue}"
                raise FullError("The queue is full.", found=found, expected=expected, fix="try again later")
            self._coming += 1
        video = Video(id=f"video_{secrets.token_hex(16)}", created=time.time())
        try:
            self.place(video).mkdir()
            yield video
        finally:
            with self._changed:
                self._coming -= 1
            if video.id not in self._videos:
                shutil.rmtree(self.place(video), ignore_errors=True)

    def add(self, video: Video) -> None:
        """Queue a video; it is safe on disk when this returns. Raises ``OSError``."""
        video.idle.set()
        write_json(self.place(video) / NOTE, video.note())
        sync_folder(self._folder)
        with self._changed:
            self._videos[video.id] = video
            self._changed.notify_all()

    def cancel(self, video: Video) -> None:
        """Stop a video that waits or is rendered; its finished segments stay. Returns at once."""
        with self._changed:
            if video.status in ENDED:
                return
            video.stop.set()
            if video.status == QUEUED:
                self._end(video, CANCELLED)

    def resume(self, video: Video) -> None:
        """Queue a video that was cancelled or has failed again: only missing segments are rendered."""
        video.idle.wait()
        with self._changed:
            if video.status not in ENDED or (video.status == COMPLETED and self.output(video).is_file()):
                return
            video.status, video.error, video.ended = QUEUED, None, None
            video.stop.clear()
            self._save(video)
            self._videos[video.id] = self._videos.pop(video.id)  # last
            self._changed.notify_all()

    def delete(self, video: Video) -> None:
        """Stop and forget a video, and remove its files. Raises ``OSError``."""
        self.cancel(video)
        video.idle.wait()
        with self._changed:
            (self.place(video) / NOTE).unlink(missing_ok=True)
            self._videos.pop(video.id, None)
        shutil.rmtree(self.place(video), ignore_errors=True)

    def _load(self, place: Path) -> None:
        if not (place / NOTE).exists():
            shutil.rmtree(place, ignore_errors=True)
            return
        try:
            known = read_json_object(place / NOTE, follow_links=False)
            known["fields"] = [(str(name), str(text)) for name, text in known["fields"]]
            video = Video(**known)
            if video.id != place.name or not isinstance(video.facts["output"], str):
                raise ValueError("another video's")
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning(f"{place / NOTE} cannot be used and is left as it is: {error}")
            return
        video.idle.set()
        if video.status not in ENDED:
            video.status = QUEUED
        self._videos[video.id] = video

    def _save(self, video: Video) -> None:
        """A disk that is full loses no more than a state: after a restart the video is looked at again."""
        try:
            write_json(self.place(video) / NOTE, video.note())
        except OSError as error:
            logger.warning(f"the state of {video.id} cannot be written: {error}")

    def _end(self, video: Video, status: str, error: dict[str, str] | None = None) -> None:
        video.status, video.error, video.ended = status, error, time.time()
        video.progress = 1.0 if status == COMPLETED else video.progress
        self._save(video)

    def _next(self) -> Video | None:
        """The next video to render; None when the server stops."""
        with self._changed:
            while not self._stopping:
                for video in self._videos.values():
                    if video.status == QUEUED:
                        video.status = RUNNING
                        video.idle.clear()
                        self._save(video)
                        return video
                self._expire()
                self._changed.wait(LOOK_SECONDS)
        return None

    def _expire(self) -> None:
        now, keep = time.time(), self.limits.keep * DAY_SECONDS
        for video in [*self._videos.values()]:
            if keep and video.status in ENDED and video.ended is not None and video.ended + keep < now:
                with suppress(OSError):
                    self.delete(video)

    def _work(self, device: str, worker: Worker) -> None:
        while (video := self._next()) is not None:
            outcome = self._render(video, device, worker)
            with self._changed:
                if self._stopping and outcome.kind != DONE and not video.stop.is_set():
                    video.status = QUEUED
                    self._save(video)
                elif outcome.kind == DONE:
                    self._end(video, COMPLETED)
                elif outcome.kind == STOPPED:
                    self._end(video, CANCELLED)
                else:
                    logger.warning(f"{video.id}: {outcome.message}")
                    self._end(video, FAILED, hide_places(describe(outcome.message), self.place(video)))
                video.idle.set()
        worker.close()

    def _render(self, video: Video, device: str, worker: Worker) -> Outcome:
        def follow(done: float) -> None:
            is_worth_keeping = int(20 * done) > int(20 * video.progress)
            video.progress = done
            if is_worth_keeping:
                with self._changed:
                    self._save(video)

        tries = 0
        while True:
            try:
                options = self.engine.options(video.fields, self.place(video), device)
            except Exception as error:
                return Outcome(
                    FAILED, str(error) if isinstance(error, Hallo3Error) else describe_error(error)
                )
            outcome = worker.run(options, follow, video.stop, self.limits.max_seconds)
            is_failure = outcome.kind in (BLOCKED, DIED, FAILED)
            tries += is_failure
            again = is_failure or outcome.kind == ELSEWHERE  # of a server that was killed, until it notices
            if not again or tries == TRIES or self._stopping:
                return outcome
            if video.stop.wait(RETRY_SECONDS):
                return Outcome(STOPPED)


def hide_places(error: Mapping[str, str], folder: Path) -> dict[str, str]:
    """An error without this computer's paths; files in ``folder`` keep their names."""
    texts = {name: text.replace(f"{folder}{os.sep}", "") for name, text in error.items()}
    return {name: ABSOLUTE.sub("FILE", text) for name, text in texts.items()}
