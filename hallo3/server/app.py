"""The HTTP routes: who may ask, what they get, and errors as JSON with found, expected and fix."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import urlsplit

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from .. import __version__
from ..errors import Hallo3Error, InputError, OutputError, describe_error
from ..messages import logger
from ..storage.files import DISK_FULL
from .uploads import TooLargeError, check_disk, check_size, read_form
from .videos import COMPLETED, DAY_SECONDS, ENDED, FullError, Video, Videos, hide_places
from .worker import describe

CHECKS = 2
"""Requests that are checked at a time; others wait."""
RETRY_AFTER, LINGER_SECONDS, LINGER_BYTES = 30, 2.0, 64 << 20
"""Seconds after which a full queue may have a place; how long, and how much of, a refused upload is read, so
that its sender gets the answer."""
EVENT_SECONDS, PING_SECONDS = 0.2, 15.0
TYPES = {".mp4": "video/mp4", ".mov": "video/quicktime", ".mkv": "video/x-matroska"}
STYLE = "body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}pre{overflow:auto}"
ABOUT = (
    "Portrait and speech in, video out. POST /v1/videos queues a video, GET /v1/videos/{id} shows its "
    "progress, GET /v1/videos/{id}/content is the file. Only animate people who have consented, and label "
    "the result as AI-generated."
)


class AnswerError(InputError):
    """A refusal with its HTTP status."""

    def __init__(self, status: int, headline: str, found: str, expected: str, fix: str) -> None:
        super().__init__(headline, found=found[:80], expected=expected, fix=fix)
        self.status = status


class VideoState(BaseModel):
    """A video, as clients see it; times in seconds since 1970, ``progress`` in percent, ``seconds`` and
    ``size`` as WIDTHxHEIGHT of what it will be. An ``error`` has message, found, expected and fix."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"]
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    prompt: str
    seconds: str
    size: str
    error: dict[str, str] | None


@dataclass(frozen=True, kw_only=True)
class Access:
    """``hosts`` are the names by which this computer is asked, empty if any will do: a page of the web may
    have its own name lead here. ``max_bytes`` of a request."""

    token: str
    hosts: frozenset[str]
    max_bytes: int


def create_app(videos: Videos, access: Access, names: Mapping[str, str], form: Mapping[str, Any]) -> FastAPI:
    """``names`` of uploads, each with the option that it is; ``form`` is the JSON schema of a request."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncGenerator[None]:
        videos.start()
        yield
        await run_sync(videos.stop)

    app = FastAPI(
        title="Hallo3", version=__version__, description=ABOUT, lifespan=life, docs_url=None, redoc_url=None
    )
    app.add_middleware(Guard, access=access)
    for kind in (Exception, Hallo3Error, HTTPException, RequestValidationError, OSError, ClientDisconnect):
        app.add_exception_handler(kind, answer_error)
    checks = CapacityLimiter(CHECKS)
    body = {"required": True, "content": {"multipart/form-data": {"schema": form}}}

    def find(name: str) -> Video:
        if (video := videos.get(name)) is None:
            fix = "GET /v1/videos lists them"
            raise AnswerError(404, "There is no such video.", name, "the id of a video here", fix)
        return video

    def state(video: Video) -> VideoState:
        ended, keep = video.ended, videos.limits.keep * DAY_SECONDS
        return VideoState(
            id=video.id,
            status=video.status,  # type: ignore[arg-type]
            progress=int(100 * video.progress),
            created_at=int(video.created),
            completed_at=int(ended) if ended is not None and video.status == COMPLETED else None,
            expires_at=int(ended + keep) if ended is not None and keep else None,
            error=None if video.error is None else {"code": "failed", **video.error},
            **{name: video.facts[name] for name in ("model", "prompt", "seconds", "size")},
        )

    @app.post("/v1/videos", openapi_extra={"requestBody": body})
    async def create(request: Request) -> VideoState:
        """Upload a portrait and speech, and queue a video. The options are those of hallo3 animate."""
        length = request.headers.get("content-length", "")
        size = int(length) if length.isdecimal() else 0
        check_size(size, access.max_bytes)
        with videos.new_folder() as video:
            folder = videos.place(video)
            check_disk(folder, size)
            kind = request.headers.get("content-type", "")
            got = await read_form(request.stream(), kind, folder, names, access.max_bytes)
            await run_sync(got.finish)
            video.fields = got.fields
            try:
                video.facts = await run_sync(videos.engine.check, got.fields, folder, limiter=checks)
                check_disk(folder, video.facts.pop("disk", 0))
            except Hallo3Error as error:
                shown = hide_places(describe(str(error)), folder)
                parts = {name: shown.get(name, "") for name in ("found", "expected", "fix")}
                raise type(error)(shown["headline"], **parts, may_pass=error.may_pass) from error
            await run_sync(videos.add, video)
        return state(video)

    @app.get("/v1/videos")
    async def show_all(
        limit: int = Query(20, ge=1, le=100), order: Literal["asc", "desc"] = "desc", after: str = ""
    ) -> dict[str, Any]:
        """Videos by the time they were asked for; the list begins after the id "after"."""
        found = sorted(videos, key=lambda video: (video.created, video.id), reverse=order == "desc")
        found = found[1 + found.index(find(after)) :] if after else found
        page = [state(video).model_dump() for video in found[:limit]]
        ids = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        return {"object": "list", "data": page, "has_more": len(found) > limit, **ids}

    @app.get("/v1/videos/{video_id}")
    async def show(video_id: str) -> VideoState:
        """How a video is doing."""
        return state(find(video_id))

    @app.get("/v1/videos/{video_id}/content", response_class=FileResponse)
    async def content(video_id: str) -> FileResponse:
        """The video's file, when it is completed; ranges of bytes can be asked for."""
        video = find(video_id)
        path = videos.output(video)
        if video.status != COMPLETED or not path.is_file():
            found = "no file" if video.status == COMPLETED else video.status
            fix = f"wait until it is; POST /v1/videos/{video.id}/resume if it was stopped"
            raise AnswerError(409, "The video is not finished.", found, COMPLETED, fix)
        return FileResponse(path, media_type=TYPES[path.suffix], filename=f"{video.id}{path.suffix}")

    @app.post("/v1/videos/{video_id}/cancel")
    async def cancel(video_id: str) -> VideoState:
        """Stop a video. What is finished of it stays."""
        video = find(video_id)
        await run_sync(videos.cancel, video)
        return state(video)

    @app.post("/v1/videos/{video_id}/resume")
    async def resume(video_id: str) -> VideoState:
        """Queue a video again that was cancelled or has failed: only missing segments are rendered."""
        video = find(video_id)
        await run_sync(videos.resume, video)
        return state(video)

    @app.delete("/v1/videos/{video_id}")
    async def delete(video_id: str) -> dict[str, Any]:
        """Stop a video, and delete it with its uploads and segments."""
        await run_sync(videos.delete, find(video_id))
        return {"id": video_id, "object": "video.deleted", "deleted": True}

    @app.get("/v1/videos/{video_id}/events", response_class=StreamingResponse)
    async def events(video_id: str) -> StreamingResponse:
        """Server-sent events with the video's state, named after its status, until it has ended."""
        video = find(video_id)

        async def tell() -> AsyncIterator[str]:
            shown, told = "", time.monotonic()
            while True:
                is_last = video.status in ENDED or videos.get(video.id) is None
                text = f"event: {video.status}\ndata: {state(video).model_dump_json()}\n\n"
                if text != shown or time.monotonic() - told > PING_SECONDS:
                    yield ": waiting\n\n" if text == shown else text
                    shown, told = text, time.monotonic()
                if is_last:
                    return
                await asyncio.sleep(EVENT_SECONDS)

        return StreamingResponse(tell(), media_type="text/event-stream")

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers; needs no token."""
        return {"status": "ok", "version": __version__}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(draw_page(app.openapi()))

    return app


class Guard:
    """Answers what may not be asked before anything of it is read: a wrong token, a request that a page of
    another site makes, a name that is not this computer's. A refused upload is read for a moment, so that
    its sender gets the answer."""

    def __init__(self, app: Any, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, is_read = dict(scope["headers"]), False

        async def receive_noted() -> Any:
            nonlocal is_read
            message = await receive()
            is_read = not message.get("more_body", False)
            return message

        async def linger() -> None:
            left = LINGER_BYTES
            while not is_read and left > 0:
                left -= len((await receive_noted()).get("body", b"")) + 1

        async def send_safe(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
                if message["status"] >= 400 and b"expect" not in headers:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(linger(), LINGER_SECONDS)
            await send(message)

        refusal = self._judge(scope["path"], headers)
        app = self._app if refusal is None else await answer_error(None, refusal)
        await app(scope, receive_noted, send_safe)

    def _judge(self, path: str, headers: Mapping[bytes, bytes]) -> AnswerError | None:
        host, origin = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
        hosts, token = self._access.hosts, self._access.token
        if hosts and _split(f"//{host}")[1] not in hosts:
            expected = " or ".join(sorted(hosts))
            return AnswerError(421, "This is not the server's name.", host, expected, "use its address")
        if origin and _split(origin)[0] != host:
            headline, fix = "Pages of other sites may not use this server.", "ask from a program"
            return AnswerError(403, headline, f"Origin: {origin}", "a program, or a page of this server", fix)
        given = headers.get(b"authorization", b"")
        if token and path != "/health" and not hmac.compare_digest(given, f"Bearer {token}".encode()):
            found = ("another" if given else "no") + " Authorization header"
            fix = "send the token that the server was started with"
            return AnswerError(
                401, "The token is missing or wrong.", found, "Authorization: Bearer TOKEN", fix
            )
        return None


def _split(address: str) -> tuple[str, str]:
    """Its place with the port, and its host's name."""
    with suppress(ValueError):
        parts = urlsplit(address)
        return parts.netloc, parts.hostname or ""
    return "", ""


async def answer_error(_: Any, error: Exception) -> JSONResponse:
    """Any error as JSON, with the sentence that the command says."""
    status, headers = 500, dict[str, str]()
    if isinstance(error, HTTPException):
        status = error.status_code
        error = InputError(f"{HTTPStatus(status).phrase}.", found=str(error.detail), fix="see /docs")
    elif isinstance(error, RequestValidationError):
        status, first = 400, error.errors()[0]
        error = InputError(f"{first['loc'][-1]}: {first['msg']}.", found=repr(first.get("input"))[:60])
    elif isinstance(error, TimeoutError | ClientDisconnect):
        status, error = 408, InputError("The upload stopped.", fix="send it again")
    elif isinstance(error, OSError) and error.errno in DISK_FULL:
        status, error = 507, OutputError("The server's disk is full.", fix="delete videos, then try again")
    elif isinstance(error, FullError):
        status, headers = 429, {"Retry-After": str(RETRY_AFTER)}
    elif isinstance(error, OutputError):
        status = 507
    elif isinstance(error, InputError):
        status = 413 if isinstance(error, TooLargeError) else getattr(error, "status", 400)
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    if status == 500:
        logger.warning(f"a request failed: {describe_error(error)}")
        error = Hallo3Error("Unexpected error.", fix="see the server's log")
    kind = "invalid_request_error" if status < 500 else "server_error"
    code = HTTPStatus(status).phrase.lower().replace(" ", "_")
    return JSONResponse({"error": describe(str(error)) | {"type": kind, "code": code}}, status, headers)


def draw_page(schema: Mapping[str, Any]) -> str:
    """The routes with their options and examples, without scripts."""
    parts = [f"<h1>Hallo3</h1><p>{escape(ABOUT)} <a href='openapi.json'>openapi.json</a></p>"]
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            parts.append(f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(route['description'])}</p>")
            content = route.get("requestBody", {}).get("content", {})
            form = content.get("multipart/form-data", {}).get("schema", {})
            for name, field in form.get("properties", {}).items():
                parts.append(f"<li><code>{name}</code> {escape(field['description'])}</li>")
            parts += [f"<pre>{escape(text)}</pre>" for text in form.get("examples", [])]
    return f"<!doctype html><title>Hallo3</title><style>{STYLE}</style>{''.join(parts)}"
