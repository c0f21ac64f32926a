"""The original's recorded forwards, through files and ComfyUI's own model class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from comfyui.host import Host
from comfyui.stages import difference
from golden_checks import networks
from golden_checks.directory import Golden, read_golden, swap
from hallo3.checkpoints import keymaps as maps
from hallo3.config import to_dict

GOLDENS = Path(__file__).resolve().parents[1] / "golden"


def written(folder: Path, golden: Golden, part: str, usual: str, prefix: str) -> Path:
    """A golden's weights as a file in the original's names, with our header."""
    tensors = networks.weights_of(golden, usual).tensors
    named = {prefix + name.removeprefix(prefix): tensor.contiguous() for name, tensor in tensors.items()}
    header = {"part": part, "config": to_dict(networks.config_of(golden.about))}
    path = folder / f"{part}.safetensors"
    save_file(named, path, metadata={"hallo3": json.dumps(header)})
    return path


def identity(host: Host, golden: Golden, count: int) -> Any:
    create = host.module("hallo3.identity").Identity
    banks = tuple(golden[f"in.bank_{index}"] for index in range(count))
    return create(space="golden", canvas=None, face_embedding=golden["in.face_emb"], reference_features=banks)


@pytest.mark.parametrize("name", ["dit_forward_b1", "dit_forward_b2_cfg"])
def test_the_model_gives_the_golden(host: Host, tmp_path: Path, name: str) -> None:
    golden = read_golden(GOLDENS / f"{name}.json")
    path = written(tmp_path, golden, "transformer", networks.TRANSFORMER, maps.TRANSFORMER_PREFIX)
    patcher = host.module("nodes.comfy.loading").load_model(path)
    wanted = swap(golden["out.final"])
    branches = len(wanted)

    def both(inputs: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(inputs), inputs))[-branches:]

    x = torch.cat((swap(golden["in.x"]), swap(golden["in.concat"])), dim=1)
    found = patcher.model.diffusion_model(
        x.expand(branches, -1, -1, -1, -1),
        golden["in.timestep"].flatten()[:1].expand(branches),
        both(golden["in.text"]),
        {},
        hallo3_identity=identity(host, golden, patcher.model.config.trunk.layers),
        hallo3_windows=both(golden["in.audio_windows"]),
    )
    assert difference(found, wanted) <= 1e-5


def test_the_reference_network_gives_the_golden(host: Host, tmp_path: Path) -> None:
    golden = read_golden(GOLDENS / "ref_net_forward.json")
    about = read_golden(GOLDENS / "dit_forward_b1.json").about  # a reference file tells of the whole model
    path = written(
        tmp_path, Golden(golden.name, {**golden.about, "config": about["config"]}, golden.home),
        "reference", networks.REFERENCE, maps.REFERENCE_PREFIX,
    )  # fmt: skip
    socket = host.module("nodes.comfy.loading").load_reference_network(path)
    features = host.module("nodes.comfy.loading").extract_features(socket, swap(golden["in.ref_latent"]))
    for index in golden.names("out.bank_"):
        assert difference(features[int(index)], golden[f"out.bank_{index}"]) <= 1e-5
