"""Forward passes of both networks: results, intermediates of modules and attention, the training loss."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hallo3.config import Hallo3Config
from hallo3.model.blocks import Modulation
from hallo3.model.embeddings import timestep_sinusoid
from hallo3.model.guidance import batched_branches, sequential_branches, single_branch
from hallo3.model.layers import sdpa
from hallo3.model.transformer import Hallo3Transformer, SegmentConditions, Trunk
from training.loss import Batch, Draw, velocity_loss

from . import networks
from .directory import FORWARD, Check, Golden, Report, swap

ATTENTION_KINDS = "self", "audio"
"""What a block asks attention for; a face is folded, and asks none."""
PARTS = {"norm1": "attention_in", "attn1": "attention_out", "ff": "mlp_out"}
PARTS |= {f"attn_{kind}": f"{kind}_attn_out" for kind in ("face", "audio")}
Tensors = dict[str, Tensor]
Select = Callable[[Any, Any], Tensor]


class Trace:
    """Records intermediates of a network: it is injected as attention and hooks the modules."""

    def __init__(self) -> None:
        self.intermediates: Tensors = {}
        self._calls: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        context = sdpa(q, k, v)
        self._calls.append((q, k, v, context))
        return context

    def hook(self, network: Trunk) -> None:
        """Record inputs and outputs of the modules under the goldens' names."""

        def on(module: nn.Module, name: str, select: Select = lambda _, out: out, join: bool = False) -> None:
            module.register_forward_hook(lambda _, inputs, out: self._record(name, select(inputs, out), join))

        on(network.time_embedding, "time_embed_out")
        on(network.norm_final, "final_layernorm_out")
        on(network.norm_final, "final_layernorm_in", lambda inputs, _: inputs[0])
        for i, block in enumerate(network.transformer_blocks):
            on(block, f"layer_{i}_out", lambda _, out: torch.cat((out[1], out[0]), dim=1))
            for part, name in PARTS.items():
                if hasattr(block, part) or not part.startswith("attn_"):
                    on(getattr(block, part), f"L{i}_{name}")
        if isinstance(network, Hallo3Transformer):
            on(network.audio_proj, "audio_proj_out", join=True)
            on(network.face_proj, "face_proj_out")

    def _record(self, name: str, value: Tensor, join: bool) -> None:
        before = self.intermediates.get(name)
        self.intermediates[name] = torch.cat((before, value)) if before is not None and join else value

    def attentions(self, kinds: tuple[str, ...]) -> Tensors:
        """Queries, keys, values and contexts by layer and kind, from the calls of one forward pass."""
        found: Tensors = {}
        for call, tensors in enumerate(self._calls):
            layer, kind = call // len(kinds), kinds[call % len(kinds)]
            parts = ("q_after_norm_rope", "k_after_norm_rope", "v", "attn_ctx")
            found |= {f"L{layer}_{kind}_{part}": t for part, t in zip(parts, tensors, strict=True)}
        self._calls.clear()
        return found


def compare_mids(golden: Golden, intermediates: Tensors, report: Report, last: Last | None = None) -> None:
    """Every recorded ``mid.*``. Rows that the original discards, or repeats for the second branch, have no
    counterpart."""
    for name in golden.names("mid."):
        expected = golden[f"mid.{name}"]
        if name in intermediates:
            found = intermediates[name]
            if last is not None and re.match(rf"(L|layer_){last.block}_", name):
                found, expected = last.video(name, found, expected)
            found, expected = _common(name, found, expected)
            report.close(f"mid.{name}", found, expected, FORWARD)


class Last(NamedTuple):
    """The last block, whose text rows are unused and not computed."""

    block: int
    text: int
    tokens: int

    def video(self, name: str, found: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
        """Select the video's rows where text rows are missing."""
        if not re.search(r"self_(q_after|attn_ctx)|attention_out|mlp_out|layer_\d+_out", name):
            return found, expected
        end = self.text + self.tokens
        return found[..., -self.tokens :, :], expected[..., self.text : end, :]


def _common(name: str, found: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    if re.search(r"_(face|audio)_attn_out$", name):
        found = found.reshape(-1, expected.shape[1], expected.shape[2])
    if re.search(r"self_(q_after|attn_ctx)", name):
        expected = expected[:, :, : found.shape[2]]
    if re.search(r"attention_(in|out)$", name):
        expected = expected[:, : found.shape[1]]
    if name.startswith("final_layernorm"):
        expected = expected[:, -found.shape[1] :]
    if len(found) != len(expected) and len(expected) % len(found) == 0:
        found = found.repeat(len(expected) // len(found), *[1] * (found.ndim - 1))
    return found, expected


def adaln_chunks(modulation: Modulation) -> Tensors:
    """Each block's twelve chunks in the original's order."""
    found: Tensors = {}
    for index, (attention, feed_forward) in enumerate(modulation.blocks):
        order = (attention[:, :3], feed_forward[:, :3], attention[:, 3:], feed_forward[:, 3:])
        found[f"L{index}_adaln_12chunks"] = torch.cat(order, dim=1).flatten(1)
    return found


def prepared(golden: Golden, config: Hallo3Config, trace: Trace, patterns: Any = (), factor: float = 1.0):
    """The main network with a golden's conditions: (network, run, segment, its last block)."""
    dit = networks.transformer(golden, config, trace.attention, patterns, factor)
    trace.hook(dit)
    banks = [golden[f"in.bank_{index}"] for index in range(config.trunk.layers)]
    timesteps = golden["in.timestep"].flatten()[:1]
    run = dit.prepare(banks, golden["in.face_emb"], timesteps)
    audio = dit.encode_audio(golden["in.audio_windows"])
    last = Last(config.trunk.layers - 1, config.trunk.text_tokens, dit.latent.tokens)
    text = dit.encode_text(golden["in.text"])
    segment = SegmentConditions(text=text, audio=audio, image_latents=swap(golden["in.concat"]))
    return dit, run, segment, last


def dit_forward(golden: Golden, report: Report) -> None:
    """One branch, or the pair as the sampler builds it (batched and one by one)."""
    config, trace = networks.config_of(golden.about), Trace()
    dit, run, segment, last = prepared(golden, config, trace)
    noisy = swap(golden["in.x"])
    if len(golden["out.final"]) == 1:
        result = single_branch(dit, run, segment)(noisy, 0)
        trace.intermediates["audio_proj_out"] = trace.intermediates["audio_proj_out"][1:]
    else:
        one_by_one = sequential_branches(dit, run, segment)(noisy, 0)
        report.close("out.final (one by one)", swap(one_by_one), golden["out.final"], FORWARD)
        trace.attentions(ATTENTION_KINDS)
        result = batched_branches(dit, run, segment)(noisy, 0)
    report.check("out.final", swap(result))
    intermediates = trace.intermediates | trace.attentions(ATTENTION_KINDS) | adaln_chunks(run.steps[0])
    intermediates |= {f"L{index}_face_k_after_norm_rope": face.k for index, face in enumerate(run.face)}
    video = dit.embed(noisy, segment.image_latents).expand(len(result), -1, -1)
    intermediates["embedded_tokens_with_pos"] = torch.cat((segment.text[-len(result) :], video), dim=1)
    timestep = golden["in.timestep"].flatten()[:1]
    intermediates["timestep_sinusoid"] = timestep_sinusoid(timestep, config.trunk.width)
    compare_mids(golden, intermediates, report, last)


PATTERNS = "patterns (regular expressions, search)"


def eps_probe(golden: Golden, report: Report) -> None:
    """The first golden again with small weights: only the norms' epsilons decide."""
    base_name = re.search(r"weights as (\w+)", golden.about["what"])
    base = golden.other(base_name[1] if base_name else "dit_forward_b1")
    config, trace = networks.config_of(base.about), Trace()
    scaled = golden.about[PATTERNS], float(golden.about["factor"])
    dit, run, segment, last = prepared(base, config, trace, *scaled)
    result = single_branch(dit, run, segment)(swap(base["in.x"]), 0)
    trace.intermediates["audio_proj_out"] = trace.intermediates["audio_proj_out"][1:]
    report.check("out.final", swap(result))
    compare_mids(golden, trace.intermediates, report, last)


def ref_net(golden: Golden, report: Report) -> None:
    """The reference network on one latent frame, with zero text and with a caption."""
    config, trace = networks.config_of(golden.about), Trace()
    network = networks.reference(golden, config, trace.attention)
    still = swap(golden["in.ref_latent"])
    for variant in ("", "train_variant."):
        if golden.has(f"{variant}in.text"):
            text = golden[f"{variant}in.text"]
            features = network.features(still, text if text.any() else None)
            for index in golden.names(f"{variant}out.bank_"):
                report.check(f"{variant}out.bank_{index}", features[int(index)])
            result = network(still, still, golden["in.timestep"], text)
            report.check(f"{variant}out.final", swap(result))
    _mids(golden, network, trace, still, still, report)


def backbone(golden: Golden, report: Report) -> None:
    """The reference network's class over a whole segment: plain CogVideoX."""
    config, trace = networks.config_of(golden.about), Trace()
    network = networks.reference(golden, config, trace.attention)
    noisy, image = swap(golden["in.x"]), swap(golden["in.concat"])
    result = network(noisy, image, golden["in.timestep"], golden["in.text"])
    report.check("out.final", swap(result))
    _mids(golden, network, trace, noisy, image, report)


def _mids(golden: Golden, net: Any, trace: Trace, noisy: Tensor, still: Tensor, report: Report) -> None:
    """One more pass with hooks; ``out.bank_*`` are its normed video tokens."""
    trace.attentions(("self",))
    trace.hook(net)
    text, timestep = golden["in.text"], golden["in.timestep"]
    net(noisy, still, timestep, text)
    intermediates = trace.intermediates | trace.attentions(("self",))
    intermediates |= adaln_chunks(net.modulate(timestep, noisy))
    tokens = net.patch_embed.text(text), net.embed(noisy, still)
    intermediates["embedded_tokens_with_pos"] = torch.cat(tokens, dim=1)
    intermediates["timestep_sinusoid"] = timestep_sinusoid(timestep, net.config.width)
    for index in golden.names("out.bank_"):
        found = intermediates[f"L{index}_attention_in"][:, text.shape[1] :]
        report.close(f"out.bank_{index} (recorded)", found, golden[f"out.bank_{index}"], FORWARD)
    compare_mids(golden, intermediates, report)


def _is_backbone(golden: Golden) -> bool:
    return golden.has("in.x", "in.concat", "in.text", "out.final") and not golden.has("in.audio_windows")


def train_loss(golden: Golden, report: Report) -> None:
    """Noisy latents, the network's answer and the loss of every sample."""
    config = networks.config_of(golden.about)
    batch = Batch(
        latents=swap(golden["in.latents"]),
        image_latents=swap(golden["in.concat_images"]),
        face_latents=swap(golden["in.mask_ref_latent"]),
        windows=golden["in.audio_windows"],
        face_embedding=golden["in.face_emb"],
        prompt_embeds=golden["in.text"],
    )
    draw = Draw(table_index=golden["draw.idx"], noise=swap(golden["draw.noise"]))
    pair = networks.transformer(golden, config), networks.reference(golden, config)
    with torch.inference_mode():
        loss = velocity_loss(*pair, batch, draw)
    for name, found in (("mid.noised_x", loss.noisy), ("mid.net_out", loss.velocity)):
        if golden.has(name):
            report.check(name, swap(found))
    report.check("out.loss_per_sample", loss.per_sample)


CHECKS = (
    Check(lambda g: g.has("in.x", "in.audio_windows", "in.bank_0", "out.final"), dit_forward),
    Check(lambda g: PATTERNS in g.about and g.has("out.final"), eps_probe),
    Check(lambda g: g.has("in.ref_latent", "out.bank_0"), ref_net),
    Check(_is_backbone, backbone),
    Check(lambda g: g.has("in.latents", "draw.idx", "draw.noise", "out.loss_per_sample"), train_loss),
)
