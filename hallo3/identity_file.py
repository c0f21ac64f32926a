"""An identity in a safetensors file: later videos of a person need no reference network or face analyzer.

One metadata entry says what the file is, and has the hash of its content. The file is bound to a model by a
fingerprint: a few small weights that are the same in any precision and file of that model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoints.component import find_component
from .checkpoints.source import CheckpointSource, borrow_source
from .checkpoints.tensor_entry import header_bytes
from .checkpoints.tensor_file import TensorFile
from .config import MAX_LAYERS, Hallo3Config
from .errors import CheckpointError
from .geometry import PixelBox
from .identity import Identity, Provenance, SavedIdentityInfo
from .media.canvas import Canvas
from .media.paste_back import MAX_PHOTOGRAPH_SIDE, PasteBack
from .storage.files import parse_json_object, write_atomic, write_error
from .storage.hashing import hash_tensor, hash_text, raw_bytes

IDENTITY_SUFFIX = ".safetensors"
METADATA_KEY, COMPONENT, FORMAT, PEOPLE_FORMAT = "hallo3", "identity", 1, 2
"""A file with several people has a format of its own: versions that know one person refuse it."""
CANVAS, EMBEDDING, FEATURES = "canvas", "face_embedding", "reference_features.{:03}"
PHOTOGRAPH, PREVIEW, FINGERPRINT = "photograph", "overview", "model_fingerprint"

FINGERPRINT_WEIGHTS = ("face_proj.norm.weight", "face_proj.norm.bias", "face_proj.proj.bias")
"""Of the transformer: different in every model, and not changed by LoRA."""
FINGERPRINT_VALUES = 64
"""Of each weight."""
MAX_DISTANCE, MAX_FP8_DISTANCE = 0.02, 0.01
"""Largest relative distance between fingerprints of one model; and if one of them is rounded to 8 bits like
the other."""
FP8_TYPES = (torch.float8_e4m3fn, torch.float8_e5m2)

MAX_PIXEL, MAX_VALUE = 2.5, 1e6
"""Largest magnitude of a canvas pixel (-1..1, and what a bicubic filter adds), and of a feature or weight."""
MIN_NORM, MAX_NORM = 1e-3, 1e3
"""Of a face embedding; ArcFace's have 5 to 40. Zeros are a picture without a face."""
MAX_FILE_BYTES, MAX_CANVAS_SIDE, MAX_NUMBERS = 4 << 30, 4096, 1 << 16
"""Of the file (0.7 GB in fp32), of its canvas, and of an embedding or fingerprint."""
FEATURE_TYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_OVERHANG_PIXELS = 2.0
"""By how much a crop may extend beyond its photograph."""
MAX_PEOPLE = 4
MAX_PROVENANCE_WORDS, MAX_WORD_CHARACTERS = 8, 60


def fingerprint(read: Callable[[str], Tensor]) -> Tensor:
    """The fingerprint [n] float32 of a transformer; ``read`` returns its tensors by our names."""
    weights = (read(name).detach().flatten()[:FINGERPRINT_VALUES] for name in FINGERPRINT_WEIGHTS)
    return torch.cat([weight.float().cpu() for weight in weights])


def fingerprint_in(where: Path | CheckpointSource) -> Tensor:
    """The fingerprint of the transformer in a file or folder. Raises ``CheckpointError``."""
    with borrow_source(where) as source:
        component = find_component(source, "transformer")
        return fingerprint(lambda name: component.tensor(name, torch.float32))


def same_model(one: Tensor, other: Tensor) -> bool:
    """Whether two fingerprints are of one model, in any precision; one may be rounded to 8 bits, as ComfyUI
    stores all weights on request."""
    one, other = one.double(), other.double()
    if one.shape != other.shape or not bool((one.isfinite() & other.isfinite()).all()):
        return False
    if _distance(one, other) <= MAX_DISTANCE:
        return True
    pairs = ((one, other), (other, one))
    return any(
        _distance(a.float().to(kind).double(), b) <= MAX_FP8_DISTANCE for kind in FP8_TYPES for a, b in pairs
    )


def _distance(one: Tensor, other: Tensor) -> float:
    length = float(one.square().sum().sqrt())
    return float((one - other).square().sum().sqrt()) / length if length else float("inf")


def check_model(identity: Identity, config: Hallo3Config, read_fingerprint: Callable[[], Tensor]) -> None:
    """Raises ``CheckpointError`` for a model that an identity was not made for. ``read_fingerprint`` is
    called only for identities that come from a file."""
    check_sizes(identity, config)
    saved = identity.saved_info
    if saved is not None and not same_model(saved.fingerprint, read_fingerprint()):
        raise _other_model(f"model {config.name!r} with other weights", "the weights it was saved for")


def check_sizes(identity: Identity, config: Hallo3Config) -> None:
    """Raises ``CheckpointError`` for an identity whose sizes are not those of a model."""
    shape, trunk = config.segment.shape, config.trunk
    sizes = {
        "canvas": (tuple(identity.canvas.pixels.shape[-2:]), (shape.height, shape.width)),
        "blocks": (len(identity.reference_features), trunk.layers),
        "features": (
            {tuple(features.shape) for features in identity.reference_features},
            {(1, shape.latent.tokens_per_frame, trunk.width)},
        ),
        "embedding": (
            (identity.space, *identity.face_embedding.shape),
            (config.face.space, len(identity.people) or 1, config.face.embedding_dim),
        ),
    }
    for name, (found, expected) in sizes.items():
        if found != expected:
            raise _other_model(f"{name} {found}", f"{name} {expected}, as in model {config.name!r}")


def write_identity(identity: Identity, fingerprint: Tensor, path: Path) -> None:
    """Write the file atomically. ``fingerprint`` is that of the identity's model. Raises ``OutputError``."""
    tensors = _tensors(identity, fingerprint)
    facts = _facts(identity)
    facts["content"] = _hash_content(tensors, facts)
    layout = ((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items())
    header = header_bytes(layout, {METADATA_KEY: json.dumps(facts)})
    size = len(header) + sum(tensor.nbytes for tensor in tensors.values())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, [header, *(raw_bytes(tensor) for tensor in tensors.values())])
    except OSError as error:
        raise write_error("The identity cannot be saved.", path, error, size) from error


def read_identity(path: Path) -> Identity:
    """Raises ``CheckpointError`` for a file that is missing, damaged or something else."""
    if not path.is_file():
        raise CheckpointError(
            "The identity file cannot be opened.",
            found=f"{path}, which is no file" if path.exists() else f"no file {path}",
            expected="a file that was saved as a Hallo3 identity",
            fix="check the path, or save the identity again",
        )
    try:
        file = TensorFile(path)
    except CheckpointError as error:
        raise _not_an_identity(error.found) from error
    with file:
        facts = _parse_metadata(file.metadata.get(METADATA_KEY, ""))
        if facts is None:
            raise _not_an_identity(f"{path.name}, whose metadata does not say that it is one")
        _check_layout(path, facts, file)
        tensors = {name: file.read(name) for name in file.entries}
    try:
        identity = _parse_identity(tensors, facts)
        if _hash_content(tensors, facts) != facts.get("content"):
            raise ValueError("other values than were saved")
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise _damaged(path, str(error) if type(error) is ValueError else repr(error)) from error
    return identity


def _check_layout(path: Path, facts: Mapping[str, Any], file: TensorFile) -> None:
    """Refuse what cannot be an identity before its values are read. Raises ``CheckpointError``."""
    if facts.get("format") != (PEOPLE_FORMAT if "people" in facts else FORMAT):
        raise CheckpointError(
            "This identity file has another version.",
            found=f"{path.name}: format {facts.get('format')!r}",
            expected=f"format {FORMAT}, or {PEOPLE_FORMAT} for several people",
            fix="update this pack, or save the identity again",
        )
    shapes = {name: entry.shape for name, entry in file.entries.items()}
    blocks = sum(name.startswith(FEATURES.partition(".")[0]) for name in shapes)
    features = {FEATURES.format(n) for n in range(min(blocks, MAX_LAYERS))}
    if unknown := sorted(shapes.keys() - features - {CANVAS, EMBEDDING, FINGERPRINT, PHOTOGRAPH, PREVIEW}):
        raise _damaged(path, f"a tensor {unknown[0][:60]!r}, which an identity does not have")
    largest = {CANVAS: MAX_CANVAS_SIDE, EMBEDDING: MAX_NUMBERS, FINGERPRINT: MAX_NUMBERS}
    for name, most in (largest | dict.fromkeys((PHOTOGRAPH, PREVIEW), MAX_PHOTOGRAPH_SIDE)).items():
        if name in shapes and max(shapes[name], default=1) > most:
            raise _damaged(path, f"{name} of {list(shapes[name])}")
    if file.fingerprint.size > MAX_FILE_BYTES:
        raise _damaged(path, f"{file.fingerprint.size:,} bytes, where {MAX_FILE_BYTES:,} are the most")


def _tensors(identity: Identity, fingerprint: Tensor) -> dict[str, Tensor]:
    tensors = {
        CANVAS: identity.canvas.pixels,
        EMBEDDING: identity.face_embedding,
        FINGERPRINT: fingerprint.float(),
        **{FEATURES.format(n): each for n, each in enumerate(identity.reference_features)},
    }
    if identity.paste_back is not None:
        tensors[PHOTOGRAPH] = identity.paste_back.photograph
    if identity.preview is not None:
        tensors[PREVIEW] = identity.preview
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    return {name: tensors[name].detach().cpu().contiguous() for name in order}


def _facts(identity: Identity) -> dict[str, Any]:
    canvas, paste_back, provenance = identity.canvas, identity.paste_back, identity.provenance
    return {
        "part": COMPONENT,
        "format": PEOPLE_FORMAT if identity.people else FORMAT,
        **({"people": [list(face) for face in identity.people]} if identity.people else {}),
        "space": identity.space,
        "rows": [canvas.rows.start, canvas.rows.stop],
        "columns": [canvas.columns.start, canvas.columns.stop],
        "place": None if paste_back is None else list(paste_back.place),
        **({} if provenance == Provenance() else {"made": asdict(provenance)}),
    }


def _hash_content(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in facts.items() if name != "content"}
    hashes = (f"|{name} {hash_tensor(tensors[name])}" for name in sorted(tensors))
    return hash_text(json.dumps(rest, sort_keys=True) + "".join(hashes))


def _parse_metadata(text: str) -> dict[str, Any] | None:
    try:
        facts = parse_json_object(text, strict=True)
    except ValueError:
        return None
    return facts if facts.get("part") == COMPONENT else None


def _parse_identity(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Identity:
    """Raises ``KeyError``, ``TypeError`` or ``ValueError`` for tensors and facts that make no identity."""
    pixels, preview = tensors[CANVAS], tensors.get(PREVIEW)
    _check_values(CANVAS, pixels, (1, 3, 1, None, None), MAX_PIXEL)
    height, width = pixels.shape[-2:]
    count = sum(name.startswith(FEATURES.partition(".")[0]) for name in tensors)
    features = tuple(tensors[FEATURES.format(n)] for n in range(count))
    if not features:
        raise ValueError("no reference features")
    people = _parse_people(facts.get("people"), height, width)
    _check_values(EMBEDDING, tensors[EMBEDDING], (len(people) or 1, None))
    for embedding in tensors[EMBEDDING]:
        norm = float(embedding.double().square().sum().sqrt())
        if norm and not MIN_NORM <= norm <= MAX_NORM:
            raise ValueError(
                f"a face embedding of length {norm:.3g}, where {MIN_NORM:g} to {MAX_NORM:g} is possible"
            )
    _check_values(FINGERPRINT, tensors[FINGERPRINT], (None,))
    sizes = tuple(features[0].shape)
    if any(tensor.dtype != features[0].dtype or tensor.dtype not in FEATURE_TYPES for tensor in features):
        raise ValueError(f"features of {', '.join(sorted({str(tensor.dtype)[6:] for tensor in features}))}")
    for number, tensor in enumerate(features):
        _check_values(f"block {number}", tensor, sizes if len(sizes) == 3 else (1, None, None))
    if preview is not None:
        _check_picture(PREVIEW, preview)
    place = facts["place"]
    return Identity(
        canvas=Canvas(
            pixels=pixels,
            rows=_parse_range(facts["rows"], height),
            columns=_parse_range(facts["columns"], width),
        ),
        space=_parse_word(facts["space"]),
        face_embedding=tensors[EMBEDDING],
        reference_features=features,
        people=people,
        paste_back=None if place is None else _parse_paste_back(tensors[PHOTOGRAPH], place),
        preview=preview,
        saved_info=SavedIdentityInfo(tensors[FINGERPRINT].float(), str(facts["content"])),
        provenance=_parse_provenance(facts.get("made")),
    )


def _check_values(name: str, tensor: Tensor, shape: tuple[int | None, ...], most: float = MAX_VALUE) -> None:
    """Raises ``ValueError`` for another shape (None is any size), and for values that are not usable
    numbers."""
    sizes = tuple(tensor.shape)
    fits = len(sizes) == len(shape) and all(w in (None, f) for w, f in zip(shape, sizes, strict=True))
    if not fits or 0 in sizes or not tensor.is_floating_point():
        raise ValueError(f"{name} of {list(sizes)} {tensor.dtype}")
    if not bool((tensor.float().abs() <= most).all()):
        raise ValueError(f"{name} with values beyond {most:g}, or NaN")


def _check_picture(name: str, picture: Tensor) -> None:
    h, w = picture.shape[1:] if picture.ndim == 3 else (0, 0)
    if (
        picture.dtype != torch.uint8
        or len(picture) != 3
        or not (2 <= h <= MAX_PHOTOGRAPH_SIDE and 2 <= w <= MAX_PHOTOGRAPH_SIDE)
    ):
        raise ValueError(f"{name} of {list(picture.shape)} {picture.dtype}")


def _parse_paste_back(photograph: Tensor, place: Any) -> PasteBack:
    _check_picture(PHOTOGRAPH, photograph)
    height, width = photograph.shape[1:]
    box = PixelBox(*(float(edge) for edge in place))
    most = MAX_OVERHANG_PIXELS
    inside = box == box.intersect(PixelBox(-most, -most, width + most, height + most))
    large = box.right - box.left >= 1 and box.bottom - box.top >= 1  # false for NaN
    if height % 2 or width % 2 or not inside or not large:
        raise ValueError(f"a crop at {list(place)} of a photograph of {width} x {height} px")
    return PasteBack(photograph=photograph, place=box)


def _parse_people(value: Any, height: int, width: int) -> tuple[PixelBox, ...]:
    """The faces of several people on a canvas, which they may leave in part."""
    if value is None:
        return ()
    people, canvas = tuple(PixelBox(*map(float, face)) for face in value), PixelBox(0, 0, width, height)
    inside = all(all(map(isfinite, face)) and face.intersect(canvas).area > 0 for face in people)
    if not 2 <= len(people) <= MAX_PEOPLE or not inside:
        raise ValueError(f"people at {str(value)[:100]}")
    return people


def _parse_range(value: Any, size: int) -> slice:
    start, stop = value
    if not (type(start) is int and type(stop) is int and 0 <= start < stop <= size):
        raise ValueError(f"a picture at {value} of {size}")
    return slice(start, stop)


def _parse_word(value: Any) -> str:
    if type(value) is not str or not value.isprintable() or len(value) > MAX_WORD_CHARACTERS:
        raise ValueError("a word of the metadata that is none")
    return value


def _parse_provenance(value: Any) -> Provenance:
    """None, as in older files, is unknown."""
    if value is None:
        return Provenance()
    approximations = value["approximations"]
    words = [_parse_word(word) for word in (value["precision"], *approximations)]
    if type(approximations) is not list or len(words) > MAX_PROVENANCE_WORDS:
        raise ValueError("malformed provenance metadata")
    return Provenance(words[0], tuple(words[1:]))


def _not_an_identity(found: str) -> CheckpointError:
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


def _other_model(found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "The identity was made for another model.",
        found=found,
        expected=expected,
        fix="make the identity again with this model's reference network",
    )
