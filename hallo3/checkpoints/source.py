"""One file of tensors, or the several that together hold one network, behind one face."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self, cast

from torch import Tensor

from ..config import SegmentConfig
from ..errors import CheckpointError
from ..progress import ProgressCallback, no_progress
from ..storage.files import open_regular, parse_json_object
from .tensor_entry import TensorEntry
from .tensor_file import TensorFile

SINGLE = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin")  # by preference
DEEPSPEED = "mp_rank_00_model_states.pt"
_NUMBERED = re.compile(r"-\d{1,5}-of-\d{1,5}$")


class CheckpointSource:
    """Tensors of files by name, with the first file's metadata; a context manager that closes them.
    ``segment`` is the one to read a network for, if that is not its own. ``progress`` hears of the bytes of
    tensors as they are read."""

    def __init__(self, path: Path, files: Sequence[TensorFile], segment: SegmentConfig | None = None) -> None:
        self.path, self.files, self.segment = path, tuple(files), segment
        self.metadata = files[0].metadata
        self.progress: ProgressCallback = no_progress
        self._where = {name: file for file in files for name in file.entries}
        self.entries: Mapping[str, TensorEntry] = {name: f.entries[name] for name, f in self._where.items()}
        if len(self._where) != sum(len(file.entries) for file in files):
            self.close()
            raise CheckpointError(
                "Two files hold the same tensor.",
                found=f"{', '.join(file.path.name for file in files)}",
                expected="every tensor in one of them",
                fix="keep the files of one download only in the folder",
            )

    @property
    def size(self) -> int:
        return sum(file.fingerprint.size for file in self.files)

    def is_current(self) -> bool:
        return all(file.is_current() for file in self.files)

    def read(self, name: str) -> Tensor:
        return self._where[name].read(name)

    def pieces(self, name: str, start: int, stop: int, most: int) -> Iterator[Tensor]:
        """Elements ``start`` to ``stop`` as flat tensors of at most ``most``."""
        for piece in self._where[name].pieces(name, start, stop, most):
            self.progress(piece.nbytes)
            yield piece

    def close(self) -> None:
        for file in self.files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(path: Path, segment: SegmentConfig | None = None) -> CheckpointSource:
    """A weights file, or a network's folder. Raises ``CheckpointError`` for unreadable or missing ones."""
    paths = list_files(path)
    opened: list[TensorFile] = []
    try:
        opened.extend(TensorFile(part) for part in paths)
    except BaseException:
        for file in opened:
            file.close()
        raise
    return CheckpointSource(path, opened, segment)


@contextmanager
def borrow_source(where: Path | CheckpointSource) -> Generator[CheckpointSource]:
    """Open a file or folder for the block; an open source stays open. Errors as of :func:`open_source`."""
    if isinstance(where, CheckpointSource):
        yield where
        return
    with open_source(where) as source:
        yield source


def list_files(path: Path) -> list[Path]:
    """The files that a path stands for: itself, or those of one network in a folder."""
    if not path.is_dir():
        return [path]
    if (path / DEEPSPEED).is_file():
        return [path / DEEPSPEED]
    if (path / "latest").is_file():  # DeepSpeed's layout: it names the sub-folder
        text = read_small_text(path / "latest", 40).strip()
        if not (text.isdecimal() or text == "release"):
            raise CheckpointError(
                "The checkpoint folder cannot be read.",
                found=f"{text!r} in {path / 'latest'}",
                expected="the number of a folder",
                fix="download the checkpoint's folder again, or choose the .pt file in it",
            )
        return [path / text / DEEPSPEED]
    indexes = [*sorted(path.glob("*.safetensors.index.json")), *sorted(path.glob("*.bin.index.json"))]
    files = sorted(path.glob("*.safetensors"))
    single = [path / name for name in SINGLE if (path / name).is_file()]
    if indexes:
        names = _read_index(indexes[0])
    elif single or (len(files) == 1 and not _NUMBERED.search(files[0].stem)):
        return [*single, *files][:1]
    elif files and all(_NUMBERED.search(file.stem) for file in files):
        names = sorted({file.name for file in files} | _expected_names(files[0]))
    else:
        raise CheckpointError(
            "The folder holds no network.",
            found=f"{path} with {len(files)} safetensors files" if files else f"no weights in {path}",
            expected="one weights file, or the numbered files of one network with their index",
            fix="choose the file itself, or the folder it was downloaded into",
        )
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            "The network is incomplete.",
            found=f"{path} without {missing[0]}{more}",
            expected="all of its numbered files",
            fix="download the missing files into the same folder",
        )
    return [path / name for name in names]


def _read_index(index: Path) -> list[str]:
    try:
        fields = parse_json_object(read_small_text(index, 4 << 20), strict=True)
        names = sorted(set(cast("dict[str, str]", fields["weight_map"]).values()))
        beside = all(type(name) is str and name == Path(name).name and len(name) < 200 for name in names)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _index_error(index, "no list of files") from error
    if not names or not beside:
        raise _index_error(index, f"{names[:1]}")
    return names


def _expected_names(file: Path) -> set[str]:
    """Numbered files without an index: the number behind ``-of-`` says how many there must be."""
    stem, _, count = file.stem.rpartition("-of-")
    if not count.isdecimal() or len(count) > 5:
        raise _index_error(file, file.name)
    base = stem.rpartition("-")[0]
    return {f"{base}-{n:0{len(count)}d}-of-{count}.safetensors" for n in range(1, int(count) + 1)}


def read_small_text(path: Path, most: int) -> str:
    """The beginning of a text file. Raises ``CheckpointError`` if it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(most).decode("utf-8", "replace")
    except OSError as error:
        raise CheckpointError(
            "A file beside the weights cannot be read.",
            found=f"{path}: {error.strerror or error}",
            expected="a file that you may read",
            fix="check its permissions",
        ) from error


def _index_error(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        "The list of a network's files cannot be used.",
        found=f"{path.name}: {found}",
        expected="names of files beside it",
        fix="download the folder again",
    )
