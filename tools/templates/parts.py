"""Parts that several example workflows share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hallo3.checkpoints.locate import COMFYUI

from . import notes
from .graph import Graph, Node, Slot

PROMPT = "A person talks to the camera."
LEFT, MIDDLE, RIGHT, LAST = 420, 780, 1360, 1720
"""x of the columns beside the note: what is loaded, what is made of it, the video, what is saved."""
WIDE, TALL = 520, 540
"""Pixels of a node, so that the picture on it can be read."""

Networks = dict[str, Slot]
"""Outputs of loaders: model, reference_network, vae, audio_encoder and clip."""


def begun(graph: Graph, note: str, height: int, portrait: str = "portrait") -> tuple[Networks, Node]:
    """What most workflows begin with: the note, the built-in model, the sample."""
    graph.column(0)
    graph.note(note, height=height)
    graph.column(LEFT)
    return built_in(graph), sample(graph, portrait)


def built_in(graph: Graph) -> Networks:
    """The built-in model."""
    with graph.group("Model"):
        return load_built_in(graph)


def load_built_in(graph: Graph) -> Networks:
    loader = graph.node("Hallo3LoadBuiltIn", height=190)
    return {output.name: loader[output.name] for output in loader.spec.outputs}


LOADERS = {
    "model": ("Hallo3LoadModel", "transformer", "model_name"),
    "reference_network": ("Hallo3LoadReferenceNetwork", "reference", "reference_network_name"),
    "vae": ("VAELoader", "vae", "vae_name"),
    "audio_encoder": ("AudioEncoderLoader", "speech_encoder", "audio_encoder_name"),
    "clip": ("CLIPLoader", "text_encoder", "clip_name"),
}
"""For each network its loader, its part of the checkpoint, and the widget that names a file."""


def load(graph: Graph, network: str, choose: Callable[[str, str], Slot] | None = None) -> Slot:
    """A part of the released weights, by the name that ``hallo3 convert`` gives it, or that of a
    subgraph's input, which ``choose`` makes."""
    kind, part, widget = LOADERS[network]
    precision = "fp32" if part == "speech_encoder" else "bf16"
    folder, name = COMFYUI[part].format(precision=precision).split("/")
    url = notes.PUBLISHED.get(part)
    models = [{"name": name, "url": url, "directory": folder}] if url else []
    given: dict[str, Any] = {"type": "cogvideox"} if network == "clip" else {}
    given[widget] = choose(widget, "COMBO") if choose else name
    node = graph.node(kind, width=340, height=170, models=models, start={widget: name}, **given)
    return node[node.spec.outputs[0].name]


def released(graph: Graph) -> Networks:
    """The released weights."""
    with graph.group("Released weights"):
        return {network: load(graph, network) for network in LOADERS}


def sample(graph: Graph, portrait: str) -> Node:
    """A sample portrait and its speech."""
    with graph.group("Portrait and speech"):
        return graph.node("Hallo3Sample", height=110, portrait=portrait)


def own_files(graph: Graph, mode: int = 0) -> tuple[Node, Node]:
    """The user's portrait and recording, not chosen yet."""
    image = graph.node("LoadImage", mode=mode, height=340, image="")
    return image, graph.node("LoadAudio", mode=mode, height=170, audio="")


def prompt_of(graph: Graph, networks: Networks, text: str = PROMPT) -> Node:
    """What the video shows, in words."""
    with graph.group("Prompt"):
        return graph.node("CLIPTextEncode", height=150, clip=networks["clip"], text=text)


def identity_of(graph: Graph, networks: Networks, portrait: Slot, title: str = "Identity") -> Slot:
    """Who is on the portrait."""
    with graph.group(title):
        node = graph.node(
            "Hallo3IdentityReference", width=WIDE, height=TALL, portrait=portrait, vae=networks["vae"],
            reference_network=networks["reference_network"],
        )  # fmt: skip
    return node["identity"]


def encode(graph: Graph, networks: Networks, audio: Slot) -> Node:
    """Speech features, and the plot of the recording."""
    return graph.node(
        "Hallo3EncodeSpeech", width=WIDE, height=500, audio=audio, audio_encoder=networks["audio_encoder"]
    )


def speech_of(graph: Graph, networks: Networks, audio: Slot, title: str = "Speech") -> Node:
    """What is said."""
    with graph.group(title):
        return encode(graph, networks, audio)


def talk(graph: Graph, networks: Networks, identity: Slot, speech: Node, **given: object) -> Node:
    """The whole speech; tall, for the preview."""
    given = {"model": networks["model"], "vae": networks["vae"], **given}
    return graph.node(
        "Hallo3Extrapolate", width=300, height=800, identity=identity, speech=speech["speech"], **given
    )


def save(graph: Graph, video: Slot, name: str) -> Node:
    """Save Video, large enough to watch."""
    return graph.node("SaveVideo", width=480, height=640, video=video, filename_prefix=f"hallo3/{name}")
