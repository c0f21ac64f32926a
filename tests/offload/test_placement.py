"""What is held at home and what stays on the device, network by network."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from hallo3.checkpoints.component_config import read_model_config
from hallo3.checkpoints.locate import ModelFolder
from hallo3.loading import load_models
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.offload import placement as module
from hallo3.offload import streaming as stream
from hallo3.offload.estimate import DISK, MEMORY, OffloadConfig
from hallo3.offload.placement import DECODE, OFFLOADS, Placement
from hallo3.offload.streaming import Packed, StreamedModule, WeightGroup, in_memory
from hallo3.quantization.precision import PRECISIONS
from hallo3.residency import PinnedAllocator
from hallo3.vae.autoencoder import WHOLE

CPU = torch.device("cpu")


def homes(folder: Path, arrangement: OffloadConfig) -> Placement:
    return Placement(
        files=ModelFolder(folder),
        device=CPU,
        precision=PRECISIONS["fp32"],
        examined=None,
        arrangement=arrangement,
    )


class Counted(Packed):
    """A pack that notes how many bytes there are when it is made: what was read and lives, and packs."""

    def __init__(self, tensors: Mapping[str, Tensor], locking: PinnedAllocator | None = None) -> None:
        del locking  # none is locked here
        super().__init__(tensors)
        LEDGER.packed += self.size
        LEDGER.most = max(LEDGER.most, LEDGER.alive + LEDGER.packed)


class Ledger:
    """Bytes of tensors that were read, while they live, and of packs."""

    def __init__(self) -> None:
        self.read: dict[int, tuple[weakref.ref[Any], int]] = {}
        self.packed = self.most = 0

    @property
    def alive(self) -> int:
        """Bytes that were read and are still held."""
        return sum(count for storage, count in self.read.values() if storage() is not None)


LEDGER = Ledger()


def test_packing_holds_hardly_more_than_the_weights(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read goes as it is packed: twice the weights is 36 GB of the released model's."""
    monkeypatch.setitem(globals(), "LEDGER", Ledger())
    read_part, real = module.read_component, in_memory

    def reading(*given: Any) -> dict[str, Tensor]:
        state = read_part(*given)
        for tensor in state.values():
            storage = tensor.untyped_storage()
            LEDGER.read[storage.data_ptr()] = weakref.ref(storage), storage.nbytes()
        return state

    def packing(network: nn.Module, rows: Any, **given: Any) -> Any:
        return real(network, rows, **(given | {"locked": True}))

    monkeypatch.setattr(module, "read_component", reading)
    monkeypatch.setattr(module, "in_memory", packing)
    monkeypatch.setattr(stream, "Packed", Counted)
    files = ModelFolder(tiny_folder)
    config = read_model_config(files.transformer)
    layers = Layers(ops=cast(Any, nn), device="meta")
    stands = homes(tiny_folder, replace(OFFLOADS["blocks"], home=MEMORY))
    with stands.transformer(lambda: Hallo3Transformer(config, layers)):
        weights = sum(count for _, count in LEDGER.read.values())
        assert LEDGER.packed > 0.7 * weights
        assert LEDGER.most <= 1.3 * weights


def test_what_is_needed_once_keeps_no_blocks(nano_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan's blocks that stay are the transformer's; 1.1 GB are planned for the reference network."""
    told: dict[str, int] = {}
    real = module.on_disk

    def noting(network: Any, rows: Any, path: Path, part: str, *given: Any, **more: Any) -> Any:
        told[part] = len(more["staying"])
        return real(network, rows, path, part, *given, **more)

    monkeypatch.setattr(module, "on_disk", noting)
    config = read_model_config(ModelFolder(nano_folder).transformer)
    layers = Layers(ops=cast(Any, nn), device="meta")
    stands = homes(nano_folder, OffloadConfig(home=DISK, staying=1, passes="layer-major"))
    latent = config.segment.shape.latent
    with stands.once(lambda: ReferenceNetwork(config.trunk, latent, layers), "reference"):
        pass
    with stands.transformer(lambda: Hallo3Transformer(config, layers)):
        pass
    assert told == {"reference": 0, "transformer": 1}


@pytest.mark.parametrize("offload", ["blocks", "disk"])
def test_an_offload_by_hand_decodes_in_strips(nano_folder: Path, offload: str) -> None:
    """On a device of its own; on the CPU there is nothing to spare."""
    assert (DECODE.strips, DECODE.caches) == (8, "host")
    with load_models(nano_folder, torch.device("meta"), "fp32", offload=offload).vae as vae:
        assert vae.plan == DECODE
    with load_models(nano_folder, CPU, "fp32", offload=offload).vae as vae:
        assert vae.plan == WHOLE


@torch.inference_mode()
@pytest.mark.parametrize("then", ["the same", "the one before"])
def test_an_item_that_did_not_come_comes_when_it_is_asked_for_again(then: str) -> None:
    net, x = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))), torch.randn(2, 4)
    wanted = [layer(x) for layer in net]
    stored = in_memory(net, [[(str(n),) for n in range(3)]])
    gone = {("1",)}

    def shelf(item: WeightGroup) -> Mapping[str, Tensor] | Packed:
        if item in gone:
            raise OSError("gone")
        return stored.shelf(item)

    with StreamedModule(lambda: stored._replace(shelf=shelf), CPU) as network:
        network.get_submodule("0")(x)
        with pytest.raises(OSError, match="gone"):
            network.get_submodule("1")(x)
        gone.clear()
        number = 1 if then == "the same" else 0
        assert torch.equal(network.get_submodule(str(number))(x), wanted[number])
