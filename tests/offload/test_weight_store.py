"""Networks cut into items: which comes when, how often, and packed how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hallo3.loading import load_models
from hallo3.model.conditions import SegmentConditions
from hallo3.model.guidance import GUIDANCE_PASSES
from hallo3.model.transformer import Hallo3Transformer
from hallo3.noise import make_generator
from hallo3.offload import streaming as packing
from hallo3.offload.streaming import Packed, StreamedModule, WeightGroup, in_memory, over_items
from hallo3.offload.weight_store import choose_resident, split_groups

CPU = torch.device("cpu")


def test_those_that_do_not_stay_are_spread() -> None:
    row = [(str(n),) for n in range(42)]
    passing = [n for n in range(42) if row[n] not in choose_resident(row, 35)]
    assert len(passing) == 7
    assert {b - a for a, b in pairwise(passing)} == {6}
    assert choose_resident(row, 42) == frozenset(row)
    assert not choose_resident(row, 0)


class Reads(nn.Module):
    """A module that reads its layer's weight without calling it, as a fused kernel does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.inner.weight.t()


class Two(nn.Module):
    """Blocks of one item that stand over a layer of another row too."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"in": Reads(), "out": Reads()}) for _ in range(3))


@torch.inference_mode()
def test_an_item_comes_when_a_module_around_its_layers_runs() -> None:
    net, x = Two(), torch.randn(2, 4)
    pairs = [[module.get_submodule(name) for name in ("in", "out")] for module in net.blocks]
    wanted = [[part(x) for part in pair] for pair in pairs]
    inner, outer = ([(f"blocks.{n}.{name}.inner",) for n in range(3)] for name in ("in", "out"))
    over = over_items([inner, outer])
    assert over["blocks.1"] == (0, 1)
    assert over["blocks.1.out"] == (1, 1)
    assert "blocks" not in over
    with StreamedModule(lambda: in_memory(net, [inner, outer]), CPU):
        for pair, result in zip(pairs, wanted, strict=True):
            assert all(torch.equal(part(x), out) for part, out in zip(pair, result, strict=True))


def test_what_is_packed_is_the_same() -> None:
    tensors = {
        "matrix": torch.randn(300, 7),
        "eight": torch.randn(5, 3).to(torch.float8_e4m3fn),
        "one": torch.tensor(3.5),
        "none": torch.empty(0, 4),
        "sixteen": torch.randn(9).bfloat16(),
    }
    found = Packed(tensors).to(CPU)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name].float(), tensor.float())


def test_large_packs_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CHUNK", 1024)
    tensors = {str(n): torch.randn(n * 37) for n in range(1, 12)}
    found = Packed(tensors).to(CPU)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_block_comes_apart_into_what_runs_how_often(nano_folder: Path) -> None:
    models = load_models(nano_folder, CPU, "fp32")
    with models.transformer as network:
        blocks, modulations, projected, once = split_groups(network)
    assert len(blocks) == len(modulations) == len(projected) == network.config.layers
    assert modulations[1] == ("transformer_blocks.1.norm1.linear", "transformer_blocks.1.norm2.linear")
    assert not any(layer.endswith("norm1.linear") for item in blocks for layer in item)
    assert "transformer_blocks.0.attn_audio.to_k" in projected[0]
    assert "transformer_blocks.0.attn_audio.to_q" in blocks[0]
    assert all(layer.startswith("audio_proj.") for layer in once[0])
    with models.reference as network:
        assert len(split_groups(network)) == 2


@torch.inference_mode()
@pytest.mark.parametrize("access", [(False, False), (True, False), (True, True)])
def test_a_step_fetches_every_block_once(tiny_folder: Path, access: tuple[bool, bool]) -> None:
    """Layer-major, whatever is projected when it is read; each of the other items at most once."""
    on_access, steps_on_access = access
    with load_models(tiny_folder, CPU, "fp32").transformer as whole:
        expected = stepped(whole, "sequential", access)
        stored = in_memory(whole, split_groups(whole))
    fetched: list[WeightGroup] = []

    def shelf(item: WeightGroup) -> Mapping[str, Tensor] | Packed:
        fetched.append(item)
        return stored.shelf(item)

    with StreamedModule(lambda: stored._replace(shelf=shelf), CPU) as dit:
        predict, noisy = prepared(dit, "layer-major", access)
        predict(noisy, 0)
        fetched.clear()
        assert torch.equal(predict(noisy, 1), expected)
    counts = Counter(fetched)
    blocks, modulations, projected, once = stored.rows
    assert [counts[item] for item in blocks] == [1] * len(blocks)
    assert all(counts[item] <= 1 for item in (*modulations, *projected, *once))
    assert sum(counts[item] for item in modulations) == steps_on_access * len(modulations)
    assert sum(counts[item] for item in projected) == on_access * len(projected)


def prepared(
    dit: Hallo3Transformer, passes: str, access: tuple[bool, bool]
) -> tuple[Callable[[Tensor, int], Tensor], Tensor]:
    trunk, grid = dit.config, dit.latent
    features = [draw(f"feature {i}", 1, grid.tokens_per_frame, trunk.width) for i in range(trunk.layers)]
    face, prompt = draw("face", 1, 512), draw("prompt", 1, trunk.text_tokens, trunk.text_dim)
    run = dit.prepare(
        features,
        face[:, : dit.face_proj.proj.in_features],
        prompt,
        torch.tensor([999.0, 499.0]),
        on_access=access[0],
        steps_on_access=access[1],
    )
    audio = dit.encode_audio(draw("windows", 1, *dit.window_shape), on_access=access[0])
    image = draw("image", 1, trunk.latent_channels, *grid)
    segment = SegmentConditions(audio=audio, image_latents=image)
    return GUIDANCE_PASSES[passes](dit, run, segment), draw("noisy", 1, trunk.latent_channels, *grid)


def stepped(dit: Hallo3Transformer, passes: str, access: tuple[bool, bool]) -> Tensor:
    predict, noisy = prepared(dit, passes, access)
    return predict(noisy, 1)


def draw(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(make_generator(name).standard_normal(shape, dtype="float32"))
