"""An identity in one file: later videos of the same person need neither reference network nor face analyzer.

A safetensors file. Its one metadata entry says what it is, for which model, and the hash of its tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .config import Hallo3Config
from .errors import CheckpointError
from .fingerprint import same_model
from .identity import Identity, Made, Saved
from .identity_checks import BRIGHTEST, check_numbers, check_shown, made_as, placed, stretch
from .journal.key import digest
from .media.canvas import Canvas
from .storage.whole import unwritable, write_whole
from .tensorfile.file import TensorFile
from .tensorfile.header import header_bytes

ENTRY, PART, FORMAT = "hallo3", "identity", 1
CANVAS, EMBEDDING, FEATURES = "canvas", "face_embedding", "reference_features.{:03}"
PHOTOGRAPH, OVERVIEW, FINGERPRINT = "photograph", "overview", "model_fingerprint"
SUFFIX = ".safetensors"


def check_made_for(identity: Identity, config: Hallo3Config, read: Callable[[], Tensor]) -> None:
    """Raises ``CheckpointError`` for a model that an identity was not made for. ``read`` is asked for the
    model's fingerprint, if the identity comes out of a file."""
    check_sizes(identity, config)
    if identity.saved is not None and not same_model(identity.saved.fingerprint, read()):
        raise _other(
            f"a model {config.name!r} with other weights", "the weights of the model that it was saved for"
        )


def check_sizes(identity: Identity, config: Hallo3Config) -> None:
    """Raises ``CheckpointError`` for an identity whose sizes are not those of a model."""
    shape, trunk = config.segment.shape, config.trunk
    rows = (1, shape.latent.tokens_per_frame, trunk.width)
    found = {
        "canvas": tuple(identity.canvas.pixels.shape[-2:]),
        "blocks": len(identity.reference_features),
        "features": {tuple(features.shape) for features in identity.reference_features},
        "embedding": (identity.space, *identity.face_embedding.shape),
    }
    wanted = {
        "canvas": (shape.height, shape.width),
        "blocks": trunk.layers,
        "features": {rows},
        "embedding": (config.face.space, 1, config.face.embedding_dim),
    }
    for name, value in found.items():
        if value != wanted[name]:
            raise _other(f"{name} {value}", f"{name} {wanted[name]}, as model {config.name!r} has them")


def write_identity(identity: Identity, fingerprint: Tensor, path: Path) -> None:
    """The file, complete or not there at all. ``fingerprint`` is that of the model it is for. Raises
    ``OutputError``."""
    tensors = _tensors(identity, fingerprint)
    said = {"part": PART, "format": FORMAT, **_facts(identity)}
    said["content"] = _content(tensors, said)
    layout = ((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items())
    header = header_bytes(layout, {ENTRY: json.dumps(said)})
    size = len(header) + sum(tensor.nbytes for tensor in tensors.values())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, [header, *(_raw(tensor) for tensor in tensors.values())])
    except OSError as error:
        raise unwritable("The identity cannot be saved.", path, error, size) from error


def read_identity(path: Path) -> Identity:
    """The identity in a file. Raises ``CheckpointError`` for one that is missing, damaged or something
    else."""
    if not path.is_file():
        raise CheckpointError(
            "The identity file cannot be opened.",
            found=f"a folder, {path}" if path.is_dir() else f"no file {path}",
            expected="a file that was saved as a Hallo3 identity",
            do="check the path, or save the identity again",
        )
    try:
        with TensorFile(path) as file:
            said = _said(file.metadata.get(ENTRY, ""))
            if said is None:
                raise _no_identity(f"{path.name}, which does not say that it is one")
            tensors = {name: file.read(name) for name in file.entries}
    except CheckpointError as error:
        raise _no_identity(error.found) from error
    if said.get("format") != FORMAT:
        raise CheckpointError(
            "This identity file is of another version.",
            found=f"{path.name}: format {said.get('format')!r}",
            expected=f"format {FORMAT}",
            do="update this pack, or save the identity again",
        )
    try:
        identity = _identity(tensors, said)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if _content(tensors, said) != said.get("content"):
        raise _damaged(path, "other values than were saved")
    return identity


def _tensors(identity: Identity, fingerprint: Tensor) -> dict[str, Tensor]:
    found = {
        CANVAS: identity.canvas.pixels,
        EMBEDDING: identity.face_embedding,
        FINGERPRINT: fingerprint.float(),
        **{FEATURES.format(n): each for n, each in enumerate(identity.reference_features)},
    }
    if identity.surroundings is not None:
        found[PHOTOGRAPH] = identity.surroundings.photograph
    if identity.overview is not None:
        found[OVERVIEW] = identity.overview
    order = sorted(found, key=lambda name: (-found[name].element_size(), name))
    return {name: found[name].detach().cpu().contiguous() for name in order}


def _facts(identity: Identity) -> dict[str, Any]:
    canvas, around = identity.canvas, identity.surroundings
    return {
        "space": identity.space,
        "rows": [canvas.rows.start, canvas.rows.stop],
        "columns": [canvas.columns.start, canvas.columns.stop],
        "place": None if around is None else list(around.place),
        **({} if identity.made == Made() else {"made": asdict(identity.made)}),
    }


def _content(tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> str:
    facts = {name: value for name, value in said.items() if name != "content"}
    found = sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        found.update(f"|{name} {digest(tensors[name])}".encode())
    return found.hexdigest()


def _said(text: str) -> dict[str, Any] | None:
    try:
        said: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    facts = cast("dict[str, Any]", said)
    return facts if facts.get("part") == PART else None


def _identity(tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> Identity:
    """Raises ``KeyError``, ``TypeError`` or ``ValueError`` for what no identity is made of."""
    pixels, overview = tensors[CANVAS], tensors.get(OVERVIEW)
    check_numbers(CANVAS, pixels, (1, 3, 1, None, None), BRIGHTEST)
    rows, columns = (
        stretch(said[name], size) for name, size in zip(("rows", "columns"), pixels.shape[-2:], strict=True)
    )
    count = sum(name.startswith(FEATURES.partition(".")[0]) for name in tensors)
    features = tuple(tensors[FEATURES.format(n)] for n in range(count))
    embedding, mark = tensors[EMBEDDING], tensors[FINGERPRINT]
    if not features:
        raise ValueError("no reference features")
    check_numbers(EMBEDDING, embedding, (1, None))
    check_numbers(FINGERPRINT, mark, (None,))
    sizes = tuple(features[0].shape)
    for name, tensor in enumerate(features):
        check_numbers(f"block {name}", tensor, sizes if len(sizes) == 3 else (1, None, None))
    around = None if said["place"] is None else placed(tensors[PHOTOGRAPH], said["place"])
    if overview is not None:
        check_shown(OVERVIEW, overview)
    return Identity(
        canvas=Canvas(pixels=pixels, rows=rows, columns=columns),
        space=str(said["space"]),
        face_embedding=embedding,
        reference_features=features,
        surroundings=around,
        overview=overview,
        saved=Saved(mark.float(), str(said["content"])),
        made=made_as(said.get("made")),
    )


def _raw(tensor: Tensor) -> memoryview:
    return memoryview(cast(Any, tensor.reshape(-1).view(torch.uint8).numpy()))


def _no_identity(found: str) -> CheckpointError:
    return CheckpointError(
        "This is not a Hallo3 identity.",
        found=found,
        expected="a file that was saved by Save Hallo3 Identity or --save-identity",
        do="choose another file",
    )


def _damaged(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        "The identity file is damaged.",
        found=f"{path.name}: {found}"[:300],
        expected="the file as it was saved",
        do="copy it again, or save the identity again",
    )


def _other(found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "The identity was made for another model.",
        found=found,
        expected=expected,
        do="make the identity again with this model's reference network",
    )
