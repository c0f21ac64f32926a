"""A client of ``hallo3 serve``, with Python's own library only."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from .errors import Hallo3Error, InputError
from .storage.files import create_file, finalize_file, temporary_path

BLOCK_BYTES = 1 << 18
ENDED = ("completed", "failed", "cancelled")


class Client:
    """``address`` of the server, such as ``http://127.0.0.1:8000``; ``timeout`` in seconds without an answer.

    A video is a dict with ``id``, ``status``, ``progress`` in percent and ``error``, as the server's page
    /docs describes it. Every method raises ``InputError`` for what the server refuses, and ``Hallo3Error`` if
    it fails or does not answer."""

    def __init__(self, address: str = "http://127.0.0.1:8000", token: str = "", timeout: float = 120) -> None:
        self._address, self._timeout = address.rstrip("/"), timeout
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def create(
        self, portrait: Path | str | None = None, speech: Path | str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Upload and queue a video. ``options`` are those of ``hallo3 animate``; ``identity`` is a file."""
        files = {"portrait": portrait, "speech": speech, "identity": options.pop("identity", None)}
        mark, parts = secrets.token_hex(16), list[bytes | Path]()
        for name, value in {**files, **options}.items():
            for each in cast("list[Any]", value if isinstance(value, list) else [value]):
                if each is None:
                    continue
                is_file = name in files
                head = f'name="{name}"' + '; filename="file"' * is_file
                parts += [f"--{mark}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode()]
                parts += [Path(each) if is_file else str(each).encode(), b"\r\n"]
        parts.append(f"--{mark}--\r\n".encode())
        size = sum(part.stat().st_size if isinstance(part, Path) else len(part) for part in parts)
        headers = {"Content-Type": f"multipart/form-data; boundary={mark}", "Content-Length": str(size)}
        return self._json("POST", "", _read(parts), headers)

    def get(self, video_id: str) -> dict[str, Any]:
        return self._json("GET", f"/{quote(video_id)}")

    def list(self, limit: int = 20, after: str = "", order: str = "desc") -> dict[str, Any]:
        """A page of videos: its ``data``, and whether it ``has_more`` after its ``last_id``."""
        return self._json("GET", f"?limit={limit}&order={order}&after={quote(after)}")

    def cancel(self, video_id: str) -> dict[str, Any]:
        return self._json("POST", f"/{quote(video_id)}/cancel")

    def resume(self, video_id: str) -> dict[str, Any]:
        return self._json("POST", f"/{quote(video_id)}/resume")

    def delete(self, video_id: str) -> dict[str, Any]:
        return self._json("DELETE", f"/{quote(video_id)}")

    def events(self, video_id: str) -> Iterator[dict[str, Any]]:
        """The video whenever it changes, until it has ended."""
        with closing(self._open("GET", f"/{quote(video_id)}/events")) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

    def wait(self, video_id: str, every: float = 1.0) -> dict[str, Any]:
        """The video when it has ended; asks again every few seconds."""
        while (video := self.get(video_id))["status"] not in ENDED:
            time.sleep(every)
        return video

    def download(self, video_id: str, path: Path | str) -> None:
        """Write the finished video to ``path``, complete or not at all."""
        with closing(self._open("GET", f"/{quote(video_id)}/content")) as answer:
            fresh = temporary_path(path := Path(path))
            with os.fdopen(create_file(fresh), "wb") as file:
                shutil.copyfileobj(answer, file, BLOCK_BYTES)
                if file.tell() != int(answer.headers["Content-Length"]):
                    raise Hallo3Error("The video did not arrive whole.", fix="download it again")
        finalize_file(fresh, path)

    def _json(
        self, method: str, path: str, data: Any = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        with closing(self._open(method, path, data, headers)) as answer:
            return json.load(answer)

    def _open(self, method: str, path: str, data: Any = None, headers: dict[str, str] | None = None) -> Any:
        address = f"{self._address}/v1/videos{path}"
        request = Request(address, data, {**self._headers, **(headers or {})}, method=method)
        try:
            return urlopen(request, timeout=self._timeout)
        except HTTPError as error:
            with closing(error):
                raise _read_error(error) from error
        except (URLError, OSError) as error:
            raise Hallo3Error(
                "The server does not answer.",
                found=str(getattr(error, "reason", error)),
                expected=f"hallo3 serve at {self._address}",
                fix="start it, or give its address",
            ) from error


def _read(parts: list[bytes | Path]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        with part.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block


def _read_error(error: HTTPError) -> Hallo3Error:
    """The server's error, as it was raised there."""
    kind = InputError if error.code < 500 else Hallo3Error
    try:
        shown = json.load(error)["error"]
        found, expected, fix = (str(shown.get(name) or "") for name in ("found", "expected", "fix"))
        return kind(str(shown["headline"]), found=found, expected=expected, fix=fix)
    except (ValueError, TypeError, KeyError, OSError):
        return kind("The server refused.", found=f"{error.code} {error.reason}")
