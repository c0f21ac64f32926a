"""Weights files -> networks managed by ComfyUI."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from torch import Tensor, nn

from ...hallo3.built_in import FOLDER
from ...hallo3.checkpoints.component import StoredComponent, find_component
from ...hallo3.checkpoints.keymaps import OUR_KEYS
from ...hallo3.checkpoints.load import (
    META,
    check_component_samples,
    check_fit,
    check_state,
    get_config,
    verify_component,
)
from ...hallo3.checkpoints.source import open_source
from ...hallo3.checkpoints.tensor_file import FileFormat
from ...hallo3.checkpoints.verify import FileVerifier, examined_path
from ...hallo3.config import Hallo3Config, from_dict, to_dict
from ...hallo3.errors import InputError
from ...hallo3.messages import command_line
from ...hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from ...hallo3.offload.budget import RAM_RESERVE
from ...hallo3.offload.streaming import StreamedModule, group_tensors, ungrouped_tensors
from ...hallo3.offload.system_memory import unused_bytes
from ...hallo3.offload.weight_store import split_groups, store_on_disk
from ...hallo3.quantization import Precision
from ...hallo3.units import format_bytes
from .model import ModelConfig, attention
from .progress import explain_errors, show_progress, show_text, show_warning

FP8 = {"fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
QUANT_SUFFIXES = (".comfy_quant", ".weight_scale", ".weight_scale_2", ".input_scale", "scaled_fp8")
"""Entries that ComfyUI's quantised layers keep beside a weight."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One network's tensors under our names, mapped from a file that ComfyUI opens, or on meta where only our
    reader knows the file; the model's configuration; ComfyUI's metadata; our reader, if it is needed."""

    state: dict[str, Tensor]
    config: Hallo3Config
    metadata: dict[str, str]
    component: StoredComponent | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ReferenceSocket:
    """The value of a HALLO3_REFERENCE_NETWORK socket: where its weights are, and the type it computes in."""

    path: Path
    config: Hallo3Config
    dtype: torch.dtype


@explain_errors()
def load_model(path: Path | None, weight_dtype: str = "default", disable_dynamic: bool = False) -> Any:
    """A file (or the built-in model for None) -> MODEL. Raises ``CheckpointError`` for other weights,
    ``InputError`` if they must be copied to memory and do not fit."""
    with open_weights(path, "transformer") as weights:
        model_config = ModelConfig(weights.config)
        state, _ = comfy.utils.convert_old_quants(weights.state, "", metadata=weights.metadata)
        model_config.quant_config = comfy.utils.detect_layer_quantization(state, "")
        _check_state(Hallo3Transformer(weights.config, META), state, "Hallo3's transformer")
        load_device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
        quantised, supported = model_config.quant_config is not None, ModelConfig.supported_inference_dtypes
        dtype, mapped = _storage_dtype(state, quantised, weight_dtype), False
        if not quantised and (weights.component is not None or mm.is_device_cpu(load_device)):
            dtype, mapped = _fit_memory(weights, dtype, weight_dtype == "default")
        stored = None if quantised else dtype
        compute = mm.unet_manual_cast(stored, load_device, supported)
        model_config.set_inference_dtype(dtype, compute, load_device)
        model = model_config.get_model()
        kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
        patcher = kind(model, load_device=load_device, offload_device=offload_device)
        in_memory = mm.is_device_cpu(offload_device)
        if not in_memory:
            model.to(offload_device)
        dtypes = {name: tensor.dtype for name, tensor in model.diffusion_model.state_dict().items()}
        if weights.component is not None:
            state = _read_state(weights.component, dtypes)
        elif mapped:
            state = {name: tensor.to(dtypes[name]) for name, tensor in state.items()}
        kept = in_memory and (mapped or weights.component is not None)
        model.load_model_weights(dict(state), "", assign=kept or patcher.is_dynamic())
        patcher.cached_patcher_init = (load_model, (path, weight_dtype))
        return patcher


def _read_state(component: StoredComponent, dtypes: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    total = sum(math.prod(one.shape) for one in component.assemblies.values())
    with show_progress(f"reading {describe_size(component)}", total) as advance:
        for name in component.assemblies:
            state[name] = component.tensor(name, dtypes[name])
            advance(state[name].numel())
    return state


def _fit_memory(weights: Weights, dtype: torch.dtype, free_choice: bool) -> tuple[torch.dtype, bool]:
    """The type to keep weights in, and whether they stay in their mapped file: ComfyUI's copy, on a CPU in
    float32, may not fit. Raises ``InputError`` if a copy is needed that does not fit."""
    state, in_file = weights.state.values(), weights.component is None
    room, stored = round((1 - RAM_RESERVE) * unused_bytes()), comfy.utils.weight_dtype(weights.state)
    whole = sum(tensor.numel() for tensor in state) * dtype.itemsize
    if whole <= room:
        return dtype, False
    if in_file and free_choice and stored in ModelConfig.supported_inference_dtypes:
        dtype = stored
    needed = sum(t.numel() for t in state if not in_file or t.dtype != dtype) * dtype.itemsize
    numbers = str(dtype).removeprefix("torch.")
    if needed > room:
        raise InputError(
            "The model does not fit in memory.",
            found=f"{format_bytes(needed)} of weights in {numbers} to copy to memory",
            expected=f"at most {format_bytes(room)}, of what is free now",
            fix="convert the original's file, leave weight_dtype at default, close other programs",
        )
    size = format_bytes(whole)
    show_warning(
        f"a copy of the model ({size}) does not fit in memory; it is read from its file, as {numbers}."
    )
    return dtype, True


def load_reference_network(path: Path | None) -> ReferenceSocket:
    """A file (or the built-in one for None) -> the reference network, whose weights stay in the file: it runs
    once per portrait. Raises ``CheckpointError``."""
    path = path or FOLDER / "reference.safetensors"
    with open_source(path) as source:
        component = find_component(source, "reference")
        config = get_config(component)
        check_fit(component, config)
        state = on_meta(component)
        advise_conversion(component)
    dtype = _storage_dtype(state, bool(component.scales), "default")
    compute = mm.unet_manual_cast(dtype, mm.get_torch_device(), ModelConfig.supported_inference_dtypes)
    return ReferenceSocket(path, from_dict(Hallo3Config, config, "reference"), compute or dtype)


@contextmanager
def open_weights(path: Path | None, part: str) -> Generator[Weights]:
    """A file of any naming; None is the built-in model's. ComfyUI opens files with our names, and may
    memory-map them; our own reader opens all others. Raises ``CheckpointError``."""
    path = path or FOLDER / f"{part}.safetensors"
    with open_source(path) as source:
        component = find_component(source, part)
        config = from_dict(Hallo3Config, get_config(component), part)
        if is_foreign(component):
            advise_conversion(component)
            verify_foreign(component)
            yield Weights(on_meta(component), config, {}, component)
            return
        check_component_samples(source)
        show_text(f"reading {describe_size(component)}")
    state, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    start = component.prefix
    mine = {name.removeprefix(start): t for name, t in state.items() if name.startswith(start)}
    yield Weights(mine, config, metadata or {})


def is_foreign(component: StoredComponent) -> bool:
    """Whether ComfyUI's own reader does not know the file, or its names."""
    kind = component.source.files[0].kind
    return kind is not FileFormat.SAFETENSORS or component.naming.keys is not OUR_KEYS


def on_meta(component: StoredComponent) -> dict[str, Tensor]:
    """Shapes and types; a tensor with a scale has none of its own, and counts as bfloat16."""
    return {
        name: torch.empty(
            one.shape,
            dtype=torch.bfloat16 if component.scaled(name) else component.dtype(name),
            device="meta",
        )
        for name, one in component.assemblies.items()
    }


def describe_size(component: StoredComponent) -> str:
    size = sum(tensor.nbytes for tensor in on_meta(component).values())
    return f"{component.source.path.name} ({format_bytes(size)})"


def advise_conversion(component: StoredComponent) -> None:
    """Say before the work begins what a file in the original's form costs."""
    if not is_foreign(component):
        return
    source = component.source
    copied = ", and its weights are copied to memory" * (component.part == "transformer")
    show_warning(
        f"{describe_size(component)} is in the original's form: the whole file, {format_bytes(source.size)}, "
        f"is checked before its first use{copied}. Convert it first: "
        + command_line("convert", source.path, folder_paths.models_dir)
    )


def verify_foreign(component: StoredComponent) -> None:
    """Check a file in the original's form once, which takes a pass over it. Raises ``CheckpointError``."""
    if is_foreign(component):
        record = examined_path() or Path(folder_paths.get_user_directory()) / "hallo3_examined.json"
        verify_component(component.source, FileVerifier(record, show_progress))


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
    """Scaled latents [1, C, 1, h, w] -> one tensor [1, R, D] per block, on the intermediate device. The
    weights are read block by block, and none stay. Raises ``CheckpointError``."""
    config, device, dtype = socket.config, mm.get_torch_device(), socket.dtype
    trunk = config.trunk
    network = ReferenceNetwork(trunk, config.segment.shape.latent, replace(META, attention=attention))
    sequences = split_groups(network)
    blocks = [sum(t.numel() for _, t in group_tensors(network, group)) for group in sequences[0]]
    tokens = trunk.text_tokens + math.prod(latents.shape[-2:]) // 4
    rest = sum(t.numel() for _, t in ungrouped_tensors(network, sequences))
    needed = (3 * max(blocks) + rest + (16 + trunk.layers) * tokens * trunk.width) * mm.dtype_size(dtype)
    with open_source(socket.path) as source:
        component = find_component(source, "reference")
        check_fit(component, to_dict(config))
        check_component_samples(source)
        show_text(f"reading {describe_size(component)}")
        verify_foreign(component)
        mm.free_memory(needed + mm.extra_reserved_memory(), device)
        stored = partial(store_on_disk, network, sequences, source, "reference", Precision("", dtype))
        with (
            show_progress(f"reading {describe_size(component)}", len(blocks)) as advance,
            StreamedModule(stored, device, keep=False) as streamed,
        ):
            for block in streamed.transformer_blocks:
                block.register_forward_hook(lambda *_: advance(1) and None)
            features = streamed.features(latents.to(device, dtype))
    return tuple(feature.to(mm.intermediate_device()) for feature in features)
