"""A model is known by a few of its weights, in whatever numbers and names they are stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.component_config import META
from hallo3.checkpoints.load import read_component
from hallo3.checkpoints.locate import ModelFolder
from hallo3.checkpoints.random_weights import make_random_state, write_random_set
from hallo3.config import NANO
from hallo3.identity_file import NAMES, fingerprint, fingerprint_in, same_model
from hallo3.model.transformer import Hallo3Transformer
from hallo3.quantization.precision import PRECISIONS
from support.original_checkpoints import write_release


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_random_set(path, 3, "nano")
    return path


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "fp8"])
def test_a_model_is_known_in_any_precision(precision: str, folder: Path) -> None:
    state = read_component(folder / "transformer.safetensors", "transformer", PRECISIONS[precision])
    known = fingerprint_in(folder / "transformer.safetensors")
    assert all(state[name].dtype.itemsize > 1 for name in NAMES)
    assert same_model(known, fingerprint(lambda name: state[name]))


def test_a_model_is_known_in_the_names_of_the_original(tmp_path: Path) -> None:
    """In bf16, as it is published, against its values before that."""
    whole = write_release(tmp_path, NANO)
    assert whole
    plain = make_random_state(Hallo3Transformer(NANO, META), maps.TRANSFORMER_PREFIX)
    found = fingerprint_in(ModelFolder(tmp_path).transformer)
    assert same_model(fingerprint(lambda name: plain[name]), found)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_model_is_known_where_all_its_weights_are_in_eight_bits(folder: Path, kind: torch.dtype) -> None:
    """As ComfyUI stores them where it is asked to; another model in eight bits is still another."""
    known = fingerprint_in(folder / "transformer.safetensors")
    eight = known.to(torch.bfloat16).to(kind).float()
    assert same_model(known, eight)
    assert same_model(eight, known)
    other = (known + 0.05 * torch.randn(known.shape, generator=torch.Generator().manual_seed(0))).to(kind)
    assert not same_model(known, other.float())
