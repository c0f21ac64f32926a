"""From a waveform to windows, from windows to audio tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from hallo3.checkpoints.load import load_strict
from hallo3.config import AudioConfig, SegmentConfig
from hallo3.model.embeddings import AudioProjection
from hallo3.model.layers import Layers
from hallo3.segments import plan_segments
from hallo3.speech.encoder import encode_waveform, normalize
from hallo3.speech.features import Speech, read_from_memory
from hallo3.speech.wav2vec2 import split_wav2vec2

from . import networks
from .directory import FORWARD, Check, Golden, Report


def frontend(golden: Golden) -> Report:
    """wav2vec2 with the resampling between its halves, and every stage that a hook can record."""
    report, intermediates = Report(), dict[str, Tensor]()
    encoder = networks.speech_encoder(networks.weights_of(golden, networks.SPEECH), golden.about["config"])
    hook_encoder(encoder, intermediates)
    waveform, segment = golden["in.waveform"], SegmentConfig()
    plan = plan_segments(len(waveform), segment)
    features = encode_waveform(split_wav2vec2(encoder), waveform, plan, torch.device("cpu"))
    report.close("out.audio_emb", features, golden["out.audio_emb"], FORWARD)
    report.exact("out.audio_length", plan.frames, int(golden["out.audio_length"]))
    report.exact("padded_frames", plan.padded, golden.about["padded_frames"])
    window = golden["out.windows"].shape[1]
    speech = Speech(read_from_memory(features), plan, window)
    report.close("out.windows", _all_windows(speech), golden["out.windows"], FORWARD)
    intermediates["normalised"] = normalize(waveform)
    for name in golden.names("mid."):
        if name in intermediates:
            found, expected = intermediates[name], golden[f"mid.{name}"]
            found = found[-len(expected) :] if name.endswith("tail") else found
            report.close(f"mid.{name}", found, expected, FORWARD)
    return report


def hook_encoder(encoder: torch.nn.Module, intermediates: dict[str, Tensor]) -> None:
    """Record the encoder's stages under the goldens' names."""
    module = dict(encoder.named_modules())
    module["feature_extractor"].register_forward_hook(
        lambda *a: intermediates.update(conv_features=a[2], padded_normalised_tail=a[1][0][0])
    )
    module["feature_projection"].register_forward_hook(
        lambda *a: intermediates.update(interpolated_features=a[1][0], projected=a[2][0])
    )
    module["encoder.layer_norm"].register_forward_hook(lambda *a: intermediates.update(hidden_state_0=a[2]))
    count = sum(name.startswith("encoder.layers.") and name.count(".") == 2 for name in module)
    for index in range(count):

        def record(_: object, __: object, out: object, index: int = index) -> None:
            value = out[0] if isinstance(out, tuple) else out
            intermediates[f"hidden_state_{index + 1}"] = value

        module[f"encoder.layers.{index}"].register_forward_hook(record)


def _all_windows(speech: Speech) -> Tensor:
    """The windows of all padded frames, gathered from the segments that use them."""
    rows: dict[int, Tensor] = {}
    plan = speech.plan
    for segment in plan:
        windows = speech.segment(segment.index)[0]
        rows |= {slot: windows[i] for i, slot in enumerate(segment.slots) if slot >= 0}
    everything = speech.read(range(plan.padded))
    reach = speech.window // 2
    for frame in set(range(plan.padded)) - set(rows):  # padding that no rendered segment uses
        around = [min(max(frame + o, 0), plan.padded - 1) for o in range(-reach, reach + 1)]
        rows[frame] = everything[around]
    return torch.stack([rows[frame] for frame in range(plan.padded)])


def projection(golden: Golden) -> Report:
    """The audio projection alone, for several frame counts or with the real input geometry."""
    report = Report()
    if golden.names("w."):
        state = {name: golden[f"w.{name}"] for name in golden.names("w.")}
    else:
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
        found = network(golden[f"in.f{count}"])
        report.close(f"out.f{count}", found, golden[f"out.f{count}"], FORWARD)
    return report


CHECKS = (
    Check(lambda g: g.has("in.waveform", "out.audio_emb"), frontend),
    Check(lambda g: bool(g.names("in.f")) and bool(g.names("out.f")) and not g.has("in.x"), projection),
)
