"""A file is verified once: checksums, numbers, its hash."""

import os
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hallo3.checkpoints import verify
from hallo3.checkpoints.load import check_component_samples, list_used
from hallo3.checkpoints.source import open_source
from hallo3.checkpoints.verify import FileVerifier, VerifiedParts, verify_file
from hallo3.errors import CheckpointError
from hallo3.progress import no_display
from hallo3.storage import files, hashing
from support import original_checkpoints as checkpoints
from support.fault_injection import flip_bit

CONFIG = checkpoints.NANO


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_named(tmp_path: Path, value: float) -> None:
    state = checkpoints.module(CONFIG)
    key = "model.diffusion_model.transformer.layers.1.mlp.dense_h_to_4h.weight"
    state[key][3, 3] = value
    torch.save({"module": state}, tmp_path / "a.pt")
    save_file(dict(state), tmp_path / "b.safetensors")
    for path in tmp_path.iterdir():
        with open_source(path) as source, pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
            verify_file(source.files[0])


QKV, WHOLE = "transformer_blocks.0.attn1.to_q.weight", "transformer.safetensors"


def constant(kind: str, state: dict[str, torch.Tensor]) -> torch.Tensor:
    numbers = torch.zeros_like(state[QKV]) if kind != "one number" else torch.full_like(state[QKV], -0.25)
    if kind == "all but one":
        numbers[0, 0] = 1.0
    return numbers.to(
        torch.float8_e4m3fn if kind == "fp8" else torch.int8 if kind == "int8" else numbers.dtype
    )


@pytest.mark.parametrize("kind", ["zeros", "one number", "fp8", "int8", "all but one", "strided"])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_matrix_of_equal_numbers_is_named(
    tmp_path: Path, nano_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, resumed: bool
) -> None:
    """Where a network uses it; in the pass over a file, in one that continues, and in samples."""
    state = load_file(nano_folder / WHOLE)
    with open_source(nano_folder / WHOLE) as source:
        own = {"hallo3": source.metadata["hallo3"]}
        check_component_samples(source)
    state[QKV] = constant(kind, state)
    if kind in ("fp8", "int8"):
        state[f"{QKV}_scale"] = torch.ones(())
    path = tmp_path / WHOLE
    if kind == "strided":
        path = tmp_path / "transformer.pt"
        path.with_suffix(".json").write_text(own["hallo3"])
        torch.save({**state, QKV: torch.zeros(64, 64)[: len(state[QKV]), : state[QKV].shape[1]]}, path)
    else:
        save_file(state | {"loss.weight": torch.zeros(32, 32)}, path, metadata=own)
    monkeypatch.setattr(verify, "BLOCK_BYTES", 480)  # the last one is smaller
    told = pytest.raises(CheckpointError, match=rf"only (zeros|equal numbers) in {QKV}".replace(".", r"\."))
    with open_source(path) as source:
        entry, file = source.files[0].entries[QKV], source.files[0]
        done = None
        if resumed:
            for module in (hashing, verify):
                monkeypatch.setattr(module, "PART_BYTES", entry.offset + 600)
            done = VerifiedParts([sha256(file.bytes(0, entry.offset + 600)).hexdigest()], 0)
        with nullcontext() if kind == "all but one" else told:
            verify_file(file, used=list_used(source), done=None if file.members else done)
        with nullcontext() if kind == "all but one" else told:
            check_component_samples(source)
        assert verify_file(file), "of a file that nothing uses"


def test_a_flipped_byte_is_found_by_the_archives_checksum(tmp_path: Path) -> None:
    path = tmp_path / "mp_rank_00_model_states.pt"
    checkpoints.write_checkpoint(path, CONFIG)
    with open_source(path) as source:
        assert len(verify_file(source.files[0])) == 64
        flip_bit(path, next(iter(source.files[0].entries.values())).offset)
    with open_source(path) as source, pytest.raises(CheckpointError, match="checksum"):
        verify_file(source.files[0])


def test_a_file_is_verified_once_until_it_changes(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.safetensors", tmp_path / "deep" / "examined.json"
    save_file({"a": torch.ones(3)}, path)
    shown: list[str] = []

    def verified() -> bool:
        shown.clear()
        with open_source(path) as source:
            FileVerifier(cache, lambda what, _: shown.append(what) or no_display()).get_hash(source.files[0])
        return shown == ["checking a.safetensors"]

    assert [verified(), verified()] == [True, False]
    os.utime(path, ns=(1, 1))
    assert [verified(), verified()] == [True, False]
    cache.write_text("{")
    assert [verified(), verified()] == [True, False]


@pytest.mark.parametrize("times", [1, 99])
def test_a_file_that_is_touched_meanwhile_is_examined_again(tmp_path: Path, times: int) -> None:
    path, passes = tmp_path / "a.safetensors", list[int]()
    save_file({"a": torch.ones(3)}, path)

    def touch(amount: int) -> None:
        if amount and len(passes) < times:
            passes.append(amount)
            path.chmod(0o600 + 0o44 * (len(passes) % 2))

    with open_source(path) as source:
        verifier = FileVerifier(tmp_path / "examined.json", lambda *_: nullcontext(touch))
        if times == 1:
            assert verifier.get_hash(source.files[0]) == sha256(path.read_bytes()).hexdigest()
            assert source.is_current()
            return
        with pytest.raises(CheckpointError, match="changed while it was being read"):
            verifier.get_hash(source.files[0])
    assert sum(passes) == verify.MAX_PASSES * path.stat().st_size
    assert not (tmp_path / "examined.json").exists()


@pytest.mark.parametrize("flipped", [False, True])
def test_a_stopped_pass_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flipped: bool) -> None:
    part = 12_345  # ends inside elements and members
    for module in (hashing, verify):
        monkeypatch.setattr(module, "PART_BYTES", part)
    monkeypatch.setattr(verify, "BLOCK_BYTES", 8192)
    path, cache = tmp_path / "mp_rank_00_model_states.pt", tmp_path / "examined.json"
    checkpoints.write_checkpoint(path, CONFIG)
    if flipped:
        flip_bit(path, path.stat().st_size // 2)
    shown: list[int] = []

    def count(amount: int) -> None:
        shown.append(amount)
        if amount and len(shown) > 3 and sum(shown) > 3 * part and not cache.with_name("again").exists():
            cache.with_name("again").touch()
            raise KeyboardInterrupt

    with open_source(path) as source:
        file = source.files[0]
        with pytest.raises(KeyboardInterrupt):
            FileVerifier(cache, lambda *_: nullcontext(count)).get_hash(file)
        shown.clear()
        again = FileVerifier(cache, lambda *_: nullcontext(count))
        if flipped:
            with pytest.raises(CheckpointError, match="checksum"):
                again.get_hash(file)
            return
        digest = again.get_hash(file)
        assert (shown[0], sum(shown)) == (3 * part, file.fingerprint.size)
        raw = path.read_bytes()
        parts = [sha256(raw[at : at + part]).hexdigest() for at in range(0, len(raw), part)]
        assert digest == verify_file(file) == sha256("".join(parts).encode()).hexdigest()


def test_shared_and_strided_tensors_are_looked_through(tmp_path: Path) -> None:
    x, grid = torch.ones(10), torch.ones(4, 4)
    x[9] = grid[:, 3] = float("nan")
    wrong = pytest.raises(CheckpointError, match="NaN or infinity in b")
    good = [{"a": x[:6], "b": x[2:8]}, {"a": grid[:, :2]}]
    for state, outcome in (({"a": x[:6], "b": x[4:]}, wrong), *((state, nullcontext()) for state in good)):
        torch.save(state, tmp_path / "a.pt")
        with open_source(tmp_path / "a.pt") as source, outcome:
            verify_file(source.files[0])


def test_a_verifier_looks_at_used_matrices_and_takes_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = tmp_path / "a.safetensors", tmp_path / "home" / ".cache" / "hallo3" / "examined.json"
    monkeypatch.setattr(files, "home", lambda: tmp_path / "home")
    assert verify.examined_path() == cache
    save_file({"a": torch.zeros(8, 8)}, path)
    with open_source(path) as source:
        file = source.files[0]
        with pytest.raises(CheckpointError, match="only zeros in a, all 64"):
            FileVerifier(cache).get_hash(file, lambda: ["a"])
        FileVerifier(cache).remember(path, "f" * 64)
        assert FileVerifier(cache).get_hash(file, lambda: pytest.fail("known")) == "f" * 64
