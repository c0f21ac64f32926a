"""GGUF files: T5 in llama.cpp's names, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hallo3.checkpoints.load import read_component
from hallo3.checkpoints.locate import ModelFolder
from hallo3.errors import CheckpointError
from hallo3.quantization import PRECISIONS

FP32 = PRECISIONS["fp32"]
LLAMA = {
    "shared": "token_embd",
    "encoder.final_layer_norm": "enc.output_norm",
    "encoder.block.": "enc.blk.",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    "layer.0.SelfAttention.": "attn_",
    "layer.0.layer_norm": "attn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
    "layer.1.layer_norm": "ffn_norm",
}
"""T5's names in transformers and in GGUF files."""


@pytest.mark.parametrize(("kind", "error"), [("F16", 1e-3), ("BF16", 1e-2), ("Q8_0", 2e-2), ("Q4_0", 0.2)])
def test_t5_loads_from_gguf(tmp_path: Path, nano_folder: Path, kind: str, error: float) -> None:
    gguf = pytest.importorskip("gguf")
    state = load_file(ModelFolder(nano_folder).find("text_encoder"))
    path, chosen = tmp_path / "t5.gguf", gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "t5encoder")
    for name, tensor in state.items():
        for theirs, short in LLAMA.items():
            name = name.replace(theirs, short)
        if tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            packed = gguf.quants.quantize(tensor.numpy(), chosen)
            writer.add_tensor(name, packed, raw_dtype=chosen)
        else:
            writer.add_tensor(name, tensor.numpy())
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    found = read_component(path, "text_encoder", FP32)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].shape == tensor.shape
        assert torch.linalg.norm(found[name] - tensor) <= error * torch.linalg.norm(tensor), name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"GGUF|damaged"):
        read_component(path, "text_encoder", FP32)
