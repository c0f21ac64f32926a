"""Identities: framing, face position, paste back, files; in this process and on a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from comfyui.client import saved_file
from comfyui.prompts import simple
from comfyui.server import Server
from comfyui.stages import Stages, difference

SAVE = {
    "class_type": "Hallo3SaveIdentity",
    "inputs": {"identity": ["identity", 0], "model": ["set", 0], "filename_prefix": "anna"},
}


@pytest.fixture
def folders(stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import folder_paths

    assert stages  # ComfyUI is there
    for name in ("output", "input"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path


def extend_upwards(portrait: Tensor) -> Tensor:
    """A portrait [1, h, w, 3] extended by a wall of the same height above."""
    wall = portrait[:, :1].expand(-1, portrait.shape[1], -1, -1)
    return torch.cat((wall, portrait), dim=1)


def create_identity(stages: Stages, portrait: Tensor, **more: Any) -> Any:
    inputs = {"portrait": portrait, "vae": stages.vae, "reference_network": stages.reference}
    return stages.run("Hallo3IdentityReference", **inputs, **more)


def save(stages: Stages, folders: Path) -> str:
    stages.run(
        "Hallo3SaveIdentity",
        identity=stages.identity, model=stages.model, filename_prefix="anna",
    )  # fmt: skip
    (name,) = stages.host.module("nodes.comfy.faces").list_identities()
    assert (folders / "output" / name.removesuffix(" [output]")).is_file()
    return name


def test_an_identity_from_a_file_equals_the_computed_one(stages: Stages, folders: Path) -> None:
    identity, overview = stages.run("Hallo3LoadIdentity", file=save(stages, folders))
    assert torch.equal(identity.canvas.pixels, stages.identity.canvas.pixels)
    assert torch.equal(identity.face_embedding, stages.identity.face_embedding)
    for mine, theirs in zip(identity.reference_features, stages.identity.reference_features, strict=True):
        assert torch.equal(mine, theirs)
        assert mine.dtype == theirs.dtype
    assert torch.equal(overview, stages.overview)
    inputs = stages.inputs(segment=0, steps=2)
    wanted = stages.run("Hallo3Sampler", **inputs)[0]["samples"]
    found = stages.run("Hallo3Sampler", **{**inputs, "identity": identity})[0]["samples"]
    assert torch.equal(found, wanted)


def test_an_identity_is_refused_by_another_model(stages: Stages, folders: Path) -> None:
    identity, _ = stages.run("Hallo3LoadIdentity", file=save(stages, folders))
    other = stages.run("Hallo3LoadBuiltIn")[0]
    face = other.model.diffusion_model.face_proj.norm.weight
    other.model.diffusion_model.face_proj.norm.weight = torch.nn.Parameter(face * 1.1, requires_grad=False)
    refused = stages.host.module("hallo3.errors").CheckpointError
    for node, more in (("Hallo3Sampler", {"segment": 0}), ("Hallo3Extrapolate", {})):
        with pytest.raises(refused, match="made for another model"):
            stages.run(node, **stages.inputs(identity=identity, model=other, **more))


def test_names_outside_of_the_output_folder_are_refused(stages: Stages, folders: Path) -> None:
    refused = stages.host.module("hallo3.errors").InputError
    for name in ("../anna", str(folders / "anna"), "", "  ", "people/"):
        with pytest.raises(refused, match="cannot be saved under"):
            stages.run(
                "Hallo3SaveIdentity", identity=stages.identity, model=stages.model, filename_prefix=name
            )
    node, where = stages.host.node("Hallo3LoadIdentity"), stages.host.module("nodes.comfy.faces")
    (folders / "secret.safetensors").write_bytes(b"x")
    for name in ("../secret.safetensors", "../secret.safetensors [output]", "absent.safetensors"):
        assert where.find_identity(name) is None
        assert "no identity" in str(node.validate_inputs(file=name))


def test_a_file_that_is_no_identity_is_refused(stages: Stages, folders: Path) -> None:
    (folders / "input" / "hallo3_identities").mkdir()
    (folders / "input" / "hallo3_identities" / "x.safetensors").write_bytes(b"<html>")
    with pytest.raises(stages.host.module("hallo3.errors").CheckpointError):
        stages.run("Hallo3LoadIdentity", file="hallo3_identities/x.safetensors")


def test_framing_and_paste_back(stages: Stages) -> None:
    """A crop round the face of a tall picture, and frames of the crop back in their place."""
    tall = extend_upwards(stages.portrait)
    side = stages.portrait.shape[1]
    box = {"x": side // 4, "y": side + side // 4, "width": side // 2, "height": side // 2}
    identity, overview = create_identity(stages, tall, face_box=box)
    original, _ = create_identity(stages, tall, face_box=box, framing="original")
    assert not torch.equal(identity.canvas.pixels, original.canvas.pixels)
    assert overview.shape[1] > overview.shape[2]
    frames = (identity.canvas.uncrop(identity.canvas.pixels)[0].permute(1, 2, 3, 0) + 1) / 2
    (whole,) = stages.run("Hallo3PasteBack", images=frames.clamp(0, 1), identity=identity)
    scaled = identity.paste_back.photograph.permute(1, 2, 0)[None].float() / 255
    assert whole.shape == scaled.shape
    assert whole.shape[1] == 2 * whole.shape[2]
    assert float((whole - scaled).square().mean()) < 1e-3
    refused = stages.host.module("hallo3.errors").ShapeError
    for wrong in (frames[:, : frames.shape[1] // 2], frames[:0], None):
        with pytest.raises(refused, match="do not fit the identity"):
            stages.run("Hallo3PasteBack", images=wrong, identity=identity)


@pytest.mark.parametrize(
    "box",
    [
        {"x": 150, "y": 100, "width": 180, "height": 200},
        [{"x": 150, "y": 100, "width": 180, "height": 200}, {"x": 0, "y": 0, "width": 9, "height": 9}],
        [[{"x": 150, "y": 100, "width": 180, "height": 200}]],
    ],
)
def test_a_box_equals_the_same_mask(stages: Stages, box: Any) -> None:
    identity, _ = create_identity(stages, stages.portrait, face_box=box)
    mask = torch.zeros(1, *stages.portrait.shape[1:3])
    mask[:, 80:320, 132:348] = 1  # a fifth larger
    masked, _ = create_identity(stages, stages.portrait, face_mask=mask)
    for mine, theirs in zip(identity.reference_features, masked.reference_features, strict=True):
        assert torch.equal(mine, theirs)


class OtherAnalyzer:
    space = "arcface-glintr100"

    def analyze(self, _: Tensor) -> Any:
        raise AssertionError("must not be called")


def test_face_analyzer_and_mask(stages: Stages) -> None:
    """An analyzer of another space is refused; a mask limits what the reference network sees."""
    with pytest.raises(stages.host.module("hallo3.errors").FaceError, match="does not belong"):
        create_identity(stages, stages.portrait, face_analyzer=OtherAnalyzer())
    mask = torch.zeros(1, *stages.portrait.shape[1:3])
    mask[:, 100:300, 150:330] = 1
    identity, overview = create_identity(stages, stages.portrait, face_mask=mask)
    features = zip(identity.reference_features, stages.identity.reference_features, strict=True)
    assert all(difference(mine, theirs) > 1e-3 for mine, theirs in features)
    assert difference(identity.canvas.pixels, stages.identity.canvas.pixels) == 0
    assert overview.shape == (1, 960, 960, 3)


def test_the_preview_of_a_long_strip_is_scaled_down(stages: Stages) -> None:
    _, overview = create_identity(stages, torch.rand(1, 4000, 64, 3))
    assert max(overview.shape[1:3]) < 4000


def test_a_tall_photograph_gives_a_tall_video_also_from_a_saved_identity(server: Server) -> None:
    portrait = Image.open(Path(__file__).resolve().parents[2] / "samples" / "portrait.png").convert("RGB")
    pixels = np.asarray(portrait)
    tall = np.concatenate((np.repeat(pixels[:1], len(pixels), axis=0), pixels))
    Image.fromarray(tall).save(server.base / "input" / "tall.png")
    prompt = simple(
        tall={"class_type": "LoadImage", "inputs": {"image": "tall.png"}},
        identity__portrait=["tall", 0],
        extrapolate__paste_back=True,
        save_identity=SAVE,
    )
    first = saved_file(server, server.run(prompt))
    with av.open(str(first)) as video:
        assert (video.streams.video[0].width, video.streams.video[0].height) == (
            pixels.shape[1] // 2 * 2,
            2 * pixels.shape[0] // 2 * 2,
        )
        frame = next(video.decode(video=0)).to_ndarray(format="rgb24")
    top = slice(0, pixels.shape[0] // 3)
    assert np.abs(frame[top].astype(float) - tall[top]).mean() < 3  # outside the crop
    name = "hallo3_identities/anna_00001_.safetensors [output]"
    load = {"class_type": "Hallo3LoadIdentity", "inputs": {"file": name}}
    again = simple(loaded=load, extrapolate__identity=["loaded", 0], extrapolate__paste_back=True)
    del again["identity"]
    second = saved_file(server, server.run(again))
    with av.open(str(first)) as one, av.open(str(second)) as other:
        frames = zip(one.decode(video=0), other.decode(video=0), strict=True)
        assert all(np.array_equal(a.to_ndarray(), b.to_ndarray()) for a, b in frames)
