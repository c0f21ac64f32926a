"""Times at their smallest: what is said, what is equal, and what no CPU can claim."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import networks, streamed, times
from benchmarks.__main__ import main
from benchmarks.networks import Inputs, Networks, Place, original_decode, place_on
from benchmarks.rates import fastest_exact
from benchmarks.streamed import measured, plan_under, reckoned, under_ceilings
from benchmarks.timing import Clock
from hallo3.config import HALLO3, NANO, SPEECH_ENCODERS, TEXT_ENCODERS
from hallo3.errors import InputError
from hallo3.model.guidance import GUIDANCE_PASSES
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.select import KernelChoice, choose_kernels
from hallo3.model.layers import sdpa
from hallo3.offload.estimate import DEVICE, RAM, OffloadConfig, measure_sizes
from hallo3.quantization.precision import PRECISIONS

CPU = torch.device("cpu")
ONCE = Clock(device=CPU, count=1, warm=0)
SMALL = replace(NANO, name="smallest", trunk=replace(NANO.trunk, layers=3))


@pytest.fixture
def place() -> Place:
    return place_on(CPU, config=SMALL)


def test_everything_is_measured_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(networks, "SMALL", SMALL)
    path = tmp_path / "t.json"
    words = ["times", "--device", "cpu", "--count", "1", "--layers", "2"]
    assert main([*words, "--json", str(path), "--chart", str(tmp_path / "t.png")]) == 0
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["machine"]["device"].startswith("CPU")
    assert found["machine"]["torch"] == torch.__version__
    assert found["command"].startswith("python -m benchmarks times --device cpu --count 1")
    assert found["sizes"]["layers"] == "2 of 3"
    assert found["sizes"]["full_size"] is False
    assert len(found["step"]) == 8
    assert len(found["decode"]) == 4
    assert len(found["segment"]) == 3
    for part in ("step", "decode", "segment", "attention", "rates"):
        assert all(row["least"] <= row["seconds"] <= row["most"] for row in found[part].values()), part
        assert not any("peak_gb" in row for row in found[part].values()), "memory of a CPU is not told"
    share, ratio = (found["step"]["original, torch's choice"][name] for name in ("share", "tflops"))
    assert share == pytest.approx(ratio / found["rates"]["matrix product"]["tflops"])
    assert {goal["verdict"] for goal in found["goals"].values()} == {"not measured"}
    assert {goal["figure"] for goal in found["goals"].values()} == {None}
    assert (tmp_path / "t.png").exists()


def test_only_what_is_asked_for(place: Place) -> None:
    found = times.Bench(place=place, clock=ONCE, steps=2, parts=("decode",)).run()
    assert found.keys() == {"sizes", "decode"}
    assert "decode" in times.text({**found, "machine": {"device": "x"}, "goals": {"G": {"verdict": "none"}}})


def test_a_ceiling_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["times", "--device", "cpu", "--ceiling", "8"])
    assert "needs a GPU" in capsys.readouterr().err


@torch.inference_mode()
def test_the_original_s_decode_makes_the_same_frames(place: Place) -> None:
    """Otherwise its time would be of something else; nothing of it stays in the decoder."""
    codec, latents = Networks.vae(place), Inputs(place, 2).latents
    before = torch.cat(list(codec.decode(latents)), dim=2)
    found = original_decode(codec, latents)
    torch.testing.assert_close(found, before, rtol=0, atol=1e-5)
    assert "forward" not in vars(codec.network.decoder.conv_in)
    assert float(found.std()) > 1e-4


@torch.inference_mode()
def test_the_original_s_step_is_ours(place: Place) -> None:
    inputs = Inputs(place, 2)
    built = Networks(inputs)
    dit = built.dit(PLAIN, sdpa)
    theirs = built.baseline(PLAIN, sdpa)(inputs.latents, 0)
    ours = GUIDANCE_PASSES["batched"](dit, *inputs.prepared(dit))(inputs.latents, 0)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert bool(ours.isfinite().all())
    assert float(ours.std()) > 1e-4


def test_layers_are_as_many_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released model's blocks take 0.4 GB each; 42 fit in 80 GB, and some in 24."""
    for free, least, most in ((80e9, 42, 42), (24e9, 20, 35), (8e9, 1, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (int(free), int(free)))
        place = place_on(torch.device("cuda"))
        assert least <= place.config.trunk.layers <= most
        assert place.full_size is (place.config == HALLO3)
        assert place.said()["layers"] == f"{place.config.trunk.layers} of 42"


@pytest.mark.parametrize("staying", [3, 1, 0])
def test_what_streams_is_counted(place: Place, staying: int) -> None:
    passing = 3 - staying
    arranged = OffloadConfig(home=RAM, resident=staying, passes="layer-major")
    row = measured(place, replace(ONCE, count=3, warm=1), sdpa, arranged)
    sizes = measure_sizes(
        place.config,
        PRECISIONS["fp32"],
        TEXT_ENCODERS["nano"],
        SPEECH_ENCODERS["nano"],
    )
    a_step = passing * sizes.transformer.blocks.largest / 1e9
    assert row["streamed_gb"] == pytest.approx(a_step, rel=0.3, abs=1e-12)
    assert row["streamed_share"] == pytest.approx(passing / 3, rel=0.3)  # the reader is an item ahead
    assert row["decode"] > 0


def test_what_stays_is_sent_once(place: Place) -> None:
    row = measured(place, ONCE, sdpa, OffloadConfig(home=DEVICE, resident=3, passes="batched"))
    assert row["streamed_gb"] == 0
    assert row["seconds"] > 0


def test_a_step_is_reckoned_for_other_links() -> None:
    row = reckoned({"seconds": 2.2, "streamed_gb": 18.0}, 2.0)
    assert row["slowdown"] == pytest.approx(1.1)
    assert row["reckoned step by link"] == {"6 GB/s": 3.0, "12 GB/s": 2.0, "25 GB/s": 2.0}
    assert reckoned({"failed": "out of memory"}, 2.0) == {} == reckoned({"seconds": 1.0}, None)


def test_ceilings_that_cannot_be_kept_are_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise InputError("It does not fit.", expected="4.1 GB or more")

    monkeypatch.setattr(streamed, "plan_under", refuse)
    found = under_ceilings(place, ONCE, sdpa, (0.1,), None)
    assert found == {"0.1 GB": {"failed": "It does not fit. 4.1 GB or more"}}


def test_a_plan_is_the_run_s_own() -> None:
    whole = Place(device=CPU, dtype=torch.bfloat16, config=HALLO3, whole_layers=42)
    assert plan_under(whole, 80).offload.home == DEVICE
    assert plan_under(whole, 8).stage("sample").streamed > 5e9


def test_kernels_are_tried_in_the_type_that_is_measured(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the plan and of the network: fused kernels may run in one type and not in another."""
    tried: list[torch.dtype] = []

    def named(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> KernelChoice:
        tried.append(dtype)
        return choose_kernels(name, device, dtype)

    monkeypatch.setattr(streamed, "choose_kernels", named)
    measured(place, ONCE, sdpa, plan_under(place, 80).offload)
    assert tried == [torch.float32] * 2


def test_the_fastest_exact_attention_is_taken() -> None:
    rows = {
        "flash": {"exact": True, "seconds": 2.0},
        "sage": {"exact": False, "seconds": 1.0},
        "math": {"exact": True, "failed": "out of memory"},
    }
    assert fastest_exact(rows) == "flash"
    assert fastest_exact({}) == "auto"


def test_what_runs_out_of_memory_is_a_row() -> None:
    def greedy() -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate a lot")

    assert ONCE.measure(greedy, 1e12) == {"failed": "out of memory"}
    with pytest.raises(RuntimeError, match="a mistake"):
        ONCE.measure(lambda: (_ for _ in ()).throw(RuntimeError("a mistake")))
