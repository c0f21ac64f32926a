"""Thousands of schedules of a fleet in virtual time; a broken protocol is found out by some of them."""

from collections import Counter
from typing import Any

import pytest

from fleet.simulator import BrokenError, World
from hallo3.errors import BusyError
from hallo3.fleet.claims import MAX_SIGN_BYTES, Claim
from hallo3.fleet.objects import RetriedObjects
from hallo3.storage.hashing import hash_bytes

SEEDS = range(1000)


def run_seeds(seeds: range, **world: Any) -> Counter[str]:
    """Raises ``BrokenError`` with the seed, by which the schedule is replayed: ``World(seed).run()``."""
    counts = Counter[str]()
    for seed in seeds:
        try:
            counts += World(seed, **world).run()
        except Exception as error:
            raise BrokenError(f"seed {seed}: {error}") from error
    return counts


def test_a_thousand_schedules_keep_every_promise() -> None:
    counts = run_seeds(SEEDS)
    wanted = {"taken over": 300, "refused": 30, "replies lost": 1000, "landed late": 1000, "stalls": 100}
    assert all(counts[what] >= number for what, number in wanted.items()), counts


class Unfenced(Claim):
    """An owner that does not look whose the job is when its number is taken."""

    def _append_own(self, kind: str, **fields: object) -> None:
        while not self._append(kind, self.epoch, **fields):
            pass


class Boastful(Claim):
    """The segment is announced before it is there."""

    def commit(self, index: int, data: bytes) -> None:
        digest = hash_bytes(data)
        self._append_own("segment", index=index, hash=digest, size=len(data))
        self._objects.write(self._segment(index, self.epoch, digest), data)


class WallClock(Claim):
    """Signs of life are times, and clocks of two machines are compared."""

    def renew(self) -> None:
        self._objects.write(self._sign(self.epoch), f"{self._clock():.3f}".encode())
        self._refresh()
        self._check_owned()

    def _check_lease(self, asked: float) -> None:
        sign = self._objects.read(self._sign(self.state.epoch), MAX_SIGN_BYTES)
        if sign is None or asked - float(sign) < self.terms.lease:
            raise BusyError("it is alive")


class Impatient(Claim):
    """The lease is counted from when the owner's sign was first read, not from its last change."""

    def _check_lease(self, asked: float) -> None:
        first = self._seen
        try:
            super()._check_lease(asked)
        except BusyError:
            if first is not None:
                self._seen = self._seen[0] if self._seen else None, first[1]
            if first is None or asked - first[1] < self.terms.lease * (1 + self.terms.skew):
                raise


class SameEpoch(Claim):
    """A claim that is taken over keeps its epoch."""

    def _append(self, kind: str, epoch: int, **fields: object) -> bool:
        return super()._append(kind, max(1, epoch - 1) if kind == "claim" else epoch, **fields)


class Trusting(RetriedObjects):
    """A failed request is taken for one that did nothing, a taken name for another's."""

    def create(self, name: str, data: bytes) -> bytes:
        def attempt() -> bytes:
            try:
                self._storage.pipe_file(f"{self.root}/{name}", data, mode="create")
            except FileExistsError:
                return b"{}"
            return data

        return self._retry(name, attempt)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no fencing": ({"make_claim": Unfenced}, "segment of epoch 1 in 2|committed twice|video of epoch"),
    "create in two steps": ({"exclusive": False}, "lands as number|not committed|committed twice"),
    "announced before it is there": ({"make_claim": Boastful}, "is not there"),
    "clocks are compared": ({"make_claim": WallClock}, "after a sign of life"),
    "lease from the first look": ({"make_claim": Impatient}, "after a sign of life"),
    "no new epoch": ({"make_claim": SameEpoch}, "epoch 1 after 1"),
    "a lost answer is a failure": ({"make_objects": Trusting}, "committed twice|finished|epoch"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_protocol_is_found_out_and_replayed_by_its_seed(name: str) -> None:
    world, symptom = BROKEN[name]
    with pytest.raises(BrokenError, match=symptom) as found:
        run_seeds(SEEDS, **world)
    seed = int(str(found.value).split()[1].rstrip(":"))
    with pytest.raises(BrokenError) as again:
        World(seed, **world).run()
    assert str(found.value) == f"seed {seed}: {again.value}"
    World(seed).run()
