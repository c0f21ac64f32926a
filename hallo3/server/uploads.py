"""A multipart form, read as it arrives: files go to disk under names of our own, and all is counted."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ..errors import InputError, OutputError
from ..storage.files import create_file, free_disk

MAX_PARTS, MAX_TEXT_BYTES, MAX_URL_HEADER = 64, 64 << 10, 200
RESERVE_BYTES, BLOCK_BYTES = 64 << 20, 1 << 20
"""Of the disk, for what is being rendered; how much of a file is read at a time."""
IDLE_SECONDS = 60.0
"""How long a client may send nothing."""
FIX = "send multipart/form-data, such as curl -F portrait=@me.png -F speech=@me.wav"


class TooLargeError(InputError):
    """More than the server accepts."""


def check_size(size: int, max_bytes: int, what: str = "upload") -> None:
    if size > max_bytes:
        found, expected = f"{size:,} bytes or more", f"up to {max_bytes:,}"
        raise TooLargeError(f"The {what} is too large.", found=found, expected=expected, fix="send less")


def check_disk(folder: Path, size: int) -> None:
    """Raises ``OutputError`` if files of this size would fill the disk."""
    if (free := free_disk(folder)) < size + RESERVE_BYTES:
        found, expected = f"{free:,} bytes free", f"{size + RESERVE_BYTES:,}"
        fix = "delete videos that are not needed any more"
        raise OutputError("The server's disk is full.", found=found, expected=expected, fix=fix)


class Form:
    """``fields`` in order, as (name, text), and ``files``: a path for each name. ``names`` of files in the
    form, each with the one that it gets in ``folder``."""

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self.fields, self.files, self.ended = list[tuple[str, str]](), dict[str, Path](), False
        self._folder, self._names, self._parts, self._text_bytes = folder, names, 0, 0
        self._urls, self._header, self._value, self._disposition = set[str](), b"", b"", b""
        self._name, self._text = "", bytearray()
        self.file: BinaryIO | None = None

    def on_part_begin(self) -> None:
        self._parts += 1
        check_size(self._parts, MAX_PARTS, "number of parts")
        self._disposition, self._text = b"", bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name, is_file = _decode(options.get(b"name", b"")), b"filename" in options
        name = self._names.get(self._name)
        if name is None and not is_file:
            return
        if name is None or name in self.files:
            headline = "There is no such file to upload." if name is None else f"{name} comes twice."
            expected = ", ".join(self._names)
            raise InputError(headline, found=repr(self._name)[:60], expected=expected, fix="remove it")
        self._urls |= set() if is_file else {name}
        self.files[name] = self._folder / name
        self.file = os.fdopen(create_file(self.files[name]), "wb")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self.file is not None:
            self.file.write(data[start:end])
            return
        self._text += data[start:end]
        self._text_bytes += end - start
        check_size(self._text_bytes, MAX_TEXT_BYTES, "text of the form")

    def on_part_end(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None
        else:
            self.fields.append((self._name, _decode(bytes(self._text))))

    def on_end(self) -> None:
        self.ended = True

    def finish(self) -> None:
        """Decode files that came as ``data:`` URLs, and sync all. Raises ``InputError``, ``OSError``."""
        for name, path in self.files.items():
            if name in self._urls:
                decode_data_url(name, path)
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("The form is no text.", found=repr(data[:40]), expected="UTF-8", fix=FIX) from error


def decode_data_url(name: str, path: Path) -> None:
    """Replace a file that holds a ``data:`` URL by what that is. Raises ``InputError`` for anything else: a
    name of a file of this computer, or an address, is not opened."""
    target = path.with_name(f"{name}.decoded")
    with path.open("rb") as source:
        header, comma, _ = source.read(MAX_URL_HEADER).partition(b",")
        try:
            if not (comma and header.startswith(b"data:") and header.endswith(b";base64")):
                raise binascii.Error
            source.seek(len(header) + 1)
            with os.fdopen(create_file(target), "wb") as file:
                while block := source.read(BLOCK_BYTES):
                    file.write(base64.b64decode(block, validate=True))
        except binascii.Error as error:
            raise InputError(
                f"{name} is no uploaded file.",
                found=repr(header[:40].decode("utf-8", "replace")),
                expected="a file, or a data: URL with base64",
                fix=f"upload it: curl -F {name}=@FILE; files of the server and addresses are not opened",
            ) from error
    target.replace(path)


async def read_form(
    chunks: AsyncIterator[bytes], content_type: str, folder: Path, names: Mapping[str, str], max_bytes: int
) -> Form:
    """Read a form's body. Raises ``InputError``, ``TimeoutError`` and ``OSError``."""
    kind, options = parse_options_header(content_type)
    form, size = Form(folder, names), 0
    callbacks: Any = {name: getattr(form, name) for name in dir(Form) if name.startswith("on_")}
    try:
        if kind != b"multipart/form-data":
            raise FormParserError(content_type[:60] or "no content type")
        parser = MultipartParser(options.get(b"boundary", b""), callbacks)
        while (chunk := await asyncio.wait_for(anext(chunks, None), IDLE_SECONDS)) is not None:
            size += len(chunk)
            check_size(size, max_bytes)
            parser.write(chunk)
        if not form.ended:
            raise FormParserError(f"it ends after {size:,} bytes")
    except FormParserError as error:
        found, expected = str(error), "multipart/form-data, whole"
        raise InputError("The form cannot be read.", found=found, expected=expected, fix=FIX) from error
    finally:
        if form.file is not None:
            form.file.close()
    return form
