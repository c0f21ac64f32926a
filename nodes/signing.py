"""Signatures (Content Credentials) of the main node: of its finished file, and of what Save Video writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import InputImpl

from ..hallo3.errors import InputError, check_choice
from ..hallo3.media.provenance import TYPES, read_certificate, sign_video
from ..hallo3.version import VERSION

FOLDER = "certificates"
"""Among ComfyUI's models: files of the input folder can be downloaded from the server, private keys too."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs with a PEM file, which is read each time: no private key stays in memory. ``inputs`` are hashes
    of what a video is made from."""

    certificate: Path
    inputs: Mapping[str, str]

    def sign(self, path: Path) -> None:
        sign_video(path, read_certificate(self.certificate), f"hallo3 {VERSION}", self.inputs)


class SignedVideo(InputImpl.VideoFromFile):
    """Files that other nodes save of it unchanged are signed; what they cut from it is not."""

    def __init__(self, path: Path, signer: Signer) -> None:
        super().__init__(str(path))
        self._signer = signer

    def save_to(self, path: Any, *values: Any, **named: Any) -> None:
        super().save_to(path, *values, **named)
        if isinstance(path, str):
            self._signer.sign(Path(path))


def open_signer(name: str, suffixes: set[str], inputs: Mapping[str, str]) -> Signer:
    """For files with these ``suffixes``, with a file of models/certificates. Raises ``InputError``, also for
    a certificate that cannot be used, and ``DependencyError``."""
    for suffix in sorted(suffixes):
        check_choice(suffix, TYPES, "ending of a signed video")
    path = Path(folder_paths.models_dir) / FOLDER / name
    if path.name != name or "\\" in name or not path.is_file():
        raise InputError(
            "The certificate is missing.",
            found=repr(name[:60]),
            expected=f"the name of a PEM file in models/{FOLDER}, without folders",
            fix=f"put the file with certificate, chain and key into models/{FOLDER}, or leave `sign` empty",
        )
    read_certificate(path)
    return Signer(path, inputs)
