"""Under ComfyUI's dynamic memory every weight that is asked for is let go: its own code, with its memory
library (aimdo) counted and the meta device as the GPU."""

import weakref
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from comfyui.stages import Stages

META = torch.device("meta")
FREE = 64_000_000_000


class FakeLibrary:
    """aimdo: each piece is pinned from when it is asked for until it is let go. ``full``: none fits in
    VRAM."""

    full = False

    def __init__(self) -> None:
        self.pins: Counter[int] = Counter()
        self.asked = self.most = 0

    def make_space(self, size: int, index: Any) -> Any:
        del size, index
        nothing = {name: lambda *_: 0 for name in ("prioritize", "free_memory", "loaded_size")}
        space = SimpleNamespace(used=0, **nothing)

        def alloc(size: int) -> tuple[Any, int, int]:
            space.used += size
            return space, space.used - size, size

        space.alloc = alloc
        return space

    def fault(self, piece: tuple[Any, int, int]) -> bytes | None:
        self.asked += 1
        if self.full:
            return None
        self.pins[id(piece)] += 1
        self.most = max(self.most, self.pins.total())
        return b"in VRAM"

    def unpin(self, piece: tuple[Any, int, int]) -> None:
        assert self.pins[id(piece)], "let go without being pinned"
        self.pins[id(piece)] -= 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, stages: Stages) -> FakeLibrary:
    """A ComfyUI whose GPU is the meta device and whose models are dynamic."""
    import comfy.model_management as mm
    import comfy.model_patcher
    import comfy_aimdo.host_buffer
    import comfy_aimdo.model_vbar
    import comfy_aimdo.torch
    from comfy.cli_args import args

    assert stages  # ComfyUI is there
    fake = FakeLibrary()
    for where, name, value in (
        (comfy_aimdo.model_vbar, "ModelVBAR", fake.make_space),
        (comfy_aimdo.model_vbar, "vbar_fault", fake.fault),
        (comfy_aimdo.model_vbar, "vbar_unpin", fake.unpin),
        (comfy_aimdo.host_buffer, "HostBuffer", lambda *_: SimpleNamespace(size=0)),
        (
            comfy_aimdo.torch,
            "aimdo_to_tensor",
            lambda piece, device: torch.empty(piece[2], dtype=torch.uint8, device=device),
        ),
        (comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcherDynamic),
        (args, "disable_pinned_memory", True),
        *((mm, name, lambda *_, **__: META) for name in ("get_torch_device", "vae_device")),
        (mm, "intermediate_device", lambda: META),
        (
            mm,
            "get_free_memory",
            lambda _=None, torch_free_too=False: (FREE, FREE) if torch_free_too else FREE,
        ),
        (Tensor, "__bool__", lambda _: True),
    ):
        monkeypatch.setattr(where, name, value)
    return fake


class TwoSteps:
    """A SAMPLER that only asks the model."""

    def sample(
        self, model: Any, sigmas: Tensor, extra_args: dict[str, Any], _: Any, noise: Tensor, *__: Any
    ) -> Tensor:
        for sigma in sigmas[:2]:
            noise = model(noise, sigma[None], **extra_args)
        return noise


def load_dynamic_model(stages: Stages) -> Any:
    model = stages.module("nodes.comfy.loading").load_model(None)
    embed = model.model.diffusion_model.patch_embed
    # ComfyUI sets this table's data, which goes from a CPU to a GPU, but not to the meta device
    embed.pos_embedding = nn.Parameter(embed.pos_embedding.to(META), requires_grad=False)
    return model


def sample(stages: Stages) -> Any:
    stages.sample(model=(model := load_dynamic_model(stages)), sampler=TwoSteps(), guidance_scale=3.5)
    return model


def encode(stages: Stages) -> Any:
    vae = stages.module("nodes.comfy.builtin").load_vae()
    assert len(stages.module("nodes.comfy.vae").encode(vae, torch.zeros(1, 3, 3, 64, 64))) == 1
    return vae.patcher


def decode(stages: Stages) -> Any:
    vae = stages.module("nodes.comfy.builtin").load_vae()
    assert len([*stages.module("nodes.comfy.vae").decode(vae, torch.zeros(1, 16, 9, 8, 8))]) == 4
    return vae.patcher


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("use", [sample, encode, decode])
def test_every_weight_is_let_go(
    library: FakeLibrary, stages: Stages, use: Callable[[Stages], Any], full: bool
) -> None:
    library.full = full
    patcher = use(stages)
    assert patcher.is_dynamic()
    assert library.asked > 0
    assert library.pins.total() == 0
    assert library.most == (0 if full else 1), "one layer at a time"


def test_the_reference_network_pins_nothing(
    library: FakeLibrary, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read block by block from its file, and is no part of ComfyUI's memory: all weights that are sent
    are let go, and two blocks are the most that is there at a time, beside one on its way."""
    streaming, sent, most = stages.module("hallo3.offload.streaming"), list[weakref.ref[Tensor]](), [0]
    real = streaming.send

    def send(*inputs: Any) -> dict[str, Tensor]:
        tensors = real(*inputs)
        sent.extend(map(weakref.ref, tensors.values()))
        most[0] = max(most[0], sum(each() is not None for each in sent))
        return tensors

    monkeypatch.setattr(streaming, "send", send)
    extract = stages.module("nodes.comfy.loading").extract_features
    features = extract(stages.reference, torch.zeros(1, 16, 1, 8, 8))
    assert {len(feature) for feature in features} == {1}
    assert len(sent) >= 20 * len(features)
    assert most[0] <= 3 * len(sent) / len(features)
    assert [each() for each in sent if each() is not None] == []
    assert library.pins.total() == library.asked == 0


def test_blocks_stay_before_the_audio_projection(
    library: FakeLibrary, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies first in aimdo's space is evicted last; the projection's large kernel is sent in rows, and
    takes no room there."""
    monkeypatch.setattr(stages.module("nodes.comfy.layers"), "KERNEL_ROWS", 5)
    model = sample(stages)
    network = model.model.diffusion_model
    addresses = {name: m._v[1] for name, m in network.named_modules() if getattr(m, "_v", None) is not None}
    inside = [at for name, at in addresses.items() if name.startswith("transformer_blocks")]
    audio = [at for name, at in addresses.items() if name.startswith("audio_proj")]
    assert max(inside) < min(at for at in addresses.values() if at not in inside)
    assert min(audio) > max(at for at in addresses.values() if at not in audio)
    assert id(network.audio_proj.conv1._v) not in library.pins
    assert id(network.audio_proj.proj2._v) in library.pins
