"""ComfyUI's own approximations are part of a job's key and of a saved identity; the attention of a run is
logged."""

from __future__ import annotations

import enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from comfyui.stages import Stages, difference


class Feature(enum.Enum):
    FP16 = "fp16_accumulation"
    FP8 = "fp8_matrix_mult"
    CUBLAS = "cublas_ops"
    TUNE = "autotune"


class Started:
    def __init__(self, stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
        self._stages, self._patch = stages, monkeypatch

    def attention(self, name: str) -> None:
        from comfy.ldm.modules.attention import attention_pytorch

        def attend(*inputs: Any, **rest: Any) -> Any:
            return attention_pytorch(*inputs, **rest)

        attend.__name__ = name
        self._patch.setattr(self._stages.host.module("nodes.comfy.model"), "optimized_attention", attend)

    def fast(self, value: Any) -> None:
        import comfy.cli_args

        self._patch.setattr(comfy.cli_args.args, "fast", value)

    @property
    def approximations(self) -> tuple[str, ...]:
        return self._stages.host.module("nodes.comfy.model").approximations()


@pytest.fixture
def started(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(stages, monkeypatch)


EXACT = ("basic", "flash", "pytorch", "split", "sub_quad", "xformers")


@pytest.mark.parametrize("name", [*(f"attention_{each}" for each in EXACT), "attention_sage", "of_a_pack"])
def test_an_unknown_attention_is_approximate(started: Started, name: str) -> None:
    assert started.approximations == (), "as tests start ComfyUI"
    started.attention(name)
    exact = name.removeprefix("attention_") in EXACT
    assert started.approximations == (() if exact else (name,))


def test_all_exact_attentions_of_comfyui_are_known(stages: Stages) -> None:
    from comfy.ldm.modules import attention

    known = stages.host.module("nodes.comfy.model").EXACT_ATTENTIONS
    assert all(callable(getattr(attention, name)) for name in known)
    there = {name for name in dir(attention) if name.startswith("attention") and "sage" not in name}
    assert {name for name in there if name.count("int8") == 0 and callable(getattr(attention, name))} == set(
        known
    )


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, ()),
        (set(), ()),
        ({Feature.TUNE}, ()),
        ({Feature.FP16}, ("--fast fp16_accumulation",)),
        ({Feature.TUNE, Feature.FP8, Feature.FP16}, ("--fast fp16_accumulation", "--fast fp8_matrix_mult")),
        (["fp8_matrix_mult"], ("--fast fp8_matrix_mult",)),
        (True, ("--fast everything",)),
        (False, ()),
    ],
)
def test_fast_values_are_approximations(started: Started, value: Any, wanted: tuple[str, ...]) -> None:
    started.fast(value)
    assert started.approximations == wanted


def test_all_fast_values_of_comfyui_are_known() -> None:
    from comfy.cli_args import PerformanceFeature

    assert {each.value for each in PerformanceFeature} == {each.value for each in Feature}


def extrapolation(stages: Stages, sampler: Any = None) -> Any:
    sampling = stages.host.module("nodes.comfy.sampling")
    graph = SimpleNamespace(compute_hash=lambda *_: "workflow", texts=())
    return stages.host.module("nodes.extrapolate").ExtrapolateRequest(
        sampling=sampling.Sampling(stages.model, 4, 1.0, sampler=sampler),
        vae=stages.vae,
        identity=stages.identity,
        speech=stages.speech,
        seed=5,
        motion_drop=0.1,
        encoding=stages.host.module("hallo3.media.video").VideoEncoding(),
        mark=True,
        paste_back=None,
        graph=graph,
        node="1",
        parent=None,
    )


def facts(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found: dict[str, Any] = {}
    module = stages.host.module("nodes.extrapolate")
    real = module.hash_facts
    with monkeypatch.context() as patch:
        patch.setattr(module, "hash_facts", lambda inputs: found.update(inputs) or real(inputs))
        extrapolation(stages).manifest()
    return found


def test_only_approximations_change_the_job_key(
    stages: Stages, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = extrapolation(stages).manifest().key
    assert "approximate" not in facts(stages, monkeypatch), "older jobs can still be resumed"
    for exact in ("attention_pytorch", "attention_sub_quad"):
        started.attention(exact)
        assert extrapolation(stages).manifest().key == usual
    keys = {usual}
    for value in ({Feature.FP16}, {Feature.FP8}, {Feature.FP16, Feature.FP8}):
        started.fast(value)
        keys.add(extrapolation(stages).manifest().key)
    started.fast({Feature.TUNE})
    assert extrapolation(stages).manifest().key == usual
    started.attention("attention_sage")
    keys.add(extrapolation(stages).manifest().key)
    assert len(keys) == 5
    assert facts(stages, monkeypatch)["approximate"] == ("attention_sage",)


def test_a_step_cache_changes_the_throughput_key(stages: Stages) -> None:
    def sampler(**widgets: float) -> Any:
        return stages.run("Hallo3OriginalSampler", sampler_name="dpmpp_2m", **widgets)[0]

    from comfy.samplers import ksampler

    usual = extrapolation(stages).throughput_key
    for without in (sampler(), ksampler("euler")):
        assert extrapolation(stages, without).throughput_key == usual
    assert "step cache" not in usual
    kinds = {extrapolation(stages, sampler(step_cache=value)).throughput_key for value in (0.1, 0.2)}
    assert len(kinds | {usual}) == 3
    assert any(" step cache 0.1 64x64 " in kind for kind in kinds)


@pytest.mark.parametrize("name", ["dpmpp_2m", "ddim", "dpmpp_2m_sde"])
def test_tiny_sigmas_can_be_sampled(stages: Stages, name: str) -> None:
    sampler = stages.run("Hallo3OriginalSampler", sampler_name=name)[0]

    def sampled(*sigmas: float) -> torch.Tensor:
        inputs = stages.inputs(segment=0, sampler=sampler, sigmas=torch.tensor(sigmas))
        return stages.run("Hallo3Sampler", **inputs)[0]["samples"]

    assert bool(sampled(1.0, 1e-8, 0.0).isfinite().all())
    assert difference(sampled(1.0, 1e-8), sampled(1.0, 0.0)) < 1e-4


def test_a_saved_identity_names_its_approximations(
    stages: Stages, started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    import folder_paths

    for name in ("input", "output"):
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    inputs = {"portrait": stages.portrait, "vae": stages.vae, "reference_network": stages.reference}
    names = stages.host.module("nodes.comfy.faces").list_identities

    def kept(prefix: str) -> str:
        identity = stages.run("Hallo3IdentityReference", **inputs)[0]
        stages.run("Hallo3SaveIdentity", identity=identity, model=stages.model, filename_prefix=prefix)
        return next(name for name in names() if prefix in name)

    plain = kept("plain")
    started.attention("attention_sage")
    approximate = kept("approximate")
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


@pytest.fixture
def selected(stages: Stages) -> str:
    """The name of ComfyUI's own choice; ``stages`` has made ComfyUI importable."""
    from comfy.ldm.modules.attention import optimized_attention

    del stages
    return optimized_attention.__name__


def patched(model: Any, attention: Any) -> Any:
    mine = model.clone()
    mine.model_options["transformer_options"]["optimized_attention_override"] = attention
    return mine


def attention_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.message.startswith("Hallo3: attention")]


def test_a_run_says_which_attention_computes_it(
    stages: Stages, selected: str, caplog: pytest.LogCaptureFixture
) -> None:
    used: list[str] = []

    def attention_of_a_node(function: Any, *inputs: Any, **rest: Any) -> Any:
        used.append(function.__name__)
        return function(*inputs, **rest)

    with caplog.at_level("INFO"):
        plain = stages.run("Hallo3Sampler", **stages.inputs(segment=0, steps=2))[0]["samples"]
        model = patched(stages.model, attention_of_a_node)
        found = stages.run("Hallo3Sampler", **stages.inputs(segment=0, steps=2, model=model))[0]["samples"]
    assert difference(found, plain) == 0
    assert set(used) == {selected}
    other = f"attention_of_a_node, with which a node replaces {selected}"
    assert attention_messages(caplog) == [f"Hallo3: attention by {selected}", f"Hallo3: attention by {other}"]


def test_a_guider_brings_the_attention_of_its_model(
    stages: Stages, selected: str, caplog: pytest.LogCaptureFixture
) -> None:
    from comfy_extras.nodes_custom_sampler import BasicGuider

    class Attention:
        def __call__(self, function: Any, *inputs: Any, **rest: Any) -> Any:
            return function(*inputs, **rest)

    positive, _, _ = stages.conditioning()
    guider = BasicGuider.execute(patched(stages.model, Attention()), positive).result[0]
    with caplog.at_level("INFO"):
        stages.run("Hallo3Sampler", **stages.inputs(segment=0, steps=1, guider=guider))
    other = f"Attention, with which a node replaces {selected}"
    assert attention_messages(caplog) == [f"Hallo3: attention by {other}"]


def test_extrapolate_says_it_once_for_all_its_segments(
    stages: Stages, selected: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(stages.speech.speech.plan) > 1
    with caplog.at_level("INFO"):
        stages.run("Hallo3Extrapolate", **stages.inputs(steps=1, seed=77))
    assert attention_messages(caplog) == [f"Hallo3: attention by {selected}"]


def test_the_doctor_says_it_too(stages: Stages, selected: str) -> None:
    assert f"\n  attention: {selected}\n" in stages.run("Hallo3Doctor")[0]
