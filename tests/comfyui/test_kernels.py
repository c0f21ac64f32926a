"""The fused kernels in ComfyUI: where nothing stands in the way, layer by layer, with the same results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.counts import Tracker, attention
from comfyui.host import Host
from comfyui.stages import Stages, difference

META = torch.device("meta")
OPERATIONS = ("adaln_modulate", "qk_norm_rope", "gated_residual", "gated_residual_norm", "linear_gelu")


@pytest.fixture
def layers(host: Host, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pack's module, on a device where the fused kernels run."""
    module = host.module("nodes.comfy.layers")
    monkeypatch.setattr(module, "can_fuse", lambda *_: True)
    return module


def set_value(name: str, value: Any) -> Callable[[nn.Module], Any]:
    return lambda layer: setattr(layer, name, value)


CHANGES: dict[str, Callable[[nn.Module], Any]] = {
    "LoRA": set_value("weight_lowvram_function", lambda weight: weight),
    "LoRA of the bias": set_value("bias_lowvram_function", lambda bias: bias),
    "weight function": set_value("weight_function", [lambda weight: weight]),
    "bias function": set_value("bias_function", [lambda bias: bias]),
    "hook": lambda layer: layer.register_forward_hook(lambda *_: None),
    "hook before": lambda layer: layer.register_forward_pre_hook(lambda *_: None),
    "forward": set_value("forward", lambda x: x),
}


@contextmanager
def compiling(patch: pytest.MonkeyPatch) -> Iterator[None]:
    with patch.context() as changes:
        changes.setattr(torch.compiler, "is_compiling", lambda: True)
        yield


def test_a_changed_layer_is_called(layers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.ops

    kernels, x = layers.NativeKernels(), torch.zeros(1, 8)
    for kind in (lambda ops: ops.Linear(8, 8), lambda ops: ops.LayerNorm(8)):
        for operations in (comfy.ops.manual_cast, comfy.ops.disable_weight_init):
            assert kernels.fits(x, kind(operations))
            for name, change in CHANGES.items():
                change(layer := kind(operations))
                assert not kernels.fits(x, layer), name
            with torch.inference_mode(False), torch.enable_grad():
                assert not kernels.fits(x, kind(operations))
            with compiling(monkeypatch):
                assert not kernels.fits(x, kind(operations))
        assert not kernels.fits(x, kind(nn)), "another pack's layer"
    quantised: Any = comfy.ops.pick_operations(
        None, None, model_config=SimpleNamespace(quant_config={"mixed_ops": True})
    )
    assert not kernels.fits(x, quantised.Linear(8, 8, dtype=torch.float32))


def test_results_are_equal(layers: Any, stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    with Tracker("cpu") as tracker:
        fused = stages.run_ksampler()
    assert {name for name in tracker.moved if "hallo3" in name} == {
        f"hallo3.{name}.default" for name in OPERATIONS
    }
    monkeypatch.setattr(layers, "can_fuse", lambda *_: False)
    assert difference(fused, stages.run_ksampler()) < 1e-4


def test_a_pass_moves_half_of_what_plain_kernels_move(
    layers: Any, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both branches of a step at full size, with all that ComfyUI computes again in every pass."""
    import comfy.ops

    def meta(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device=META)

    model = host.module("nodes.comfy.model")
    monkeypatch.setattr(model, "attention", attention)
    config = host.module("hallo3.config").HALLO3
    transformer = model.NativeTransformer(config, torch.bfloat16, META, comfy.ops.disable_weight_init)
    trunk, latent = config.trunk, config.segment.shape.latent
    features = [meta(1, latent.tokens_per_frame, trunk.width) for _ in range(trunk.layers)]
    identity = SimpleNamespace(
        reference_features=features, face_embedding=meta(1, config.face.embedding_dim), people=()
    )
    inputs = (
        meta(2, 2 * trunk.latent_channels, *latent),
        meta(2),
        meta(2, trunk.text_tokens, trunk.text_dim),
        {},
    )
    moved: dict[bool, int] = {}
    for fuse in (True, False):
        monkeypatch.setattr(layers, "can_fuse", lambda *_, fuse=fuse: fuse)
        with Tracker() as tracker:
            transformer(*inputs, hallo3_identity=identity, hallo3_windows=meta(2, *transformer.window_shape))
        moved[fuse] = tracker.traffic
    assert moved[True] <= 0.56e12
    assert moved[False] > 1.1e12


def test_speech_is_projected_and_the_identity_sent_once_per_segment(
    layers: Any, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In rows of the kernel; the same results as with all of it, in every pass."""
    model = stages.module("nodes.comfy.model")
    projection = type(stages.model.model.diffusion_model.audio_proj)
    project, made, passes = projection.forward, list[Any](), list[Any]()
    monkeypatch.setattr(projection, "forward", lambda *inputs: passes.append(1) or project(*inputs))
    stages.model.model._sent.clear()  # what a failed test may still hold
    send = model.DeviceIdentity
    monkeypatch.setattr(model, "DeviceIdentity", lambda *inputs: made.append(send(*inputs)) or made[-1])
    found = stages.run_ksampler(steps=3)
    assert (len(passes), len(made)) == (2, 1), "both branches"
    monkeypatch.setattr(layers, "KERNEL_ROWS", 5)
    assert difference(stages.run_ksampler(steps=3), found) < 1e-5
    made.clear()
    assert not stages.model.model._sent, "it lives as long as it is sampled"
