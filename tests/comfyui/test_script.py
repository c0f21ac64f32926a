"""Hallo3 Script: one prompt everywhere is the video of before; segments get the prompt of their time."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from comfyui.stages import Stages, difference, run_extra


class FakePrompt:
    """A prompt that changes nothing while it runs."""

    def __init__(self, nodes: dict[str, Any]) -> None:
        self.nodes = nodes

    def get_node(self, node_id: str) -> Any:
        return self.nodes[node_id]

    def all_node_ids(self) -> set[str]:
        return set(self.nodes)


def make_script(stages: Stages, script: str, prompt: str = "", clip: Any = None) -> Any:
    inputs = {"clip": clip or stages.clip, "speech": stages.speech, "script": script, "prompt": prompt}
    return stages.run("Hallo3Script", **inputs)


def test_one_prompt_everywhere_is_the_same_latents(stages: Stages) -> None:
    text, everywhere = "in blue light", make_script(stages, "[0:00-] in blue light")[0]
    plain = stages.sample(positive=stages.encode_text(text), steps=1)
    assert difference(stages.sample(positive=everywhere, steps=1), plain) == 0
    assert (
        difference(stages.sample(positive=make_script(stages, "[0:50:00-] dim", text)[0], steps=1), plain)
        == 0
    )
    assert difference(stages.sample(positive=make_script(stages, "[0:50:00-] dim")[0], steps=1), plain) > 1e-4
    no_text = stages.sample(steps=1)
    assert difference(stages.sample(positive=make_script(stages, "[0:50:00-] dim")[0], steps=1), no_text) == 0


def test_a_segment_gets_the_prompt_of_its_first_frame(stages: Stages) -> None:
    cues = stages.module("nodes.comfy.cues")
    new = stages.speech.speech.plan.config.new_frames
    script = f"[0:00-{new / 25:.3f}] in warm light\n[{new / 25:.3f}-] in blue light"
    positive, plot = make_script(stages, script, "dim")
    warm, blue, dim = (stages.encode_text(text)[0][0] for text in ("in warm light", "in blue light", "dim"))
    for frame, text in {0: warm, new - 1: warm, new: blue, 10**6: blue}.items():
        ((found, _),) = cues.choose_entries(positive, [extras for _, extras in positive], frame, 25)
        assert difference(found, text) == 0
    before = make_script(stages, "[0:10-0:12] in warm light", "dim")[0]
    ((found, _),) = cues.choose_entries(before, [extras for _, extras in before], 0, 25)
    assert difference(found, dim) == 0
    assert plot.shape[2:] == (960, 3)


def test_a_guider_has_its_texts_by_time(stages: Stages) -> None:
    sampling = stages.module("nodes.comfy.sampling")
    positive, negative, _ = stages.conditioning(positive=make_script(stages, "[0:00-] warm")[0])
    assert len(positive) == 1
    timed = make_script(stages, "[0:00-0:01] warm\n[0:01-] blue", "dim")[0]
    guider = run_extra("custom_sampler.CFGGuider", stages.model, timed, negative, 3.5)
    used = sampling.Sampling(stages.model, 1, 1.0, guider=guider)
    segment = negative[0][1]["hallo3_segment"]
    for frame, text in ((0, "warm"), (25, "blue")):
        conds = used._guider(replace(segment, frame=frame)).original_conds["positive"]
        assert [difference(each["cross_attn"], stages.encode_text(text)[0][0]) for each in conds] == [0]


def test_each_prompt_is_encoded_once(stages: Stages) -> None:
    seen = list[str]()

    def encode(text: str) -> Any:
        seen.append(text)
        return [[torch.zeros(1, 226, 4096), {}]]

    clip = SimpleNamespace(tokenize=lambda text: text, encode_from_tokens_scheduled=encode)
    make_script(stages, "[0:00-0:01] warm\n[0:01-0:02] blue\n[0:02-] warm", "blue", clip=clip)
    assert seen == ["blue", "warm"]


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("", "no cue"),
        ("[0:01-0:02] a\n0:03 b", "line 2: '0:03 b'"),
        ("WEBVTT\n\n00:01 --> 00:02\na", "line 3"),
    ],
)
def test_a_wrong_script_is_refused_with_its_line(stages: Stages, script: str, found: str) -> None:
    with pytest.raises(stages.errors.InputError) as caught:
        make_script(stages, script)
    assert found in caught.value.found


def test_segments_end_in_pauses_and_chapters_begin_there(stages: Stages) -> None:
    signal = torch.sin(torch.arange(16000 * 5) * 0.17)[None, None] * 0.3
    signal[:, :, 16000 : 16000 * 3] = 0
    full, few, *_ = stages.encode_speech(signal)
    assert full.speech.plan.seams == ()
    speech, count, frames, *_ = stages.encode_speech(signal, seams="pauses", chapters=1.5)
    plan = speech.speech.plan
    assert (len(plan), frames, plan.fade) == (count, 125, 5)
    assert plan.chapters == {51}, "the middle of the silence, from 5 frames after sound to 3 before it"
    assert count >= few
    cut = stages.encode_speech(signal, chapters=1.5, chapter_join="cut")[0].speech.plan
    assert (cut.chapters, cut.fade) == ({51}, 0)
    with pytest.raises(stages.errors.InputError, match="No chapter"):
        stages.encode_speech(signal, chapters=0.1)


def test_new_inputs_at_their_defaults_change_no_job(stages: Stages) -> None:
    workflow = stages.module("nodes.comfy.workflow")
    new = {"seams": "full", "chapters": 0.0, "chapter_join": "fade"}

    def key(**inputs: object) -> str:
        node = {"class_type": "Hallo3EncodeSpeech", "inputs": {"level": "evened"} | inputs}
        return workflow.Graph(FakePrompt({"1": node})).compute_hash("1")

    assert key() == key(**new)
    assert len({key(), key(**new | {"seams": "pauses"}), key(**new | {"chapters": 1.5})}) == 3
