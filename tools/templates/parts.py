"""Parts that several example workflows share."""

from __future__ import annotations

from . import notes
from .graph import MUTED, Graph, Node, Slot

STEPS, GUIDANCE = 1, 1.0
PROMPT = "A person talks to the camera."
FIRST, STEP, LOWER = 420, 340, 160
"""x of the first column after the note, from column to column, y below the links that run straight."""


def models(url: str, directory: str) -> list[dict[str, str]]:
    """What the page offers to download for a loader."""
    return [{"name": url.rsplit("/")[-1], "url": url, "directory": directory}]


def sources(graph: Graph) -> Node:
    """The sample, and what to put in its place."""
    with graph.group("Portrait and speech"):
        sample = graph.node("Hallo3Sample")
        graph.node("LoadImage", mode=MUTED, image="example.png", height=330)
        graph.node("LoadAudio", mode=MUTED, audio="", height=140)
    return sample


def begun(graph: Graph, note: str, height: int) -> tuple[Node, Node]:
    """What every workflow on the sample begins with: the note, the built-in set, the sample."""
    graph.column(0)
    graph.note(note, height=height)
    graph.column(FIRST)
    loaded = built_in(graph)
    return loaded, sources(graph)


def built_in(graph: Graph) -> Node:
    """The built-in set."""
    with graph.group("Model"):
        return graph.node("Hallo3LoadBuiltIn")


def identity_of(graph: Graph, loaded: Node, portrait: Slot, title: str = "Identity") -> Slot:
    """Who is on the portrait."""
    with graph.group(title):
        node = graph.node(
            "Hallo3IdentityReference", height=480, portrait=portrait, vae=loaded["vae"],
            reference_network=loaded["reference_network"],
        )  # fmt: skip
    return node["identity"]


def speech_of(graph: Graph, loaded: Node, audio: Slot, title: str = "Speech") -> Node:
    """What is said."""
    with graph.group(title):
        return graph.node(
            "Hallo3EncodeSpeech", height=360, audio=audio, audio_encoder=loaded["audio_encoder"]
        )


def extrapolate(graph: Graph, loaded: Node, identity: Slot, speech: Node, **given: Slot) -> Node:
    """The whole speech; tall, for the preview."""
    given = {"model": loaded["model"], **given}
    return graph.node(
        "Hallo3Extrapolate", height=700, vae=loaded["vae"], identity=identity, speech=speech["speech"],
        steps=STEPS, guidance_scale=GUIDANCE, **given,
    )  # fmt: skip


def save(graph: Graph, video: Slot, name: str) -> None:
    """Save Video, large enough to watch."""
    graph.node("SaveVideo", width=360, height=500, video=video, filename_prefix=f"hallo3/{name}")


def real_weights(graph: Graph, y: int) -> Node:
    """Loaders for weights files and a prompt, muted: the page asks for no file of a muted node."""
    vae, speech = models(notes.VAE, "vae"), models(notes.SPEECH, "audio_encoders")
    text = models(notes.T5, "text_encoders")
    with graph.group("Released weights and prompt (muted: select and press Ctrl+M)", "#444"):
        graph.column(0, y)
        graph.node("Hallo3LoadModel", mode=MUTED, model_name="built-in")
        graph.node("Hallo3LoadReferenceNetwork", mode=MUTED, reference_network_name="built-in")
        graph.column(310, y)
        graph.node("VAELoader", mode=MUTED, width=310, models=vae, vae_name=vae[0]["name"])
        graph.node(
            "AudioEncoderLoader", mode=MUTED, width=310, models=speech, audio_encoder_name=speech[0]["name"]
        )
        graph.column(650, y)
        clip = graph.node(
            "CLIPLoader", mode=MUTED, width=340, models=text, clip_name=text[0]["name"], type="cogvideox"
        )
        graph.column(1020, y)
        return graph.node("CLIPTextEncode", mode=MUTED, height=140, text=PROMPT, clip=clip["CLIP"])
