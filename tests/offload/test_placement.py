"""What is held in RAM and what stays on the device, network by network."""

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from hallo3 import loading, pipeline
from hallo3.checkpoints.load import read_model_config
from hallo3.checkpoints.locate import ModelFolder
from hallo3.identity import Identity
from hallo3.loading import MANUAL_DECODE, MANUAL_OFFLOADS, Placement, load_models
from hallo3.model.layers import Layers, LazyParameters
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.models import Models
from hallo3.noise import make_noise
from hallo3.offload import streaming
from hallo3.offload.budget import plan_memory
from hallo3.offload.estimate import DEVICE, DISK, RAM, MemoryRequirements, OffloadConfig
from hallo3.offload.sizes import measure_folder
from hallo3.offload.streaming import PackedTensors, store_in_memory
from hallo3.pipeline import LocalRenderer
from hallo3.quantization import PRECISIONS
from hallo3.residency import PinnedAllocator
from hallo3.segments import SegmentPlan
from hallo3.settings import settings_for
from hallo3.speech.features import Speech, read_from_memory
from hallo3.units import GB
from hallo3.vae.autoencoder import DEFAULT_PLAN

CPU = torch.device("cpu")
LAYERS = Layers(ops=cast(Any, nn), device="meta")


def place(folder: Path, config: OffloadConfig | None, precision: str = "fp32") -> Placement:
    files, number = ModelFolder(folder), PRECISIONS[precision]
    return Placement(files=files, device=CPU, precision=number, verifier=None, config=config)


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


@pytest.mark.parametrize("name", ["transformer", "vae"])
def test_a_network_keeps_its_home_copy(nano_folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is copied back when it is left, and what torch caches is given back."""
    given_back, addresses = list[bool](), list[list[int]]()
    residency = getattr(load_models(nano_folder, torch.device("meta"), "fp32"), name)
    for count in (1, 2):
        with residency as network:
            assert all(each.is_meta for each in network.parameters())
            monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(True))
        assert len(given_back) == count
        addresses.append([each.data_ptr() for each in network.parameters()])
    assert addresses[0] == addresses[1]
    assert all(addresses[0])


def test_a_plan_limits_torch(nano_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without ``--vram``: above the plan, memory of other programs would be taken."""
    limits, requirements = (
        list[object](),
        MemoryRequirements(precision=PRECISIONS["fp32"], steps=1, branches=1),
    )
    monkeypatch.setattr(loading, "limit_torch", lambda *limit: limits.append(limit))
    files, cuda = ModelFolder(nano_folder), torch.device("cuda")
    sizes = measure_folder(files, read_model_config(files.open("transformer")), requirements.precision)
    plan = plan_memory(sizes, requirements, 8 * GB, 64 * GB)
    load_models(nano_folder, CPU, "fp32", memory=plan)
    load_models(nano_folder, cuda, "fp32")
    assert limits == []
    load_models(nano_folder, cuda, "fp32", memory=plan)
    assert limits == [(plan.torch_limit, cuda)]


@pytest.mark.parametrize("offload", ["blocks", "disk"])
def test_a_manual_offload_decodes_in_strips(nano_folder: Path, offload: str) -> None:
    """On the CPU they would save nothing."""
    assert (MANUAL_DECODE.strips, MANUAL_DECODE.caches) == (8, "host")
    with load_models(nano_folder, torch.device("meta"), "fp32", offload=offload).vae as vae:
        assert vae.plan == MANUAL_DECODE
    with load_models(nano_folder, CPU, "fp32", offload=offload).vae as vae:
        assert vae.plan == DEFAULT_PLAN


def tensors_in(item: object, seen: set[int]) -> Iterator[Tensor]:
    """All tensors that an object keeps, without those of networks; what is computed on access keeps what it
    is computed from."""
    if id(item) in seen or isinstance(item, nn.Module):
        return
    seen.add(id(item))
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, FunctionType):
        for cell in item.__closure__ or ():
            yield from tensors_in(cell.cell_contents, seen)
    elif isinstance(item, (tuple, list)):
        for each in cast("tuple[object, ...]", item):
            yield from tensors_in(each, seen)
    elif isinstance(item, LazyParameters):
        yield from tensors_in(item._make, seen)
    elif is_dataclass(item):
        for field in fields(item):
            yield from tensors_in(getattr(item, field.name), seen)


@torch.inference_mode()
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("home", [RAM, DISK, DEVICE, None])
def test_conditions_keep_only_themselves(
    nano: Models, nano_folder: Path, precision: str, home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a run and of a segment: a view of packed weights would keep all of them on the GPU."""
    send = lambda tensors, *_: PackedTensors(tensors).to(CPU)  # noqa: E731
    monkeypatch.setattr(streaming, "send", send)  # as to a GPU, wherever weights come from
    kept: list[tuple[object, ...]] = []
    monkeypatch.setattr(pipeline, "predict_branches", lambda _, *conditions: kept.append(conditions[:2]))
    monkeypatch.setattr(pipeline, "guided_denoiser", lambda *_: lambda latents, _: latents)
    config, number = nano.config, PRECISIONS[precision]
    trunk, latent, noise = config.trunk, config.segment.shape.latent, make_noise(0)
    identity = Identity(
        canvas=cast(Any, None),
        space=config.face.space,
        face_embedding=torch.zeros(1, config.face.embedding_dim),
        reference_features=(torch.zeros(1, latent.tokens_per_frame, trunk.width),) * trunk.layers,
    )
    plan = SegmentPlan(config.segment.new_frames, config.segment)
    features = torch.zeros(plan.padded, config.audio.layers, config.audio.channels)
    speech = Speech(read_from_memory(features), plan, config.audio.window)
    prompt = torch.zeros(1, trunk.text_tokens, trunk.text_dim)
    for on_access, steps_on_access in ((False, False), (True, False), (True, True)):
        kept.clear()
        placed = place(
            nano_folder, None if home is None else OffloadConfig(home=home, resident=1, passes=""), precision
        )
        transformer = placed.transformer(lambda: Hallo3Transformer(config, number.layers("meta")))
        settings = replace(settings_for(config.defaults, steps=2), on_access=on_access, guidance_scale=1.0)
        settings = replace(settings, steps_on_access=steps_on_access)
        models = replace(nano, transformer=transformer)
        renderer = LocalRenderer.prepare(identity, speech, prompt, models, settings)
        image = torch.zeros(1, trunk.latent_channels, 1, *latent[1:]).to(number.compute)
        renderer.sample(image, plan[0], noise)
        tensors = [*tensors_in(kept, set())]
        storages = {(whole := each.untyped_storage()).data_ptr(): whole.nbytes() for each in tensors}
        assert len(tensors) > 3 * trunk.layers
        assert sum(storages.values()) == sum(size for _, size in {(t.data_ptr(), t.nbytes) for t in tensors})
