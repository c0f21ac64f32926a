"""``hallo3 serve``: videos over HTTP. It reads requests as ``hallo3 animate`` reads its options, and renders
in a process per device."""

from __future__ import annotations

import os
import re
import socket
from argparse import Namespace
from dataclasses import fields, replace
from functools import cached_property, partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import torch

from ..errors import AudioError, DependencyError, InputError, check_range
from ..media.video import CODECS
from ..storage.files import open_regular, write_error
from ..storage.lock import lock_folder
from .batch import open_render
from .network_options import ServeOptions
from .options import (
    AUTO,
    TOKEN_VARIABLE,
    AnimateOptions,
    CommonOptions,
    ComponentOptions,
    ExpertOptions,
    ResumeOptions,
    add_options,
)
from .request import read_request
from .table import OptionsParser, to_words

FILES = ("portrait", "speech", "identity")
UPLOADS = {**{name: name for name in FILES}, "input_reference": "portrait"}
"""Parts of a form that are files, with the option that each is."""
EXPECTED = {"model": "the name of the model", "size": "WIDTHxHEIGHT of the video", "seconds": "its length"}
"""Fields of other servers' clients that are compared with what the video will be."""
OF_THE_SERVER = (ResumeOptions, ExpertOptions, ComponentOptions, CommonOptions)
MIN_TOKEN, MAX_TOKEN_BYTES, MAX_CONNECTIONS = 16, 4096, 1000
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
EXAMPLE = "curl -F portrait=@me.png -F speech=@me.wav -F prompt='A person talks' -F seed=3 ADDRESS/v1/videos"
KINDS = {"int": "integer", "float": "number", "float | str": "string"}


def requested() -> dict[str, Any]:
    """The options that a request may have: none that names a file, writes one beside the video, or says how
    the server computes."""
    own = {each.name for group in OF_THE_SERVER for each in fields(group)}
    own |= {"plan", "json", "model", "output", "voices"}
    own |= {"from_time", "to_time", "silence_before", "silence_after"}
    return {
        each.name: each
        for each in fields(AnimateOptions)
        if each.name not in own and not str(each.type).startswith("Path")
    }


class Requests:
    """Reads requests; an ``Engine`` of the server."""

    def __init__(self, options: ServeOptions) -> None:
        self._options, self._known = options, requested()

    @cached_property
    def _parser(self) -> OptionsParser:
        parser = OptionsParser("request", add_help=False, allow_abbrev=False)
        add_options(parser, AnimateOptions)
        return parser

    @cached_property
    def form(self) -> dict[str, Any]:
        """The JSON schema of a request."""
        uploads = {
            each.name: _schema(each) | {"format": "binary"}
            for each in fields(AnimateOptions)
            if each.name in FILES
        }
        properties = uploads | {name: _schema(each) for name, each in self._known.items()}
        return {"type": "object", "required": ["speech"], "properties": properties, "examples": [EXAMPLE]}

    def check(self, given: list[tuple[str, str]], folder: Path) -> dict[str, Any]:
        options = self.options(given, folder, self._options.device)
        request = read_request(replace(options, plan=True))
        if request.subject.identity is None:
            _ = request.subject.portrait  # its errors come now
        stats, limit = request.recordings[0].stats, 60 * self._options.max_speech
        seconds = stats.samples / stats.sample_rate
        if seconds > limit:
            raise AudioError(
                "The speech is too long.",
                found=f"{seconds:.1f} s",
                expected=f"up to {limit:g} s",
                fix="send it in parts, or start the server with another --max-speech",
            )
        size = "x".join(map(str, request.size))
        facts = {
            "model": request.config.name,
            "size": size,
            "seconds": f"{request.plan.frames / request.config.segment.fps:.2f}",
        }
        for name, text in given:
            if name in EXPECTED and not _agrees(name, text, facts[name]):
                raise InputError(
                    f"The video will have another {name}.",
                    found=f"{name}={text}"[:80],
                    expected=f"{name}={facts[name]}: model, portrait and speech decide it",
                    fix=f"remove {name}, or change what decides it",
                )
        estimate = request.estimate(len(request.plan))
        output = options.output
        assert output is not None
        return facts | {"prompt": options.prompt, "output": output.name, "disk": estimate.disk}

    def options(self, given: list[tuple[str, str]], folder: Path, device: str) -> AnimateOptions:
        words = [word for name, text in given for word in self._words(name, text)]
        shared = {each.name for group in (ExpertOptions, ComponentOptions) for each in fields(group)}
        values: dict[str, Any] = {name: getattr(self._options, name) for name in (*shared, "model", "sign")}
        values |= {name: folder / name for name in FILES if (folder / name).is_file()}
        defaults = self._parser.parse_args([], Namespace(**values))
        found: dict[str, Any] = vars(self._parser.parse_args(words, defaults))
        suffix = CODECS[found["codec"]].files[0]
        found |= {"device": device, "output": folder / f"video{suffix}"}
        return AnimateOptions(**found)

    def _words(self, name: str, text: str) -> list[str]:
        """A field as words of a command line."""
        option = name.strip().removesuffix("[]").replace("-", "_")
        if option in EXPECTED:
            return []
        if option not in self._known:
            is_ours = option in {each.name for each in fields(AnimateOptions)}
            headline = "The server decides this." if is_ours else "There is no such option."
            names = ", ".join((*UPLOADS, *self._known))
            raise InputError(headline, found=repr(name)[:60], expected=names, fix="remove it")
        return to_words(option, text, self._known)


def _schema(each: Any) -> dict[str, Any]:
    """An option as JSON schema."""
    settings, kind = each.metadata["settings"], str(each.type).removesuffix(" | None")
    schema: dict[str, Any] = {"type": KINDS.get(kind, "string"), "description": settings["help"] or each.name}
    if settings.get("action") == "store_true":
        schema["type"] = "boolean"
    if "choices" in settings:
        schema["enum"] = [*settings["choices"]]
    if kind.startswith("list"):
        return {"type": "array", "items": {"type": "string"}, "description": schema["description"]}
    return schema


def _agrees(name: str, text: str, fact: str) -> bool:
    if name != "seconds":
        return text in ("", fact)
    try:
        return not text or abs(float(text) - float(fact)) <= 1
    except ValueError:
        return False


def run_serve(options: ServeOptions) -> None:
    """Serve until the command is stopped. Raises ``DependencyError`` without FastAPI."""
    try:
        import uvicorn

        from ..server.app import Access, create_app
        from ..server.videos import Limits, Videos
        from ..server.worker import Worker
    except ImportError as error:
        raise DependencyError(
            "The server needs FastAPI, uvicorn and python-multipart.",
            found=f"no {error.name} in this Python",
            expected="all three",
            fix='pip install "hallo3[serve]"',
        ) from error
    token, requests = read_token(options), Requests(options)
    is_local = _is_local(options.host)
    if not is_local and not token:
        raise InputError(
            "A server that other computers reach needs a token.",
            found=f"--host {options.host} and no token",
            expected=f"--token-file FILE, or the environment's {TOKEN_VARIABLE}",
            fix="write a long random word to a file, or serve this computer only",
        )
    for name, highest in (("max_upload", 1e6), ("max_speech", 720), ("max_minutes", 1e6), ("max_queue", 1e5)):
        check_range(name.replace("_", " "), getattr(options, name), 1e-6, highest)
    check_range("keep", options.keep, 0, 1e5)
    check_range("port", options.port, 0, 65535)
    folder = options.folder.resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error("The folder for videos cannot be made.", folder, error) from error
    limits = Limits(max_queue=options.max_queue, max_seconds=60 * options.max_minutes, keep=options.keep)
    access = Access(
        token=token,
        hosts=LOCAL | {options.host} if is_local else frozenset(),
        max_bytes=int(1e6 * options.max_upload),
    )
    with lock_folder(folder, "this folder of videos"), open_socket(options.host, options.port) as listener:
        devices = find_devices(options.device)
        workers = {each: Worker(partial(open_render, devices=(each,), threads=0)) for each in devices}
        app = create_app(Videos(folder, requests, workers, limits), access, UPLOADS, requests.form)
        config = uvicorn.Config(
            app,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=3,
        )
        host = f"[{options.host}]" if ":" in options.host else options.host
        print(f"Hallo3 serves http://{host}:{listener.getsockname()[1]}/v1/videos", flush=True)
        print(f"Ctrl-C ends it; videos are in {folder}; /docs lists the options", flush=True)
        uvicorn.Server(config).run([listener])


def open_socket(host: str, port: int) -> socket.socket:
    """One that listens. Raises ``InputError``."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(
            "The server cannot use this address.",
            found=f"--host {host} --port {port}: {error.strerror or error}",
            expected="an address of this computer, and a port that is free",
            fix="choose another --port; 0 is any",
        ) from error


def find_devices(name: str) -> list[str]:
    """Every CUDA GPU, else the one device of this name."""
    count = torch.cuda.device_count() if name == AUTO and torch.cuda.is_available() else 0
    return [f"cuda:{number}" for number in range(count)] or [name]


def read_token(options: ServeOptions) -> str:
    """The token that requests must have; empty for none. Raises ``InputError``."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if options.token_file is not None:
        with open_regular(options.token_file) as file:
            token = file.read(MAX_TOKEN_BYTES).decode("utf-8", "replace")
    token = token.strip()
    is_given = options.token_file is not None or token
    if is_given and not re.fullmatch(rf"[\x21-\x7e]{{{MIN_TOKEN},}}", token):
        raise InputError(
            "The token cannot be used.",
            found=f"{len(token)} characters",
            expected=f"{MIN_TOKEN} or more letters, digits and signs, without spaces",
            fix="make one with: python -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    return token


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
