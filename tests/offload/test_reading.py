"""A network streamed from its file computes the same, and reads only what is used."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.ceilings import SynchronousExecutor
from hallo3 import loading
from hallo3.checkpoints.component import StoredComponent
from hallo3.checkpoints.load import read_model_config, read_tensor
from hallo3.checkpoints.locate import ModelFolder
from hallo3.checkpoints.tensor_file import TensorFile
from hallo3.loading import Placement, load_models
from hallo3.model import embeddings
from hallo3.model.transformer import Hallo3Transformer
from hallo3.offload import weight_store
from hallo3.offload.estimate import DEVICE, DISK, RAM, OffloadConfig
from hallo3.offload.streaming import StreamedModule
from hallo3.offload.weight_store import MODULATIONS, PROJECTIONS
from hallo3.quantization import PRECISIONS, Precision
from support.transformer_inputs import Inputs, draw

CPU = torch.device("cpu")


class Reads:
    """Which tensors are read by name, in one piece, and the sizes of all reads."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.names, self.sizes = list[str](), list[int]()
        patch.setattr(embeddings, "KERNEL_ROWS", 3)
        patch.setattr(weight_store, "read_tensor", self._read_tensor)
        raw = TensorFile.raw
        patch.setattr(TensorFile, "raw", lambda *call: self.sizes.append(call[2]) or raw(*call))

    def _read_tensor(self, source: StoredComponent, name: str, precision: Precision) -> dict[str, Tensor]:
        self.names.append(name)
        return read_tensor(source, name, precision)

    def restart(self) -> list[str]:
        found, self.names, self.sizes = self.names, [], []
        return [name.removesuffix(".weight") for name in found if name.endswith(".weight")]


DISK_PLAN = OffloadConfig(home=DISK, resident=0, passes="layer-major")
CHANGES = [{"home": RAM}, {"home": DEVICE}, {}, {"keep_audio": True}, {"resident": 1, "keep": True}]


@torch.inference_mode()
@pytest.mark.parametrize("access", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp8"])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_every_mode_computes_the_same(
    tiny_folder: Path, changes: Any, precision: str, access: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit; and what is loaded keeps nothing larger alive."""
    Reads(monkeypatch)
    offload = replace(DISK_PLAN, **changes)
    with place(tiny_folder, None, precision).transformer(transformer(tiny_folder, precision)) as dit:
        expected = Inputs(dit).predict(dit, "sequential", on_access=access, steps_on_access=access)(0)
    residency = place(tiny_folder, offload, precision).transformer(transformer(tiny_folder, precision))
    for _ in range(2):
        with residency as dit:
            predict = Inputs(dit).predict(dit, "layer-major", on_access=access, steps_on_access=access)
            assert torch.equal(predict(0), expected)
            tensors = [each for each in dit.parameters() if each.numel()]
            assert all(each.untyped_storage().nbytes() == each.nbytes for each in tensors)


@torch.inference_mode()
def test_preparation_reads_only_what_it_projects(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer once, and the audio projection's kernel in pieces, twice each time."""
    reads = Reads(monkeypatch)
    with place(tiny_folder, DISK_PLAN).transformer(transformer(tiny_folder)) as dit:
        reads.restart()
        Inputs(dit).prepare_run(dit)
        row, rows, sizes = dit.audio_proj.flat * 2 * 4, dit.audio_proj.flat, Counter(reads.sizes)
        assert sizes[3 * row] >= 2 * rows / 3
        assert not sizes[rows * row]
        called = Counter(name for name in reads.restart() if name != "audio_proj.norm")
    projected = {f"attn1.to_{side}" for side in "kv"} | set(PROJECTIONS)
    projected |= set(MODULATIONS)
    blocks = {f"transformer_blocks.{index}.{layer}" for index in range(3) for layer in projected}
    assert set(called) == blocks | {f"audio_proj.proj{n}" for n in (1, 2, 3)}
    assert set(called.values()) == {1}


@torch.inference_mode()
def test_only_norms_of_the_last_block_are_read(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, models = Reads(monkeypatch), load_models(tiny_folder, CPU, "fp32")
    portrait = draw("portrait", 1, 16, 1, *models.config.segment.shape.latent[1:])
    with models.reference as whole:
        expected = whole.features(portrait)
        assert all(p.numel() for p in whole.parameters())
    monkeypatch.setattr(loading, "WHOLE_BYTES", 0)
    reads.restart()
    with models.reference as streamed:
        assert all(map(torch.equal, streamed.features(portrait), expected))
    called = Counter(reads.restart())
    assert set(called.values()) == {1}
    last = {name.removeprefix("transformer_blocks.2.") for name in called if ".2." in name}
    assert last == {"norm1.norm", "norm1.linear", "norm2.linear", "attn1.norm_q", "attn1.norm_k"}
    assert {name for name in called if "blocks.1.ff" in name}


@torch.inference_mode()
@pytest.mark.parametrize("keep", [True, False])
def test_kept_blocks_are_read_once(tiny_folder: Path, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between segments, and beside the audio projection; after an error nothing stays. The third block is
    fetched for a second step, too."""
    reads, plan = Reads(monkeypatch), replace(DISK_PLAN, resident=2, keep=keep, keep_audio=keep)
    made = place(tiny_folder, plan).transformer(transformer(tiny_folder))
    residency = StreamedModule(made._load, CPU, keep_resident=keep, executor=SynchronousExecutor)  # type: ignore
    with residency as dit:
        predict = Inputs(dit).predict(dit, "layer-major")
        predict(0)
    reads.restart()
    with residency as dit:
        dit.encode_audio(draw("windows", 1, *dit.window_shape))
        predict(0)
    read = reads.restart()
    assert sum("ff.net.0" in name for name in read) == (2 if keep else 4)
    assert any(name.startswith("audio_proj") for name in read) != keep
    with pytest.raises(KeyboardInterrupt), residency as dit:
        raise KeyboardInterrupt
    assert not any(p.numel() for p in dit.transformer_blocks[0].ff.parameters())  # type: ignore[union-attr]


def transformer(folder: Path, precision: str = "fp32") -> Callable[[], Hallo3Transformer]:
    config = read_model_config(ModelFolder(folder).find("transformer"))
    return lambda: Hallo3Transformer(config, PRECISIONS[precision].layers("meta"))


def place(folder: Path, config: OffloadConfig | None, precision: str = "fp32") -> Placement:
    files, numbers = ModelFolder(folder), PRECISIONS[precision]
    return Placement(files=files, device=CPU, precision=numbers, verifier=None, config=config)
