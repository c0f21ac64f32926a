"""Claims: which machine may finish a job that several share.

A job's log is a row of objects, 00000001, 00000002 ..., each created once and never changed. To append is to
create the object of the next number, which fails if another machine was first; no more is asked of the
storage. Whoever reads the log in order sees the same: who claimed the job under which epoch, and which
segments that epoch committed. To take a job over is to append a claim with the next epoch. The old owner's
next entry, however late it arrives, then has a number that is taken: the storage refuses it, and readers
would ignore it. Whether an owner is alive decides when others take over, never what is accepted.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Protocol

from ..errors import BusyError, OutputError
from ..jobs.segment_file import HASH, MAX_SEGMENTS
from ..storage.files import parse_json_object
from ..storage.hashing import hash_bytes

FORMAT, MAX_ENTRY_BYTES, MAX_SIGN_BYTES, MAX_EPOCH = 1, 1 << 14, 64, 10**6
LOG, SIGNS, SEGMENTS = "log", "signs", "segments"
"""Folders of the shared storage; each has a job's objects under its key."""


class Objects(Protocol):
    """Named objects that several machines see. Each method raises ``OutputError`` if the storage fails for
    long."""

    def create(self, name: str, data: bytes) -> bytes:
        """The bytes that the object has from now on: ``data``, or what another created first."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Replace an object as a whole."""
        ...

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """An object, or its first ``max_bytes``; None if there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """An owner shows a sign of life every ``beat`` seconds. Others may take over if they saw none for
    ``lease`` seconds of their own clock; clocks run at rates that differ by ``skew`` at most, and what they
    show is never compared."""

    lease: float = 120.0
    beat: float = 30.0
    skew: float = 0.05


@dataclass(frozen=True, slots=True)
class Committed:
    """An accepted segment or video: the epoch of its owner, and its bytes' hash and number."""

    epoch: int
    hash: str
    size: int


@dataclass(slots=True)
class LogState:
    """What the first ``position`` entries of a log say. ``owner`` and ``place`` (what computes there) are of
    the last claim, which ``is_open`` until it is released or the video is finished."""

    position: int = 0
    epoch: int = 0
    owner: str = ""
    place: str = ""
    is_open: bool = False
    segments: dict[int, Committed] = field(default_factory=dict[int, Committed])
    last: int | None = None
    """The segment that was committed last."""
    video: Committed | None = None

    def apply(self, entry: bytes) -> None:
        """Read the next entry; one that is not valid there counts for nothing. Raises ``OutputError`` for a
        newer format."""
        self.position += 1
        try:
            fields = parse_json_object(entry)
            kind, epoch, number = fields["kind"], _count(fields, "epoch", MAX_EPOCH), fields["format"]
        except (ValueError, KeyError):
            return
        if type(number) is int and number > FORMAT:
            raise OutputError(
                "The shared job was started by a newer version of Hallo3.",
                found=f"an entry of format {number}",
                expected=f"format {FORMAT} or older",
                fix="update Hallo3 on this machine",
            )
        try:
            if kind == "claim" and epoch == self.epoch + 1:
                self.owner, self.place = str(fields["owner"])[:100], str(fields["place"])[:300]
                self.epoch, self.is_open, self.video = epoch, True, None
            elif epoch != self.epoch or not self.is_open:
                return
            elif kind == "segment":
                index = _count(fields, "index", MAX_SEGMENTS)
                self.segments[index], self.last = _committed(fields), index
            elif kind == "video":
                self.video, self.is_open = _committed(fields), False
            elif kind == "release":
                self.is_open = False
        except (ValueError, KeyError):
            return


def _count(fields: dict[str, Any], name: str, most: int) -> int:
    value = fields[name]
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name} is no such number")
    return value


def _committed(fields: dict[str, Any]) -> Committed:
    if not isinstance(fields["hash"], str) or not HASH.fullmatch(fields["hash"]):
        raise ValueError("no hash")
    return Committed(fields["epoch"], fields["hash"], _count(fields, "size", 1 << 50))


class Claim:
    """This process' view of a shared job, and its claim once it has one.

    ``key`` is the job's. ``owner`` names a place where one process at a time works on the job: it takes over
    at once what an earlier one left open there. ``clock`` counts seconds, from any start. Keep the object
    between attempts to ``acquire``: it remembers for how long the owner gave no sign.
    """

    def __init__(
        self,
        objects: Objects,
        key: str,
        owner: str,
        place: str = "",
        *,
        terms: Terms | None = None,
        clock: Callable[[], float] = time.monotonic,
        make_token: Callable[[], str] = lambda: token_hex(8),
    ) -> None:
        self.state, self.epoch = LogState(), 0
        self.key, self.owner, self.place, self.terms = key, owner, place, terms or Terms()
        self._objects, self._clock, self._make_token = objects, clock, make_token
        self._seen: tuple[object, float] | None = None
        self._beats, self._lock = 0, threading.Lock()

    def look(self) -> LogState:
        """What the log says now."""
        with self._lock:
            return self._refresh()

    def acquire(self, gone: Committed | None = None) -> bool:
        """Claim the job. False if its video is finished, unless it is the one that is known to be ``gone``.

        Raises ``BusyError`` while another owner shows signs of life; ``OutputError``.
        """
        with self._lock:
            while True:
                asked, state = self._clock(), self._refresh()
                if state.video not in (None, gone):
                    return False
                if state.is_open and state.owner != self.owner:
                    self._check_lease(asked)
                epoch = state.epoch + 1
                claim = {"owner": self.owner, "place": self.place, "token": self._make_token()}
                if self._append("claim", epoch, **claim):
                    self.epoch, self._seen = epoch, None
                    return True

    def _check_lease(self, asked: float) -> None:
        """Raises ``BusyError`` unless what was read after ``asked`` is what was seen a lease before."""
        state, terms = self.state, self.terms
        seen = state.position, self._objects.read(self._sign(state.epoch), MAX_SIGN_BYTES)
        if self._seen is None or self._seen[0] != seen:
            self._seen = seen, self._clock()
        rest = terms.lease * (1 + terms.skew) - (asked - self._seen[1])
        if rest > 0:
            raise BusyError(
                "Another machine is working on this video.",
                found=f"job {self.key[:16]}, claimed by {state.owner}",
                expected="a job that no machine works on",
                fix=f"wait; if that machine is gone, its work is taken over in {rest:.0f} s of waiting",
            )

    def renew(self) -> None:
        """Show a sign of life; call it every ``beat`` seconds. Raises ``BusyError`` if the claim is lost."""
        with self._lock:
            self._beats += 1
            self._objects.write(self._sign(self.epoch), str(self._beats).encode())
            self._refresh()
            self._check_owned()

    def commit(self, index: int, data: bytes) -> None:
        """Publish a segment's file. When this returns it is accepted, by every reader and for good; if it
        raises ``BusyError``, the claim is lost and the segment is refused."""
        with self._lock:
            digest = hash_bytes(data)
            self._objects.write(self._segment(index, self.epoch, digest), data)
            self._append_own("segment", index=index, hash=digest, size=len(data))

    def fetch(self, index: int, max_bytes: int) -> bytes | None:
        """A committed segment's file; None if it is missing, incomplete, changed or larger."""
        known = self.state.segments.get(index)
        if known is None or known.size > max_bytes:
            return None
        data = self._objects.read(self._segment(index, known.epoch, known.hash), known.size + 1)
        return data if data is not None and hash_bytes(data) == known.hash else None

    def finish(self, digest: str, size: int) -> None:
        """Say that the video was written. Raises ``BusyError`` if the claim is lost."""
        with self._lock:
            self._append_own("video", hash=digest, size=size)

    def release(self) -> None:
        """Let others take the job without waiting."""
        with self._lock:
            if self.state.is_open and self.state.epoch == self.epoch:
                self._append("release", self.epoch)

    def check(self) -> None:
        """Raises ``BusyError`` if the claim is lost."""
        with self._lock:
            self._refresh()
            self._check_owned()

    def _check_owned(self) -> None:
        if self.state.epoch != self.epoch or not self.state.is_open:
            raise BusyError(
                "Another machine has taken this video over.",
                found=f"job {self.key[:16]}, claimed by {self.state.owner}: no sign of this machine in time",
                expected="a job that this machine has claimed",
                fix="nothing: the other machine renders it; what was committed before is kept",
            )

    def _refresh(self) -> LogState:
        """Read the entries that others appended."""
        while True:
            entry = self._objects.read(self._entry(self.state.position + 1), MAX_ENTRY_BYTES)
            if entry is None:
                return self.state
            self.state.apply(entry)

    def _append_own(self, kind: str, **fields: object) -> None:
        self._check_owned()
        while not self._append(kind, self.epoch, **fields):
            self._refresh()
            self._check_owned()

    def _append(self, kind: str, epoch: int, **fields: object) -> bool:
        """Whether the log's next entry is this one. It is, too, if the storage's answer to an earlier try was
        lost."""
        entry = {"format": FORMAT, "kind": kind, "epoch": epoch, **fields}
        data = json.dumps(entry, sort_keys=True).encode()
        stands = self._objects.create(self._entry(self.state.position + 1), data)
        self.state.apply(stands)
        return stands == data

    def _entry(self, position: int) -> str:
        return f"{LOG}/{self.key}/{position:08d}"

    def _sign(self, epoch: int) -> str:
        return f"{SIGNS}/{self.key}/{epoch}"

    def _segment(self, index: int, epoch: int, digest: str) -> str:
        return f"{SEGMENTS}/{self.key}/{index:06d}.{epoch}.{digest[:16]}"
