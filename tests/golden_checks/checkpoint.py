"""The checkpoint in its DeepSpeed wrapping, read without running anything, converted, and loaded."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.component import StoredComponent, find_components
from hallo3.checkpoints.convert import plan_output, write_output
from hallo3.checkpoints.keymaps import KeyMap
from hallo3.checkpoints.load import check_state
from hallo3.checkpoints.source import open_source
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer
from hallo3.quantization import PRECISIONS
from support.original_checkpoints import to_original, to_ours

from . import networks
from .directory import Check, Golden, Report

EIGHT_BIT = 3e-2
"""Relative L2 of a matrix in e4m3: three bits of mantissa err by up to 1/16; 2.8 % were measured."""
MAPS = {
    "transformer": (maps.TRANSFORMER, maps.TRANSFORMER_PREFIX, networks.TRANSFORMER),
    "reference": (maps.REFERENCE, maps.REFERENCE_PREFIX, networks.REFERENCE),
}


def checkpoint(golden: Golden, report: Report) -> None:
    """Every tensor bit for bit, read and converted; the relative error of scaled fp8."""
    named = next(name for name in golden.about["files"] if str(name).endswith(".pt"))
    with open_source(golden.home / named) as source, tempfile.TemporaryDirectory() as folder:
        parts = find_components(source)
        report.exact("parts", sorted(parts), sorted(MAPS))
        for name, (keys, prefix, weights) in MAPS.items():
            wanted = originals(golden.other(weights).tensors, prefix, keys)
            target = Path(folder) / f"{name}.safetensors"
            for precision in ("bf16", "fp8"):
                write_output(plan_output(parts[name], PRECISIONS[precision], {}), target)
                compare(report, f"{name}, {precision}", load_file(target), wanted)
            report.exact(f"{name}, round trip", round_trip(keys, parts[name], prefix), True)
        config = networks.config_of(golden.other(networks.TRANSFORMER).about)
        network = Hallo3Transformer(config, Layers(device="meta"))
        check_state(network.state_dict(), load_part(parts["transformer"]), "the golden's transformer")


def originals(tensors: Mapping[str, Tensor], prefix: str, keys: KeyMap) -> dict[str, Tensor]:
    state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return {name: tensor.to(torch.bfloat16) for name, tensor in to_ours(keys, state).items()}


def load_part(part: StoredComponent) -> dict[str, Tensor]:
    return {name: part.stored(name) for name in part.assemblies}


def round_trip(keys: KeyMap, part: StoredComponent, prefix: str) -> bool:
    """Our tensors under the original's names again: the file's own."""
    back = to_original(keys, load_part(part))
    kept = {name for name in part.source.entries if name.startswith(prefix)} - set(part.dropped)
    same = (torch.equal(tensor, part.source.read(prefix + name)) for name, tensor in back.items())
    return {prefix + name for name in back} == kept and all(same)


def compare(report: Report, what: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    report.exact(f"{what}, names", {name for name in found if name in wanted}, set(wanted))
    for name, tensor in wanted.items():
        if found[name].dtype == torch.float8_e4m3fn:
            error = found[name].float() * found[f"{name}_scale"] - tensor.float()
            relative = float(torch.linalg.norm(error) / torch.linalg.norm(tensor.float()))
            report.rows.append((f"{what}, {name}", relative, EIGHT_BIT))
        else:
            report.exact(f"{what}, {name}", torch.equal(found[name], tensor), True)


def _is_checkpoint(golden: Golden) -> bool:
    files = golden.about.get("files")
    files = [str(name) for name in files] if isinstance(files, list) else []
    return "module" in golden.about and any(name.endswith(".pt") for name in files)


CHECKS = (Check(_is_checkpoint, checkpoint),)
