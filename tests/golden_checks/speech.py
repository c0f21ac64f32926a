"""From a waveform to windows, from windows to audio tokens, and the segments that use them."""

import re
from typing import Any

import torch
from torch import Tensor

from hallo3.checkpoints.load import load_strict
from hallo3.config import AudioConfig, SegmentConfig
from hallo3.model.embeddings import AudioProjection
from hallo3.model.layers import Layers
from hallo3.segments import SegmentPlan, plan_segments
from hallo3.speech.encoder import encode_waveform, normalize
from hallo3.speech.features import Speech, read_from_memory
from hallo3.speech.wav2vec2 import split_wav2vec2

from . import networks
from .directory import FORWARD, Check, Golden, Report


def frontend(golden: Golden, report: Report) -> None:
    """wav2vec2 with the resampling between its halves, and every stage that a hook can record."""
    intermediates: dict[str, Tensor] = {}
    encoder = networks.speech_encoder(networks.weights_of(golden, networks.SPEECH), golden.about["config"])
    hook_encoder(encoder, intermediates)
    waveform, segment = golden["in.waveform"], SegmentConfig()
    plan = plan_segments(len(waveform), segment)
    features = encode_waveform(split_wav2vec2(encoder), waveform, plan, torch.device("cpu"))
    report.check("out.audio_emb", features)
    report.exact("out.audio_length", plan.frames, int(golden["out.audio_length"]))
    report.exact("padded_frames", plan.padded, golden.about["padded_frames"])
    window = golden["out.windows"].shape[1]
    report.check("out.windows", _all_windows(Speech(read_from_memory(features), plan, window)))
    intermediates["normalised"] = normalize(waveform)
    for name in golden.names("mid."):
        if name in intermediates:
            found, expected = intermediates[name], golden[f"mid.{name}"]
            found = found[-len(expected) :] if name.endswith("tail") else found
            report.close(f"mid.{name}", found, expected, FORWARD)


def hook_encoder(encoder: torch.nn.Module, intermediates: dict[str, Tensor]) -> None:
    """Record the encoder's stages under the goldens' names."""
    module = dict(encoder.named_modules())
    module["feature_extractor"].register_forward_hook(
        lambda *a: intermediates.update(conv_features=a[2], padded_normalised_tail=a[1][0][0])
    )
    module["feature_projection"].register_forward_hook(
        lambda *a: intermediates.update(interpolated_features=a[1][0], projected=a[2])
    )
    module["encoder.layer_norm"].register_forward_hook(lambda *a: intermediates.update(hidden_state_0=a[2]))
    for name in module:
        if layer := re.fullmatch(r"encoder\.layers\.(\d+)", name):

            def record(_: object, __: object, out: Tensor, index: int = int(layer[1])) -> None:
                intermediates[f"hidden_state_{index + 1}"] = out

            module[name].register_forward_hook(record)


def _all_windows(speech: Speech) -> Tensor:
    """The windows of all padded frames, gathered from the segments that use them."""
    rows, plan = dict[int, Tensor](), speech.plan
    for segment in plan:
        windows = speech.segment(segment.index)[0]
        rows |= {slot: windows[i] for i, slot in enumerate(segment.slots) if slot >= 0}
    everything = speech.read(range(plan.padded))
    reach = speech.window // 2
    for frame in set(range(plan.padded)) - set(rows):  # padding that no rendered segment uses
        around = [min(max(frame + o, 0), plan.padded - 1) for o in range(-reach, reach + 1)]
        rows[frame] = everything[around]
    return torch.stack([rows[frame] for frame in range(plan.padded)])


def projection(golden: Golden, report: Report) -> None:
    """The audio projection alone, for several frame counts or with the real input geometry."""
    state = {name: golden[f"w.{name}"] for name in golden.names("w.")}
    if not state:
        weights, prefix = networks.weights_of(golden, networks.TRANSFORMER), "audio_proj."
        state = {k.split(prefix)[1]: v.float() for k, v in weights.tensors.items() if prefix in k}
    counts = sorted(int(name) for name in golden.names("in.f"))
    _, _, window, layers, channels = golden[f"in.f{counts[0]}"].shape
    tokens, token_dim = golden[f"out.f{counts[0]}"].shape[2:]
    hidden = len(state["proj1.bias"])
    config = AudioConfig(
        window=window, layers=layers, channels=channels, hidden=hidden, tokens=tokens, token_dim=token_dim
    )
    network = AudioProjection(config, Layers(device="meta"))
    load_strict(network, state, "the golden's audio projection")
    for count in counts:
        report.check(f"out.f{count}", network(golden[f"in.f{count}"]))


def bookkeeping(golden: Golden, report: Report) -> None:
    """Slots, windows and output frames; the plan has exactly the chunks with output."""
    for name, case in golden.about["cases"].items():
        chunks: list[dict[str, Any]] = case["chunk_list"]
        config = SegmentConfig(frames=len(chunks[0]["slots"]))
        plan = SegmentPlan(int(case["audio_length_frames"]), config)
        # features are their own index plus one, so that silence (zero) reads as -1
        numbers = torch.arange(1, plan.padded + 1, dtype=torch.float64)[:, None, None]
        speech = Speech(read_from_memory(numbers), plan, len(chunks[0]["windows_of_slots"][0]))
        rendered = [chunk for chunk in chunks if chunk["kept_output_frames_from_this_chunk"]]
        report.exact(f"{name}: padded", plan.padded, case["wav2vec_frames_after_padding_to_multiple_of_49"])
        report.exact(f"{name}: segments", len(plan), len(rendered))
        kept = sum(segment.keep.stop - segment.keep.start for segment in plan)
        report.exact(f"{name}: frames", kept, case["output_frames_kept"])
        for segment, chunk in zip(plan, rendered, strict=True):
            where = f"{name}: segment {segment.index}"
            windows = speech.segment(segment.index)[0, :, :, 0, 0].long() - 1
            report.exact(f"{where} slots", list(segment.slots), chunk["slots"])
            report.exact(f"{where} windows", windows.tolist(), chunk["windows_of_slots"])
            expected = chunk["kept_output_frames_from_this_chunk"]
            report.exact(f"{where} kept", segment.keep.stop - segment.keep.start, expected)


CHECKS = (
    Check(lambda g: g.has("in.waveform", "out.audio_emb"), frontend),
    Check(lambda g: bool(g.names("in.f")) and bool(g.names("out.f")) and not g.has("in.x"), projection),
    Check(lambda g: "cases" in g.about, bookkeeping),
)
