"""ComfyUI's nodes take the built-in model's parts; what they change is supported, or refused with advice."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from comfyui.host import Host
from comfyui.stages import Stages, difference, run_extra


def test_comfyuis_vae_nodes_take_the_built_in_vae(stages: Stages) -> None:
    import nodes

    latents = nodes.VAEEncode().encode(stages.vae, torch.rand(1, 64, 64, 3))[0]["samples"]
    assert latents.shape == (1, 16, 1, 8, 8)
    clip = {"samples": torch.randn(1, 16, 9, 8, 8)}
    frames, tiled = nodes.VAEDecode().decode(stages.vae, clip)[0], nodes.VAEDecodeTiled()
    ours, _ = stages.run("Hallo3VAEDecode", samples=clip, vae=stages.vae)
    assert tiled.decode(stages.vae, clip, 64, 16, 16, 8)[0].shape == frames.shape == (33, 64, 64, 3)
    assert difference(frames, ours) > 1e-3  # group norms over the whole clip: another picture


def test_latents_of_the_released_and_the_built_in_model_are_previewed(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    import latent_preview

    model, config = stages.module("nodes.comfy.model"), stages.module("hallo3.config")
    monkeypatch.setattr(latent_preview.args, "preview_method", latent_preview.LatentPreviewMethod.Auto)
    for each in (config.HALLO3, config.BUILT_IN):
        previewer = latent_preview.get_previewer(torch.device("cpu"), model.LatentFormat(each))
        _, picture, _ = previewer.decode_latent_to_preview_image("JPEG", torch.randn(1, 16, 1, 6, 8))
        assert picture.size == (8, 6)
        assert len(picture.getcolors()) > 40


def test_comfyuis_audio_node_takes_the_built_in_encoder(stages: Stages) -> None:
    audio = {"waveform": torch.rand(1, 2, 44100) - 0.5, "sample_rate": 44100}
    encoded = run_extra("audio_encoder.AudioEncoderEncode", stages.audio_encoder, audio)
    assert len(encoded["encoded_audio_all_layers"]) == 4
    assert encoded["encoded_audio"].shape == (1, 49, 48)
    assert encoded["audio_samples"] == 16000


def test_comfyuis_text_nodes_take_the_built_in_clip(stages: Stages) -> None:
    """Set to another layer (there is none) or length, zeroed out, joined: what the model reads is plain."""
    import nodes

    plain = stages.encode_text("dim light")
    padded = run_extra("cond.T5TokenizerOptions", stages.clip, 1, 3)
    for clip in (nodes.CLIPSetLastLayer().set_last_layer(stages.clip, -2)[0], padded):
        assert difference(stages.encode_text("dim light", clip)[0][0], plain[0][0]) == 0
    zeroed = nodes.ConditioningZeroOut().zero_out(plain)[0]
    joined = nodes.ConditioningConcat().concat(plain, plain)[0]
    nothing, lit = stages.sample(), stages.sample(positive=plain)
    assert difference(stages.sample(positive=zeroed), nothing) == 0
    assert difference(lit, nothing) > 1e-4
    assert difference(stages.sample(positive=joined), lit) == 0  # no more tokens than one prompt has are read
    # nodes that weigh words ask for their numbers
    [row] = stages.clip.tokenize("dim light", return_word_ids=True)["hallo3"]
    assert [token[2] for token in row] == list(range(1, 17))
    [plain] = stages.clip.tokenize("dim light")["hallo3"]
    assert plain == [token[:2] for token in row]


def test_warnings_are_logged_every_time(stages: Stages, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    drawn = stages.module("hallo3.face.drawn").DrawnFaceAnalyzer
    look, logger = drawn.analyze, stages.module("hallo3.messages").logger

    def doubting(self: Any, picture: Tensor) -> Any:
        logger.warning("It looks like a photograph.")
        return look(self, picture)

    monkeypatch.setattr(drawn, "analyze", doubting)
    for _ in range(2):
        stages.create_identity()
    stages.clip.tokenize("word " * 16)
    stages.encode_speech(torch.zeros(1, 1, 9000))
    messages = [record.message for record in caplog.records if record.message.startswith("Hallo3: ")]
    assert messages[:2] == ["Hallo3: It looks like a photograph."] * 2
    assert "17 tokens" in messages[2]
    assert "digital silence" in messages[3]


EMPTY = torch.zeros(1, 16, 9, 8, 8)
FREE, SIZE = 1_000_000, 4 * 1000
CPU = torch.device("cpu")


def test_loaded_weights_are_not_subtracted_from_free_memory(host: Host) -> None:
    """ComfyUI does not call it free; its dynamic memory does."""
    from comfy.model_patcher import ModelPatcher

    vae: Any = host.module("nodes.comfy.vae")
    patcher: Any = ModelPatcher(nn.Linear(1000, 1, bias=False), load_device=CPU, offload_device=CPU)
    patcher.get_free_memory = lambda _: FREE
    for dynamic, loaded, taken in ((0, 0, SIZE), (0, 1000, SIZE - 1000), (0, SIZE, 0), (1, SIZE, SIZE)):
        patcher.is_dynamic, patcher.model.model_loaded_weight_memory = lambda it=dynamic: bool(it), loaded
        assert vae.free_beside(SimpleNamespace(patcher=patcher, device=CPU)) == FREE - taken


def run_ksampler(stages: Stages, samples: Tensor, **conditioning: Any) -> Tensor:
    """Two steps of ComfyUI's KSampler on latents, with a segment's conditioning unless it is replaced."""
    import nodes

    names = ("positive", "negative", "latent")
    inputs = dict(zip(names, stages.conditioning(), strict=True)) | conditioning
    inputs["latent"] = {**inputs["latent"], "samples": samples}
    return nodes.common_ksampler(stages.model, 0, 2, 3.5, "euler", "simple", **inputs)[0]["samples"]


def test_another_clones_model_sampling_does_not_leak_and_is_refused(stages: Stages) -> None:
    """The schedule is that of the MODEL that is sampled, whatever clone was sampled before it."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3

    before = stages.sample(steps=4)
    other = ModelSamplingDiscrete().patch(stages.model, "v_prediction", False)[0]
    stages.run_ksampler(model=other)
    assert difference(stages.sample(steps=4), before) == 0
    with pytest.raises(stages.errors.InputError, match="does not fit this model's noise"):
        stages.run("Hallo3OriginalSchedule", model=other, steps=50)
    other = ModelSamplingSD3().patch(stages.model, 3.0)[0]
    with pytest.raises(stages.errors.InputError, match="does not fit this model's sampling"):
        stages.sample(model=other, sigmas=stages.original_schedule(4))


def test_perpendicular_guidance_hears_the_speech(stages: Stages) -> None:
    """Its unconditional branch has another name."""
    zero = [[torch.zeros(1, 16, 32), {}]]
    guider = run_extra("perpneg.PerpNegGuider", stages.model, zero, zero, zero, 3.5, 1.0)
    sampling = stages.module("nodes.comfy.sampling").Sampling(stages.model, 2, 3.5, guider=guider)
    inputs = {"identity": stages.identity, "windows": torch.ones(1, 2), "image_latents": torch.zeros(1)}
    segment = stages.module("nodes.comfy.model").SegmentInput(**inputs)
    conds = sampling._guider(segment).original_conds
    has_speech = {name: bool(entries[0]["hallo3_segment"].windows.any()) for name, entries in conds.items()}
    assert has_speech == {"positive": True, "empty_negative_prompt": False, "negative": False}


def test_text_of_another_length_is_cut_or_refused_when_it_is_sampled(stages: Stages) -> None:
    """Also when another node changed it after Segment Conditioning."""
    [[_, extras]] = stages.conditioning()[0]

    long, plain, short = ([[torch.zeros(1, tokens, 32), extras]] for tokens in (32, 16, 15))
    found, wanted = (run_ksampler(stages, EMPTY, positive=text) for text in (long, plain))
    assert difference(found, wanted) == 0
    with pytest.raises(stages.errors.InputError, match="at least 16 tokens"):
        run_ksampler(stages, EMPTY, positive=short)


def test_latents_that_are_no_segment_are_refused(stages: Stages) -> None:
    latent = stages.run("Hallo3Sampler", **stages.inputs(segment=0, steps=1))[0]
    samples = latent["samples"]
    for changed, message in (
        (torch.cat((samples, samples), dim=2), "cut or joined"),
        (samples * float("nan"), "NaN"),
        (samples[:, :8], "do not match the VAE"),
        (samples.repeat(2, 1, 1, 1, 1), "not a single segment"),
    ):
        with pytest.raises(stages.errors.InputError, match=message):
            stages.run("Hallo3VAEDecode", samples={**latent, "samples": changed}, vae=stages.vae)


def test_nan_and_a_video_too_large_for_memory_are_refused(stages: Stages, monkeypatch: Any) -> None:
    import comfy.model_management as mm

    text = torch.full((1, 16, 32), float("nan"))
    with pytest.raises(stages.errors.InputError, match="produced NaN"):
        stages.extrapolate(positive=[[text, {}]], steps=1)
    monkeypatch.setattr(mm, "get_total_memory", lambda _: 1e6)
    with pytest.raises(stages.errors.InputError, match="does not fit in memory"):
        stages.extrapolate()


def test_ksampler_samples_a_batch_and_refuses_plain_conditioning_and_another_length(stages: Stages) -> None:
    plain = [[torch.zeros(1, 16, 32), {}]]
    with pytest.raises(stages.errors.InputError, match="not made for Hallo3"):
        run_ksampler(stages, EMPTY, positive=plain, negative=plain)
    for frames in (8, 10, 17):
        with pytest.raises(Exception, match="does not have a segment's length"):
            run_ksampler(stages, torch.zeros(1, 16, frames, 8, 8))
    samples = run_ksampler(stages, torch.zeros(2, 16, 9, 8, 8))
    assert samples.shape == (2, 16, 9, 8, 8)
    assert difference(samples[:1], samples[1:]) > 0.1
