"""A network that fits on the device and stays there."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

import torch
from torch import nn

from ..residency import Locking
from .items import others_of, put
from .packing import sent
from .stream import Stored

N = TypeVar("N", bound=nn.Module)


class Settled(Generic[N]):
    """Sent to the device item by item when it is first entered, and stays there."""

    def __init__(self, load: Callable[[], Stored[N]], device: torch.device) -> None:
        self._load, self._device = load, device
        self._settled: N | None = None

    def __enter__(self) -> N:
        if self._settled is None:
            network, rows, shelf, _ = self._load()
            locking = Locking()
            put(network, {name: tensor.to(self._device) for name, tensor in others_of(network, rows)})
            for item in (item for row in rows for item in row):
                put(network, sent(shelf(item), self._device, locking))
            self._settled = network
        return self._settled

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It stays."""
