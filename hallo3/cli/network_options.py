"""Options of the commands that use the network: ``hallo3 ui``, ``hallo3 serve`` and ``hallo3 download``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..built_in import FOLDER, NAME
from ..checkpoints.locate import EXTRA_FILES
from .options import (
    TOKEN_VARIABLE,
    CommonOptions,
    ComponentOptions,
    ExpertOptions,
    argument,
    component_choice,
    option,
    parse_model_folder,
    switch,
)


@dataclass(frozen=True, kw_only=True)
class UiOptions(CommonOptions):
    folder: Path = argument(
        "DIR", "folder for videos (default: hallo3_videos)", nargs="?", default=Path("hallo3_videos")
    )
    model: Path = option(
        "DIR", f"model folder, or {NAME} (default: {NAME})", default=FOLDER, type=parse_model_folder
    )
    host: str = option(
        "HOST", "address to serve at (default: 127.0.0.1, this computer only)", default="127.0.0.1"
    )
    port: int = option("N", "port to serve at (default: 7860)", default=7860)


@dataclass(frozen=True, kw_only=True)
class ServeOptions(ExpertOptions, ComponentOptions, CommonOptions):
    folder: Path = argument(
        "DIR", "folder for videos (default: hallo3_server)", nargs="?", default=Path("hallo3_server")
    )
    model: Path = option(
        "DIR", f"model folder, or {NAME} (default: {NAME})", default=FOLDER, type=parse_model_folder
    )
    sign: Path | None = option("PEM", "sign every video with this certificate and its private key")
    host: str = option(
        "HOST",
        "address to serve at; any but this computer's own needs a token (default: 127.0.0.1)",
        default="127.0.0.1",
    )
    port: int = option("N", "port to serve at; 0: any that is free (default: 8000)", default=8000)
    token_file: Path | None = option(
        "FILE", f"file with the token that requests must have (default: the environment's {TOKEN_VARIABLE})"
    )
    max_upload: float = option("MB", "size of a request, in 10^6 bytes (default: 200)", default=200.0)
    max_speech: float = option("MINUTES", "length of the speech (default: 60)", default=60.0)
    max_minutes: float = option(
        "MINUTES", "time to render a video; its finished segments are kept (default: 1440)", default=1440.0
    )
    max_queue: int = option("N", "videos that wait (default: 100)", default=100)
    keep: float = option("DAYS", "delete videos this long after they ended (default: never)", default=0.0)


@dataclass(frozen=True, kw_only=True)
class DownloadOptions(CommonOptions):
    folder: Path = argument("DIR", "folder to download to; run the same again to resume")
    part: list[str] = component_choice(
        "download this only; can be repeated. vocals, the vocal separator, comes only if it is named",
        *EXTRA_FILES,
    )
    revision: str | None = option(
        "REV", "commit to download (default: that of an earlier call, else the newest)"
    )
    dry_run: bool = switch("list files and sizes, download nothing")
