"""wav2vec2 over a recording: at once in memory, or one pass of pieces for recordings of minutes to hours.

transformers' forward pass holds every intermediate result of the whole recording: 23 GB for an hour, after
the first convolution alone. So its modules are called one by one, with the same numbers: convolutions and
feed-forward layers over pieces, attention over all frames by torch's ``scaled_dot_product_attention``, of all
heads at once where they are small. The output of a layer is a file, which the next layer reads. One layer's
input and the output of its attention, of an hour at most, are in memory. A wav2vec2 that bounds its memory
would replace this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..progress import OpenProgress, ProgressCallback, no_display
from ..segments import SegmentPlan
from .array_file import ArrayFile, write_array_file
from .features import ReadFeatures, Window, Windows, read_from_memory
from .wav2vec2 import Wav2Vec2Parts

NORMALIZE_EPS = 1e-7
MAX_SECONDS_IN_MEMORY = 120
"""Longer recordings are encoded in pieces."""
CONV_FEATURES = 100
"""Convolution features (20 ms) per piece."""
FRAMES = 512
"""Video frames per piece of what is not attention."""
KEYS = 1 << 17
"""Keys times heads that are computed together: all heads of a recording of minutes, one of an hour's."""
SCORES, GPU_SCORES = 1 << 25, 1 << 31
"""Queries times keys times heads per call of attention."""
WRITE_SAMPLES = 1 << 20


def normalize(waveform: Tensor) -> Tensor:
    """Zero mean and unit (population) variance over the whole recording, before any padding."""
    return (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + NORMALIZE_EPS)


def padding(plan: SegmentPlan) -> int:
    """Zero samples for the frames that fill the last group of ``segment.frames``."""
    return (plan.padded - plan.frames) * (plan.config.sample_rate // plan.config.fps)


def stretch(conv_features: Tensor, frames: int) -> Tensor:
    """[1, C, t at 50 Hz] -> [1, frames, C]: linear, end points fixed."""
    return F.interpolate(conv_features, size=frames, mode="linear", align_corners=True).transpose(1, 2)


def run_layers(parts: Wav2Vec2Parts, hidden: Tensor) -> Iterator[Tensor]:
    """The output of every transformer layer."""
    hidden = parts.norm(hidden + parts.positions(hidden))
    for layer in parts.layers:
        yield (hidden := layer(hidden))


def encode_waveform(
    parts: Wav2Vec2Parts, waveform: Tensor, plan: SegmentPlan, device: torch.device
) -> Tensor:
    """Mono waveform [samples] at the plan's sample rate -> features [plan.padded, layers, channels] float32.
    ``device`` is the network's. Golden ``audio_frontend_3p3s``."""
    signal = F.pad(normalize(waveform), (0, padding(plan))).to(device)
    hidden = parts.project(stretch(parts.extract(signal[None]), plan.padded))
    return torch.stack([layer[0] for layer in run_layers(parts, hidden)], dim=1).float().cpu()


def compute_features(
    parts: Wav2Vec2Parts,
    waveform: Tensor,
    plan: SegmentPlan,
    device: torch.device,
    *,
    windows: Windows | None = None,
    open_progress: OpenProgress = no_display,
    directory: Path | None = None,
) -> ReadFeatures:
    """The features of a mono waveform [samples] in memory: at once if it is short, otherwise by
    ``encode_array_file`` in a temporary folder in ``directory``, deleted together with the returned
    function."""
    if windows is None and len(waveform) <= MAX_SECONDS_IN_MEMORY * plan.config.sample_rate:
        return read_from_memory(encode_waveform(parts, waveform, plan, device))
    folder = Path(mkdtemp(prefix="hallo3_speech_", dir=directory))
    try:
        samples = write_array_file(folder / "samples.f32", torch.split(waveform[:, None], WRITE_SAMPLES), 1)
        read = encode_array_file(
            parts, samples, plan, device, folder, windows=windows, open_progress=open_progress
        )
        samples.remove()
    except BaseException:
        rmtree(folder, ignore_errors=True)
        raise
    finalize(read, rmtree, folder, ignore_errors=True)
    return read


def layer_files(folder: Path, plan: SegmentPlan, layers: int, channels: int) -> list[ArrayFile]:
    return [ArrayFile(folder / f"layer_{n:02}.f32", plan.padded, channels) for n in range(layers)]


def read_from_files(layers: Sequence[ArrayFile]) -> ReadFeatures:
    """Features [len, layers, channels] of contiguous frames, from one file per layer."""
    return lambda frames: torch.stack([layer.read(frames[0], frames[-1] + 1) for layer in layers], dim=1)


def encode_array_file(
    parts: Wav2Vec2Parts,
    samples: ArrayFile,
    plan: SegmentPlan,
    device: torch.device,
    folder: Path,
    *,
    windows: Windows | None = None,
    open_progress: OpenProgress = no_display,
) -> ReadFeatures:
    """The features of a mono signal [samples, 1] at the plan's rate, in the files of ``folder``.

    Without ``windows`` every frame attends to the whole recording. The folder belongs to this recording,
    these weights and these windows: layers that are complete there are not computed again. Raises
    ``OutputError`` if files cannot be written or are damaged, and what the progress callback raises.
    """
    layers = layer_files(folder, plan, len(parts.layers), parts.width)
    hidden = ArrayFile(folder / "hidden.f32", plan.padded, parts.width)
    spans = windows.over(plan.padded) if windows else [Window(0, plan.padded, 0, plan.padded)]
    field, stride = parts.receptive_field
    length = samples.rows + padding(plan)
    width = parts.convolutions[-1].conv.out_channels
    features = ArrayFile(folder / "conv.f32", (length - field) // stride + 1, width)
    passes = [1 + layer.attention.num_heads for layer in parts.layers]
    with (
        torch.no_grad(),
        open_progress("encoding speech", 2 * features.rows + plan.padded * (1 + sum(passes))) as progress,
    ):
        encoder = _PieceEncoder(parts, device, progress)
        done = next((n for n, layer in enumerate(layers) if not layer.is_whole()), len(layers))
        if done:
            progress(2 * features.rows + plan.padded * (1 + sum(passes[:done])))
        else:
            write_array_file(features.path, encoder.convolve(samples, length, features.rows), features.width)
            write_array_file(hidden.path, encoder.project(features, plan.padded), hidden.width)
            features.remove()
        for number in range(done, len(layers)):
            inputs, layer = layers[number - 1] if number else hidden, parts.layers[number]
            rows = (piece for span in spans for piece in encoder.run_layer(layer, inputs, span))
            write_array_file(layers[number].path, rows, parts.width)
        hidden.remove()
    return read_from_files(layers)


def mean_and_variance(pieces: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and population variance [rows] float64 of pieces [rows, n] float32, merged as in Chan, Golub and
    LeVeque 1979."""
    count, mean, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for piece in pieces:
        new, total = piece.shape[1], count + piece.shape[1]
        variance, average = (each.cpu().double() for each in torch.var_mean(piece, dim=1, correction=0))
        difference = average - mean
        mean = mean + difference * (new / total)
        squares = squares + variance * new + difference**2 * (count * new / total)
        count = total
    return mean, squares / max(count, 1)


def interpolate_rows(features: ArrayFile, frames: int, start: int, stop: int) -> Tensor:
    """Rows ``start`` to ``stop`` of what ``stretch`` makes of all features, in its own float32 arithmetic."""
    last = features.rows - 1
    ratio = float(torch.tensor(float(last)) / (frames - 1)) if frames > 1 else 0.0
    places = torch.arange(start, stop, dtype=torch.float32) * ratio
    before = places.floor().long().clamp(max=last)
    after = (before + 1).clamp(max=last)
    share = (places - before).clamp(0, 1)[:, None]
    first = int(before[0])
    rows = features.read(first, int(after[-1]) + 1)
    return rows[before - first] * (1 - share) + rows[after - first] * share


@dataclass(frozen=True, slots=True)
class _PieceEncoder:
    parts: Wav2Vec2Parts
    device: torch.device
    progress: ProgressCallback

    def convolve(self, samples: ArrayFile, length: int, features: int) -> Iterator[Tensor]:
        """Convolution features [n, C] of the normalized signal, padded with zeros to ``length``."""
        first, *others = self.parts.convolutions
        (field, stride), norm = self.parts.receptive_field, first.layer_norm
        kernel, step = first.conv.kernel_size[0], first.conv.stride[0]
        size = CONV_FEATURES * stride
        starts = range(0, samples.rows, size)
        pieces = (samples.read(start, min(start + size, samples.rows)).T for start in starts)
        mean, variance = mean_and_variance(pieces)
        average, deviation = float(mean), float((variance + NORMALIZE_EPS).sqrt())

        def convolve_first(start: int, stop: int) -> Tensor:
            end = samples.rows
            values = (samples.read(min(start, end), min(stop, end))[:, 0] - average) / deviation
            return first.conv(F.pad(values, (0, stop - start - len(values))).to(self.device)[None, None])

        def channels() -> Iterator[Tensor]:
            for start, stop in self.pieces(features, CONV_FEATURES):
                end = stop * stride // step if stop < features else (length - kernel) // step + 1
                yield convolve_first(start * stride // step * step, (end - 1) * step + kernel)[0]

        mean, variance = (each.float().to(self.device) for each in mean_and_variance(channels()))
        for start, stop in self.pieces(features, CONV_FEATURES):
            output = convolve_first(start * stride, (stop - 1) * stride + field)
            weight, bias = norm.weight.to(output), norm.bias.to(output)
            output = F.batch_norm(output, mean, variance, weight, bias, eps=norm.eps)
            output = F.gelu(output)
            for layer in others:
                output = layer(output)
            yield output[0].T

    def project(self, features: ArrayFile, frames: int) -> Iterator[Tensor]:
        """The input [n, D] of the first layer, one row per video frame."""
        halo = self.parts.positions.conv.kernel_size[0] // 2
        for start, stop in self.pieces(frames, FRAMES):
            first, last = max(start - halo, 0), min(stop + halo, frames)
            rows = interpolate_rows(features, frames, first, last).to(self.device)
            hidden = self.parts.project(rows[None])
            hidden = (hidden + self.parts.positions(hidden))[:, start - first : stop - first]
            yield self.parts.norm(hidden)[0]

    def run_layer(self, layer: Any, inputs: ArrayFile, window: Window) -> Iterator[Tensor]:
        """The layer's output [n, D] for frames ``start`` to ``stop`` of the window."""
        context = inputs.read(window.first, window.last)
        states = context[window.start - window.first : window.stop - window.first]
        attention, attention_output = layer.attention, torch.empty_like(states)
        heads, width = attention.num_heads, attention.q_proj.out_features // attention.num_heads
        together = min(max(KEYS // len(context), 1), heads)
        scores = SCORES if self.device.type == "cpu" else GPU_SCORES
        queries = max(scores // (len(context) * together), 1)
        for head in range(0, heads, together):
            columns = [slice(n * width, (n + 1) * width) for n in range(head, min(head + together, heads))]
            key, value = (
                self._project(linear, context, columns) for linear in (attention.k_proj, attention.v_proj)
            )
            for start, stop in self.pieces(len(states), queries, len(columns)):
                query = self._project(attention.q_proj, states[start:stop], columns)
                output = F.scaled_dot_product_attention(query, key, value)
                attention_output[start:stop, columns[0].start : columns[-1].stop] = (
                    output[0].transpose(0, 1).flatten(1)
                )
        for start, stop in self.pieces(len(states), FRAMES):
            hidden = states[start:stop].to(self.device)[None]
            output = attention.out_proj(attention_output[start:stop].to(self.device)[None])
            hidden = layer.layer_norm(hidden + output)
            yield layer.final_layer_norm(hidden + layer.feed_forward(hidden))[0]

    def _project(self, linear: nn.Linear, rows: Tensor, columns: Sequence[slice]) -> Tensor:
        """[1, heads, n, width]: of a layer whose weights may have another type, some heads' columns."""
        width = columns[0].stop - columns[0].start
        output = torch.empty(len(columns), len(rows), width, device=self.device)
        for start in range(0, len(rows), FRAMES):
            piece = rows[start : start + FRAMES].to(self.device)
            for head, each in zip(output, columns, strict=True):
                weight, bias = linear.weight[each].to(piece), linear.bias[each].to(piece)
                head[start : start + FRAMES] = F.linear(piece, weight, bias)
        return output[None]

    def pieces(self, total: int, size: int, passes: int = 1) -> Iterator[tuple[int, int]]:
        """(start, stop) from 0 to ``total``; reports progress after each, that of ``passes``."""
        for start in range(0, total, size):
            stop = min(start + size, total)
            yield start, stop
            self.progress(passes * (stop - start))
