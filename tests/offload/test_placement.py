"""What is held in RAM and what stays on the device, network by network."""

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from hallo3 import loading
from hallo3.checkpoints.load import read_model_config
from hallo3.checkpoints.locate import ModelFolder
from hallo3.loading import MANUAL_DECODE, MANUAL_OFFLOADS, Placement, load_models
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.offload import streaming
from hallo3.offload.estimate import DISK, OffloadConfig
from hallo3.offload.streaming import PackedTensors, store_in_memory
from hallo3.quantization import PRECISIONS
from hallo3.residency import PinnedAllocator
from hallo3.vae.autoencoder import DEFAULT_PLAN

CPU = torch.device("cpu")
LAYERS = Layers(ops=cast(Any, nn), device="meta")


def place(folder: Path, config: OffloadConfig) -> Placement:
    precision = PRECISIONS["fp32"]
    return Placement(files=ModelFolder(folder), device=CPU, precision=precision, verifier=None, config=config)


def test_pinning_holds_little_more_than_weights(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are freed as they are packed: twice the released model's are 36 GB."""
    read_bytes: dict[int, tuple[weakref.ref[Any], int]] = {}
    packed = [0, 0]  # now, and the peak with what was read and lives

    def read(*arguments: Any) -> dict[str, Tensor]:
        state = read_component(*arguments)
        for storage in (tensor.untyped_storage() for tensor in state.values()):
            read_bytes[storage.data_ptr()] = weakref.ref(storage), storage.nbytes()
        return state

    class CountingPack(PackedTensors):
        def __init__(self, tensors: Mapping[str, Tensor], _: PinnedAllocator) -> None:
            super().__init__(tensors)
            packed[0] += self.size
            alive = sum(count for storage, count in read_bytes.values() if storage() is not None)
            packed[1] = max(packed[1], packed[0] + alive)

    read_component = loading.read_component
    monkeypatch.setattr(loading, "read_component", read)
    pin = lambda *args, **named: store_in_memory(*args, **named | {"pinned": True})  # noqa: E731
    monkeypatch.setattr(loading, "store_in_memory", pin)
    monkeypatch.setattr(streaming, "PackedTensors", CountingPack)
    config = read_model_config(ModelFolder(tiny_folder).find("transformer"))
    with place(tiny_folder, MANUAL_OFFLOADS["blocks"]).transformer(lambda: Hallo3Transformer(config, LAYERS)):
        weights = sum(count for _, count in read_bytes.values())
        assert packed[0] > 0.7 * weights
        assert packed[1] <= 1.3 * weights


def test_only_the_transformer_s_blocks_stay(nano_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan has 1.1 GB for the reference network."""
    resident: dict[str, int] = {}
    real = loading.store_on_disk

    def record(*arguments: Any, **named: Any) -> Any:
        resident[arguments[3]] = len(named.get("resident", ()))
        return real(*arguments, **named)

    monkeypatch.setattr(loading, "store_on_disk", record)
    config = read_model_config(ModelFolder(nano_folder).find("transformer"))
    placed = place(nano_folder, OffloadConfig(home=DISK, resident=1, passes="layer-major"))
    latent = config.segment.shape.latent
    with placed.reference(lambda: ReferenceNetwork(config.trunk, latent, LAYERS)):
        pass
    with placed.transformer(lambda: Hallo3Transformer(config, LAYERS)):
        pass
    assert resident == {"reference": 0, "transformer": 1}


@pytest.mark.parametrize("offload", ["blocks", "disk"])
def test_a_manual_offload_decodes_in_strips(nano_folder: Path, offload: str) -> None:
    """On the CPU they would save nothing."""
    assert (MANUAL_DECODE.strips, MANUAL_DECODE.caches) == (8, "host")
    with load_models(nano_folder, torch.device("meta"), "fp32", offload=offload).vae as vae:
        assert vae.plan == MANUAL_DECODE
    with load_models(nano_folder, CPU, "fp32", offload=offload).vae as vae:
        assert vae.plan == DEFAULT_PLAN
