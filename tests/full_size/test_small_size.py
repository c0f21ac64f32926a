"""The set of ``generate``, small: the release's names and shapes, and every command takes it."""

import json
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file

from full_size.generate import WRITERS, Sizes, made_up_tensor, networks, text_encoder, vae, write_inputs
from full_size.readme import commands
from hallo3 import doctor
from hallo3.checkpoints.load import read_component
from hallo3.checkpoints.locate import RELEASE, ModelFolder, output_path
from hallo3.cli.main import main
from hallo3.config import COMPONENTS
from hallo3.quantization import PRECISIONS

pytestmark = pytest.mark.any_message  # of face networks that are made up
MANIFEST = Path(__file__).parents[1] / "data" / "checkpoint_manifest.json"
CHECKPOINT = Path("weights") / RELEASE["transformer"].files[1]
SIZES = Sizes.scaled(0.05, (13, 64, 112))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which a user has typed the README's first two lines."""
    folder = tmp_path_factory.mktemp("home")
    for write in WRITERS.values():
        write(folder / "weights", SIZES)
    for name in ("diffusion_models", "vae"):
        (folder / "ComfyUI/models" / name).mkdir(parents=True)
    write_inputs(folder, 0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["convert", "weights", "ComfyUI/models"]) == 0
        yield folder


def test_names_and_shapes_are_the_released_ones() -> None:
    assert Sizes.scaled(1) == Sizes()
    manifest = json.loads(MANIFEST.read_text())
    del manifest["text_encoder"]["encoder.embed_tokens.weight"]  # the same table as shared.weight
    found = {"module": networks(Sizes()), "vae": vae(Sizes()), "text_encoder": text_encoder(Sizes())}
    for part, state in found.items():
        assert {name: list(tensor.shape) for name, tensor in state.items()} == manifest[part]


def test_every_line_of_the_readme_works(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [words[0] for words in commands()]
    assert names[:2] == ["download", "convert"]
    for words in commands()[1:]:
        words = [str(home / CHECKPOINT) if word == "FILE" else word for word in words]
        assert main(words + ["--faces-unverified"] * (words[0] == "animate")) == 0
        out = capsys.readouterr().out
        assert words[0] != "doctor" or "The model is complete." in out
        assert words[0] != "inspect" or out.count("complete\n") == 2
    assert main(["doctor", "weights"]) == 0


def test_a_size_is_that_of_the_part(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the file, the folder, or a tensor of theirs for each of ours in it."""
    monkeypatch.setattr(doctor, "describe_limits", lambda *_: ())  # a plan for each takes a second
    assert main(["inspect", "--json", str(home / CHECKPOINT)]) == 0
    parts = {part["part"]: part for part in json.loads(capsys.readouterr().out)[0]["parts"]}
    assert main(["doctor", "--json", "weights"]) == 0
    for found in json.loads(capsys.readouterr().out)["parts"]:
        if (part := parts.get(found["part"])) is not None:
            assert part["numbers"] == {"BF16": 2 * part["parameters"]}
            assert found["size"] == 2 * part["parameters"]


def test_converting_brings_what_a_photograph_and_a_prompt_need(home: Path) -> None:
    """Files that stay when the download is deleted."""
    for folder, names in (("face_analysis/models", 2), ("text_encoders/hallo3_tokenizer", 4)):
        files = list((home / "ComfyUI/models" / folder).iterdir())
        assert len(files) == names
        assert all(file.is_file() and not file.is_symlink() for file in files)


def test_torch_reads_the_checkpoint_as_it_reads_its_own(home: Path) -> None:
    """DeepSpeed's wrapping too; what torch refuses without trust, it refuses in the released file as well."""
    path = home / CHECKPOINT
    whole = torch.load(path, mmap=True, weights_only=False)
    assert {"module", "param_shapes", "args", "torch_rng_state"} <= whole.keys()
    assert whole["module"].keys() == json.loads(MANIFEST.read_text())["module"].keys()
    for name, tensor in networks(SIZES).items():
        assert torch.equal(whole["module"][name], made_up_tensor(name, tensor))
        assert bool(whole["module"][name].isfinite().all())
    assert path.stat().st_size < 1e8


def test_converted_files_are_the_download(home: Path) -> None:
    for part in COMPONENTS:
        precision = PRECISIONS["fp32" if part == "speech_encoder" else "bf16"]
        wanted = read_component(ModelFolder(home / "weights").find(part), part, precision)
        found = load_file(output_path(home / "ComfyUI/models", part, precision.name))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_video_comes_out(home: Path) -> None:
    words = ["animate", "--model", "ComfyUI/models", "--portrait", "me.png", "--speech", "me.wav"]
    words += ["--faces-unverified", "--steps", "2", "--device", "cpu", "--dtype", "bf16"]
    words += ["--offload", "disk", "-o", "me.mp4", "--prompt", "a person talks"]
    assert main([*words, "--plan"]) == 0
    assert not Path("me.mp4").exists()
    assert main(words) == 0
    with av.open(str(home / "me.mp4")) as container:
        assert len(list(container.decode(video=0))) == 5
