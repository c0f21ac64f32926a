"""Checkpoints of any size in the original's published form: names, wrapping, unused weights."""

import json
import re
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.keymaps import PLACEHOLDERS, KeyMap, Split
from hallo3.checkpoints.load import META
from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import NANO, Hallo3Config, to_dict
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.vae.autoencoder import build_vae

SMALL = replace(NANO, trunk=replace(NANO.trunk, layers=42))
"""All of the released model's layers, each as small as it gets."""
Make = Callable[[nn.Module, str], dict[str, Tensor]]
_SAT = "mixins.pos_embed.freqs_"


def to_ours(keys: KeyMap, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names of tensors -> ours, by the shipped tables."""
    plan = keys.assemble({name: tuple(tensor.shape) for name, tensor in state.items()})
    return {
        name: torch.cat([state[key].flatten()[a:b] for key, a, b in source.stretches]).reshape(source.shape)
        for name, source in plan.items()
    }


def to_original(keys: KeyMap, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the published names; dropped ones stay absent."""
    rules = [(_pattern(target), source, group) for source, target, group in _targets(keys)]
    pieces: dict[str, dict[int, Tensor]] = {}
    for name, tensor in state.items():
        ((match, source, group),) = (
            (match, source, group) for pattern, source, group in rules if (match := pattern.fullmatch(name))
        )
        chunks = zip(group, tensor.chunk(len(group)), strict=True)
        pieces.setdefault(source.format_map(match.groupdict()), {}).update(chunks)
    return {name: torch.cat([group[n] for n in sorted(group)]) for name, group in pieces.items()}


def _targets(keys: KeyMap) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for source, rule in keys.rules.items():
        targets = {rule: (0,)} if isinstance(rule, str) else rule.targets if isinstance(rule, Split) else {}
        yield from ((source, target, group) for target, group in targets.items())


def _pattern(template: str) -> re.Pattern[str]:
    parts = enumerate(re.split(r"\{(\w+)\}", template))
    return re.compile("".join(f"(?P<{p}>{PLACEHOLDERS[p]})" if n % 2 else re.escape(p) for n, p in parts))


def module(
    config: Hallo3Config, dtype: torch.dtype = torch.bfloat16, make: Make = make_random_state
) -> OrderedDict[str, Tensor]:
    """The state dict of the original's engine for this configuration: both networks, dead weight too."""
    state: OrderedDict[str, Tensor] = OrderedDict()
    shape = config.segment.shape.latent
    networks: tuple[tuple[str, Any, nn.Module], ...] = (
        (maps.TRANSFORMER_PREFIX, maps.TRANSFORMER, Hallo3Transformer(config, META)),
        (maps.REFERENCE_PREFIX, maps.REFERENCE, ReferenceNetwork(config.trunk, shape, META)),
    )
    for prefix, keys, network in networks:
        original = to_original(keys, make(network, prefix))
        original[_SAT + "cos"] = original[_SAT + "sin"] = torch.ones(shape.tokens, config.trunk.head_dim)
        original["transformer.position_embeddings.weight"] = torch.ones(64, config.trunk.width)
        state |= {prefix + name: tensor.to(dtype) for name, tensor in original.items()}
    return state


def wrap(state: OrderedDict[str, Tensor]) -> dict[str, Any]:
    """A module's state as DeepSpeed saves it, with SAT's bookkeeping."""
    return {
        "module": state,
        "optimizer": None,
        "param_shapes": [OrderedDict((name, tensor.shape) for name, tensor in state.items())],
        "sparse_tensor_module_names": {"x"},
        "args": Namespace(lr=1e-5),
        "np_rng_state": np.random.RandomState(0).get_state(),
        "torch_rng_state": torch.get_rng_state(),
        "iteration": 7,
    }


def write_checkpoint(
    path: Path, config: Hallo3Config, dtype: torch.dtype = torch.bfloat16, make: Make = make_random_state
) -> dict[str, Tensor]:
    """Write a DeepSpeed checkpoint; returns its module's state."""
    state = module(config, dtype, make)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(wrap(state), path)
    return state


def write_release(
    folder: Path, config: Hallo3Config, dtype: torch.dtype = torch.bfloat16, make: Make = make_random_state
) -> dict[str, Tensor]:
    """The original's folder: the checkpoint and the 3D VAE, with the configuration beside them."""
    checkpoint = folder / "hallo3" / "1" / "mp_rank_00_model_states.pt"
    state = write_checkpoint(checkpoint, config, dtype, make)
    (folder / "hallo3" / "latest").write_text("1")
    vae = folder / "cogvideox-5b-i2v-sat" / "vae" / "3d-vae.pt"
    vae.parent.mkdir(parents=True)
    network = cast(nn.Module, build_vae(config.vae).network)
    original = to_original(maps.VAE, make(network, "vae"))
    torch.save({"state_dict": {**original, "loss.logvar": torch.zeros(())}}, vae)
    for file in (checkpoint, vae):
        file.with_suffix(".json").write_text(json.dumps(to_dict(config)))
    return state
