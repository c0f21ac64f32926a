"""Times at their smallest: what is measured, what is equal, and what no CPU can claim."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import goals, networks, rates, report, streamed, times
from benchmarks.__main__ import main
from benchmarks.goals import GOALS, format_goals, judge, read_results
from benchmarks.networks import (
    Inputs,
    Place,
    as_diffusers,
    build_random_vae,
    choose_place,
    decode_as_original,
    fill,
)
from benchmarks.rates import fastest
from benchmarks.streamed import Clock, estimate_links, measure_limit, measure_offload, plan_limit
from benchmarks.times import Bench, attempt, skip_by_force
from hallo3.config import HALLO3, NANO, SPEECH_ENCODERS, TEXT_ENCODERS
from hallo3.errors import InputError
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.select import KernelChoice, choose_kernels
from hallo3.model.layers import sdpa
from hallo3.model.transformer import Hallo3Transformer
from hallo3.offload.estimate import DEVICE, RAM, OffloadConfig
from hallo3.offload.sizes import measure_sizes
from hallo3.quantization import PRECISIONS
from hallo3.sampling.schedule import make_schedule
from hallo3.settings import Settings

CPU = torch.device("cpu")
ONCE = Clock(device=CPU, count=1, warm=0)
SMALL = replace(NANO, name="smallest", trunk=replace(NANO.trunk, layers=3))


@pytest.fixture
def place() -> Place:
    return choose_place(CPU, config=SMALL)


def test_everything_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(networks, "SMALL", SMALL)
    files = ["--json", str(tmp_path / "t.json"), "--chart", str(tmp_path / "t.png")]
    assert main(["times", "--device", "cpu", "--count", "1", "--layers", "2", *files]) == 0
    result: dict[str, Any] = json.loads((tmp_path / "t.json").read_text())
    assert result["machine"]["device"].startswith("CPU")
    assert result["command"].startswith("python -m benchmarks times --device cpu --count 1")
    assert result["sizes"].items() >= {"layers": "2 of 3", "full_size": False}.items()
    assert [len(result[part]) for part in ("step", "decode", "segment")] == [8, 4, 3]
    for part in ("step", "decode", "segment", "attention", "rates"):
        timed = [row for row in result[part].values() if "least" in row]
        assert all(row["least"] <= row["seconds"] <= row["most"] for row in timed), part
        assert len(timed) >= len(result[part]) - 1 > 0, "all but the sustained products"
        assert not any("peak_gb" in row for row in result[part].values()), "no memory of a CPU"
    share, rate = (result["step"]["original, torch's choice"][name] for name in ("share", "tflops"))
    assert share == pytest.approx(rate / result["rates"]["matrix product"]["tflops"])
    assert {goal["verdict"] for goal in result["goals"].values()} == {"not measured"}
    assert (tmp_path / "t.png").exists()


def run(place: Place, **options: Any) -> dict[str, Any]:
    places = dict.fromkeys(("place", "whole", "fast"), place)
    bench = Bench(**places | {"clock": ONCE, "steps": 2, "sustained": 0.01} | options)
    return [*bench.run()][-1]


def test_only_what_is_asked_for(place: Place) -> None:
    assert run(place, parts=("decode",)).keys() == {"sizes", "decode"}
    with pytest.raises(SystemExit, match="needs a GPU"):
        main(["times", "--device", "cpu", "--ceiling", "8"])


def test_what_is_measured_is_written_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A row that fails is reported and stops no other; a run that is stopped has written all rows before."""
    monkeypatch.setattr(networks, "SMALL", SMALL)

    def stop(*_: Any) -> None:
        rows = read()["attention"]
        assert "failed" in rows["math"]
        assert rows["auto"]["seconds"] > 0
        raise KeyboardInterrupt

    def fail(*_: Any) -> None:
        raise RuntimeError("cannot read /home/me/model\nmore")

    def read() -> dict[str, Any]:
        return json.loads((tmp_path / "t.json").read_text())

    monkeypatch.setitem(rates.BACKENDS, "math", replace(rates.BACKENDS["math"], attend=fail))
    monkeypatch.setattr(rates, "list_runnable", lambda *_: ("math", "auto"))
    monkeypatch.setattr(times, "decode_as_original", stop)
    words = ["--only", "attention", "decode", "--device", "cpu", "--count", "1"]
    with pytest.raises(KeyboardInterrupt):
        main(["times", "--json", str(tmp_path / "t.json"), *words])
    assert read()["attention"]["math"]["failed"] == "RuntimeError: cannot read FILE"
    assert read()["goals"].keys() == {goal.name for goal in GOALS}
    with pytest.raises(KeyboardInterrupt):
        attempt(lambda: (_ for _ in ()).throw(KeyboardInterrupt))


def test_what_does_not_fit_the_seconds_is_left_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an estimate for each row, which rows before it in its part correct."""
    notes: list[str] = []
    now = [0.0]

    def take(*_: Any) -> dict[str, float]:
        now[0] += 30.0
        return {"seconds": 30.0}

    monkeypatch.setattr(times.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Clock, "measure", take)
    clock = Clock(device=CPU, count=1, warm=0, until=100.0)
    rows = run(place, clock=clock, parts=("attention", "decode"), note=notes.append)
    assert len(rows["attention"]) == 3
    assert rows["decode"]["original"] == {"seconds": 30.0}
    assert rows["decode"]["ours"]["left_out"].startswith("takes about ")
    assert any(note.startswith("attention, math: about 30 s") for note in notes)


def test_a_clock_stops_early_but_measures_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(streamed.time, name, lambda: now[0])

    def work() -> None:
        now[0] += 10.0

    for until, runs in ((1e9, 7), (65.0, 6), (45.0, 4), (5.0, 2)):
        now[0] = 0.0
        row = Clock(device=CPU, until=until).measure(work)
        assert (row["seconds"], round(now[0] / 10)) == (10.0, runs)
        assert row["count"] == max(1, runs - 2)


@torch.inference_mode()
def test_the_original_s_decode_makes_the_same_frames(place: Place) -> None:
    """Otherwise its time would be of something else."""
    vae, latents = build_random_vae(place), Inputs(place, 2).latents
    original = as_diffusers(vae, place.config.vae)
    expected = torch.cat(list(vae.decode(latents)), dim=2)
    torch.testing.assert_close(decode_as_original(original, latents), expected, rtol=0, atol=1e-5)
    assert "forward" not in vars(original.decoder.conv_in)
    assert float(expected.std()) > 1e-4


def test_as_many_layers_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released model's blocks take 0.4 GB each."""
    for free, least, most in ((80e9, 42, 42), (24e9, 20, 35), (8e9, 1, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (int(free), int(free)))
        place = choose_place(torch.device("cuda"))
        assert least <= place.config.trunk.layers <= most
        assert place.full_size is (place.config == HALLO3)


@pytest.mark.parametrize(("home", "resident"), [(RAM, 3), (RAM, 1), (RAM, 0), (DEVICE, 3)])
def test_streamed_bytes_are_counted(place: Place, home: str, resident: int) -> None:
    offload = OffloadConfig(home=home, resident=resident, passes="layer-major")
    row = measure_offload(place, replace(ONCE, count=3, warm=1), sdpa, offload)
    sizes = measure_sizes(place.config, PRECISIONS["fp32"], TEXT_ENCODERS["nano"], SPEECH_ENCODERS["nano"])
    block = sizes.transformer.blocks.largest / 1e9
    assert row["streamed_gb"] == pytest.approx((3 - resident) * block, rel=0.3, abs=1e-12)
    assert row["streamed_share"] == pytest.approx((3 - resident) / 3, rel=0.3)  # one prefetch ahead
    assert row["decode"] > 0


def test_other_links_are_estimated() -> None:
    row = estimate_links({"seconds": 2.2, "streamed_gb": 18.0}, 2.0)
    assert row["slowdown"] == pytest.approx(1.1)
    assert row["reckoned step by link"] == {"6 GB/s": 3.0, "12 GB/s": 2.0, "25 GB/s": 2.0}
    assert estimate_links({"failed": "out of memory"}, 2.0) == {} == estimate_links({"seconds": 1.0}, None)


def test_a_limit_that_is_too_small_is_a_row(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise InputError("It does not fit.", expected="4.1 GB or more")

    monkeypatch.setattr(streamed, "plan_limit", refuse)
    assert measure_limit(place, ONCE, sdpa, 0.1, None) == {"failed": "It does not fit. 4.1 GB or more"}


def test_a_plan_is_the_run_s_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels are tried in the type that is measured: fused ones may run in one and not in another."""
    whole = Place(device=CPU, dtype=torch.bfloat16, config=HALLO3, whole_layers=42)
    assert plan_limit(whole, 80).offload.home == DEVICE
    assert plan_limit(whole, 8).stage("sample").streamed > 5e9
    tried: list[torch.dtype] = []

    def choose(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> KernelChoice:
        tried.append(dtype)
        return choose_kernels(name, device, dtype)

    monkeypatch.setattr(streamed, "choose_kernels", choose)
    measure_offload(place, ONCE, sdpa, plan_limit(place, 80).offload)
    assert tried == [torch.float32] * 2


def test_the_fastest_exact_attention_is_used() -> None:
    rows = {"flash": {"exact": True, "seconds": 2.0}, "sage": {"exact": False, "seconds": 1.0}}
    rows |= {"math": {"exact": True, "failed": "out of memory"}, "cudnn": {"left_out": "no time"}}
    assert (fastest(rows), fastest(rows, exact=False), fastest({})) == ("flash", "sage", "auto")


def test_out_of_memory_is_a_row() -> None:
    def fail() -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate a lot")

    assert ONCE.measure(fail, 1e12) == {"failed": "out of memory"}
    with pytest.raises(RuntimeError, match="a mistake"):
        ONCE.measure(lambda: (_ for _ in ()).throw(RuntimeError("a mistake")))


@pytest.mark.parametrize(("share", "reused"), [(0.4, 12), (0.2, 6), (0.9, 18), (0.0, None)])
def test_the_fast_preset_skips_steps_by_force(share: float, reused: int | None) -> None:
    """Of 30 steps, never one of those that the cache's rules compute; at most 3 of 4 others."""
    settings = Settings(steps=30, guidance_scale=3.5, sampler="ddim", guidance_interval=(0.3, 0.9))
    latents = torch.ones(1, 1, 1, 1, 1)
    computed: list[int] = []

    def denoise(noisy: torch.Tensor, step: Any) -> torch.Tensor:
        computed.append(step.index)
        return noisy * (step.index + 1)

    cache = skip_by_force(settings, denoise, share)
    for step in make_schedule(30).steps if cache else ():
        cache(latents, step)
    assert (cache and cache.report.reused) == reused
    assert not cache or {0, 1, 2, 9, 27, 29} <= {*computed}


def test_fp8_weights_are_scaled_matrices() -> None:
    """As a run's: the same layers, the largest number of a matrix at 448."""
    place = choose_place(CPU, config=SMALL, dtype="fp8")
    assert (place.precision.name, place.dtype) == ("fp8", torch.bfloat16)
    state = fill(Hallo3Transformer(SMALL, place.layers(PLAIN, sdpa)), place).state_dict()
    eight = [name for name, each in state.items() if each.dtype == torch.float8_e4m3fn]
    assert len(eight) == 3 * (3 * 4 + 2), "three attentions of four matrices and an MLP of two, in each block"
    for name in eight:
        assert float(state[name].float().abs().max()) == 448
        assert 0 < float(state[name.replace("weight", "weight_scale")]) < 1e-3


def test_the_table_of_goals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The best figure of each card; "open" where none was measured. The one in the documents is current."""
    assert format_goals(read_results()) in (report.ROOT / "docs/measurements/README.md").read_text("utf-8")
    monkeypatch.setattr(goals, "RESULTS_DIR", tmp_path)
    for name, device, seconds in (("a", "NVIDIA H100 PCIe", 4.0), ("b", "NVIDIA H100", 3.0), ("c", "CPU", 1)):
        machine = {"device": device} | ({"cuda": "12.8"} if name < "c" else {})
        part = {"decode": {"ours": {"seconds": seconds}}, "goals": {}, "sizes": {"full_size": True}}
        (tmp_path / f"{name}.json").write_text(json.dumps({"machine": machine, **part}))
    (line,) = (row for row in format_goals(read_results()).splitlines() if row.startswith("| G7"))
    assert line == "| G7 | decode of a segment, seconds | 5 | 2.5 | 3 | open | open |"


def test_goals_are_judged_by_a_full_size_run_on_their_gpu() -> None:
    """A step takes 2 s by the original with the same attention and 2.5 s as it ships, ours 1.5 s."""
    result: dict[str, Any] = {
        "machine": {"device": "NVIDIA H200", "cuda": "12.8"},
        "sizes": {"full_size": True},
        "step": {
            "original, torch's choice": {"seconds": 2.5},
            "original, same attention": {"seconds": 2.0},
            "ours, fused, batched": {"seconds": 1.5, "share": 0.6},
            "ours, fused, sequential": {"failed": "out of memory"},
        },
        "decode": {"original": {"seconds": 10.0}, "ours": {"seconds": 3.0}},
        "fast": {"steps-30": {"seconds": 27.0}, "steps-20": {"failed": "out of memory"}},
        "ceilings": {
            "4 GB": {"failed": "it does not fit"},
            "8 GB": {"seconds": 1.5, "slowdown": 1.07, "streamed_gb": 12.0, "streamed_share": 0.7},
            "9 GB": {"seconds": 1.5, "decode": 3.0, "streamed_gb": 9.0, "streamed_share": 0.5},
            "12 GB": {"seconds": 1.5, "slowdown": 1.3, "streamed_gb": 4.0, "streamed_share": 0.2},
            "16 GB": {"seconds": 1.5, "slowdown": 1.0, "streamed_gb": 0.0, "streamed_share": 0.0},
        },
    }
    rows = {goal.name: judge(goal, result) for goal in GOALS}
    gains = {"G3": 110 / 78, "G4": 135 / 78, "G5": 180 / 78, "G6": 0.6, "G7": 3.0, "G8": 5.0}
    figures = gains | {"G9": 9, "G10": 1.07, "G11": 16}
    assert {name: row["figure"] for name, row in rows.items()} == pytest.approx(figures)
    assert rows["G3"]["verdict"] == rows["G11"]["verdict"] == "reached"
    assert rows["G6"]["verdict"] == rows["G10"]["verdict"] == "must reached, target not reached"
    other = result | {"machine": {"device": "NVIDIA H100 80GB HBM3", "cuda": "12.8"}}
    small = result | {"sizes": {"full_size": False}}
    verdicts = {goal.name: (judge(goal, other)["verdict"], judge(goal, small)["verdict"]) for goal in GOALS}
    assert verdicts["G3"] == verdicts["G11"] == ("reached", "not measured")
    assert judge(GOALS[0], other)["card"] == "H100"
    card = result | {"machine": {"device": "NVIDIA GeForce RTX 4090", "cuda": "12.8"}}
    assert judge(GOALS[0], card)["verdict"] == "not measured on an H100 or H200"
    assert judge(GOALS[-1], card)["verdict"] == "reached"
    few = result | {"sizes": {"full_size": False, "whole_when_streamed": True}}
    assert [judge(goal, few)["verdict"] for goal in GOALS[-3:]].count("not measured") == 0
