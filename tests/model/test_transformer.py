"""Prepared equals direct, batched equals sequential, sample equals batch; sizes are the released model's."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.networks import OriginalStep
from hallo3.checkpoints import keymaps as maps
from hallo3.config import HALLO3, NANO, SPEECH_ENCODERS, TEXT_ENCODERS
from hallo3.errors import ShapeError
from hallo3.model import embeddings
from hallo3.model.attention import FoldedKV, add_folded_attention
from hallo3.model.blocks import BlockConditions, Hallo3Block
from hallo3.model.embeddings import AudioProjection, PatchEmbed
from hallo3.model.guidance import (
    PAIR,
    batched_branches,
    branch_conditions,
    sequential_branches,
    single_branch,
)
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.models import Models
from hallo3.speech.wav2vec2 import build_wav2vec2, split_wav2vec2
from hallo3.text_encoder import build_t5
from hallo3.vae.autoencoder import build_vae
from support.original_checkpoints import to_original, to_ours
from support.transformer_inputs import STEPS, Inputs, draw


@pytest.fixture(scope="module")
def dit(nano: Models) -> Hallo3Transformer:
    with nano.transformer as network:
        return network


@torch.inference_mode()
def test_batched_guidance_equals_sequential(dit: Hallo3Transformer) -> None:
    inputs = Inputs(dit)
    prepared = inputs.prepare(dit)
    both = batched_branches(dit, *prepared)(inputs.noisy, 0)
    one_by_one = sequential_branches(dit, *prepared)(inputs.noisy, 0)
    assert torch.allclose(both, one_by_one, atol=1e-5)
    assert torch.equal(single_branch(dit, *prepared)(inputs.noisy, 0), one_by_one[1:])
    assert not torch.allclose(both[0], both[1], atol=1e-2)


@torch.inference_mode()
def test_prepared_equals_direct(dit: Hallo3Transformer) -> None:
    """The original's way: reference tokens are part of the sequence, nothing is stored between steps."""
    inputs = Inputs(dit)
    drawn = dict(vars(inputs))
    noisy, image = drawn.pop("noisy"), drawn.pop("image")
    direct = OriginalStep(dit=dit, **drawn, image_latents=image, timesteps=STEPS)
    prepared = batched_branches(dit, *inputs.prepare(dit))
    for step in range(2):
        torch.testing.assert_close(prepared(noisy, step), direct(noisy, step), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_text_of_the_last_block_is_not_computed(dit: Hallo3Transformer) -> None:
    inputs = Inputs(dit)
    run, segment = inputs.prepare(dit)
    active, last = branch_conditions(run, segment, PAIR)[1], cast(Hallo3Block, dit.transformer_blocks[-1])
    video, m = dit.embed(inputs.noisy, inputs.image), run.steps[0].blocks[-1]
    conditions = BlockConditions(active.reference[-1], active.face[-1], active.audio[-1])
    rest = active.text, m, active.rotary, conditions
    with_text, text = last(video, *rest)
    without, untouched = last(video, *rest, return_text=False)
    torch.testing.assert_close(without, with_text, atol=1e-6, rtol=1e-5)
    assert untouched is active.text
    assert not torch.allclose(text, untouched, atol=1e-3)


@torch.inference_mode()
def test_a_batch_of_timesteps_equals_one_by_one(dit: Hallo3Transformer) -> None:
    """Other hosts give every sample its own, even fractional, timestep."""
    inputs = Inputs(dit)
    run, segment = inputs.prepare(dit)
    active = branch_conditions(run, segment, PAIR)[1]
    timesteps = torch.tensor([999.0, 123.4])
    noisy = torch.cat((inputs.noisy, draw("other", *inputs.noisy.shape)))
    audio = tuple(type(kv)(*(side.repeat(2, 1, 1, 1) for side in kv)) for kv in active.audio)
    pair = replace(active, text=active.text.repeat(2, 1, 1), audio=audio)
    together = dit(noisy, inputs.image.repeat(2, 1, 1, 1, 1), dit.modulate(timesteps, noisy), pair)
    for index in range(2):
        modulation = dit.modulate(timesteps[index : index + 1], noisy)
        alone = dit(noisy[index : index + 1], inputs.image, modulation, active)
        assert torch.allclose(together[index], alone[0], atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["transformer_blocks.0.attn_face.to_out.0", "audio_proj.conv1"])
def test_a_replaced_or_hooked_layer_is_called(dit: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As adapters do; what is computed from its parameters would bypass them."""
    monkeypatch.setattr(embeddings, "KERNEL_ROWS", 3)
    inputs = Inputs(dit)
    conditions = inputs.features, inputs.face, inputs.prompt, inputs.windows
    modulation = dit.modulate(STEPS[:1], inputs.noisy)

    def velocity() -> Tensor:
        return dit(inputs.noisy, inputs.image, modulation, dit.conditions(*conditions))

    layer, before = dit.get_submodule(name), velocity()
    usual = type(layer).forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(layer), "forward", lambda x: usual(layer, x))
        torch.testing.assert_close(velocity(), before, atol=1e-5, rtol=0)
        patch.setitem(vars(layer), "forward", lambda x: usual(layer, x).abs() * 3)
        assert not torch.allclose(velocity(), before, atol=1e-3)
    hook = layer.register_forward_hook(lambda *call: call[2].abs() * 3)
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
    """Computed without the last block's attention; the default text is zeros."""
    with nano.reference as network:
        config, grid = network.config, network.latent
        latents = draw("portrait", 1, config.latent_channels, 1, *grid[1:])
        features = network.features(latents)
        assert len(features) == config.layers
        assert features[0].shape == (1, grid.tokens_per_frame, config.width)
        with_zeros = network.features(latents, torch.zeros(1, config.text_tokens, config.text_dim))
        assert all(map(torch.equal, with_zeros, features))


@pytest.mark.parametrize("frames", [(0, 1), (1, 2, 3), (4,), (3, 4, 0)])
def test_audio_of_a_part_and_of_a_batch_is_that_of_the_whole(nano: Models, frames: tuple[int, ...]) -> None:
    with nano.transformer as dit, torch.inference_mode():
        windows = draw("pair", 2, *dit.window_shape)
        singles = [dit.encode_audio(each[None]) for each in windows]
        some = dit.encode_audio(windows[:1], latent_frames=frames)
        for part, both, one, other in zip(some, dit.encode_audio(windows), *singles, strict=True):
            for side in range(2):
                torch.testing.assert_close(part[side], one[side][list(frames)])
                torch.testing.assert_close(both[side], torch.cat((one[side], other[side])))


DATA = Path(__file__).parents[1] / "data"
MANIFEST: dict[str, Any] = json.loads((DATA / "checkpoint_manifest.json").read_text())
META = Layers(device="meta")


def shapes(state: dict[str, Tensor]) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in state.items()}


REFERENCE = ReferenceNetwork(HALLO3.trunk, HALLO3.segment.shape.latent, META)
NETWORKS = {
    "transformer": (Hallo3Transformer(HALLO3, META), maps.TRANSFORMER, "module", maps.TRANSFORMER_PREFIX, 3),
    "reference": (REFERENCE, maps.REFERENCE, "module", maps.REFERENCE_PREFIX, 3),
    "vae": (build_vae(HALLO3.vae).network, maps.VAE, "vae", "", 0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_maps_agree_with_the_manifest(name: str) -> None:
    network, keymap, part, prefix, dropped = NETWORKS[name]
    sizes = {key.removeprefix(prefix): size for key, size in MANIFEST[part].items() if key.startswith(prefix)}
    original = {key: torch.empty(size, device="meta") for key, size in sizes.items()}
    ours, without = to_ours(keymap, original), keymap.dropped(original)
    assert shapes(ours) == shapes(network.state_dict())
    assert [bool(why) for why in without.values()] == [True] * dropped
    back = {k: s for k, s in sizes.items() if k not in without}
    assert shapes(to_original(keymap, ours)) == back


def test_other_networks_are_the_published_ones() -> None:
    prefixes = (maps.TRANSFORMER_PREFIX, maps.REFERENCE_PREFIX)
    assert all(key.startswith(prefixes) for key in MANIFEST["module"])
    assert len(MANIFEST["module"]) == 2238
    assert shapes(build_t5(TEXT_ENCODERS["hallo3"]).state_dict()) == MANIFEST["text_encoder"]
    wav2vec2 = build_wav2vec2(SPEECH_ENCODERS["hallo3"])
    assert sum(parameter.numel() for parameter in wav2vec2.parameters()) == 94_371_712 - 768
    parts = split_wav2vec2(wav2vec2)
    assert (len(parts.layers), parts.width) == (HALLO3.audio.layers, HALLO3.audio.channels)


@pytest.mark.parametrize("heads", [1, 5])
@pytest.mark.parametrize("trained", [False, True])
def test_a_folded_face_is_added_to_the_stream(heads: int, trained: bool) -> None:
    """One product of all heads, in the stream's own memory unless a gradient needs it."""
    channels, count, width = 6, 3, heads * 6
    q = draw("q", 4, 2, width).view(4, 2, heads, channels).transpose(1, 2)
    k, v = draw("k", 1, heads, count, channels), draw("v", heads, count, channels)
    weight, bias, stream = draw("weight", width, width), draw("bias", width), draw("stream", 2, 4, width)
    values = torch.einsum("hnd,ohd->hno", v, weight.view(width, heads, channels))
    values[0] += bias
    attended = F.scaled_dot_product_attention(q, k.expand(4, -1, -1, -1), v.expand(4, -1, -1, -1))
    wanted = stream + F.linear(attended.transpose(1, 2).flatten(2), weight, bias).view_as(stream)
    before = stream.clone()
    with torch.set_grad_enabled(trained):
        found = add_folded_attention(stream, q, FoldedKV(k, values.flatten(0, 1)))
    torch.testing.assert_close(found, wanted)
    assert (found.data_ptr() == stream.data_ptr(), torch.equal(stream, before)) == (not trained, trained)
    across = before.transpose(1, 2).contiguous().transpose(1, 2)  # as one latent frame is
    with torch.set_grad_enabled(trained):
        torch.testing.assert_close(add_folded_attention(across, q, FoldedKV(k, values.flatten(0, 1))), wanted)


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 2, 5, 12])
@pytest.mark.parametrize("rows", [3, 1024])
def test_audio_is_reduced_as_by_torch(frames: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of any number of rows, and without a copy of the kernel."""
    monkeypatch.setattr(embeddings, "KERNEL_ROWS", rows)
    audio = NANO.audio
    projection = AudioProjection(audio, Layers())
    windows = torch.randn(2, frames, audio.window, audio.layers, audio.channels)
    found = projection(windows)
    vars(projection.conv1)["forward"] = lambda x: type(projection.conv1).forward(projection.conv1, x)  # type: ignore
    torch.testing.assert_close(found, projection(windows), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("more", [-5, 0, 1])
def test_a_prompt_embedding_fits_the_text(batch: int, more: int) -> None:
    trunk = NANO.trunk
    embed, length = PatchEmbed(trunk, NANO.segment.shape.latent, Layers()), trunk.text_tokens + more
    told = rf"prompt embedding(.|\n)*{length}(.|\n)*Expected:.*{trunk.text_tokens}"
    with nullcontext() if more <= 0 else pytest.raises(ShapeError, match=told):
        text = embed.text(torch.zeros(batch, length, trunk.text_dim))
        assert text.shape == (batch, length, trunk.width)
