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

from .checkpoints.component import find_component
from .checkpoints.source import open_source
from .checkpoints.tensor_entry import header_bytes
from .checkpoints.tensor_file import TensorFile
from .config import Hallo3Config
from .errors import CheckpointError
from .geometry import PixelBox
from .identity import Identity, Provenance, SavedIdentityInfo
from .media.canvas import Canvas
from .media.paste_back import LONGEST, PasteBack
from .storage.atomic import write_atomic, write_error
from .storage.hashing import hash_tensor

NAMES = ("face_proj.norm.weight", "face_proj.norm.bias", "face_proj.proj.bias")
"""How the transformer takes in a face: its own in every model, and not touched by LoRA."""
FIRST = 64
"""Numbers of each that are looked at."""
NEAR = 0.02
"""Models are the same if their fingerprints are no further apart than this share of their length."""
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
ROUNDED = 0.01
"""The same for a fingerprint and one that has been rounded to eight bits alike."""


def fingerprint(read: Callable[[str], Tensor]) -> Tensor:
    """The fingerprint [n] float32 of a transformer, whose tensors ``read`` hands out by our names."""
    return torch.cat([read(name).detach().flatten()[:FIRST].float().cpu() for name in NAMES])


def fingerprint_in(path: Path) -> Tensor:
    """The fingerprint of the transformer in a file or folder, which is not loaded. Raises
    ``CheckpointError``."""
    with open_source(path) as source:
        found = find_component(source, "transformer")
        return fingerprint(lambda name: found.tensor(name, torch.float32))


def same_model(one: Tensor, other: Tensor) -> bool:
    """Whether two fingerprints are of one model, but for rounding: that of any type is near, and one may be
    the other in eight bits, as ComfyUI stores all weights where it is asked to."""
    one, other = one.double(), other.double()
    if one.shape != other.shape or not bool((one.isfinite() & other.isfinite()).all()):
        return False
    if _apart(one, other) <= NEAR:
        return True
    pairs = ((one, other), (other, one))
    return any(_apart(a.float().to(kind).double(), b) <= ROUNDED for kind in FP8 for a, b in pairs)


def _apart(one: Tensor, other: Tensor) -> float:
    """Their distance in shares of the first one's length."""
    length = float(one.square().sum().sqrt())
    return float((one - other).square().sum().sqrt()) / length if length else float("inf")


BRIGHTEST, LARGEST = 4.0, 1e6
"""Magnitudes beyond which there is no canvas, and no embedding, feature or weight."""
EDGE = 2.0
"""Pixels by which a place may hang over its photograph."""
MOST_WORDS, LONGEST_WORD = 8, 60
"""How much is said of how features were made."""


def check_numbers(name: str, tensor: Tensor, shape: tuple[int | None, ...], most: float = LARGEST) -> None:
    """Raises ``ValueError`` for other sizes (None is any), or numbers that nothing computes with."""
    sizes = tuple(tensor.shape)
    fits = len(sizes) == len(shape) and all(w in (None, f) for w, f in zip(shape, sizes, strict=True))
    if not fits or 0 in sizes or not tensor.is_floating_point():
        raise ValueError(f"{name} of {list(sizes)} {tensor.dtype}")
    if not bool((tensor.float().abs() <= most).all()):
        raise ValueError(f"{name} with numbers beyond {most:g}, or none at all")


def check_shown(name: str, picture: Tensor) -> None:
    """Raises ``ValueError`` for anything but a picture in 8 bits."""
    h, w = picture.shape[1:] if picture.ndim == 3 else (0, 0)
    if picture.dtype != torch.uint8 or len(picture) != 3 or not (2 <= h <= LONGEST and 2 <= w <= LONGEST):
        raise ValueError(f"{name} of {list(picture.shape)} {picture.dtype}")


def placed(photograph: Tensor, place: Any) -> PasteBack:
    """Raises ``ValueError`` for a photograph that is none, or a place that is not on it."""
    check_shown("photograph", photograph)
    height, width = photograph.shape[1:]
    box = PixelBox(*(float(edge) for edge in place))
    whole = PixelBox(-EDGE, -EDGE, width + EDGE, height + EDGE)
    inside = box == box.common(whole) and box.right - box.left >= 1 and box.bottom - box.top >= 1
    if height % 2 or width % 2 or not inside:
        raise ValueError(f"a place at {list(place)} on a photograph of {width} x {height} px")
    return PasteBack(photograph=photograph, place=box)


def stretch(said: Any, size: int) -> slice:
    """Where the picture is on a canvas side. Raises ``TypeError`` or ``ValueError``."""
    start, stop = said
    whole = type(start) is int and type(stop) is int
    if not (whole and 0 <= start < stop <= size):
        raise ValueError(f"a picture at {said} of {size}")
    return slice(start, stop)


def made_as(said: Any) -> Provenance:
    """What a file says of how its features were made; None, as in older files, is nothing. Raises
    ``KeyError``, ``TypeError`` or ``ValueError``."""
    if said is None:
        return Provenance()
    listed = said["approximations"]
    words = [said["precision"], *listed]
    sound = all(type(word) is str and word.isprintable() and len(word) <= LONGEST_WORD for word in words)
    if type(listed) is not list or len(words) > MOST_WORDS or not sound:
        raise ValueError("no words for how its features were made")
    return Provenance(words[0], tuple(words[1:]))


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
        write_atomic(path, [header, *(_raw(tensor) for tensor in tensors.values())])
    except OSError as error:
        raise write_error("The identity cannot be saved.", path, error, size) from error


def read_identity(path: Path) -> Identity:
    """The identity in a file. Raises ``CheckpointError`` for one that is missing, damaged or something
    else."""
    if not path.is_file():
        raise CheckpointError(
            "The identity file cannot be opened.",
            found=f"a folder, {path}" if path.is_dir() else f"no file {path}",
            expected="a file that was saved as a Hallo3 identity",
            fix="check the path, or save the identity again",
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
            fix="update this pack, or save the identity again",
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
        **({} if identity.made == Provenance() else {"made": asdict(identity.made)}),
    }


def _content(tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> str:
    facts = {name: value for name, value in said.items() if name != "content"}
    found = sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        found.update(f"|{name} {hash_tensor(tensors[name])}".encode())
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
        saved=SavedIdentityInfo(mark.float(), str(said["content"])),
        made=made_as(said.get("made")),
    )


def _raw(tensor: Tensor) -> memoryview:
    return memoryview(cast(Any, tensor.reshape(-1).view(torch.uint8).numpy()))


def _no_identity(found: str) -> CheckpointError:
    return CheckpointError(
        "This is not a Hallo3 identity.",
        found=found,
        expected="a file that was saved by Save Hallo3 Identity or --save-identity",
        fix="choose another file",
    )


def _damaged(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        "The identity file is damaged.",
        found=f"{path.name}: {found}"[:300],
        expected="the file as it was saved",
        fix="copy it again, or save the identity again",
    )


def _other(found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "The identity was made for another model.",
        found=found,
        expected=expected,
        fix="make the identity again with this model's reference network",
    )
