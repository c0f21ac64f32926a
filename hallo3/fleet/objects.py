"""Shared storage: a folder that several machines mount, or a bucket through fsspec, with retries.

fsspec's exclusive create (``pipe_file`` with ``mode="create"``) is a conditional request to Amazon S3, Google
Cloud Storage and Azure, decided by the service. For local and all other file systems it looks first and then
writes, which two machines can do at once: a folder is written by hard links here, others are refused.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import uniform
from secrets import token_hex
from typing import Any, Protocol, TypeVar, cast

from ..errors import DependencyError, InputError, OutputError, describe_error
from ..storage.files import open_regular, publish_file
from ..storage.hashing import BLOCK_BYTES
from .claims import MAX_ENTRY_BYTES

DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between tries of an operation that fails."""
BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
PROBE = "exclusive"
URL = re.compile(r"[a-z][a-z0-9]+://.+", re.IGNORECASE | re.DOTALL)
T = TypeVar("T")


def is_url(text: str) -> bool:
    return URL.fullmatch(text) is not None


class Storage(Protocol):
    """What is used of an fsspec file system, whose names these are. Objects appear as a whole."""

    def pipe_file(self, path: str, value: bytes, *, mode: str = "overwrite") -> object:
        """Write an object; raise ``FileExistsError`` in the mode ``create`` if there is one."""
        ...

    def cat_file(self, path: str, *, start: int, end: int) -> bytes:
        """Some of an object's bytes. Raises ``FileNotFoundError``."""
        ...

    def put_file(self, lpath: str, rpath: str) -> object:
        """Upload a file in place of an object."""
        ...


class Folder:
    """A folder on a disk, local or shared, as ``Storage``."""

    def pipe_file(self, path: str, value: bytes, *, mode: str = "overwrite") -> None:
        publish_file(Path(path), [value], new=mode == "create")

    def cat_file(self, path: str, *, start: int, end: int) -> bytes:
        with open_regular(Path(path)) as file:
            file.seek(start)
            return file.read(end - start)

    def put_file(self, lpath: str, rpath: str) -> None:
        publish_file(Path(rpath), _blocks(Path(lpath)))


def _blocks(path: Path) -> Iterator[bytes]:
    with open_regular(path) as file:
        while block := file.read(BLOCK_BYTES):
            yield block


class _Memory:
    """fsspec's ``memory://``, of this process, made exclusive."""

    _lock = threading.Lock()

    def __init__(self, storage: Storage) -> None:
        self._storage, self.cat_file, self.put_file = storage, storage.cat_file, storage.put_file

    def pipe_file(self, path: str, value: bytes, *, mode: str = "overwrite") -> None:
        with self._lock:
            self._storage.pipe_file(path, value, mode=mode)


class RetriedObjects:
    """``claims.Objects`` under a root of a storage. What fails is tried again for half a minute."""

    def __init__(self, storage: Storage, root: str, *, sleep: Callable[[float], object] = time.sleep) -> None:
        self._storage, self.root, self._sleep = storage, root.rstrip("/"), sleep

    def create(self, name: str, data: bytes) -> bytes:
        """The object's bytes from now on. They are read back unless the request succeeded: its answer may be
        lost, or say only that some condition failed."""
        path = f"{self.root}/{name}"

        def attempt() -> bytes:
            try:
                self._storage.pipe_file(path, data, mode="create")
            except PermissionError:
                raise
            except Exception:
                stands = self._read(path, MAX_ENTRY_BYTES)
                if stands is None:
                    raise
                return stands
            return data

        return self._retry(name, attempt)

    def write(self, name: str, data: bytes) -> None:
        self._retry(name, lambda: self._storage.pipe_file(f"{self.root}/{name}", data))

    def read(self, name: str, max_bytes: int) -> bytes | None:
        return self._retry(name, lambda: self._read(f"{self.root}/{name}", max_bytes))

    def upload(self, path: Path, name: str) -> None:
        """Write a file as an object; readers see all of it or what was there before."""
        self._retry(name, lambda: self._storage.put_file(str(path), f"{self.root}/{name}"))

    def check_exclusive(self) -> None:
        """Raises ``InputError`` for a storage on which a created object can be replaced."""
        first, other = token_hex(8).encode(), token_hex(8).encode()
        if self.create(PROBE, first) == other or self.create(PROBE, other) == other:
            raise InputError(
                "This storage cannot keep two machines from the same video.",
                found=f"{self.root}: an object that existed was created again",
                expected="conditional writes (If-None-Match), as S3, Google Cloud Storage and Azure have",
                fix="use a folder that all machines mount, or another service",
            )

    def _read(self, path: str, max_bytes: int) -> bytes | None:
        try:
            return self._storage.cat_file(path, start=0, end=max_bytes)
        except FileNotFoundError:
            return None

    def _retry(self, name: str, attempt: Callable[[], T]) -> T:
        """Raises ``OutputError`` after the last try."""
        for delay in (*DELAYS, None):
            try:
                return attempt()
            except Exception as error:
                hopeless = isinstance(error, PermissionError | FileNotFoundError)
                hopeless = hopeless or "Credentials" in type(error).__name__
                if delay is None or hopeless:
                    raise OutputError(
                        "The shared storage cannot be used.",
                        found=f"{self.root}/{name}: {describe_error(error)}",
                        expected="a folder or bucket that exists and that you may read and write",
                        fix="repair it and run the same again: finished segments are kept here and there",
                        may_pass=not hopeless,
                    ) from error
                self._sleep(delay * uniform(0.5, 1.0))  # machines that failed together come back apart
        raise AssertionError("the last try returns or raises")


def open_objects(place: str) -> RetriedObjects:
    """Objects under a URL or a folder. Raises ``InputError`` for a service that cannot be used,
    ``DependencyError`` without the library for it."""
    scheme, _, rest = place.partition("://") if is_url(place) else ("file", "", place)
    scheme = scheme.lower()
    if scheme == "file":
        return RetriedObjects(Folder(), str(Path(rest).resolve()))
    if scheme not in (*BUCKETS, "memory"):
        raise InputError(
            "Videos cannot be shared there.",
            found=f"{scheme}://",
            expected=f"a folder, file:// or {', '.join(f'{name}://' for name in BUCKETS)}",
            fix="use a folder that all machines mount, or a bucket",
        )
    try:
        import fsspec  # by those who share only

        # listings that fsspec remembers would hide what others write
        storage = cast(Any, fsspec).filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise DependencyError(
            f"The library for {scheme}:// is not installed.",
            found=describe_error(error),
            fix="pip install s3fs for s3://, gcsfs for gs://, adlfs for az://",
        ) from error
    return RetriedObjects(_Memory(storage) if scheme == "memory" else storage, rest)
