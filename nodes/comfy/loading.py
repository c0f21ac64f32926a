"""Weights files -> networks managed by ComfyUI."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
import comfy.utils
import folder_paths
import torch
from torch import Tensor, nn

from ...hallo3.built_in import FOLDER
from ...hallo3.checkpoints.component import find_component
from ...hallo3.checkpoints.keymaps import OUR_KEYS
from ...hallo3.checkpoints.load import META, check_state, read_model_config
from ...hallo3.checkpoints.source import open_source
from ...hallo3.checkpoints.tensor_file import FileFormat
from ...hallo3.checkpoints.verify import FileVerifier
from ...hallo3.config import Hallo3Config
from ...hallo3.model.layers import Layers
from ...hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from .model import ModelConfig, attention
from .progress import show_progress

FP8 = {"fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
QUANT_SUFFIXES = (".comfy_quant", ".weight_scale", ".weight_scale_2", ".input_scale", "scaled_fp8")
"""Entries that ComfyUI's quantised layers keep beside a weight."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One network's file: tensors under our names, the model's configuration, ComfyUI's metadata."""

    state: dict[str, Tensor]
    config: Hallo3Config
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class ReferenceSocket:
    """The value of a HALLO3_REFERENCE_NETWORK socket."""

    patcher: Any
    config: Hallo3Config
    dtype: torch.dtype


def load_model(path: Path | None, weight_dtype: str = "default", disable_dynamic: bool = False) -> Any:
    """A file (or the built-in model for None) -> MODEL. Raises ``CheckpointError`` for other weights."""
    weights = read_weights(path, "transformer")
    model_config = ModelConfig(weights.config)
    state, _ = comfy.utils.convert_old_quants(weights.state, "", metadata=weights.metadata)
    model_config.quant_config = comfy.utils.detect_layer_quantization(state, "")
    load_device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
    dtype = _storage_dtype(state, model_config.quant_config is not None, weight_dtype)
    supported = ModelConfig.supported_inference_dtypes
    stored = None if model_config.quant_config else dtype
    model_config.set_inference_dtype(dtype, mm.unet_manual_cast(stored, load_device, supported), load_device)
    _check_state(Hallo3Transformer(weights.config, META), state, "Hallo3's transformer")
    model = model_config.get_model()
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(model, load_device=load_device, offload_device=offload_device)
    if not mm.is_device_cpu(offload_device):
        model.to(offload_device)
    model.load_model_weights(dict(state), "", assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (load_model, (path, weight_dtype))
    return patcher


def load_reference_network(path: Path | None) -> ReferenceSocket:
    """A file (or the built-in one for None) -> the reference network. Raises ``CheckpointError``."""
    weights = read_weights(path, "reference")
    load_device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
    dtype = _storage_dtype(weights.state, False, "default")
    compute = mm.unet_manual_cast(dtype, load_device, ModelConfig.supported_inference_dtypes)
    layers = Layers(
        ops=comfy.ops.pick_operations(dtype, compute), attention=attention, device=offload_device, dtype=dtype
    )
    config, latent = weights.config, weights.config.segment.shape.latent
    _check_state(ReferenceNetwork(config.trunk, latent, META), weights.state, "Hallo3's reference network")
    network = ReferenceNetwork(config.trunk, latent, layers)
    mm.archive_model_dtypes(network)
    patcher = comfy.model_patcher.CoreModelPatcher(
        network, load_device=load_device, offload_device=offload_device
    )
    network.load_state_dict(weights.state, assign=patcher.is_dynamic())
    network.eval().requires_grad_(False)
    return ReferenceSocket(patcher, config, compute or dtype)


def read_weights(path: Path | None, part: str) -> Weights:
    """Read a file of any naming; None is the built-in model's. ComfyUI opens files with our names, and may
    memory-map them; our own reader opens all others. Raises ``CheckpointError``."""
    path = path or FOLDER / f"{part}.safetensors"
    config = read_model_config(path, part)
    with open_source(path) as source:
        component = find_component(source, part)
        if source.files[0].kind is not FileFormat.SAFETENSORS or component.naming.keys is not OUR_KEYS:
            cache = Path(folder_paths.get_temp_directory()) / "hallo3_examined.json"  # emptied at start
            for file in source.files:
                FileVerifier(cache, show_progress).get_hash(file)
            return Weights({name: component.stored(name) for name in component.assemblies}, config, {})
    state, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    start = component.prefix
    mine = {name.removeprefix(start): t for name, t in state.items() if name.startswith(start)}
    return Weights(mine, config, metadata or {})


def _storage_dtype(state: Mapping[str, Tensor], quantised: bool, weight_dtype: str) -> torch.dtype:
    if weight_dtype in FP8:
        return FP8[weight_dtype]
    stored = None if quantised else comfy.utils.weight_dtype(state)
    return mm.unet_dtype(
        model_params=comfy.utils.calculate_parameters(state),
        supported_dtypes=ModelConfig.supported_inference_dtypes,
        weight_dtype=stored,
    )


def _check_state(plain: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Refuse missing tensors, which ComfyUI only logs. ``plain`` is the network on meta."""
    quantised = {name.removesuffix(".comfy_quant") for name in state if name.endswith(".comfy_quant")}
    mine = {name: tensor for name, tensor in state.items() if not name.endswith(QUANT_SUFFIXES)}
    wanted = plain.state_dict()
    for layer in quantised:  # packed weights have other shapes
        wanted[f"{layer}.weight"] = mine[f"{layer}.weight"]
    check_state(wanted, mine, what)


def extract_features(socket: ReferenceSocket, latents: Tensor) -> tuple[Tensor, ...]:
    """Scaled latents [1, C, 1, h, w] -> one tensor [1, R, D] per block, on the intermediate device."""
    trunk = socket.config.trunk
    tokens = trunk.text_tokens + math.prod(latents.shape[-2:]) // 4
    needed = 16 * tokens * trunk.width * mm.dtype_size(socket.dtype)
    mm.load_models_gpu([socket.patcher], memory_required=needed)
    features = socket.patcher.model.features(latents.to(socket.patcher.load_device, socket.dtype))
    return tuple(feature.to(mm.intermediate_device()) for feature in features)
