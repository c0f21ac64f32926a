"""Weight groups of the networks: which are fetched when, how often, and from where."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.ceilings import SynchronousExecutor
from hallo3.checkpoints.locate import ModelFolder
from hallo3.errors import CheckpointError
from hallo3.loading import load_models
from hallo3.offload.streaming import StreamedModule, WeightGroup, Weights, store_in_memory
from hallo3.offload.weight_store import choose_resident, split_groups
from hallo3.pipeline import animate
from hallo3.settings import settings_for
from support.transformer_inputs import Inputs

CPU = torch.device("cpu")


def test_streamed_groups_are_spread_between_resident_ones() -> None:
    sequence = [(str(n),) for n in range(42)]
    streamed = [n for n in range(42) if sequence[n] not in choose_resident(sequence, 35)]
    assert streamed == list(range(streamed[0], streamed[0] + 7 * 6, 6))
    assert choose_resident(sequence, 42) == frozenset(sequence)
    assert not choose_resident(sequence, 0)


def test_a_block_is_split_by_how_often_its_layers_run(nano_folder: Path) -> None:
    models = load_models(nano_folder, CPU, "fp32")
    with models.transformer as network:
        blocks, modulations, projections, once = split_groups(network)
    assert len(blocks) == len(modulations) == len(projections) == network.config.layers
    assert modulations[1] == ("transformer_blocks.1.norm1.linear", "transformer_blocks.1.norm2.linear")
    assert not any(layer.endswith("norm1.linear") for group in blocks for layer in group)
    assert "transformer_blocks.0.attn_audio.to_k" in projections[0]
    assert "transformer_blocks.0.attn_audio.to_q" in blocks[0]
    assert all(layer.startswith("audio_proj.") for layer in once[0])
    with models.reference as network:
        assert len(split_groups(network)) == 2


@torch.inference_mode()
@pytest.mark.parametrize(("on_access", "steps_on_access"), [(False, False), (True, False), (True, True)])
def test_a_step_fetches_every_block_once(tiny_folder: Path, on_access: bool, steps_on_access: bool) -> None:
    """Layer-major; other groups at most once. A step prefetches the next one's first block."""
    access = {"on_access": on_access, "steps_on_access": steps_on_access}
    with load_models(tiny_folder, CPU, "fp32").transformer as loaded:
        inputs = Inputs(loaded)
        expected = inputs.predict(loaded, "sequential", **access)(1)
        module = store_in_memory(loaded, split_groups(loaded))
    fetched: list[WeightGroup] = []

    def store(group: WeightGroup) -> Weights:
        fetched.append(group)
        return module.store(group)

    streamed = StreamedModule(lambda: module._replace(store=store), CPU, executor=SynchronousExecutor)
    with streamed as dit:
        predict = inputs.predict(dit, "layer-major", **access)
        predict(0)
        fetched.clear()
        assert torch.equal(predict(1), expected)
    counts = Counter(fetched)
    blocks, modulations, projections, once = module.sequences
    assert all(counts[group] == 1 for group in blocks)
    assert all(counts[group] <= 1 for group in (*modulations, *projections, *once))
    assert sum(counts[group] for group in modulations) == steps_on_access * len(modulations)
    assert sum(counts[group] for group in projections) == on_access * len(projections)


@torch.inference_mode()
def test_t5_streamed_by_half_blocks_encodes_the_same(tiny_folder: Path) -> None:
    with load_models(tiny_folder, CPU, "fp32").text as encoder:
        expected = encoder.encode("a woman with red hair", 32)
    with load_models(tiny_folder, CPU, "fp32", offload="disk").text as encoder:
        assert torch.equal(encoder.encode("a woman with red hair", 32), expected)
        loaded = sum(p.numel() > 0 for p in encoder.t5.parameters())
        assert loaded <= 1 + 2 * 4  # the last norm, and two half blocks


def test_a_changed_file_is_refused(tmp_path: Path, nano_folder: Path, portrait: Any, speech: Any) -> None:
    """While it is streamed."""
    folder = shutil.copytree(nano_folder, tmp_path / "model")
    models = load_models(folder, CPU, "fp32", offload="disk")
    run = animate(portrait, speech, "", models, settings_for(models.config.defaults))
    next(run)
    path = ModelFolder(folder).find("transformer")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        list(run)
