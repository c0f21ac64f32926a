"""ComfyUI's own approximations, in a job's key and in a saved identity; the attention of a run is logged."""

import enum
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from comfyui.stages import Stages, difference, run_extra


class Feature(enum.Enum):
    FP16 = "fp16_accumulation"
    FP8 = "fp8_matrix_mult"
    CUBLAS = "cublas_ops"
    TUNE = "autotune"


class Started:
    """ComfyUI as if it were started with an attention or with ``--fast``."""

    def __init__(self, stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
        import comfy.cli_args

        self._model, self._patch = stages.module("nodes.comfy.model"), monkeypatch
        self.approximations = self._model.approximations
        self.fast = partial(monkeypatch.setattr, comfy.cli_args.args, "fast")

    def attention(self, name: str) -> None:
        from comfy.ldm.modules.attention import attention_pytorch

        def attend(*inputs: Any, **rest: Any) -> Any:
            return attention_pytorch(*inputs, **rest)

        attend.__name__ = name
        self._patch.setattr(self._model, "optimized_attention", attend)


@pytest.fixture
def started(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(stages, monkeypatch)


EXACT = ("basic", "flash", "pytorch", "split", "sub_quad", "xformers")


@pytest.mark.parametrize("name", [*(f"attention_{each}" for each in EXACT), "attention_sage", "of_a_pack"])
def test_an_unknown_attention_is_approximate(started: Started, name: str) -> None:
    assert started.approximations() == (), "as tests start ComfyUI"
    started.attention(name)
    exact = name.removeprefix("attention_") in EXACT
    assert started.approximations() == (() if exact else (name,))


def test_all_exact_attentions_and_fast_values_of_comfyui_are_known(stages: Stages) -> None:
    from comfy.cli_args import PerformanceFeature
    from comfy.ldm.modules import attention

    found = (n for n, each in vars(attention).items() if n.startswith("attention") and callable(each))
    exact = {name for name in found if "sage" not in name and "int8" not in name}
    assert exact == set(stages.module("nodes.comfy.model").EXACT_ATTENTIONS)
    assert {each.value for each in PerformanceFeature} == {each.value for each in Feature}


def test_fast_values_are_approximations(started: Started) -> None:
    both = "--fast fp16_accumulation", "--fast fp8_matrix_mult"
    cases: list[tuple[Any, tuple[str, ...]]] = [({Feature.TUNE, Feature.FP8, Feature.FP16}, both)]
    cases += [(["fp8_matrix_mult"], both[1:]), ({Feature.FP16}, both[:1]), (True, ("--fast everything",))]
    for value, wanted in (*cases, *((exact, ()) for exact in (None, set(), {Feature.TUNE}, False))):
        started.fast(value)
        assert started.approximations() == wanted


def extrapolation(stages: Stages, sampler: Any = None) -> Any:
    inputs = stages.inputs(model=None, steps=None, guidance_scale=None)
    sampling = stages.module("nodes.comfy.sampling").Sampling(stages.model, 4, 1.0, sampler=sampler)
    encoding = stages.module("hallo3.media.video").VideoEncoding()
    graph = SimpleNamespace(compute_hash=lambda *_: "workflow", texts=())
    inputs |= {"sampling": sampling, "encoding": encoding, "mark": True, "paste_back": None}
    create = stages.module("nodes.extrapolate").ExtrapolateRequest
    return create(**inputs, running=(graph, "1"), parent=None)


def test_only_approximations_change_the_job_key(stages: Stages, started: Started, monkeypatch: Any) -> None:
    module, facts = stages.module("nodes.extrapolate"), dict[str, Any]()
    real = module.hash_facts
    monkeypatch.setattr(module, "hash_facts", lambda inputs: facts.update(inputs) or real(inputs))

    def key() -> str:
        facts.clear()
        return extrapolation(stages).manifest().key

    usual = key()
    assert facts
    assert "approximate" not in facts, "older jobs can still be resumed"
    for exact in ("attention_pytorch", "attention_sub_quad"):
        started.attention(exact)
        assert key() == usual
    keys = {usual}
    for value in ({Feature.FP16}, {Feature.FP8}, {Feature.FP16, Feature.FP8}):
        started.fast(value)
        keys.add(key())
    started.fast({Feature.TUNE})
    assert key() == usual
    started.attention("attention_sage")
    keys.add(key())
    assert len(keys) == 5
    assert facts["approximate"] == ("attention_sage",)


def test_a_step_cache_changes_the_throughput_key(stages: Stages) -> None:
    from comfy.samplers import ksampler

    usual = extrapolation(stages).throughput_key
    for without in (stages.original_sampler("dpmpp_2m"), ksampler("euler")):
        assert extrapolation(stages, without).throughput_key == usual
    assert "step cache" not in usual
    cached = [stages.original_sampler("dpmpp_2m", step_cache=value) for value in (0.1, 0.2)]
    kinds = {extrapolation(stages, sampler).throughput_key for sampler in cached}
    assert len(kinds | {usual}) == 3
    assert any(" step cache 0.1 64x64 " in kind for kind in kinds)


@pytest.mark.parametrize("name", ["dpmpp_2m", "ddim", "dpmpp_2m_sde"])
def test_tiny_sigmas_can_be_sampled(stages: Stages, name: str) -> None:
    sampler, sigmas = stages.original_sampler(name), ((1.0, 1e-8, 0.0), (1.0, 1e-8), (1.0, 0.0))
    noisy, near, clean = (stages.sample(sampler=sampler, sigmas=torch.tensor(each)) for each in sigmas)
    assert bool(noisy.isfinite().all())
    assert difference(near, clean) < 1e-4


@pytest.mark.usefixtures("folders")
def test_a_saved_identity_names_its_approximations(stages: Stages, started: Started, caplog: Any) -> None:
    plain = stages.save_identity("plain", stages.create_identity()[0])
    started.attention("attention_sage")
    approximate = stages.save_identity("approximate", stages.create_identity()[0])
    told = "the identity was made with attention_sage (approximate)"
    numbers = str(stages.reference.dtype).removeprefix("torch.")
    for file, approximations in ((plain, ()), (approximate, ("attention_sage",))):
        provenance = stages.run("Hallo3LoadIdentity", file=file)[0].provenance
        assert (provenance.precision, provenance.approximations) == (numbers, approximations)
    assert told not in caplog.text, "the run is as approximate"
    started.attention("attention_pytorch")
    stages.run("Hallo3LoadIdentity", file=plain)
    assert told not in caplog.text
    stages.run("Hallo3LoadIdentity", file=approximate)
    assert told in caplog.text


class Attention:
    """Of a node; ``used`` names what it replaces."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def __call__(self, function: Any, *inputs: Any, **rest: Any) -> Any:
        self.used.add(function.__name__)
        return function(*inputs, **rest)


def patched(model: Any, attention: Any) -> Any:
    mine = model.clone()
    mine.model_options["transformer_options"]["optimized_attention_override"] = attention
    return mine


def test_a_run_says_which_attention_computes_it(stages: Stages, caplog: pytest.LogCaptureFixture) -> None:
    """Of a node's own, too, in the model or in the model of a guider; Extrapolate once for all segments."""
    from comfy.ldm.modules.attention import optimized_attention

    attention, selected = Attention(), optimized_attention.__name__
    model = patched(stages.model, attention)
    other = patched(stages.model, lambda function, *inputs, **rest: function(*inputs, **rest))
    guider = run_extra("custom_sampler.BasicGuider", other, stages.conditioning()[0])
    with caplog.at_level("INFO"):
        plain, found = stages.sample(steps=2), stages.sample(steps=2, model=model)
        stages.sample(steps=1, guider=guider)
        stages.extrapolate(steps=1, seed=77)
    assert difference(found, plain) == 0
    assert attention.used == {selected}
    replaced = (f"{name}, with which a node replaces {selected}" for name in ("Attention", "<lambda>"))
    messages = [record.message for record in caplog.records if record.message.startswith("Hallo3: attention")]
    assert messages == [f"Hallo3: attention by {name}" for name in (selected, *replaced, selected)]
    assert len(stages.speech.speech.plan) > 1
    assert f"\n  attention: {selected}\n" in stages.run("Hallo3Doctor")[0]


def test_the_doctor_measures_and_plans_read_it(
    stages: Stages, recording: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    speed = stages.module("hallo3.speed.device")
    monkeypatch.setattr(stages.module("hallo3.storage.files"), "home", lambda: tmp_path)
    monkeypatch.setattr(speed, "SECONDS", dict.fromkeys(speed.SECONDS, 0.05))
    monkeypatch.setattr(speed, "MODELS", speed.MODELS[:1])
    _, _, measured = stages.run("Hallo3Doctor", measure=True)[0].partition("\nMeasured")
    assert "of computing for a minute of video" in measured
    audio = {"waveform": recording.waveform[None], "sample_rate": recording.sample_rate}
    plan = stages.run("Hallo3Plan", audio=audio, model="built-in", steps=3, guidance_scale=1.0)[1]
    assert "(as this device was measured)" in plan
