"""The files that a user downloads, with made-up values: the released names, layout and wrapping.

At the true size 40 GB, written block by block in well under 1 GB of memory:

    cd tests; python -m full_size.generate FOLDER [--scale 0.25] [--canvas 49 96 144] [--part checkpoint]

``--scale`` makes every width smaller, with the same names and numbers of layers; a hallo3.json beside each
file then has its sizes. Values are finite and keep a signal's size, so that whole runs stay finite.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hallo3.checkpoints import keymaps
from hallo3.checkpoints.load import build_on_meta
from hallo3.checkpoints.locate import RELEASE
from hallo3.checkpoints.tensor_entry import header_bytes
from hallo3.config import HALLO3, SPEECH_ENCODERS, TEXT_ENCODERS, Hallo3Config, to_dict
from hallo3.face.arcface import RECOGNIZER_FILENAME
from hallo3.face.scrfd import DETECTOR_FILENAME
from hallo3.storage.hashing import raw_bytes
from hallo3.text_encoder import untie_embedding
from support import onnx_builder
from support.audio_samples import RATE, tone, write_wav
from support.original_checkpoints import module, to_original, wrap
from support.sentencepiece_model import sentencepiece_model

BLOCK = 1_000_003  # values, then they repeat; prime, so that the rows of a matrix differ
ALIGNMENT = 64  # torch's, of a tensor in the archive
STORAGES = {torch.bfloat16: "BFloat16Storage", torch.float32: "FloatStorage", torch.uint8: "ByteStorage"}


@dataclass(frozen=True)
class Sizes:
    """The defaults are the released model's. ``text`` and ``speech`` are in transformers' words."""

    model: Hallo3Config = HALLO3
    text: Mapping[str, Any] = field(default_factory=lambda: TEXT_ENCODERS["hallo3"])
    speech: Mapping[str, Any] = field(default_factory=lambda: SPEECH_ENCODERS["hallo3"])

    @staticmethod
    def scaled(scale: float, canvas: tuple[int, int, int] | None = None) -> Sizes:
        """Widths times ``scale``; ``canvas`` is a segment's frames, height and width, if not the released."""

        def cut(size: int, multiple: int = 16) -> int:
            return max(1, round(size * scale / multiple)) * multiple

        trunk, audio, face, vae = HALLO3.trunk, HALLO3.audio, HALLO3.face, HALLO3.vae
        heads, text_dim = cut(trunk.heads, 1), cut(trunk.text_dim, 64)
        trunk = replace(trunk, heads=heads, time_dim=cut(trunk.time_dim), text_dim=text_dim)
        speech = cut(audio.channels, 48)
        audio = replace(audio, channels=speech, hidden=cut(audio.hidden), token_dim=cut(audio.token_dim))
        channels = tuple(cut(each) for each in vae.block_out_channels)
        frames, height, width = canvas or HALLO3.segment.shape
        model = replace(
            HALLO3,
            name=HALLO3.name if scale == 1 else f"hallo3 at {scale:g} of its width",
            trunk=trunk,
            audio=audio,
            face=replace(face, token_dim=cut(face.token_dim)),
            vae=replace(vae, block_out_channels=channels, norm_num_groups=cut(vae.norm_num_groups, 2)),
            segment=replace(HALLO3.segment, frames=frames, height=height, width=width),
        )
        text = TEXT_ENCODERS["hallo3"]
        text = text | {"d_model": text_dim, "d_ff": cut(text["d_ff"]), "num_heads": cut(text["num_heads"], 1)}
        wav2vec2 = {
            "hidden_size": speech,
            "num_attention_heads": cut(12, 1),
            "intermediate_size": 4 * speech,
            "conv_dim": [cut(512)] * 7,
        }
        return Sizes(model, text, SPEECH_ENCODERS["hallo3"] if scale == 1 else wav2vec2)


@cache
def _normal() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(2 * BLOCK, dtype="float32"))


def made_up(name: str, tensor: Tensor) -> Iterator[memoryview]:
    """A tensor's bytes: its own, or of a tensor on meta made-up values, the same for the same name."""
    if not tensor.is_meta:
        yield raw_bytes(tensor.contiguous())
        return
    ones = tensor.ndim == 1 and (name.endswith("conv_y.conv.bias") or bool(re.search(r"norm.*weight$", name)))
    spread = 0.02 if tensor.ndim < 2 else tensor[0].numel() ** -0.5  # a matrix keeps a signal's size
    count, start = min(BLOCK, tensor.numel()), crc32(name.encode()) % BLOCK
    values = torch.ones(count) if ones else _normal()[start : start + count] * spread
    block = values.to(tensor.dtype)
    for start in range(0, tensor.numel(), BLOCK):
        yield raw_bytes(block[: tensor.numel() - start])


def made_up_tensor(name: str, tensor: Tensor) -> Tensor:
    raw = bytearray().join(made_up(name, tensor))
    return torch.frombuffer(raw, dtype=tensor.dtype).reshape(tensor.shape)


@dataclass(frozen=True)
class _Storage:
    key: str
    tensor: Tensor


class _Pickler(pickle.Pickler):
    """Pickles tensors on meta as torch.save does any others; ``storages`` must be written beside."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)
        self.storages: list[_Storage] = []

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Storage):
            return None
        kind = getattr(torch, STORAGES[obj.tensor.dtype])
        return "storage", kind, obj.key, "cpu", obj.tensor.numel()

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return NotImplemented
        storage = _Storage(str(len(self.storages)), obj)
        self.storages.append(storage)
        arguments = storage, 0, tuple(obj.shape), obj.stride(), False, OrderedDict()
        return torch._utils._rebuild_tensor_v2, arguments


def write_torch(path: Path, value: dict[str, Any], names: Mapping[int, str]) -> None:
    """Write what ``torch.save(value)`` would if its tensors had values. ``names`` are by ``id``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    pickler = _Pickler(content)
    pickler.dump(value)
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:

        def write(name: str, size: int, blocks: Iterator[memoryview | bytes]) -> None:
            info = zipfile.ZipInfo(f"{path.stem}/{name}")
            info.file_size = size
            zip64 = 20 * (size * 1.05 > zipfile.ZIP64_LIMIT)  # zipfile's rule
            begin = file.tell() + 30 + len(info.filename) + zip64 + 4
            padding = -begin % ALIGNMENT
            info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
            with archive.open(info, "w") as member:
                for block in blocks:
                    member.write(block)

        write("data.pkl", content.tell(), iter([content.getvalue()]))
        write("byteorder", 6, iter([b"little"]))
        for storage in pickler.storages:
            tensor = storage.tensor
            size = tensor.numel() * tensor.itemsize
            write(f"data/{storage.key}", size, made_up(names.get(id(tensor), ""), tensor))
        write("version", 2, iter([b"3\n"]))


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    layout = ((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items())
    with path.open("wb") as file:
        file.write(header_bytes(layout, {"format": "pt"}))
        for name, tensor in tensors.items():
            for block in made_up(name, tensor):
                file.write(block)


def on_meta(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}


def networks(sizes: Sizes) -> OrderedDict[str, Tensor]:
    """Transformer and reference network, on meta."""
    return module(sizes.model, make=lambda network, _: on_meta(network, torch.bfloat16))


def vae(sizes: Sizes) -> dict[str, Tensor]:
    network = build_on_meta("vae", to_dict(sizes.model.vae))
    return to_original(keymaps.VAE, on_meta(network, torch.float32))


def text_encoder(sizes: Sizes) -> dict[str, Tensor]:
    return untie_embedding(on_meta(build_on_meta("text_encoder", sizes.text), torch.bfloat16))


def write_networks(folder: Path, sizes: Sizes, only: str = "") -> None:
    """Both networks in one checkpoint, as DeepSpeed saves it; ``only`` is the beginning of one
    network's names, where there is no room for both."""
    state = OrderedDict((name, tensor) for name, tensor in networks(sizes).items() if name.startswith(only))
    latest, checkpoint = (folder / name for name in RELEASE["transformer"].files)
    write_torch(checkpoint, wrap(state), {id(tensor): name for name, tensor in state.items()})
    latest.write_text("1")
    write_sizes(checkpoint.parent, sizes, to_dict(sizes.model))


def write_vae(folder: Path, sizes: Sizes) -> None:
    (file,) = RELEASE["vae"].files
    state = {**vae(sizes), "loss.logvar": torch.zeros(())}
    write_torch(folder / file, {"state_dict": state}, {id(tensor): name for name, tensor in state.items()})
    write_sizes((folder / file).parent, sizes, {"part": "vae", "config": to_dict(sizes.model.vae)})


def write_text_encoder(folder: Path, sizes: Sizes) -> None:
    """T5 in two files with an index, its configuration and its tokenizer, without a tokenizer.json."""
    folder /= Path(RELEASE["text_encoder"].files[0]).parent
    state = text_encoder(sizes)
    names, half = list(state), sum(tensor.nbytes for tensor in state.values()) / 2
    total, places = 0, dict[str, int]()
    for name in names:
        places[name] = 1 if total < half else 2
        total += state[name].nbytes
    files = {number: f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)}
    for number, file in files.items():
        write_safetensors(folder / file, {name: state[name] for name in names if places[name] == number})
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: files[places[name]] for name in names},
    }
    extra = [f"<extra_id_{n}>" for n in range(100)]
    marks = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    notes: dict[str, dict[str, Any]] = {
        "model.safetensors.index.json": index,
        "config.json": {"architectures": ["T5EncoderModel"], "model_type": "t5", **sizes.text},
        "added_tokens.json": {token: 32099 - n for n, token in enumerate(extra)},
        "special_tokens_map.json": {"additional_special_tokens": extra, **marks},
        "tokenizer_config.json": {
            "additional_special_tokens": extra,
            **marks,
            "extra_ids": 100,
            "legacy": True,
            "model_max_length": 512,
            "sp_model_kwargs": {},
            "tokenizer_class": "T5Tokenizer",
        },
    }
    for name, note in notes.items():
        (folder / name).write_text(json.dumps(note, indent=2))
    (folder / "spiece.model").write_bytes(sentencepiece_model())
    write_sizes(folder, sizes, {"part": "text_encoder", "config": dict(sizes.text)})


def write_speech_encoder(folder: Path, sizes: Sizes) -> None:
    folder /= Path(RELEASE["speech_encoder"].files[0]).parent
    naming = next(each for each in keymaps.NAMINGS if each.part == "speech_encoder")
    state = to_original(naming.keys, on_meta(build_on_meta("speech_encoder", sizes.speech), torch.float32))
    width = state["feature_projection.projection.bias"].numel()
    state["masked_spec_embed"] = torch.zeros(width)
    state = {naming.prefixes[0] + name: tensor for name, tensor in state.items()}
    state |= {"lm_head.weight": torch.zeros(32, width), "lm_head.bias": torch.zeros(32)}
    write_safetensors(folder / "model.safetensors", state)
    note = {"architectures": ["Wav2Vec2ForCTC"], "model_type": "wav2vec2", "vocab_size": 32, **sizes.speech}
    (folder / "config.json").write_text(json.dumps(note, indent=2))
    write_sizes(folder, sizes, {"part": "speech_encoder", "config": dict(sizes.speech)})


def write_faces(folder: Path, _: Sizes) -> None:
    """The face analyzer's two networks, which find the face of ``write_inputs``; small at any size."""
    folder /= "face_analysis/models"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DETECTOR_FILENAME).write_bytes(onnx_builder.detector())
    (folder / RECOGNIZER_FILENAME).write_bytes(onnx_builder.recognizer())


WRITERS = {
    "checkpoint": write_networks,
    "vae": write_vae,
    "text_encoder": write_text_encoder,
    "speech_encoder": write_speech_encoder,
    "faces": write_faces,
}


def write_sizes(folder: Path, sizes: Sizes, config: Mapping[str, Any]) -> None:
    """The configuration beside files of another size than the released."""
    if sizes != Sizes():
        (folder / "hallo3.json").write_text(json.dumps(config))


def write_inputs(folder: Path, seconds: float = 0.5) -> tuple[Path, Path]:
    """A picture in which the made-up face analyzer finds a face, and a sound."""
    pixels = np.full((640, 640, 3), (0, 51, 51), np.uint8)
    pixels[320, 320] = 230, 120, onnx_builder.RIGHT
    portrait, speech = folder / "me.png", folder / "me.wav"
    Image.fromarray(pixels).save(portrait)
    write_wav(speech, tone(RATE, seconds), RATE)
    return portrait, speech


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the released files with made-up values.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--canvas", type=int, nargs=3, metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--part", choices=WRITERS, action="append")
    options = parser.parse_args()
    sizes = Sizes.scaled(options.scale, options.canvas and tuple(options.canvas))
    for part in options.part or WRITERS:
        WRITERS[part](options.folder, sizes)


if __name__ == "__main__":
    main()
