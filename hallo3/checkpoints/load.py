"""A component's configuration, its network without memory, whether the two fit, and its tensors.

Files of this package are safetensors files with their configuration inside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from ..config import (
    COMPONENT_TITLES,
    SPEECH_ENCODERS,
    TEXT_ENCODERS,
    Hallo3Config,
    SegmentConfig,
    VAEConfig,
    from_dict,
    to_dict,
)
from ..errors import CheckpointError, Hallo3Error, OutputError, ShapeError
from ..model.layers import Layers
from ..model.transformer import Hallo3Transformer, ReferenceNetwork
from ..progress import OpenProgress, no_display, no_progress
from ..quantization import FP8, Precision, fp8_scale, to_fp8
from ..speech.wav2vec2 import build_wav2vec2
from ..storage.files import read_json_object, temporary_path
from ..text_encoder import Tokenizer, build_t5, make_tokenizer, untie_embedding
from ..vae.autoencoder import build_vae
from .component import METADATA_KEY, StoredComponent, find_component, find_components, read_own_config
from .keymaps import Assembly
from .source import CheckpointSource, borrow_source, open_source
from .verify import FileVerifier, check_samples

META = Layers(device="meta")
RELEASED_CONFIGS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "reference": {},
    "vae": {},
    "text_encoder": TEXT_ENCODERS["hallo3"],
    "speech_encoder": SPEECH_ENCODERS["hallo3"],
}
"""Sizes of files that say nothing of themselves."""
POSITIONS = "patch_embed.pos_embedding"


def write_weights(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Tensors and their configuration in one file, complete or not there at all."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    unfinished = temporary_path(path)
    try:
        header = {METADATA_KEY: json.dumps(config)}  # a single entry: several have no fixed order
        cast(Any, safetensors_torch).save_file(tensors, str(unfinished), metadata=header)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            "The weights cannot be written.",
            found=f"{path}: {error}",
            expected="a folder with room that you may write to",
            fix="free some space or choose another folder",
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """The configuration stored in a weights file; reads its header only. Raises ``CheckpointError``."""
    with open_source(path) as source:
        own_config = read_own_config(source.metadata, path)
    if own_config is None:
        raise CheckpointError(
            "The weights file does not say what it is.",
            found=f"{path.name} without a readable {METADATA_KEY!r} entry in its metadata",
            expected="a file of a Hallo3 model folder",
            fix="choose a model folder written by this package",
        )
    return dict(own_config)


def get_config(component: StoredComponent) -> dict[str, Any]:
    """A part's configuration: its file's, one in a JSON file beside it, or else the released model's."""
    own_config = component.own_config
    if own_config is None:
        return dict(RELEASED_CONFIGS[component.part])
    config: Any = own_config.get("config")
    if "part" not in own_config and isinstance(config, Mapping):  # of a whole model, beside the original's
        whole = cast("Mapping[str, Any]", config)
        config = whole if component.part in ("transformer", "reference") else whole.get(component.part, {})
    if not isinstance(config, Mapping):
        raise CheckpointError(
            "The configuration stored with the weights cannot be used.",
            found=f"{type(config).__name__} in {component.source.path.name}",
            expected="an object with the model's sizes",
            fix="use a file written by `hallo3 convert`",
        )
    return {**RELEASED_CONFIGS[component.part], **cast("Mapping[str, Any]", config)}


def read_json(path: Path) -> dict[str, Any]:
    """A configuration that a user gives. Raises ``CheckpointError``."""
    try:
        return read_json_object(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "The configuration cannot be read.",
            found=f"{path}: {error}"[:200],
            expected="a JSON object with the model's sizes",
            fix="give a file like the `config` entry in a converted file's metadata",
        ) from error


def find_part(source: CheckpointSource, part: str) -> StoredComponent:
    """A part of a source, for the source's segment. Raises ``CheckpointError`` for a source of other parts,
    ``ShapeError`` for a segment that the part cannot represent."""
    component = find_component(source, part)
    if source.segment is None or part not in ("transformer", "reference"):
        return component
    config = from_dict(Hallo3Config, get_config(component), part)
    return crop_positions(component, config, source.segment)


def crop_positions(
    component: StoredComponent, config: Hallo3Config, segment: SegmentConfig
) -> StoredComponent:
    """A large network of ``config`` for a smaller ``segment``: of its learned positions [1, text + T*H*W, D]
    the rows of the text, then of each (frame, row, column) of the smaller grid.

    The grid lies in the corner, where rotary positions start at 0: there every token has the pair of learned
    and rotary position that it was trained with. Raises ``ShapeError`` for a segment that is larger.
    """
    trunk, own, grid = config.trunk, config.segment.shape.latent, segment.shape.latent
    if any(size > most for size, most in zip(grid, own, strict=True)):
        raise ShapeError(
            "The segment is larger than the model's own.",
            found=f"{segment.frames} frames of {segment.height} x {segment.width} px (height x width)",
            expected=f"at most {config.segment.frames} frames of {config.segment.height} x "
            f"{config.segment.width} px, for which there are learned positions",
            fix="use fewer frames or a smaller canvas",
        )
    text, width, table = trunk.text_tokens, trunk.width, component.assemblies.get(POSITIONS)
    if table is None or table.shape != (1, text + own.tokens, width):
        return component  # not of its configuration: `check_fit` says so
    ((key, start, _),) = table.stretches
    lines = (
        text + (t * own.rows + row) * own.columns for t in range(grid.frames) for row in range(grid.rows)
    )
    runs = (0, text), *((first, grid.columns) for first in lines)
    stretches = ((key, start + first * width, start + (first + count) * width) for first, count in runs)
    cut = Assembly((1, text + grid.tokens, width), tuple(stretches))
    return replace(
        component,
        assemblies={**component.assemblies, POSITIONS: cut},
        own_config={"part": component.part, "config": to_dict(replace(config, segment=segment))},
    )


def read_component_config(where: Path | CheckpointSource, name: str) -> dict[str, Any]:
    """A part's configuration. Raises ``CheckpointError`` for a file of another part, or no weights."""
    with borrow_source(where) as source:
        return get_config(find_part(source, name))


def read_text_encoder_config(
    where: Path | CheckpointSource, folder: Path
) -> tuple[dict[str, Any], Tokenizer]:
    """T5's sizes, and its tokenizer, whose files are in ``folder`` and are tried. Raises ``CheckpointError``,
    and ``DependencyError`` without the tokenizer's library."""
    sizes = read_component_config(where, "text_encoder")
    vocabulary = sizes.get("vocab_size", 32128)  # transformers' default
    return sizes, make_tokenizer(sizes.pop("tokenizer", "t5"), vocabulary, folder)


def read_model_config(where: Path | CheckpointSource, name: str = "transformer") -> Hallo3Config:
    """A part's model configuration; the released model's if it says none. Raises ``CheckpointError``."""
    return from_dict(Hallo3Config, read_component_config(where, name), name)


def check_belongs(where: Path | CheckpointSource, name: str, model: Hallo3Config) -> None:
    """Refuse a part of other sizes than the ``model`` can be used with. Raises ``CheckpointError``."""
    config = read_component_config(where, name)
    if name == "vae":
        found, expected = from_dict(VAEConfig, config, name), model.vae
    elif name == "text_encoder":
        found, expected = config.get("d_model"), model.trunk.text_dim
    elif name == "speech_encoder":
        found = config.get("num_hidden_layers", 12), config.get("hidden_size", 768)  # transformers' defaults
        expected = model.audio.layers, model.audio.channels
    else:
        own = from_dict(Hallo3Config, config, name)
        found, expected = (own.trunk, own.segment), (model.trunk, model.segment)
    if found != expected:
        raise CheckpointError(
            f"The {name} file belongs to another model than the transformer.",
            found=str(found),
            expected=str(expected),
            fix="use the files of one model folder together",
        )


def build_on_meta(name: str, config: Mapping[str, Any]) -> nn.Module:
    """A part's network without memory. Raises ``CheckpointError`` for a configuration that is none."""
    try:
        if name == "vae":
            return cast(nn.Module, build_vae(from_dict(VAEConfig, config, name)).network)
        if name == "text_encoder":
            return build_t5({key: size for key, size in config.items() if key != "tokenizer"})
        if name == "speech_encoder":
            return build_wav2vec2(config)
        model = from_dict(Hallo3Config, config, name)
        if name == "reference":
            return ReferenceNetwork(model.trunk, model.segment.shape.latent, META)
        return Hallo3Transformer(model, META)
    except Hallo3Error:
        raise
    except Exception as error:  # sizes that contradict each other, in torch's and transformers' own words
        raise CheckpointError(
            "The configuration stored with the weights cannot be used.",
            found=f"{name}: {(str(error).splitlines() or [''])[0][:160]}",
            expected="sizes of which a network can be built",
            fix="use the configuration that belongs to the weights",
        ) from error


def check_fit(component: StoredComponent, config: Mapping[str, Any]) -> None:
    """Refuse a part of other names or shapes than its configuration's. Raises ``CheckpointError``."""
    network = build_on_meta(component.part, config)
    floating = {name for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    for name in component.assemblies:
        if name in floating and not component.dtype(name).is_floating_point and not component.scaled(name):
            raise CheckpointError(
                f"These weights are not {COMPONENT_TITLES[component.part]}.",
                found=f"{name} of whole numbers, without a scale",
                expected="floating point numbers, or whole ones with their scale",
                fix="use a file in bf16, fp16, fp32 or scaled fp8",
            )
    shapes = {name: assembly.shape for name, assembly in component.assemblies.items()}
    advice = "; other sizes than the released model's need a hallo3.json beside the file"
    check_shapes(
        untie_embedding(network.state_dict()),
        shapes,
        COMPONENT_TITLES[component.part],
        advice if component.own_config is None else "",
    )


def check_file(where: Path | CheckpointSource, name: str) -> None:
    """Refuse a file of other shapes before anything is loaded from it. Raises ``CheckpointError``."""
    with borrow_source(where) as source:
        component = find_part(source, name)
        check_fit(component, get_config(component))


@contextmanager
def show_reading(source: CheckpointSource, part: str, open_progress: OpenProgress) -> Generator[None]:
    """Show the bytes of a part that are read inside the block: all of it at the end, whether some were read
    again or never."""
    left = find_part(source, part).nbytes

    def report(amount: int) -> None:
        nonlocal left
        amount = min(amount, left)
        left -= amount
        progress(amount)

    with open_progress(f"reading {COMPONENT_TITLES[part]}", left) as progress:
        source.progress = report
        try:
            yield
            report(left)
        finally:
            source.progress = no_progress


def read_component(
    where: Path | CheckpointSource,
    part: str,
    precision: Precision,
    verifier: FileVerifier | None = None,
    open_progress: OpenProgress = no_display,
) -> dict[str, Tensor]:
    """A part's tensors under our names, from any file or folder that holds it. Floating point ones are what
    the precision computes in; matrices that it holds in eight bits stay or become so, with their scales. A
    ``verifier`` verifies the whole file first. Raises ``CheckpointError``."""
    with borrow_source(where) as source:
        component = find_part(source, part)
        if verifier is not None:
            verify_component(source, verifier)
        state: dict[str, Tensor] = {}
        with show_reading(source, part, open_progress):
            for name in component.assemblies:
                state.update(read_tensor(component, name, precision))
    return state


def verify_component(where: Path | CheckpointSource, verifier: FileVerifier) -> list[str]:
    """The SHA-256 of a component's files, which are verified. Raises ``CheckpointError``."""
    with borrow_source(where) as source:
        return [verifier.get_hash(file, lambda: list_used(source)) for file in source.files]


def list_used(source: CheckpointSource) -> set[str]:
    """The names in a source of all tensors that results depend on. The reference network stops before its
    last block's attention: what lies behind may never have been trained. Raises ``CheckpointError``."""
    used = set[str]()
    for part in find_components(source).values():
        numbers = (name.split(".")[1] for name in part.assemblies if name.startswith("transformer_blocks."))
        last = max((int(number) for number in numbers if re.fullmatch("[0-9]{1,5}", number)), default=0)
        behind = (
            (f"transformer_blocks.{last}.", "norm_out.", "norm_final.", "proj_out.")
            if part.part == "reference"
            else ()
        )
        for name, one in part.assemblies.items():
            if not name.startswith(behind) or name.startswith(f"transformer_blocks.{last}.norm1."):
                used.update(key for key, _, _ in one.stretches)
    return used


def check_component_samples(where: Path | CheckpointSource) -> None:
    """Refuse files with a matrix of equal numbers, without reading much. Raises ``CheckpointError``."""
    with borrow_source(where) as source:
        used = list_used(source)
        for file in source.files:
            check_samples(file, used)


def read_tensor(component: StoredComponent, name: str, precision: Precision) -> dict[str, Tensor]:
    """One tensor of a component in a precision, with its scale if it is fp8."""
    if not precision.is_fp8(name):
        return {name: component.tensor(name, precision.compute)}
    scale = component.scale(name)
    if component.dtype(name) == FP8 and (scale is None or scale.numel() == 1):
        numbers = component.stored(name)
        scale = torch.ones(()) if scale is None else scale.float().reshape(())
    else:
        values = component.tensor(name, torch.float32)
        scale = fp8_scale(values.abs().max())
        numbers = to_fp8(values, scale)
    return {name: numbers, name.removesuffix("weight") + "weight_scale": scale}


def read_state(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of a file as it names them, floating point as ``dtype``. Raises ``CheckpointError``."""
    with open_source(path) as source:
        state = {name: source.read(name) for name in source.entries}
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}


def load_strict(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Give a network on meta all its tensors; it is then in eval mode, without gradients. Raises
    ``CheckpointError`` with the first keys that are unknown, missing or misshapen."""
    check_state(network.state_dict(), state, what)
    network.load_state_dict(state, strict=True, assign=True)
    tensors = [*network.named_parameters(), *network.named_buffers()]
    if stranded := [name for name, tensor in tensors if tensor.is_meta]:
        raise CheckpointError(
            f"{what} is incomplete after loading.",
            found=f"no values for {stranded[0]}",
            expected="values for every tensor",
            fix="this is a fault of the package; please report it with the name above",
        )
    network.eval().requires_grad_(False)


def check_state(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights whose names or shapes differ from ``wanted``; ``CheckpointError`` names the first."""
    check_shapes(wanted, {name: tuple(tensor.shape) for name, tensor in state.items()}, what)


def check_shapes(
    wanted: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str, advice: str = ""
) -> None:
    """Refuse names or shapes that differ from ``wanted``; ``CheckpointError`` names the first of each."""
    wrong = {
        "unknown": sorted(set(shapes) - set(wanted)),
        "missing": sorted(set(wanted) - set(shapes)),
        "of another shape": [
            f"{name} {list(shapes[name])} instead of {list(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in shapes and shapes[name] != tuple(tensor.shape)
        ],
    }
    problems = [f"{len(keys)} keys {kind} (first: {keys[0]})" for kind, keys in wrong.items() if keys]
    if problems:
        raise CheckpointError(
            f"These weights are not {what}.",
            found="; ".join(problems),
            expected=f"exactly its {len(wanted)} tensors",
            fix=f"check that the file is complete and belongs to this configuration{advice}",
        )
