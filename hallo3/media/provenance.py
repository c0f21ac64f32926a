"""Content Credentials (C2PA) of finished videos: who made them, when, with what, from which files.

c2pa-python, the C2PA project's own library, signs and checks. Portraits and recordings are named by hash
only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from PIL import Image

from ..errors import DependencyError, InputError, describe_error, sanitize
from ..storage.files import finalize_file, open_regular, temporary_path, write_error

TYPES = {".mp4": "video/mp4", ".mov": "video/quicktime"}
"""Files that can be signed, by ending."""
INPUTS = "io.github.hallo3-comfyui.inputs"
"""Label of our assertion: hashes of what a video was made from."""
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for media that a trained model made."""
OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
MAX_CERTIFICATE_BYTES = 1 << 20
PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----\s*", re.DOTALL)
UNTRUSTED = "signingCredential.untrusted"
VALID = "a certificate for C2PA, with its chain: not a self-signed one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate with its chain, and its private key, both PEM. ``algorithm`` is C2PA's name of it."""

    chain: bytes
    key: bytes
    algorithm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What a video's signature says. ``changes`` are C2PA's codes of what does not match; ``signer`` is as
    the certificate names it, which is not checked here."""

    signer: str
    time: str
    generator: str
    inputs: Mapping[str, str]
    changes: tuple[str, ...]


def read_certificate(path: Path) -> Certificate:
    """A PEM file with a certificate, its chain and its private key, tried on a picture. Raises
    ``InputError``."""
    c2pa = _import_c2pa()  # cryptography comes with it
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    wanted = "a PEM file with the certificate, its chain, and its private key without a password"
    error = InputError(
        "The certificate cannot be used.",
        found=f"{path.name}",
        expected=wanted,
        fix="give the file that your certificate's issuer describes for C2PA, with the key in it",
    )
    with open_regular(path, follow_links=True) as file:
        text = file.read(MAX_CERTIFICATE_BYTES)
    blocks = dict.fromkeys(("certificate", "key"), b"")
    for block in PEM.finditer(text):
        blocks["key" if block[1].endswith(b"PRIVATE KEY") else "certificate"] += block[0].strip() + b"\n"
    try:
        key: Any = load_pem_private_key(blocks["key"], None)
    except (ValueError, TypeError) as cause:
        raise error from cause
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = {256: "es256", 384: "es384", 521: "es512"}.get(key.key_size, "")
    else:
        kinds = {rsa.RSAPrivateKey: "ps256", ed25519.Ed25519PrivateKey: "ed25519"}
        algorithm = next((name for kind, name in kinds.items() if isinstance(key, kind)), "")
    if not algorithm or not blocks["certificate"]:
        raise error
    certificate = Certificate(chain=blocks["certificate"], key=blocks["key"], algorithm=algorithm)
    try:
        Image.new("RGB", (8, 8)).save(picture := BytesIO(), "PNG")
        picture.seek(0)
        manifest = _describe("trial", "image/png", "hallo3", {})
        _sign(picture, BytesIO(), "image/png", certificate, manifest)
    except c2pa.C2paError as cause:
        raise InputError(
            "The certificate does not sign.",
            found=f"{path.name}: {describe_error(cause)}",
            expected=VALID,
            fix="use another certificate, or sign nothing",
        ) from cause
    return certificate


def sign_video(path: Path, certificate: Certificate, generator: str, inputs: Mapping[str, str]) -> None:
    """Replace a video by one with a signed manifest: made by ``generator``, a trained model's, from
    ``inputs``, hashes by what they are. Raises ``InputError`` if the certificate does not sign,
    ``OutputError``."""
    c2pa, kind = _import_c2pa(), TYPES[path.suffix.lower()]
    manifest = _describe(path.name, kind, generator, inputs)
    fresh = temporary_path(path)
    try:
        with suppress(FileNotFoundError):
            fresh.unlink()
        with path.open("rb") as source, fresh.open("w+b") as target:
            _sign(source, target, kind, certificate, manifest)
        finalize_file(fresh, path)
    except c2pa.C2paError as error:
        fresh.unlink(missing_ok=True)
        raise InputError(
            "The certificate does not sign the video; the video is there, unsigned.",
            found=describe_error(error),
            expected=VALID,
            fix="use another certificate, or sign nothing",
        ) from error
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        raise write_error("The signed video cannot be written.", path, error) from error


def _describe(title: str, kind: str, generator: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """A manifest: made now, by a trained model."""
    name, _, version = generator.partition(" ")
    created = {
        "action": "c2pa.created",
        "digitalSourceType": SOURCE,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {
        "claim_generator_info": [{"name": name, "version": version}],
        "format": kind,
        "title": title,
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": [created]}},
            {"label": INPUTS, "data": {what: f"sha256:{digest}" for what, digest in inputs.items()}},
        ],
    }


def _sign(source: BinaryIO, target: BinaryIO, kind: str, certificate: Certificate, manifest: Any) -> None:
    """Write ``source`` with a signed manifest. Raises c2pa's errors."""
    c2pa = _import_c2pa()
    info = c2pa.C2paSignerInfo(
        alg=certificate.algorithm.encode(),
        sign_cert=certificate.chain,
        private_key=certificate.key,
        ta_url=None,
    )
    with (
        c2pa.Signer.from_info(info) as signer,
        c2pa.Context.from_dict(OFFLINE) as context,
        c2pa.Builder(json.dumps(manifest), context) as builder,
    ):
        builder.sign(signer, kind, source, target)


def read_provenance(path: Path) -> Provenance | None:
    """What a video's signature says; None if it has none. Raises ``InputError`` for a file that is no video
    or cannot be read."""
    c2pa = _import_c2pa()
    with open_regular(path, follow_links=True) as file:
        try:
            kind = TYPES.get(path.suffix.lower(), "video/mp4")
            with c2pa.Context.from_dict(OFFLINE) as context, c2pa.Reader(kind, file, None, context) as reader:
                told: Any = json.loads(reader.json())
        except c2pa.C2paError as error:
            if "ManifestNotFound" in type(error).__name__ or "no JUMBF" in str(error):
                return None
            raise InputError(
                "The file's signature cannot be read.",
                found=describe_error(error),
                expected="a video as it was written",
                fix="get the file again from where it was published",
            ) from error
    manifest = told["manifests"][told["active_manifest"]]
    signature = manifest.get("signature_info", {})
    assertions = {each["label"].split(".v")[0]: each["data"] for each in manifest.get("assertions", [])}
    actions = assertions.get("c2pa.actions", {}).get("actions", [{}])
    made = manifest.get("claim_generator_info", [{}])[0]
    names = [signature.get(key, "") for key in ("common_name", "issuer")]
    failures = told.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    return Provenance(
        signer=sanitize(", ".join(name for name in names if name) or "an unnamed certificate"),
        time=sanitize(str(signature.get("time") or actions[0].get("when", ""))),
        generator=sanitize(f"{made.get('name', '')} {made.get('version', '')}".strip()),
        inputs={sanitize(str(k)): sanitize(str(v)) for k, v in assertions.get(INPUTS, {}).items()},
        changes=tuple(sanitize(str(each["code"])) for each in failures if each.get("code") != UNTRUSTED),
    )


def _import_c2pa() -> ModuleType:
    try:
        import c2pa
    except ImportError as error:
        raise DependencyError(
            "Signatures need the library c2pa-python.",
            found="no c2pa-python in this Python",
            expected="c2pa-python",
            fix='pip install "hallo3[c2pa]", or pip install c2pa-python',
        ) from error
    return c2pa
