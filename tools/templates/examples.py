"""The example workflows, each a function that fills a graph."""

from __future__ import annotations

from collections.abc import Callable

from . import notes
from .graph import BYPASSED, MUTED, Graph, Node, Slot
from .parts import (
    LAST,
    LEFT,
    MIDDLE,
    RIGHT,
    TALL,
    WIDE,
    begun,
    built_in,
    encode,
    identity_of,
    own_files,
    prompt_of,
    released,
    save,
    speech_of,
    talk,
)
from .spec import Spec


def talking_portrait(graph: Graph) -> None:
    """Portrait and speech to a video."""
    networks, given = begun(graph, notes.TALKING_PORTRAIT, 420)
    with graph.group("Your own (muted)", "#444"):
        own_files(graph, MUTED)
    graph.column(MIDDLE)
    identity = identity_of(graph, networks, given["portrait"])
    speech = speech_of(graph, networks, given["speech"])
    graph.column(RIGHT)
    with graph.group("Video"):
        video = talk(graph, networks, identity, speech, paste_back=True)
        graph.column(LAST)
        save(graph, video["video"], "talking_portrait")


def app(graph: Graph) -> None:
    """The same as a form: portrait, voice, prompt."""
    graph.column(0)
    graph.note(notes.APP, height=420)
    graph.column(LEFT)
    networks = built_in(graph)
    with graph.group("Portrait and voice"):
        image, audio = own_files(graph)
    text = prompt_of(graph, networks)
    graph.column(MIDDLE)
    identity = identity_of(graph, networks, image["IMAGE"])
    speech = speech_of(graph, networks, audio["AUDIO"])
    graph.column(RIGHT)
    with graph.group("Video"):
        video = talk(graph, networks, identity, speech, positive=text["CONDITIONING"], paste_back=True)
        graph.column(LAST)
        saved = save(graph, video["video"], "app")
    graph.app(
        {"portrait": (image, "image"), "voice": (audio, "audio"), "prompt": (text, "text")}, saved, opens=True
    )


def released_weights(graph: Graph) -> None:
    """The same with the released weights: loaders, prompt, plan, paste back."""
    graph.column(0)
    graph.note(notes.RELEASED, height=560)
    graph.column(LEFT)
    networks = released(graph)
    graph.column(MIDDLE + 40)
    with graph.group("Portrait and voice"):
        image, audio = own_files(graph)
    text = prompt_of(graph, networks)
    graph.column(MIDDLE + 400)
    identity = identity_of(graph, networks, image["IMAGE"])
    with graph.group("Speech"):
        plan = graph.node(
            "Hallo3Plan", width=WIDE, height=380, audio=audio["AUDIO"], identity=identity, paste_back=True
        )
        speech = encode(graph, networks, plan["audio"])
    graph.column(RIGHT + 400)
    with graph.group("Video"):
        video = talk(graph, networks, identity, speech, positive=text["CONDITIONING"], paste_back=True)
        graph.column(LAST + 400)
        saved = save(graph, video["video"], "released_weights")
    graph.app(
        {"portrait": (image, "image"), "voice": (audio, "audio"), "prompt": (text, "text")},
        saved,
        opens=False,
    )


def five_stages(graph: Graph) -> None:
    """Two segments, every stage a node."""
    networks, given = begun(graph, notes.FIVE_STAGES, 480, "portrait_2")
    graph.column(MIDDLE)
    speech = speech_of(graph, networks, given["speech"], "1 Audio encoding")
    identity = identity_of(graph, networks, given["portrait"], "2 Identity reference")

    def sampler(segment: int, **motion: Slot) -> Node:
        return graph.node(
            "Hallo3Sampler", width=300, height=720, model=networks["model"], vae=networks["vae"],
            identity=identity, speech=speech["speech"], segment=segment, **motion,
        )  # fmt: skip

    def decode(sampled: Node) -> Node:
        return graph.node(
            "Hallo3VAEDecode", height=110, samples=sampled["latent"], vae=networks["vae"], identity=identity
        )

    graph.column(RIGHT)
    with graph.group("3 Transformer: first segment"):
        sampled = sampler(0)
    graph.column(LAST)
    with graph.group("4 VAE decode: first segment"):
        first = decode(sampled)
    with graph.group("5 Extrapolation: second"):
        sampled = sampler(1, motion_frames=first["motion_frames"])
        second = decode(sampled)
    graph.column(LAST + 380)
    with graph.group("Video"):
        images = {"images.image0": first["images"], "images.image1": second["images"]}
        joined = graph.node("BatchImagesNode", height=90, **images)
        larger = graph.node(
            "ImageScaleBy", height=120, image=joined["IMAGE"], upscale_method="lanczos", scale_by=6.0
        )
        video = graph.node(
            "CreateVideo", height=150, images=larger["IMAGE"], audio=given["speech"], fps=speech["fps"]
        )
        save(graph, video["VIDEO"], "five_stages")


def with_ksampler(graph: Graph) -> None:
    """One segment through ComfyUI's own sampler."""
    networks, given = begun(graph, notes.WITH_KSAMPLER, 450, "portrait_3")
    graph.column(MIDDLE)
    identity = identity_of(graph, networks, given["portrait"])
    speech = speech_of(graph, networks, given["speech"])
    graph.column(RIGHT)
    with graph.group("First segment"):
        segment = graph.node(
            "Hallo3SegmentConditioning", width=300, height=300, model=networks["model"],
            vae=networks["vae"], identity=identity, speech=speech["speech"],
        )  # fmt: skip
        sampled = graph.node(
            "KSampler", width=300, height=520, model=networks["model"], positive=segment["positive"],
            negative=segment["negative"], latent_image=segment["latent"], steps=1, cfg=1.0,
            sampler_name="ddim", scheduler="simple",
        )  # fmt: skip
    graph.column(LAST)
    with graph.group("Video"):
        decoded = graph.node(
            "Hallo3VAEDecode", height=110, samples=sampled["LATENT"], vae=networks["vae"], identity=identity
        )
        larger = graph.node(
            "ImageScaleBy", height=120, image=decoded["images"], upscale_method="lanczos", scale_by=6.0
        )
        video = graph.node(
            "CreateVideo", height=150, images=larger["IMAGE"], audio=given["speech"], fps=speech["fps"]
        )
        save(graph, video["VIDEO"], "with_ksampler")


def long_speech(graph: Graph) -> None:
    """Everything that helps with minutes of speech."""
    networks, given = begun(graph, notes.LONG_SPEECH, 540, "portrait_2")
    with graph.group("Sampling"):
        cached = graph.node("EasyCache", mode=BYPASSED, height=170, model=networks["model"])
        sampler = graph.node("Hallo3OriginalSampler", height=150, sampler_name="ddim")
        sigmas = graph.node("Hallo3OriginalSchedule", height=150, model=cached["MODEL"])
    text = prompt_of(graph, networks)
    graph.column(MIDDLE)
    identity = identity_of(graph, networks, given["portrait"])
    with graph.group("Speech"):
        piece = graph.node(
            "TrimAudioDuration", mode=BYPASSED, width=WIDE, height=130, audio=given["speech"], duration=5.0
        )
        plan = graph.node(
            "Hallo3Plan", width=WIDE, height=380, audio=piece["AUDIO"], model="built-in", identity=identity
        )
        speech = encode(graph, networks, plan["audio"])
    graph.column(RIGHT)
    with graph.group("Video"):
        video = talk(
            graph, networks, identity, speech, model=cached["MODEL"], positive=text["CONDITIONING"],
            sampler=sampler["sampler"], sigmas=sigmas["sigmas"], paste_back=True,
        )  # fmt: skip
        graph.column(LAST)
        save(graph, video["video"], "long_speech")
        graph.node("PreviewImage", title="Drift", width=620, height=480, images=video["drift"])


def continue_video(graph: Graph) -> None:
    """A video, and another recording that makes it longer."""
    networks, given = begun(graph, notes.CONTINUE, 420, "portrait_3")
    with graph.group("Two recordings"):
        parts = [
            graph.node(
                "TrimAudioDuration",
                title=title,
                height=130,
                audio=given["speech"],
                start_index=start,
                duration=3.0,
            )
            for title, start in (("First recording", 0.0), ("Second recording", 3.0))
        ]
    graph.column(MIDDLE)
    identity = identity_of(graph, networks, given["portrait"])
    with graph.group("Speech"):
        first, second = (encode(graph, networks, part["AUDIO"]) for part in parts)
    graph.column(RIGHT)
    with graph.group("First video"):
        begun_video = talk(graph, networks, identity, first, paste_back=True)
        graph.column(LAST)
        save(graph, begun_video["video"], "first_part")
    graph.column(RIGHT, 900)
    with graph.group("Both, as one video"):
        video = talk(graph, networks, identity, second, paste_back=True, continue_from=begun_video["job"])
        graph.column(LAST, 900)
        save(graph, video["video"], "both_parts")


def several_portraits(graph: Graph) -> None:
    """One recording, a video of each portrait."""
    graph.column(0)
    graph.note(notes.SEVERAL, height=420)
    graph.column(LEFT)
    networks = built_in(graph)
    with graph.group("Portraits and speech"):
        samples = [
            graph.node("Hallo3Sample", height=110, portrait=name)
            for name in ("portrait", "portrait_2", "portrait_3")
        ]
        listed = graph.node(
            "CreateList",
            height=120,
            **{f"inputs.input{i}": each["portrait"] for i, each in enumerate(samples)},
        )
    graph.column(MIDDLE)
    identity = identity_of(graph, networks, listed["list"])
    speech = speech_of(graph, networks, samples[0]["speech"])
    graph.column(RIGHT)
    with graph.group("A video of each portrait"):
        video = talk(graph, networks, identity, speech, paste_back=True)
        graph.column(LAST)
        save(graph, video["video"], "several_portraits")


def two_people(graph: Graph) -> None:
    """Two people, each with a voice: the channels of a stereo recording."""
    networks, given = begun(graph, notes.TWO_PEOPLE, 480, "pair")
    with graph.group("A voice each"):
        split = graph.node("SplitAudioChannels", height=90, audio=given["speech"])
    graph.column(MIDDLE)
    with graph.group("Who is in the picture"):
        people = graph.node(
            "Hallo3IdentitySpeakers", width=WIDE, height=TALL, portrait=given["portrait"],
            vae=networks["vae"], reference_network=networks["reference_network"],
        )  # fmt: skip
    with graph.group("Who says what"):
        voices = [encode(graph, networks, split[side]) for side in ("left", "right")]
    graph.column(RIGHT)
    with graph.group("Video"):
        sockets = {f"speech_{number}": voice["speech"] for number, voice in enumerate(voices, 1)}
        both = graph.node("Hallo3CombineSpeech", height=190, **sockets)
        video = talk(graph, networks, people["identity"], both, paste_back=True)
        graph.column(LAST)
        save(graph, video["video"], "two_people")


def video_sound_and_upscale(graph: Graph) -> None:
    """A video's first frame and sound in, larger frames out."""
    graph.column(0)
    graph.note(notes.VIDEO_SOUND, height=420)
    graph.column(LEFT)
    networks = built_in(graph)
    with graph.group("Video in"):
        given = graph.node("Hallo3Sample", height=110, portrait="portrait_3")
        stand_in = graph.node(
            "CreateVideo", title="Create Video (instead of yours)", height=150, images=given["portrait"],
            audio=given["speech"], fps=25.0,
        )  # fmt: skip
        graph.node("LoadVideo", mode=MUTED, file="", height=170)
        parts = graph.node("GetVideoComponents", height=110, video=stand_in["VIDEO"])
        frame = graph.node("ImageFromBatch", title="First frame", height=120, image=parts["images"])
    graph.column(MIDDLE)
    identity = identity_of(graph, networks, frame["IMAGE"])
    speech = speech_of(graph, networks, parts["audio"])
    graph.column(RIGHT)
    with graph.group("Talking portrait"):
        made = talk(graph, networks, identity, speech)
    graph.column(LAST)
    with graph.group("Upscaled, with the same sound"):
        larger = graph.node(
            "ImageScaleBy", height=120, image=made["images"], upscale_method="lanczos", scale_by=8.0
        )
        video = graph.node(
            "CreateVideo", height=150, images=larger["IMAGE"], audio=parts["audio"], fps=speech["fps"]
        )
        save(graph, video["VIDEO"], "upscaled")


EXAMPLES: dict[str, Callable[[Graph], None]] = {
    "Hallo3 talking portrait": talking_portrait,
    "Hallo3 talking portrait.app": app,
    "Hallo3 talking portrait (released weights)": released_weights,
    "Hallo3 five stages": five_stages,
    "Hallo3 with KSampler": with_ksampler,
    "Hallo3 long speech": long_speech,
    "Hallo3 continue a video": continue_video,
    "Hallo3 several portraits": several_portraits,
    "Hallo3 two people": two_people,
    "Hallo3 video sound and upscale": video_sound_and_upscale,
}


def example(name: str, specs: dict[str, Spec]) -> Graph:
    """One of them."""
    graph = Graph(name, specs)
    EXAMPLES[name](graph)
    return graph
