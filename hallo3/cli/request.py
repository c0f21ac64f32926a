"""What a user asks of ``hallo3 animate``, every input read and accepted before anything is loaded."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..attention import AUTO, AttentionBackend, get_backend
from ..built_in import FOLDER
from ..checkpoints.component_config import read_model_config
from ..checkpoints.locate import VOCALS, ModelFolder
from ..checkpoints.source import open_source
from ..checkpoints.verify import FileVerifier
from ..config import COMPONENTS, Hallo3Config
from ..errors import AudioError, CheckpointError, InputError
from ..identity import Identity
from ..media.audio import AudioStats, measure_recording
from ..media.canvas import Canvas
from ..media.paste_back import PasteBack
from ..media.video import VideoEncoding, stream_headers
from ..messages import logger
from ..model.kernels.eager import PLAIN
from ..model.kernels.select import KernelChoice, expected_kernels
from ..offload.budget import MemoryPlan
from ..quantization.precision import Precision, check_device, get_precision
from ..segments import SegmentPlan, plan_segments
from ..settings import Settings, settings_for
from ..speech.preprocess import SpeechPreprocessing
from ..speech.vocals import Separator
from ..storage.hashing import hash_file
from .args import HERE, approximated
from .portrait import Speaker, read_speaker
from .progress import remembered


def check_output(options: Namespace) -> None:
    """Refuse now what could not be written in an hour. Raises ``InputError``."""
    path: Path | None = options.output
    endings = (".mp4", ".mov", ".mkv")
    if path is None or path.suffix.lower() not in endings:
        problem = "no -o" if path is None else f"-o {path}"
        expected = "a file name that ends in .mp4, .mov or .mkv"
        raise _refused(problem, expected, "name the video with -o OUT.mp4")
    if path.is_dir():
        raise _refused(f"{path} is a folder", "a file name", "choose another name")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise _refused(f"no folder {folder}", "a folder that exists", "make it first, or choose another")
    for source in (options.portrait, options.speech, options.identity):
        if source and path.exists() and source.exists() and path.samefile(source):
            raise _refused(f"{path} is an input", "another file", "choose another name")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise _refused(f"{folder}: {reason}", "a folder you may write to", "choose another") from error


def check_pictures(options: Namespace) -> None:
    """Refuse now what could not be written beside the video. Raises ``InputError``."""
    for name, ending in (
        ("chart", ".png"),
        ("speech_chart", ".png"),
        ("preview", ".png"),
        ("save_identity", ".safetensors"),
    ):
        path: Path | None = getattr(options, name)
        if path is not None and options.plan and name in ("chart", "save_identity"):
            raise InputError(
                "A plan renders nothing.",
                found=f"--plan and --{name.replace('_', '-')}",
                expected="one of them; --preview and --speech-chart can be drawn for a plan",
                fix="leave one out",
            )
        if path is not None and (path.suffix.lower() != ending or not path.resolve().parent.is_dir()):
            raise InputError(
                "The file cannot be written there.",
                found=f"--{name.replace('_', '-')} {path}",
                expected=f"a file name that ends in {ending}, in a folder that exists",
                fix="choose one",
            )


def vocals_file(options: Namespace, files: ModelFolder) -> Path | None:
    """The vocal separator's file, if vocals are to be separated; opened, so that its faults are told now.

    Raises ``CheckpointError`` for one that is missing or another, ``DependencyError`` without onnxruntime.
    """
    if options.vocals is None:
        return None
    path = options.vocals if options.vocals != HERE else files.vocals or files.path / VOCALS[0]
    _ = Separator(path).network
    return path


def check_apart(options: Namespace, files: ModelFolder) -> None:
    """Refuse to write over what is read, or two things to one file. Raises ``InputError``."""
    read = [options.portrait, options.speech, options.identity, options.output, files.vocals]
    read += [files.find(part) for part in COMPONENTS]
    taken = {path.resolve() for path in read if path is not None}
    for name in ("chart", "speech_chart", "preview", "save_identity"):
        path: Path | None = getattr(options, name)
        if path is None:
            continue
        if path.resolve() in taken or (path.exists() and any(t.exists() and t.samefile(path) for t in taken)):
            raise InputError(
                "The file cannot be written there.",
                found=f"--{name.replace('_', '-')} {path}, which is an input, the video or another output",
                expected="a file of its own",
                fix="choose another name",
            )
        taken.add(path.resolve())


def _refused(found: str, expected: str, fix: str) -> InputError:
    return InputError("The video cannot be written there.", found=found, expected=expected, fix=fix)


def device_named(name: str) -> torch.device:
    """The device of a name; ``auto`` is a GPU if there is one. Raises ``InputError``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        raise InputError(
            "This device is not available.",
            found=f"--device {name}",
            expected=" or ".join(device for device, there in available.items() if there),
            fix="choose one of these, or leave --device out",
        )
    return torch.device(name)


def check_products(precision: Precision, device: torch.device, *, known: bool) -> None:
    """Refuse products that the device cannot make, and say what eight-bit ones are; ``known`` is a model with
    which they have been tried. Raises ``InputError``."""
    check_device(precision, device)
    if not precision.approximate:
        return
    if not known:
        logger.warning(f"{precision.name} is approximate: 8-bit products; untested on real weights")
    if device.type == "cpu":
        logger.warning(f"{precision.name} is made for a GPU; on the CPU it can be slower than fp32")


def approximations_in(precision: Precision, attention: AttentionBackend) -> tuple[str, ...]:
    """What computes approximately in a run's networks, by name."""
    products = (precision.name,) if precision.approximate else ()
    return products if attention.exact else (*products, f"attention {attention.name}")


def tell_approximations(
    precision: Precision, attention: AttentionBackend, saved: Identity | None, *, known: bool
) -> None:
    """Say that an attention is approximate, and that a saved identity holds approximations that the run does
    not make; ``known`` is a model with which they have been tried."""
    if not attention.exact and not known:
        logger.warning(f"attention {attention.name} is approximate: 8-bit products; untested on real weights")
    if saved is not None and (told := saved.carries(approximations_in(precision, attention))):
        logger.warning(told)


LARGEST = 16
"""How many times frames may be enlarged."""
JOBS = "hallo3_jobs"
"""Folder beside the video, where what is finished is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """``enlarge`` is how many times as large as rendered the frames are written, ``surroundings`` what they
    are pasted back into, ``speech`` the recording's hash, ``memory`` how the run fits the device, ``vocals``
    the separator's file, if one is used. ``kernels`` are those that are expected, or, ``tried``, chosen."""

    options: Namespace
    files: ModelFolder
    config: Hallo3Config
    settings: Settings
    speaker: Speaker
    surroundings: PasteBack | None
    sound: AudioStats
    plan: SegmentPlan
    encoding: VideoEncoding
    enlarge: int
    device: torch.device
    precision: Precision
    attention: AttentionBackend
    kernels: KernelChoice
    examined: FileVerifier
    speech: str
    vocals: Path | None
    memory: MemoryPlan | None = None
    tried: bool = False

    def check_speech(self) -> None:
        """Refuse a recording that is not the one that was there at the start. Raises ``AudioError``."""
        if hash_file(self.options.speech) != self.speech:
            raise AudioError(
                "The recording has changed while the video was made.",
                found=self.options.speech.name,
                expected="the recording as it was when the command was given",
                fix="run the same command again; the new recording is another video",
            )

    @property
    def width(self) -> int:
        """The video's, in pixels."""
        return self.surroundings.width if self.surroundings else self.canvas.width * self.enlarge

    @property
    def height(self) -> int:
        """The video's, in pixels."""
        return self.surroundings.height if self.surroundings else self.canvas.height * self.enlarge

    @property
    def canvas(self) -> Canvas:
        """What every segment starts from."""
        return self.speaker.canvas

    @property
    def fps(self) -> int:
        """Frames a second."""
        return self.config.segment.fps

    @property
    def offload(self) -> str:
        """Where blocks are while they are not computed with."""
        default = "blocks" if self.options.low_memory and self.device.type != "cpu" else "none"
        return self.options.offload or default

    @property
    def jobs(self) -> Path:
        """Where jobs are kept."""
        return jobs_folder(self.options)

    @property
    def kind(self) -> str:
        """Runs of one kind take as long a segment."""
        work, cache = self.settings.evaluations, self.settings.step_cache
        attention = "" if self.attention is AUTO else f" {self.attention.name}"
        told = self.device.type == "cuda" or self.options.kernels == "fused"  # else a plan's is for a GPU
        attention += f" {self.kernels.kernels.name}" if told and self.kernels.kernels is not PLAIN else ""
        stands = self.offload if self.memory is None else self.memory.arrangement.short
        return (
            f"{self.config.name} {self.precision.name} {self.device.type} {stands}{attention} "
            f"{work} evaluations {f'step cache {cache:g} ' if cache else ''}"
            f"{self.width}x{self.height} {self.encoding.facts()}"
        )

    @property
    def what(self) -> dict[str, str]:
        """What the video is made of, for people."""
        options = self.options
        return {
            "portrait": self.speaker.name,
            "speech": options.speech.name,
            "model": self.config.name,
            "video": options.output.name,
        }

    @property
    def listening(self) -> SpeechPreprocessing:
        """How the recording is listened to."""
        options = self.options
        level, silence = (word.replace("-", " ") for word in (options.level, options.silence))
        return SpeechPreprocessing(level=level, silence=silence, hearing=options.hearing)

    def weight_bytes(self) -> int:
        """Bytes of the weights that a run holds in the host's memory."""
        if self.memory is not None:
            return self.memory.host
        total = 0
        for part in COMPONENTS:
            with suppress(CheckpointError), open_source(self.files.find(part)) as source:
                total += source.size
        return total

    def headers(self) -> str:
        """What every piece of the video begins with."""
        return stream_headers(self.encoding, self.width, self.height, self.fps)


def read_request(options: Namespace) -> Request:
    """The options as a request. Raises the errors of :mod:`hallo3.errors`."""
    for name in ("portrait", "speech"):
        if getattr(options, name) is None and (name == "speech" or options.identity is None):
            raise InputError(
                f"There is no {name}.",
                found=f"no --{name}",
                expected=f"--{name} FILE",
                fix="name a picture of one person (or --identity), and a recording of speech",
            )
    given = {
        part: path
        for part in (*COMPONENTS, "tokenizer", "faces")
        if (path := getattr(options, part)) is not None
    }
    files = ModelFolder(options.model, given)
    config = read_model_config(files.transformer)
    if not 1 <= options.enlarge <= LARGEST:
        raise InputError(
            "The frames cannot be enlarged so many times.",
            found=f"--enlarge {options.enlarge}",
            expected=f"a whole number from 1 to {LARGEST}",
            fix="choose a value in that range, or leave --enlarge out",
        )
    settings = settings_for(
        config.defaults,
        steps=options.steps,
        guidance_scale=options.guidance,
        sampler=options.sampler,
        seed=options.seed,
    )
    if options.paste_back and options.enlarge != 1:
        raise InputError(
            "Frames that are pasted back cannot be enlarged.",
            found=f"--paste-back and --enlarge {options.enlarge}",
            expected="one of them: the photograph decides how large pasted-back frames are",
            fix="leave --enlarge out",
        )
    speaker = read_speaker(options, files, config)
    device = device_named(options.device)
    numbers = options.dtype if options.dtype != "auto" else "fp32" if device.type == "cpu" else "bf16"
    precision, built_in = get_precision(numbers), options.model.resolve() == FOLDER and not given
    check_products(precision, device, known=built_in)
    attention = get_backend(options.attention, device, precision.compute, config.trunk.head_dim)
    tell_approximations(precision, attention, speaker.saved, known=built_in)
    settings = approximated(settings, options, known=built_in)
    sound, rate = measure_recording(options.speech), config.segment.sample_rate
    request = Request(
        options=options,
        files=files,
        config=config,
        settings=replace(
            settings,
            posterior=options.posterior,
            passes="layer-major" if options.low_memory else "batched",
            on_access=options.low_memory,
        ),
        speaker=speaker,
        surroundings=speaker.surroundings() if options.paste_back else None,
        sound=sound,
        plan=plan_segments(sound.length_at(rate), config.segment),
        encoding=VideoEncoding(codec=options.codec, quality=options.quality, pixels=options.pixels or ""),
        enlarge=options.enlarge,
        device=device,
        precision=precision,
        kernels=expected_kernels(options.kernels, device),
        attention=attention,
        examined=FileVerifier() if built_in else remembered(),
        speech=hash_file(options.speech),
        vocals=vocals_file(options, files),
    )
    suffix = request.encoding.kind.files[0] if options.output is None else options.output.suffix
    request.encoding.check(suffix, request.width, request.height)
    return request


def jobs_folder(options: Namespace) -> Path:
    """Where jobs are kept: where asked, else beside the video."""
    if options.jobs_folder is not None:
        return options.jobs_folder
    return (options.output.resolve().parent if options.output is not None else Path.cwd()) / JOBS
