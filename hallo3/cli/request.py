"""A checked request to animate: every option, input and place is read and checked once, before weights are
loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..attention_backend import AUTO, AttentionBackend, check_scores, get_backend
from ..built_in import FOLDER
from ..checkpoints.load import verify_component
from ..checkpoints.locate import VOCALS, ModelFolder
from ..checkpoints.verify import FileVerifier
from ..config import COMPONENTS, Hallo3Config
from ..errors import AudioError, InputError
from ..face.arcface import ARCFACE_SPACE, RECOGNIZER_FILENAME
from ..face.mediapipe import get_landmark_version
from ..face.scrfd import DETECTOR_FILENAME
from ..jobs.estimate import RunEstimate, estimate_run, read_throughput, throughput_key
from ..jobs.video_job import NUMERICS
from ..loading import read_text_encoder
from ..media.mux import Sound
from ..media.paste_back import PasteBack
from ..media.video import VideoEncoding, stream_headers
from ..messages import logger
from ..model.kernels.eager import PLAIN
from ..model.kernels.select import KernelChoice, choose_kernels, expected_kernels
from ..offload.budget import MemoryPlan
from ..offload.system_memory import choose_cpu_precision, ram_bytes
from ..quantization import Precision, choose_device, choose_precision
from ..segments import SegmentPlan, base_ram, trial_segment
from ..settings import ALL_STEPS, UNTESTED, Settings, get_approximations, settings_for
from ..speakers import warn_of_speakers
from ..speech.preprocess import SpeechPreprocessing
from ..speech.vocals import Separator
from ..storage.hashing import hash_facts, hash_file
from ..text_encoder import check_prompt
from ..units import format_bytes
from .options import IN_MODEL_FOLDER, AnimateOptions
from .places import check_outputs, jobs_folder
from .progress import file_verifier, show_bytes
from .session import Session, Spoken, cuts_seams, has_voices, names_part, read_spoken
from .subject import Subject, read_subject, subject_facts

if TYPE_CHECKING:
    from ..script import Script
    from .voices import Voices

MAX_ENLARGE = 16
TRIAL_STEPS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class AnimateRequest:
    """``recordings`` are one, or those of several speakers (``voices``); ``plan`` is the longest one's.
    ``separator`` is the vocal separator, if one is used. ``memory`` is how the run fits the device, if a plan
    decides that."""

    options: AnimateOptions
    files: ModelFolder
    config: Hallo3Config
    settings: Settings
    subject: Subject
    recordings: tuple[Spoken, ...]
    voices: Voices | None
    plan: SegmentPlan
    encoding: VideoEncoding
    device: torch.device
    precision: Precision
    attention: AttentionBackend
    verifier: FileVerifier
    separator: Separator | None
    session: Session
    script: Script | None = None
    memory: MemoryPlan | None = None

    @property
    def speakers(self) -> int:
        """How many people have a voice of their own."""
        return len(self.voices.speakers) if self.voices is not None else 1

    @property
    def output(self) -> Path:
        assert self.options.output is not None  # checked when the request was read, unless it is only planned
        return self.options.output

    @property
    def sound(self) -> Path | Sound:
        """Of the video."""
        return self.recordings[0].path if self.voices is None else self.voices.sound

    @cached_property
    def paste_back(self) -> PasteBack | None:
        return self.subject.paste_back() if self.options.paste_back else None

    @property
    def size(self) -> tuple[int, int]:
        """The video's (width, height)."""
        if self.paste_back is not None:
            return self.paste_back.width, self.paste_back.height
        canvas, enlarge = self.subject.canvas, self.options.enlarge
        return canvas.width * enlarge, canvas.height * enlarge

    @property
    def headers(self) -> str:
        """What every encoded segment starts with."""
        return stream_headers(self.encoding, *self.size, self.encoding.rate or self.config.segment.fps)

    @property
    def model_name(self) -> str:
        return self.config.name + " (trial)" * self.options.trial

    @property
    def offload(self) -> str:
        low_memory = "disk" if self.device.type == "cpu" else "blocks"
        return self.options.offload or (low_memory if self.options.low_memory else "none")

    @property
    def jobs(self) -> Path:
        return jobs_folder(self.options)

    @property
    def info(self) -> dict[str, str]:
        """What the video is made of, for lists of jobs."""
        return {
            "portrait": self.subject.name,
            "speech": " + ".join(dict.fromkeys(each.path.name for each in self.recordings)),
            "model": self.model_name,
            "video": self.output.name,
        }

    @property
    def preprocessing(self) -> SpeechPreprocessing:
        options = self.options
        level, silence = (word.replace("-", " ") for word in (options.level, options.silence))
        return SpeechPreprocessing(level=level, silence=silence, hearing=options.hearing)

    @cached_property
    def prompts(self) -> list[str]:
        """Of every segment."""
        prompt = self.options.prompt
        return [prompt] * len(self.plan) if self.script is None else self.script.prompts(self.plan, prompt)

    @property
    def has_prompt(self) -> bool:
        return any(prompt.strip() for prompt in self.prompts)

    @property
    def approximations(self) -> tuple[str, ...]:
        """What computes approximately in the run's networks, by name."""
        return () if self.attention.exact else (f"attention {self.attention.name}",)

    @cached_property
    def kernels(self) -> KernelChoice:
        """The kernels to run with, tried first; for a plan, those to expect on a GPU."""
        if self.options.plan:
            return expected_kernels(self.options.kernels, self.device)
        return choose_kernels(self.options.kernels, self.device, self.precision.compute)

    @property
    def throughput_key(self) -> str:
        placement = self.offload if self.memory is None else self.memory.offload.label
        device = f"{self.precision.name} {self.device.type} {placement}"
        if self.speakers > 1:
            device += f" {self.speakers} speakers"
        if self.attention is not AUTO:
            device += f" {self.attention.name}"
        # kernels of a plan on the CPU are those to expect on a GPU
        on_device = self.device.type == "cuda" or self.options.kernels == "fused"
        if on_device and (kernels := self.kernels.kernels) is not PLAIN:
            device += f" {kernels.name}"
        evaluations, cache = self.settings.evaluations, self.settings.step_cache
        return throughput_key(self.model_name, device, evaluations, self.size, self.encoding, cache)

    def estimate(self, segments_left: int) -> RunEstimate:
        audio, segment, memory = self.config.audio, self.config.segment, self.memory
        ram = memory.ram if memory else base_ram(segment) + self.files.measure()
        ram += (len({*self.prompts}) - 1) * self.config.trunk.text_tokens * self.config.trunk.text_dim * 4
        return estimate_run(
            self.plan,
            segment.shape,
            self.size,
            self.encoding.codec,
            ram=ram,
            features=audio.layers * audio.channels * 4 * len(self.recordings) if segments_left else 0,
            segments_left=segments_left,
            throughput=read_throughput(self.jobs, self.throughput_key),
        )

    def check_speech(self) -> None:
        """Raises ``AudioError`` if a recording has changed since the request was read."""
        for recording in self.recordings:
            if hash_file(recording.path) != recording.hash:
                raise AudioError(
                    "The recording changed while the video was rendered.",
                    found=recording.path.name,
                    expected="the recording as it was when the command started",
                    fix="run the same command again; the new recording is another video",
                )

    def job_key(self, parent_state: str) -> str:
        """The key of the request's job: a hash of everything that decides the frames of its video. How memory
        is saved is not part of it: a run that ran out of memory is resumed with less. Nor is an exact
        attention, which differs from others by rounding only; an approximate one is."""
        settings, options, track = self.settings, self.options, self.options.track or 1
        preprocessing, speech = self.preprocessing.key_facts(self.plan), self.recordings[0].hash
        facts: dict[str, Any] = {
            "numerics": NUMERICS,
            "weights": self.weight_hashes(),
            "precision": self.precision.name,
            "device": self.device.type,
            "speaker": self.subject.facts(),
            "pasted": options.paste_back,
            "speech": speech if track == 1 else [speech, track],
            "model": asdict(self.config),
            "prompt": self.prompts[0] if len({*self.prompts}) == 1 else self.prompts,
            "steps": settings.steps,
            "guidance": settings.guidance_scale,
            "sampler": settings.sampler,
            "seed": settings.seed,
            "motion drop": settings.motion_drop,
            "posterior": settings.posterior,
            "size": [*self.size, options.enlarge],
            "encoding": self.encoding.facts(),
            "headers": self.headers,
            "after": parent_state,
        }
        if options.trial:
            facts["trial"] = [  # of a way to run, too
                options.offload,
                options.low_memory,
                options.vram,
                options.attention,
                options.kernels,
            ]
        if self.voices is not None:
            facts["voices"] = self.voices.facts()
        if not self.attention.exact:
            facts["attention"] = self.attention.name
        if preprocessing:
            facts["listening"] = preprocessing
        if self.plan.seams:
            facts["seams"] = [self.plan.seams, sorted(self.plan.chapters), self.plan.fade]
        if settings.guidance_interval != ALL_STEPS:
            facts["guidance interval"] = list(settings.guidance_interval)
        if settings.strengths is not None:
            facts["strengths"] = settings.strengths.facts()
        if settings.step_cache:
            facts["step cache"] = [settings.step_cache, settings.step_cache_bound]
        return hash_facts(facts)

    def weight_hashes(self) -> dict[str, list[str]]:
        unused = {"reference"} if self.subject.identity is not None else set[str]()
        if not self.has_prompt:
            unused.add("text_encoder")
        needed = [component for component in COMPONENTS if component not in unused]
        hashes = {name: verify_component(self.files.open(name), self.verifier) for name in needed}
        tokenizer, faces = self.files.find("tokenizer"), self.files.faces
        if "text_encoder" in hashes and tokenizer.is_dir():
            kinds = {".json", ".model", ".txt"}
            small = [f for f in sorted(tokenizer.iterdir()) if f.suffix in kinds and f.is_file()]
            hashes["tokenizer"] = [hash_file(file) for file in small]
        if self.subject.identity is None and self.config.face.space == ARCFACE_SPACE and faces is not None:
            networks = sorted(faces.rglob("*.onnx"))
            names = DETECTOR_FILENAME, RECOGNIZER_FILENAME
            hashes["faces"] = [hash_file(file) for file in networks if file.name in names]
            landmarks = get_landmark_version(faces)
            if landmarks is not None:
                hashes["landmarks"] = [hash_file(landmarks[0]), landmarks[1]]
        if self.separator is not None:
            hashes["vocals"] = [hash_file(self.separator.path)]
        return hashes


def read_request(options: AnimateOptions, session: Session | None = None) -> AnimateRequest:
    """Read and check the options. Raises the errors of :mod:`hallo3.errors`."""
    session = session or Session()
    missing = "portrait" if options.portrait is None and options.identity is None else "speech"
    if missing == "portrait" or options.speech is None:
        raise InputError(
            f"There is no {missing}.",
            found=f"no --{missing}",
            expected=f"--{missing} FILE",
            fix="name a picture of one person (or --identity), and a recording of speech",
        )
    place = options.model, *sorted(options.files.items())
    files = session.keep("model folder", place, lambda: ModelFolder(options.model, options.files))
    check_outputs(options, files)
    config, steps = session.read_config(files), options.steps
    if options.trial:
        _check_trial(options)
        files, place = replace(files, segment=trial_segment(config.segment)), (*place, "trial")
        config = session.read_config(files)
        steps = min(TRIAL_STEPS, config.defaults.steps) if steps is None else steps
    script = None
    if options.script is not None:
        from ..script import read_script  # by those who have one

        script = read_script(options.script)
    if options.prompt.strip():
        check_prompt(options.prompt)
    if options.prompt.strip() or script is not None:
        with show_bytes("reading the tokenizer", 0):  # errors come before anything is hashed or loaded
            session.keep("text encoder", place, lambda: read_text_encoder(files, config))
    if not 1 <= options.enlarge <= (1 if options.paste_back else MAX_ENLARGE):
        pasted = ", and 1 with --paste-back: the photograph decides the size" * options.paste_back
        raise InputError(
            "--enlarge is out of range.",
            found=f"--enlarge {options.enlarge}" + " with --paste-back" * options.paste_back,
            expected=f"a whole number from 1 to {MAX_ENLARGE}{pasted}",
            fix="choose a value in that range, or remove --enlarge",
        )
    device = choose_device(options.device)
    built_in = options.model.resolve() == FOLDER and not options.files
    settings = settings_for(
        config.defaults,
        steps=steps,
        guidance_scale=options.guidance,
        text_strength=options.text_strength,
        voice_strength=options.voice_strength,
        text=script is not None or bool(options.prompt.strip()),
        sampler=options.sampler,
        seed=options.seed,
    )
    settings = replace(
        _approximate(settings, options, tested=built_in),
        posterior=options.posterior,
        passes="layer-major" if options.low_memory else "batched",
        on_access=options.low_memory,
    )
    dtype = options.dtype
    if dtype == "auto" and not files.is_large:
        dtype = "fp32"  # of a small model the same video on any device
    elif (dtype, device.type, options.vram) == ("auto", "cpu", None):  # --vram plans for a GPU
        dtype = choose_cpu_precision(files, config, settings.steps, ram := ram_bytes())
        if dtype != "fp32":
            logger.warning(f"computing in {dtype}: fp32 needs more than the {format_bytes(ram)} of RAM here")
    precision = choose_precision(dtype, device)
    attention = AUTO
    if options.attention != AUTO.name or device.type != "cpu":
        attention = get_backend(options.attention, device, precision.compute, config.trunk.head_dim)
        check_scores(attention, device, precision.compute, config)
    separator = None
    if options.vocals == IN_MODEL_FOLDER:
        separator = Separator(files.vocals or files.path / VOCALS[0])
    elif options.vocals is not None:
        separator = Separator(options.vocals, unverified=True)
    if separator is not None:
        _ = replace(separator).network  # its errors come now; its memory is needed later
    voices = None
    if has_voices(options):
        from .voices import read_voices

        voices = read_voices(options, partial(read_spoken, options, config, session))
        recordings = voices.recordings
    elif names_part(options) or cuts_seams(options):
        from .seams import read_part

        options, recordings = read_part(options, config, session)
    else:
        recordings = (read_spoken(options, config, session, options.speech),)
    plan, numbers = (recordings[0].plan, ()) if voices is None else (voices.plan, voices.numbers)
    read = partial(read_subject, options, files, config, numbers)
    subject = session.keep("subject", (place, config, numbers, *subject_facts(options)), read)
    if voices is not None and subject.identity is not None:
        voices = voices.of_people(len(subject.identity.people) or 1)
    if voices is not None and len(voices.speakers) > 1:
        warn_of_speakers(config.name, len(voices.speakers))
    request = AnimateRequest(
        options=options,
        files=files,
        config=config,
        settings=settings,
        subject=subject,
        recordings=recordings,
        voices=voices,
        plan=plan,
        encoding=VideoEncoding(
            codec=options.codec,
            quality=options.quality,
            pixels=options.pixels or "",
            rate=None if options.fps == config.segment.fps else options.fps,
        ),
        device=device,
        precision=precision,
        attention=attention,
        verifier=session.keep("verifier", built_in, FileVerifier if built_in else file_verifier),
        separator=separator,
        session=session,
        script=script,
    )
    suffix = request.encoding.kind.files[0] if options.output is None else options.output.suffix
    request.encoding.check(suffix, *request.size)
    if (rate := request.encoding.rate) is not None:
        way = "repeated" if rate > config.segment.fps else "dropped"
        logger.warning(f"frames are {way} to show {rate} per second; the model makes {config.segment.fps}")
    if not built_in:
        for name in request.approximations:
            logger.warning(f"{name} is approximate: 8-bit products; {UNTESTED}")
    identity = request.subject.identity
    if identity is not None and (warning := identity.approximation_warning(request.approximations)):
        logger.warning(warning)
    return request


def _approximate(settings: Settings, options: AnimateOptions, *, tested: bool) -> Settings:
    """Apply ``--approximate``; those that save nothing are skipped with a message. Raises ``InputError``."""
    names = (name.strip() for text in options.approximate for name in text.split(","))
    used: list[str] = []
    for row in get_approximations(names):
        if "steps" in row.changes and options.steps is not None:
            raise InputError(
                f"--steps and --approximate {row.name} both set the number of steps.",
                found=f"--steps {options.steps} and --approximate {row.name}",
                expected="one of them",
                fix=f"remove --steps or {row.name}",
            )
        if row.saves(settings):
            settings = row.apply(settings)
            used.append(row.name)
        else:
            guidance = f"guidance {settings.guidance_scale:g}" if settings.strengths is None else "strengths"
            run = f"{settings.steps} step{'s' * (settings.steps > 1)}, {guidance}"
            logger.warning(f"{row.name} saves nothing here ({run}) and is not used")
    if used and not tested:
        logger.warning(f"{', '.join(used)}: {UNTESTED}")
    return settings


def _check_trial(options: AnimateOptions) -> None:
    """Raises ``InputError`` for what a trial's canvas does not fit."""
    conflicting = {
        "--identity": options.identity is not None,
        "--save-identity": options.save_identity is not None,
        "--continue-from": options.continue_from is not None,
        "--redo": bool(options.redo),
    }
    if found := [name for name, is_used in conflicting.items() if is_used]:
        raise InputError(
            "A trial is one segment of a portrait on a small canvas.",
            found=f"--trial and {', '.join(found)}",
            expected="--trial with --portrait: identities and finished videos have the model's own canvas",
            fix=f"remove --trial or {', '.join(found)}",
        )
