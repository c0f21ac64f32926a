"""Prepared equals direct, on access equals prepared, batched equals sequential, sample equals batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from benchmarks.networks import OriginalStep
from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.keymaps import KeyMap
from hallo3.config import HALLO3, SPEECH_ENCODERS, TEXT_ENCODERS
from hallo3.errors import ShapeError
from hallo3.model.blocks import BlockConditions, Hallo3Block
from hallo3.model.conditions import RunConditions, SegmentConditions
from hallo3.model.guidance import (
    batched_branches,
    conditional,
    layer_major_branches,
    sequential_branches,
    single_branch,
)
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.models import Models
from hallo3.noise import make_generator
from hallo3.speech.wav2vec2 import build_wav2vec2
from hallo3.text_encoder import build_t5
from hallo3.vae.autoencoder import build_vae
from support.published_names import to_original, to_ours

STEPS = torch.tensor([999.0, 499.0])


def draw(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(make_generator(name).standard_normal(shape, dtype="float32"))


@pytest.fixture(scope="module")
def dit(nano: Models) -> Hallo3Transformer:
    with nano.transformer as network:
        return network


class Inputs:
    """Everything a forward pass needs, drawn."""

    def __init__(self, dit: Hallo3Transformer) -> None:
        trunk, grid = dit.config, dit.latent
        self.features = [
            draw(f"feature {i}", 1, grid.tokens_per_frame, trunk.width) for i in range(trunk.layers)
        ]
        self.face = draw("face", 1, dit.face_proj.proj.in_features)
        self.prompt = draw("prompt", 1, trunk.text_tokens, trunk.text_dim)
        self.windows = draw("windows", 1, *dit.window_shape)
        self.noisy = draw("noisy", 1, trunk.latent_channels, *grid)
        self.image = draw("image", 1, trunk.latent_channels, *grid)

    def prepare(self, dit: Hallo3Transformer, on_access: bool) -> tuple[RunConditions, SegmentConditions]:
        run = dit.prepare(self.features, self.face, self.prompt, STEPS, on_access=on_access)
        audio = dit.encode_audio(self.windows, on_access=on_access)
        return run, SegmentConditions(audio=audio, image_latents=self.image)


@torch.inference_mode()
def test_on_access_equals_prepared_bit_for_bit(dit: Hallo3Transformer) -> None:
    inputs = Inputs(dit)
    eager = batched_branches(dit, *inputs.prepare(dit, False))(inputs.noisy, 1)
    lazy = batched_branches(dit, *inputs.prepare(dit, True))(inputs.noisy, 1)
    assert torch.equal(eager, lazy)


@torch.inference_mode()
def test_batched_guidance_equals_sequential(dit: Hallo3Transformer) -> None:
    inputs = Inputs(dit)
    prepared = inputs.prepare(dit, False)
    both = batched_branches(dit, *prepared)(inputs.noisy, 0)
    one_by_one = sequential_branches(dit, *prepared)(inputs.noisy, 0)
    assert torch.allclose(both, one_by_one, atol=1e-5)
    assert torch.equal(single_branch(dit, *prepared)(inputs.noisy, 0), one_by_one[1:])
    assert not torch.allclose(both[0], both[1], atol=1e-2)


@torch.inference_mode()
def test_prepared_equals_direct(dit: Hallo3Transformer) -> None:
    """The original's way: reference tokens run through the joint attention as part of the sequence,
    queries and all, face tokens are repeated for every frame, nothing is kept between steps."""
    inputs = Inputs(dit)
    direct = OriginalStep(
        dit=dit,
        features=inputs.features,
        face=inputs.face,
        prompt=inputs.prompt,
        windows=inputs.windows,
        image_latents=inputs.image,
        timesteps=STEPS,
    )
    for step in range(2):
        prepared = batched_branches(dit, *inputs.prepare(dit, False))(inputs.noisy, step)
        torch.testing.assert_close(prepared, direct(inputs.noisy, step), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_layer_by_layer_equals_one_pass_after_the_other(dit: Hallo3Transformer) -> None:
    """Both passes abreast: the same operations on the same numbers."""
    inputs = Inputs(dit)
    prepared = inputs.prepare(dit, False)
    abreast = layer_major_branches(dit, *prepared)(inputs.noisy, 1)
    assert torch.equal(abreast, sequential_branches(dit, *prepared)(inputs.noisy, 1))


@torch.inference_mode()
def test_blocks_are_read_once_for_both_passes(dit: Hallo3Transformer) -> None:
    inputs, order = Inputs(dit), []
    hooks = [
        block.register_forward_pre_hook(lambda *_, i=i: order.append(i))
        for i, block in enumerate(dit.transformer_blocks)
    ]
    layer_major_branches(dit, *inputs.prepare(dit, False))(inputs.noisy, 0)
    for hook in hooks:
        hook.remove()
    assert order == [i for i in range(dit.config.layers) for _ in range(2)]


@torch.inference_mode()
def test_steps_on_access_equal_prepared(dit: Hallo3Transformer) -> None:
    """All timesteps in one product, or one by one when they are read."""
    inputs = Inputs(dit)
    run, segment = inputs.prepare(dit, False)
    lazy = dit.prepare(inputs.features, inputs.face, inputs.prompt, STEPS, steps_on_access=True)
    for step in range(2):
        at_once = batched_branches(dit, run, segment)(inputs.noisy, step)
        one_by_one = batched_branches(dit, lazy, segment)(inputs.noisy, step)
        torch.testing.assert_close(at_once, one_by_one, atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_what_text_the_last_block_gives_is_not_computed(dit: Hallo3Transformer) -> None:
    """No one reads it: the last block's video is the same with and without."""
    inputs = Inputs(dit)
    run, segment = inputs.prepare(dit, False)
    heard, last = conditional(run, segment), cast(Hallo3Block, dit.transformer_blocks[-1])
    video, m = dit.embed(inputs.noisy, inputs.image), run.steps[0].blocks[-1]
    rest = heard.text, m, heard.rotary, BlockConditions(heard.reference[-1], heard.face[-1], heard.audio[-1])
    with_text, text = last(video, *rest)
    without, untouched = last(video, *rest, return_text=False)
    torch.testing.assert_close(without, with_text, atol=1e-6, rtol=1e-5)
    assert untouched is heard.text
    assert not torch.allclose(text, untouched, atol=1e-3)


@torch.inference_mode()
def test_a_batch_of_timesteps_equals_one_by_one(dit: Hallo3Transformer) -> None:
    """Other hosts give every sample its own, even fractional, timestep."""
    inputs = Inputs(dit)
    run, segment = inputs.prepare(dit, False)
    heard = conditional(run, segment)
    timesteps = torch.tensor([999.0, 123.4])
    noisy = torch.cat((inputs.noisy, draw("other", *inputs.noisy.shape)))
    audio = tuple(type(kv)(*(side.repeat(2, 1, 1, 1) for side in kv)) for kv in heard.audio)
    pair = type(heard)(
        text=heard.text.repeat(2, 1, 1),
        reference=heard.reference,
        face=heard.face,
        audio=audio,
        rotary=heard.rotary,
    )
    together = dit(noisy, inputs.image.repeat(2, 1, 1, 1, 1), dit.modulate(timesteps, noisy), pair)
    for index in range(2):
        modulation = dit.modulate(timesteps[index : index + 1], noisy)
        alone = dit(noisy[index : index + 1], inputs.image, modulation, heard)
        assert torch.allclose(together[index], alone[0], atol=1e-5)


@torch.inference_mode()
def test_what_others_put_in_the_place_of_the_face_s_output_layer_is_called(dit: Hallo3Transformer) -> None:
    """Adapters that replace a layer's forward, or hook it: a fold would read past them."""
    inputs = Inputs(dit)
    given = inputs.features, inputs.face, inputs.prompt, inputs.windows
    modulation = dit.modulate(STEPS[:1], inputs.noisy)

    def velocity() -> Tensor:
        return dit(inputs.noisy, inputs.image, modulation, dit.conditions(*given))

    layer, before = cast(Hallo3Block, dit.transformer_blocks[0]).attn_face.to_out[0], velocity()
    usual = type(layer).forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(layer), "forward", lambda x: usual(layer, x))
        torch.testing.assert_close(velocity(), before, atol=1e-5, rtol=0)
        patch.setitem(vars(layer), "forward", lambda x: usual(layer, x) + x)
        assert not torch.allclose(velocity(), before, atol=1e-3)
    hook = layer.register_forward_hook(lambda *call: call[2] * 2)
    assert not torch.allclose(velocity(), before, atol=1e-3)
    hook.remove()
    assert torch.equal(velocity(), before)


def test_another_grid_is_refused_by_name(dit: Hallo3Transformer) -> None:
    inputs = Inputs(dit)
    with pytest.raises(ShapeError, match="latent video"):
        dit.embed(inputs.noisy[..., :-2], inputs.image)
    with pytest.raises(ShapeError, match="image latents"):
        dit.embed(inputs.noisy, inputs.image[:, :, :1])


@torch.inference_mode()
def test_reference_features_are_what_enters_attention(nano: Models) -> None:
    """Read from the inside without the last block's attention; the text is zeros when none is given."""
    with nano.reference as network:
        latents = draw("portrait", 1, network.config.latent_channels, 1, *network.latent[1:])
        zeros = torch.zeros(1, network.config.text_tokens, network.config.text_dim)
        features = network.features(latents)
        assert len(features) == network.config.layers
        assert features[0].shape == (1, network.latent.tokens_per_frame, network.config.width)
        for given, default in zip(network.features(latents, zeros), features, strict=True):
            assert torch.equal(given, default)


@pytest.mark.parametrize("frames", [(0, 1), (1, 2, 3), (4,), (0, 3, 4), (3, 4, 0)])
def test_some_latent_frames_hear_what_they_hear_in_the_whole(nano: Models, frames: tuple[int, ...]) -> None:
    with nano.transformer as dit, torch.inference_mode():
        windows = torch.randn(1, *dit.window_shape, generator=torch.Generator().manual_seed(0))
        for apart, whole in zip(
            dit.encode_audio(windows, latent_frames=frames), dit.encode_audio(windows), strict=True
        ):
            torch.testing.assert_close(apart.k, whole.k[list(frames)])
            torch.testing.assert_close(apart.v, whole.v[list(frames)])


def test_a_batch_hears_each_sample(nano: Models) -> None:
    with nano.transformer as dit, torch.inference_mode():
        pair = torch.randn(2, *dit.window_shape, generator=torch.Generator().manual_seed(1))
        both = dit.encode_audio(pair)
        singles = [dit.encode_audio(pair[i : i + 1]) for i in range(2)]
        for index, kv in enumerate(both):
            torch.testing.assert_close(kv.k, torch.cat([single[index].k for single in singles]))


MANIFEST: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "checkpoint_manifest.json").read_text()
)
META = Layers(device="meta")


def shapes(state: dict[str, Tensor]) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in state.items()}


def on_meta(keys: dict[str, list[int]], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): torch.empty(shape, device="meta")
        for key, shape in keys.items()
        if key.startswith(prefix)
    }


def networks() -> list[tuple[str, nn.Module, KeyMap, dict[str, Tensor], int]]:
    module = MANIFEST["module"]
    reference = ReferenceNetwork(HALLO3.trunk, HALLO3.segment.shape.latent, META)
    return [
        (
            "transformer",
            Hallo3Transformer(HALLO3, META),
            maps.TRANSFORMER,
            on_meta(module, maps.TRANSFORMER_PREFIX),
            3,
        ),
        ("reference", reference, maps.REFERENCE, on_meta(module, maps.REFERENCE_PREFIX), 3),
        ("vae", build_vae(HALLO3.vae).network, maps.VAE, on_meta(MANIFEST["vae"], ""), 0),
    ]


@pytest.mark.parametrize(("name", "network", "keymap", "original", "dropped"), networks())
def test_shapes_and_maps_agree_with_the_manifest(
    name: str, network: nn.Module, keymap: KeyMap, original: dict[str, Tensor], dropped: int
) -> None:
    del name
    ours = to_ours(keymap, original)
    assert shapes(ours) == shapes(network.state_dict())
    without = keymap.dropped(original)
    assert len(without) == dropped
    assert all(without.values())
    back = to_original(keymap, ours)
    assert shapes(back) == {k: s for k, s in shapes(original).items() if k not in without}


def test_the_two_networks_are_the_whole_module() -> None:
    prefixes = (maps.TRANSFORMER_PREFIX, maps.REFERENCE_PREFIX)
    assert all(key.startswith(prefixes) for key in MANIFEST["module"])
    assert len(MANIFEST["module"]) == 2238


def test_text_encoder_is_t5_xxl() -> None:
    assert shapes(build_t5(TEXT_ENCODERS["hallo3"]).state_dict()) == MANIFEST["text_encoder"]


def test_speech_encoder_is_wav2vec2_base() -> None:
    network = build_wav2vec2(SPEECH_ENCODERS["hallo3"])
    assert sum(parameter.numel() for parameter in network.parameters()) == 94_371_712 - 768
    audio = HALLO3.audio
    assert network.config.num_hidden_layers == audio.layers
    assert network.config.hidden_size == audio.channels


def test_derived_numbers_are_the_original_s() -> None:
    latent = HALLO3.segment.shape.latent
    assert latent == (13, 60, 90)
    assert latent.tokens_per_frame == 1350
    assert latent.tokens == 17550
    assert latent.video == HALLO3.segment.shape
    assert HALLO3.segment.new_frames == 47
    assert (HALLO3.trunk.width, HALLO3.trunk.in_channels) == (3072, 32)
    assert (HALLO3.defaults.steps, HALLO3.defaults.guidance_scale) == (50, 3.5)
