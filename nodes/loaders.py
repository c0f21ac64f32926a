"""Loaders: weights files, or the built-in model, to what the other nodes use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..hallo3.built_in import NAME as BUILT_IN
from ..hallo3.errors import CheckpointError
from ..hallo3.media.audio import read_recording
from ..hallo3.media.image import read_picture
from .comfy.builtin import load_speech_encoder, load_text_encoder, load_vae
from .comfy.loading import FP8, load_model, load_reference_network
from .comfy.workflow import file_state
from .convert import to_audio, to_images
from .schema import FREE_MEMORY, Hallo3Node, ReferenceNetworkType, make_schema

CATEGORY = "Hallo3/loaders"
SAFE = (".safetensors", ".sft", ".pt")
"""Files that are read without running anything in them."""
FOLDER = "diffusion_models"


def weights_files() -> list[str]:
    """What the loaders offer: the built-in weights, then every safe file among the diffusion models."""
    return [BUILT_IN, *(n for n in folder_paths.get_filename_list(FOLDER) if n.lower().endswith(SAFE))]


def weights_path(name: str) -> Path | None:
    """Where a file stands; None for the built-in weights. Raises ``CheckpointError`` if it has gone."""
    if name == BUILT_IN:
        return None
    if (path := folder_paths.get_full_path(FOLDER, name)) is not None:
        return Path(path)
    raise CheckpointError(
        "The weights file is missing.",
        found=f"no {name} in ComfyUI's {FOLDER}",
        expected="a file that was there when the page was loaded",
        fix="put it there again, or choose another",
    )


def weights_state(name: object) -> list[int]:
    """For fingerprints: a file that is replaced is loaded again."""
    path = folder_paths.get_full_path(FOLDER, name) if isinstance(name, str) else None
    return file_state(Path(path) if path else None)


class Hallo3LoadModel(Hallo3Node):
    MEMORY_ADVICE = f"choose a smaller weight_dtype, or {FREE_MEMORY}"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3LoadModel",
            category=CATEGORY,
            search_aliases=["hallo3", "talking portrait model", "lip sync model", "unet loader"],
            inputs=[
                io.Combo.Input("model_name", options=weights_files(), default=BUILT_IN),
                io.Combo.Input("weight_dtype", options=["default", *FP8], default="default", advanced=True),
            ],
            outputs=[io.Model.Output("model")],
        )

    @classmethod
    def fingerprint_inputs(cls, model_name: Any = None, **_: Any) -> Any:
        return weights_state(model_name)

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str) -> io.NodeOutput:
        return io.NodeOutput(load_model(weights_path(model_name), weight_dtype))


class Hallo3LoadReferenceNetwork(Hallo3Node):
    MEMORY_ADVICE = FREE_MEMORY

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3LoadReferenceNetwork",
            category=CATEGORY,
            search_aliases=["hallo3", "reference net", "identity network"],
            inputs=[io.Combo.Input("reference_network_name", options=weights_files(), default=BUILT_IN)],
            outputs=[ReferenceNetworkType.Output("reference_network")],
        )

    @classmethod
    def fingerprint_inputs(cls, reference_network_name: Any = None, **_: Any) -> Any:
        return weights_state(reference_network_name)

    @classmethod
    def execute(cls, reference_network_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_reference_network(weights_path(reference_network_name)))


class Hallo3LoadBuiltIn(Hallo3Node):
    MEMORY_ADVICE = FREE_MEMORY

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3LoadBuiltIn",
            category=CATEGORY,
            search_aliases=["hallo3", "talking portrait", "demo model", "tiny model"],
            inputs=[],
            outputs=[
                io.Model.Output("model"),
                ReferenceNetworkType.Output("reference_network"),
                io.Vae.Output("vae"),
                io.AudioEncoder.Output("audio_encoder"),
                io.Clip.Output("clip"),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        networks = load_model(None), load_reference_network(None)
        return io.NodeOutput(*networks, load_vae(), load_speech_encoder(), load_text_encoder())


SAMPLES = Path(__file__).resolve().parents[1] / "samples"
PAIR = "pair"
PORTRAITS = ("portrait", "portrait_2", "portrait_3", PAIR)
SPEECH, CONVERSATION = "speech.wav", "conversation.flac"
"""The pictures there, without their ending."""


class Hallo3Sample(Hallo3Node):
    MEMORY_ADVICE = FREE_MEMORY

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3Sample",
            search_aliases=["hallo3", "example portrait", "example speech"],
            inputs=[io.Combo.Input("portrait", options=list(PORTRAITS), default=PORTRAITS[0], optional=True)],
            outputs=[io.Image.Output("portrait"), io.Audio.Output("speech")],
        )

    @classmethod
    def execute(cls, portrait: str = PORTRAITS[0]) -> io.NodeOutput:
        picture = read_picture(SAMPLES / f"{portrait}.png")
        recording = read_recording(SAMPLES / (CONVERSATION if portrait == PAIR else SPEECH))
        return io.NodeOutput(to_images(picture[None]), to_audio(recording))
