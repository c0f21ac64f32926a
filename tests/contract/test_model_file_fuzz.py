"""Model files that are changed along their structure are read, or refused with our error: nothing else,
within bounds. Changes begin with the files in ``tests/data/fuzz``, which ``python -m
contract.test_model_file_fuzz`` in ``tests`` writes."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from shutil import rmtree

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hallo3.checkpoints.component import find_components
from hallo3.checkpoints.load import check_fit, get_config, list_used
from hallo3.checkpoints.random_weights import write_random_set
from hallo3.checkpoints.source import open_source
from hallo3.checkpoints.verify import check_samples, verify_file
from hallo3.errors import Hallo3Error
from hallo3.face.arcface import Recognizer
from hallo3.face.mediapipe import read_task_file
from hallo3.face.scrfd import ANTELOPE
from hallo3.identity_file import read_identity, write_identity
from hallo3.onnx_model import open_network
from hallo3.text_encoder import make_tokenizer
from support import hostile_files
from support.fake_mediapipe import make_task_file
from support.file_mutations import mutate
from support.onnx_builder import recognizer
from support.own_process import measure_growth
from support.sentencepiece_model import sentencepiece_model

SEEDS = Path(__file__).parents[1] / "data" / "fuzz"
MAX_SECONDS, MAX_MB = 2, 100
QUIET = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


def read_weights(path: Path) -> None:
    with open_source(path) as source:
        for component in find_components(source).values():
            check_fit(component, get_config(component))
        for file in source.files:
            verify_file(file, used=list_used(source))
            check_samples(file, file.entries.keys())


def read_tokenizer(path: Path) -> None:
    tokenizer = make_tokenizer("t5", 384, path.parent)
    for prompt in (
        "a person talks",
        "\N{FULLWIDTH LATIN SMALL LETTER A} \N{LATIN SMALL LIGATURE FI} \0 日本",
    ):
        tokenizer(prompt, 200)


READ: dict[str, Callable[[Path], object]] = {
    "identity.safetensors": read_identity,
    "weights.safetensors": read_weights,
    "weights.pt": read_weights,
    "weights.gguf": read_weights,
    "tokenizer.json": read_tokenizer,
    "spiece.model": read_tokenizer,
    "network.onnx": lambda path: open_network(path, Recognizer.expected, ANTELOPE, unverified=True),
    "face_landmarker.task": read_task_file,
}


def check(folder: Path, name: str, content: bytes) -> str:
    """Read a file: "read" or the error's headline."""
    path = folder / name
    path.write_bytes(content)
    told = ""
    try:
        READ[name](path)
    except Hallo3Error as error:
        told = error.headline if error.found and str(error).count("\n") <= 3 else "not told"
    assert told != "not told"
    return told or "read"


@pytest.mark.any_message
@pytest.mark.parametrize("name", READ)
@settings(QUIET, max_examples=25, derandomize=True)
@given(random=st.randoms(use_true_random=True))
def test_changed_files_are_read_or_refused(tmp_path: Path, name: str, random: Random) -> None:
    check(tmp_path, name, mutate(Path(name).suffix, (SEEDS / name).read_bytes(), random))


@pytest.mark.soak
@pytest.mark.any_message
@pytest.mark.parametrize("name", READ)
def test_many_changed_files_are_read_or_refused_within_bounds(tmp_path: Path, name: str) -> None:
    outcomes, raw = Counter[str](), (SEEDS / name).read_bytes()
    assert check(tmp_path, name, raw) == "read"

    @settings(QUIET, max_examples=5000)
    @given(random=st.randoms(use_true_random=True))
    def many(random: Random) -> None:
        content, started = mutate(Path(name).suffix, raw, random), time.process_time()
        with measure_growth() as growth:
            outcomes[check(tmp_path, name, content)] += 1
        assert time.process_time() - started < MAX_SECONDS
        assert growth[0] < MAX_MB

    many()
    print(f"\n{name}: {outcomes.total():,} files, {outcomes['read']:,} read", dict(outcomes.most_common(6)))


def write_seeds() -> None:
    """Small whole files of each kind."""
    from test_identity_file import SMALL
    from test_text_encoder import fast

    folder = SEEDS.parent / "unfinished"
    write_random_set(folder, 7, "nano")
    (folder / "text_encoder.safetensors").replace(SEEDS / "weights.safetensors")
    rmtree(folder)
    write_identity(SMALL, torch.ones(8), SEEDS / "identity.safetensors")
    writer = gguf.GGUFWriter(SEEDS / "weights.gguf", "t5encoder")
    values = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)
    writer.add_array("tokens", ["a", "b"])
    writer.add_tensor("enc.output_norm.weight", values[0])
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("enc.blk.0.attn_q.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()
    contents = {
        "weights.pt": hostile_files.checkpoint(),
        "tokenizer.json": fast(),
        "spiece.model": sentencepiece_model(300),
        "network.onnx": recognizer(),
        "face_landmarker.task": make_task_file(),
    }
    for name, content in contents.items():
        (SEEDS / name).write_bytes(content)


if __name__ == "__main__":
    write_seeds()
