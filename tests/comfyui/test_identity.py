"""Identities: framing, face, paste back, files. Landmarks by the MediaPipe port, with random weights."""

import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from comfyui import client
from comfyui.client import node, saved_file, simple
from comfyui.host import Host
from comfyui.server import Server
from comfyui.stages import Stages, difference
from support.messages import collect_messages

SAVE = node("Hallo3SaveIdentity", identity=["identity", 0], model=["set", 0], filename_prefix="anna")
BOX = {"x": 150, "y": 100, "width": 180, "height": 200}


def mask_of(stages: Stages, rows: slice, columns: slice) -> Tensor:
    mask = torch.zeros(1, *stages.portrait.shape[1:3])
    mask[:, rows, columns] = 1
    return mask


def load_saved(stages: Stages, folders: Path) -> tuple[Any, Tensor]:
    """The shared identity through a file, and its overview."""
    name = stages.save_identity("anna")
    assert stages.module("nodes.comfy.faces").list_identities() == [name]
    assert (folders / "output" / name.removesuffix(" [output]")).is_file()
    return stages.run("Hallo3LoadIdentity", file=name)


def test_an_identity_from_a_file_equals_the_computed_one(stages: Stages, folders: Path) -> None:
    identity, overview = load_saved(stages, folders)
    assert torch.equal(identity.canvas.pixels, stages.identity.canvas.pixels)
    assert torch.equal(identity.face_embedding, stages.identity.face_embedding)
    for mine, theirs in zip(identity.reference_features, stages.identity.reference_features, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0, rtol=0)
    assert torch.equal(overview, stages.overview)
    assert torch.equal(stages.sample(steps=2, identity=identity), stages.sample(steps=2))


def test_an_identity_is_refused_by_another_model(stages: Stages, folders: Path) -> None:
    identity, _ = load_saved(stages, folders)
    other = stages.run("Hallo3LoadBuiltIn")[0]
    norm = other.model.diffusion_model.face_proj.norm
    norm.weight = torch.nn.Parameter(norm.weight * 1.1, requires_grad=False)
    for kind, more in (("Hallo3Sampler", {"segment": 0}), ("Hallo3Extrapolate", {})):
        with pytest.raises(stages.errors.CheckpointError, match="made for another model"):
            stages.run(kind, **stages.inputs(identity=identity, model=other, **more))


def test_names_outside_of_the_output_folder_and_other_files_are_refused(stages: Any, folders: Path) -> None:
    for name in ("../anna", str(folders / "anna"), "", "  ", "people/"):
        with pytest.raises(stages.errors.InputError, match="cannot be saved under"):
            stages.save_identity(name)
    loader, where = stages.host.node("Hallo3LoadIdentity"), stages.module("nodes.comfy.faces")
    (folders / "secret.safetensors").write_bytes(b"x")
    for name in ("../secret.safetensors", "../secret.safetensors [output]", "absent.safetensors"):
        assert where.find_identity(name) is None
        assert "no identity" in str(loader.validate_inputs(file=name))
    (page := folders / "input" / "hallo3_identities" / "x.safetensors").parent.mkdir()
    page.write_bytes(b"<html>")
    with pytest.raises(stages.errors.CheckpointError):
        stages.run("Hallo3LoadIdentity", file="hallo3_identities/x.safetensors")


def test_framing_and_paste_back(stages: Stages) -> None:
    """A crop round the face of a tall picture, and frames of the crop back in their place."""
    side = stages.portrait.shape[1]
    wall = stages.portrait[:, :1].expand(-1, side, -1, -1)
    tall = torch.cat((wall, stages.portrait), dim=1)
    box = {"x": side // 4, "y": side + side // 4, "width": side // 2, "height": side // 2}
    identity, overview = stages.create_identity(portrait=tall, face_box=box)
    original, _ = stages.create_identity(portrait=tall, face_box=box, framing="original")
    assert not torch.equal(identity.canvas.pixels, original.canvas.pixels)
    assert overview.shape[1] > overview.shape[2]
    frames = (identity.canvas.uncrop(identity.canvas.pixels)[0].permute(1, 2, 3, 0) + 1) / 2
    (whole,) = stages.run("Hallo3PasteBack", images=frames.clamp(0, 1), identity=identity)
    scaled = identity.paste_back.photograph.permute(1, 2, 0)[None].float() / 255
    assert whole.shape == scaled.shape
    assert whole.shape[1] == 2 * whole.shape[2]
    assert float((whole - scaled).square().mean()) < 1e-3
    for wrong in (frames[:, : frames.shape[1] // 2], frames[:0], None):
        with pytest.raises(stages.errors.ShapeError, match="do not fit the identity"):
            stages.run("Hallo3PasteBack", images=wrong, identity=identity)


@pytest.mark.parametrize("box", [BOX, [BOX, {"x": 0, "y": 0, "width": 9, "height": 9}], [[BOX]]])
def test_a_box_equals_the_same_mask(stages: Stages, box: Any) -> None:
    identity, _ = stages.create_identity(face_box=box)
    larger = mask_of(stages, slice(80, 320), slice(132, 348))  # by a fifth
    masked, _ = stages.create_identity(face_mask=larger)
    assert all(map(torch.equal, identity.reference_features, masked.reference_features))


def test_a_mask_and_the_preview(stages: Stages) -> None:
    """A mask limits what the reference network sees."""
    identity, overview = stages.create_identity(face_mask=mask_of(stages, slice(100, 300), slice(150, 330)))
    features = zip(identity.reference_features, stages.identity.reference_features, strict=True)
    assert all(difference(mine, theirs) > 1e-3 for mine, theirs in features)
    assert difference(identity.canvas.pixels, stages.identity.canvas.pixels) == 0
    assert overview.shape == (1, 960, 960, 3)
    _, overview = stages.create_identity(portrait=torch.rand(1, 4000, 64, 3), no_face="whole picture")
    assert max(overview.shape[1:3]) < 4000, "the preview of a long strip is scaled down"


GAMMA = struct.pack(">I", 4) + b"gAMA" + struct.pack(">I", 100000)
GAMMA += struct.pack(">I", zlib.crc32(GAMMA[4:]))
"""A chunk of PNG: the colours are linear light."""


def write_pictures(folder: Path, source: Path) -> dict[str, bool]:
    """Pictures of one person, and whether Load Image leaves something out of each."""
    plain = Image.open(source).convert("RGB").resize((128, 128))
    clear = plain.copy()
    clear.putalpha(Image.linear_gradient("L").resize((128, 128)))
    plain.save(folder / "plain.png")
    plain.save(folder / "plain.jpg")
    clear.save(folder / "clear.png")
    content = (folder / "plain.png").read_bytes()
    (folder / "linear.png").write_bytes(content[:33] + GAMMA + content[33:])
    exif = Image.Exif()
    exif[0x0112] = 4
    plain.save(folder / "mirrored.jpg", exif=exif)
    return {
        "plain.png": False,
        "plain.jpg": False,
        "clear.png": True,
        "linear.png": True,
        "mirrored.jpg": True,
    }


@pytest.mark.parametrize("name", ["plain.png", "plain.jpg", "clear.png", "linear.png", "mirrored.jpg"])
def test_a_picture_is_read_as_in_the_command(
    name: str, stages: Stages, folders: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Straight from Load Image; not if it was changed on the way, or its transparency is a mask."""
    import nodes

    differs = write_pictures(folders / "input", samples / "portrait.png")[name]
    module, workflow = stages.module("nodes.comfy.picture_file"), stages.module("nodes.comfy.workflow")
    prompt = {
        "load": {"class_type": "LoadImage", "inputs": {"image": name}},
        "me": {"class_type": "Hallo3IdentityReference", "inputs": {"portrait": ["load", 0]}},
    }
    dynprompt = SimpleNamespace(get_node=prompt.__getitem__, all_node_ids=lambda: set(prompt))
    monkeypatch.setattr(module, "running_node", lambda: (workflow.Graph(dynprompt), "me"))
    image, _ = nodes.LoadImage().load_image(name)
    wanted = stages.module("hallo3.media.image").read_picture(folders / "input" / name)
    stored = image[0].permute(2, 0, 1)

    def use(image: Tensor, masked: bool = False, sized: bool = False) -> tuple[Tensor, list[str]]:
        with collect_messages() as said:
            picture = image[0].permute(2, 0, 1)
            return module.use_picture_file(image, picture, "portrait", masked=masked, sized=sized), said

    picture, said = use(image)
    assert torch.equal(picture, wanted if differs else stored)
    assert [f"{name} is read from its file" in text for text in said] == [True] * differs
    assert torch.equal(use(1 - image)[0], 1 - stored)
    assert torch.equal(use(image[:, 1:], sized=True)[0], stored[:, 1:])
    if name == "clear.png":
        assert torch.equal(use(image, masked=True)[0], stored)
        identity, _ = stages.create_identity(portrait=image)
        canvas = (identity.canvas.pixels[0, :, 0] + 1) / 2
        assert float((canvas.amax(dim=0).mean() - wanted.amax(dim=0).mean()).abs()) < 0.05


def test_a_server_reads_a_picture_as_the_command_does(server: Server, samples: Path) -> None:
    write_pictures(server.base / "input", samples / "portrait.png")
    changes = {"load": node("LoadImage", image="clear.png"), "identity__portrait": ["load", 0]}
    heard = client.listen(server, simple(**changes, extrapolate__steps=1))
    text = "clear.png is read from its file, with what Load Image leaves out: its transparency."
    assert any(text in each for each in heard.texts), heard.texts


def test_a_tall_photograph_and_its_saved_identity_give_a_tall_video(server: Server, samples: Path) -> None:
    pixels = np.asarray(Image.open(samples / "portrait.png").convert("RGB"))
    tall = np.concatenate((np.repeat(pixels[:1], len(pixels), axis=0), pixels))
    Image.fromarray(tall).save(server.base / "input" / "tall.png")
    changes = {"tall": node("LoadImage", image="tall.png"), "identity__portrait": ["tall", 0]}
    prompt = simple(**changes, extrapolate__paste_back=True, save_identity=SAVE)
    first = saved_file(server, server.run(prompt))
    with av.open(str(first)) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height) == (pixels.shape[1] // 2 * 2, 2 * pixels.shape[0] // 2 * 2)
        frame = next(video.decode(video=0)).to_ndarray(format="rgb24")
    top = slice(0, pixels.shape[0] // 3)
    assert np.abs(frame[top].astype(float) - tall[top]).mean() < 3  # outside the crop
    load = node("Hallo3LoadIdentity", file="hallo3_identities/anna_00001_.safetensors [output]")
    again = simple(loaded=load, extrapolate__identity=["loaded", 0], extrapolate__paste_back=True)
    del again["identity"]
    second = saved_file(server, server.run(again))
    with av.open(str(first)) as one, av.open(str(second)) as other:
        frames = zip(one.decode(video=0), other.decode(video=0), strict=True)
        assert all(np.array_equal(a.to_ndarray(), b.to_ndarray()) for a, b in frames)


PICTURE = torch.rand(3, 256, 512, generator=torch.Generator().manual_seed(4))
NAME = "mediapipe_face_fp32.safetensors"
POINTS = torch.tensor([[258.0, 134], [286, 134], [272, 146], [262, 160], [282, 160]])
"""Eyes, nose and mouth."""
RING = torch.tensor([[0, 1], [1, 2], [2, 0]], dtype=torch.int32)
TOPOLOGY = ["face_oval", "left_eye", "right_eye", "left_eyebrow", "right_eyebrow", "lips"]
TOPOLOGY += ["irises", "nose", "tesselation"]


def tensors() -> dict[str, Tensor]:
    """What the published file holds, by its names, with random numbers."""
    from comfy_extras.mediapipe.face_landmarker import FaceLandmarker

    torch.manual_seed(2)
    state = {f"topology.{name}": RING.clone() for name in TOPOLOGY}
    state |= {"canonical_vertices": torch.rand(478, 3), "procrustes_weights": torch.rand(4)}
    state["procrustes_indices"] = torch.arange(4)
    for variant in ("short", "full"):
        network = FaceLandmarker(detector_variant=variant)
        for name, tensor in network.state_dict().items():
            state[name.replace("detector.", f"detector_{variant}.", 1)] = tensor.clone()
    return state


@pytest.fixture
def folder(host: Host) -> Iterator[Path]:
    """ComfyUI's models/detection, empty before and after."""
    import folder_paths

    there = Path(folder_paths.get_folder_paths("detection")[0])
    there.mkdir(parents=True, exist_ok=True)
    assert host.base in there.parents
    yield there
    for path in there.iterdir():
        path.unlink()
    folder_paths.filename_list_cache.clear()


@pytest.fixture
def model(folder: Path) -> Path:
    """The port's model, there."""
    save_file(tensors(), folder / NAME)
    return folder / NAME


def found_at(host: Host, *edges: float) -> Any:
    box = host.module("hallo3.geometry").PixelBox(*edges)
    return host.module("hallo3.face.scrfd").DetectedFace(box, 0.9, POINTS)


def finder_of(host: Host, folder: Path | None = None) -> Any:
    return host.module("nodes.comfy.faces").find_landmarks(folder)


def answering(monkeypatch: pytest.MonkeyPatch, *, share: float = 0.125, presence: float = 3.0) -> None:
    """The port's networks know one upright face, in the ninth of 16 columns and rows of the square that is
    looked at, so large a share of it. The landmarks reach from edge to edge of its box."""
    from comfy_extras.mediapipe import face_landmarker as port

    def detect(_: Any, pictures: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = torch.zeros(len(pictures), 896, 16), torch.full((len(pictures), 896, 1), -9.0)
        boxes[..., 2:4] = 128 * share
        boxes[..., 4:8] = torch.tensor([-4.0, -2.0, 4.0, -2.0])  # the eyes, level
        scores[:, (8 * 16 + 8) * 2] = 5.0  # two anchors a cell
        return boxes, scores

    def draw(_: Any, crops: Tensor) -> tuple[Tensor, Tensor]:
        points = torch.full((len(crops), 478, 3), 96.0)
        points[:, 10], points[:, 152] = torch.tensor([32.0, 32, 0]), torch.tensor([160.0, 160, 0])
        return points, torch.full((len(crops),), presence)

    monkeypatch.setattr(port.BlazeFace, "forward", detect)
    monkeypatch.setattr(port.FaceMesh, "forward", draw)


@pytest.mark.usefixtures("model")
def test_landmarks_of_a_known_face_are_exact(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell 8 of 16 on a square of 512 px around a picture of 256 px: the middle is (272, 272 - 128)."""
    answering(monkeypatch)
    points = finder_of(host)(PICTURE, found_at(host, 240, 112, 304, 176))
    assert points.shape == (478, 2)
    assert points[[10, 152, 0]].flatten().tolist() == pytest.approx([240, 112, 304, 176, 272, 144], abs=1e-3)
    assert host.module("hallo3.face.landmarks").silhouette_box(points) == (240, 112, 304, 176)


@pytest.mark.usefixtures("model")
def test_a_small_face_is_found_on_a_crop_around_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part is 50 px per side, from (85, 85) on; the middle of its ninth cell is 26.5625 px from there."""
    answering(monkeypatch, share=0.4)
    found = found_at(host, 100, 100, 120, 120)
    points = finder_of(host)(PICTURE, found)
    assert points[[10, 152]].flatten().tolist() == pytest.approx([101.5625] * 2 + [121.5625] * 2, abs=1e-3)
    for edges, presence in (((100, 100, 120, 120), 3.0), ((0, 0, 64, 64), 3.0), ((240, 112, 304, 176), -0.1)):
        answering(monkeypatch, presence=presence)  # of 6 px, elsewhere: somebody else; or uncertain
        assert finder_of(host)(PICTURE, found_at(host, *edges)) is None


def test_random_weights_run_through_the_whole_port(host: Host, folder: Path, monkeypatch: Any) -> None:
    state = tensors()
    for bias in ("detector_short.cls_16.bias", "mesh.head_presence.bias"):
        state[bias].fill_(9)
    save_file(state, folder / "my_MediaPipe_Face.safetensors")
    module = host.module("nodes.comfy.faces")
    landmarks: list[Tensor] = []

    def keep(port: Any, levels: Tensor) -> list[Tensor]:
        landmarks.extend(faces := look(port, levels))
        return faces

    look = module._detect_landmarks
    monkeypatch.setattr(module, "_detect_landmarks", keep)
    finder_of(host)(PICTURE, found_at(host, 0, 0, 512, 256))
    assert len(landmarks) > 3
    assert all(points.shape == (478, 2) and points.isfinite().all() for points in landmarks)


STEM = "mesh.stem.weight"
UNFIT = "ComfyUI's MediaPipe port cannot"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({STEM: None}, [UNFIT, f"1 tensors are missing, the first is {STEM}"]),
        ({STEM: torch.zeros(1)}, [UNFIT, "size mismatch"]),
        ("another model", [UNFIT, "KeyError"]),
        (None, [f"no {NAME} in ComfyUI's models/detection", "Comfy-Org/mediapipe on huggingface.co"]),
    ],
)
def test_without_a_usable_model_the_box_is_used(host: Host, folder: Path, changes: Any, parts: Any) -> None:
    """The user is warned."""
    if changes is not None:
        state = {"weight": torch.zeros(3)} if changes == "another model" else tensors() | changes
        save_file({name: tensor for name, tensor in state.items() if tensor is not None}, folder / NAME)
    detect, embed = (lambda _: [found_at(host, 240, 112, 304, 176)]), (lambda *_: torch.ones(1, 512))
    create = host.module("hallo3.face.photo").PhotographAnalyzer
    analyzer = create(detect=detect, embed=embed, landmarks=finder_of(host))
    with collect_messages() as said:
        face = analyzer.analyze(PICTURE)
    assert face.mask[112:176, 240:304].all()
    [warning] = [message for message in said if "small" not in message]
    assert [part for part in parts if part not in warning] == []


def test_or_else_our_file_is_used(host: Host, folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    package = host.module("hallo3.face.mediapipe")
    ours = package.MediaPipeLandmarks(tmp_path / package.TASK_FILENAME)
    ours.path.write_bytes(b"not read yet")
    assert finder_of(host, tmp_path) == ours
    save_file(tensors(), folder / NAME)
    assert finder_of(host, tmp_path).model == folder / NAME
    monkeypatch.setitem(sys.modules, "comfy_extras.nodes_mediapipe", None)
    assert finder_of(host) is None
    assert finder_of(host, tmp_path) == ours


def test_the_analyzer_uses_the_port(host: Host, model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    faces = host.module("nodes.comfy.faces")
    monkeypatch.setattr(faces, "find_faces", lambda: tmp_path)
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        (tmp_path / name).write_bytes(b"not read yet")
    config = host.module("hallo3.config").FaceConfig
    assert faces.create_face_analyzer(config()).landmarks.model == model
    assert faces.create_face_analyzer(config(space="drawn-face")).space == "drawn-face"
