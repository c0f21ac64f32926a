"""Where the parts of a model are on disk: in a model folder, as the original publishes them, or among
ComfyUI's models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..config import SegmentConfig
from ..errors import CheckpointError
from ..face.arcface import RECOGNIZER_FILENAME
from ..face.mediapipe import TASK_FILENAME
from ..face.photo import FACE_DIRS
from ..face.scrfd import DETECTOR_FILENAME
from .source import DEEPSPEED, CheckpointSource, open_source

REPOSITORY = "fudan-generative-ai/hallo3"
PAGE = f"https://huggingface.co/{REPOSITORY}"


@dataclass(frozen=True, slots=True)
class ReleasedComponent:
    """A part as it is published: ``files`` in the repository, ``parameters`` that are needed of it, and the
    ``folder`` among ComfyUI's models. ``matrices`` of the parameters become fp8 where that is asked for."""

    files: tuple[str, ...]
    folder: str
    parameters: int
    matrices: int = 0

    def size(self, bits: int = 16) -> int:
        """Bytes in 32 or 16 bits, or with its matrices in 8 bits."""
        if bits == 8:
            return 2 * self.parameters - self.matrices
        return self.parameters * bits // 8


_CHECKPOINT = ("hallo3/latest", "hallo3/1/mp_rank_00_model_states.pt")
_VAE, _T5, _WAV2VEC2 = "cogvideox-5b-i2v-sat/vae/3d-vae.pt", "t5-v1_1-xxl", "wav2vec/wav2vec2-base-960h"
RELEASE = {
    "transformer": ReleasedComponent(_CHECKPOINT, "diffusion_models", 8_921_057_344, 6_804_209_664),
    "reference": ReleasedComponent(_CHECKPOINT, "diffusion_models", 5_625_087_552, 4_756_340_736),
    "vae": ReleasedComponent((_VAE,), "vae", 215_583_907),
    "text_encoder": ReleasedComponent((f"{_T5}/*",), "text_encoders", 4_762_310_656),
    "speech_encoder": ReleasedComponent((f"{_WAV2VEC2}/*",), "audio_encoders", 94_370_944),
}
LARGE_BYTES = 1_000_000_000  # smaller weights are loaded whole, without a plan
CHECKPOINT_SIZE = 29_102_061_824  # of both networks in one file, at least: with frozen tensors it is larger


def download_size(parts: Iterable[str]) -> int:
    """Bytes of the original's files of some components, each file once."""
    bits = {"vae": 32, "speech_encoder": 32}
    sizes = {RELEASE[part].files: RELEASE[part].size(bits.get(part, 16)) for part in parts}
    return sum(CHECKPOINT_SIZE if files == _CHECKPOINT else size for files, size in sizes.items())


def converted_size(parts: Iterable[str], bits: int = 16) -> int:
    """Bytes of what ``convert`` writes of the released components."""
    own = {"transformer": bits, "reference": bits, "speech_encoder": 32}
    return sum(RELEASE[part].size(own.get(part, max(bits, 16))) for part in parts)


def _network_places(part: str) -> tuple[str, ...]:
    own = f"{part}.safetensors"
    comfyui = f"diffusion_models/hallo3_{part}*.safetensors", f"diffusion_models/*/{own}"
    return own, *comfyui, f"hallo3/*/{DEEPSPEED}", f"*/{DEEPSPEED}", DEEPSPEED


PLACES: dict[str, tuple[str, ...]] = {
    "transformer": _network_places("transformer"),
    "reference": _network_places("reference"),
    "vae": (
        "vae.safetensors",
        "vae/hallo3*.safetensors",
        "vae/cogvideox*.safetensors",
        _VAE,
        "vae/3d-vae.pt",
        "3d-vae.pt",
        "vae/diffusion_pytorch_model.safetensors",
    ),
    "text_encoder": (
        "text_encoder.safetensors",
        "text_encoders/hallo3*.safetensors",
        "text_encoders/t5xxl*.safetensors",
        "clip/t5xxl*.safetensors",
        _T5,
        "text_encoder",
        "t5xxl*.safetensors",
    ),
    "speech_encoder": (
        "speech_encoder.safetensors",
        "audio_encoders/hallo3*.safetensors",
        "audio_encoders/wav2vec2*base*.safetensors",
        _WAV2VEC2,
        "wav2vec2-base-960h",
        "wav2vec2*base*.safetensors",
    ),
    "tokenizer": ("tokenizer", "text_encoders/hallo3_tokenizer", _T5),
}
"""For each part the places where it may be, by preference; the first is a model folder's own."""

VOCALS = tuple(
    f"{folder}Kim_Vocal_2.onnx"
    for folder in ("audio_separator/", "vocal_separator/", "audio/MDX/", "longcat/", "")
)
"""Where the vocal separator's file may be: as the original publishes it, or where other packs look."""

_ANALYZER = DETECTOR_FILENAME, RECOGNIZER_FILENAME, TASK_FILENAME
EXTRA_FILES = {"faces": tuple(f"{FACE_DIRS[0]}/{name}" for name in _ANALYZER), "vocals": VOCALS[:1]}
"""What the original publishes besides components, in its repository as in a model folder."""

COMFYUI = {
    "transformer": "diffusion_models/hallo3_transformer_{precision}.safetensors",
    "reference": "diffusion_models/hallo3_reference_{precision}.safetensors",
    "vae": "vae/hallo3_vae_{precision}.safetensors",
    "text_encoder": "text_encoders/hallo3_t5xxl_{precision}.safetensors",
    "speech_encoder": "audio_encoders/hallo3_wav2vec2_base_{precision}.safetensors",
    "tokenizer": "text_encoders/hallo3_tokenizer",
}


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The parts of a model, each where it is found; ``given`` names the places of some of them. Networks are
    read for another ``segment`` than their own, if there is one."""

    path: Path
    given: Mapping[str, Path] = field(default_factory=dict[str, Path])
    segment: SegmentConfig | None = None
    _sources: dict[Path, CheckpointSource] = field(
        default_factory=dict[Path, CheckpointSource], init=False, repr=False, compare=False
    )

    @property
    def faces(self) -> Path | None:
        places = (self.path / place for place in FACE_DIRS)
        return self.given.get("faces") or next((place for place in places if place.is_dir()), None)

    @property
    def vocals(self) -> Path | None:
        places = (self.path / place for place in VOCALS)
        return self.given.get("vocals") or next((place for place in places if place.is_file()), None)

    @property
    def is_large(self) -> bool:
        """Whether it matters where the model's weights are. Raises ``CheckpointError``."""
        return self.open("transformer").size > LARGE_BYTES

    def measure(self) -> int:
        """Bytes of all weights that are there."""
        sizes: dict[Path, int] = {}  # two components may share a file
        for part in RELEASE:
            with suppress(CheckpointError):
                sizes[self.find(part)] = self.open(part).size
        return sum(sizes.values())

    def extras(self, part: str) -> dict[str, Path]:
        """The files of the face analyzer, or of the vocal separator, that are here, by name."""
        names = {Path(file).name for file in EXTRA_FILES[part]}
        folder, separator = self.faces, self.vocals
        if part == "faces":
            files = sorted(folder.rglob("*")) if folder is not None else []
        else:
            files = [] if separator is None else [separator]
        return {file.name: file for file in files if file.name in names}

    def open(self, part: str) -> CheckpointSource:
        """A component's files, opened again only if they were replaced. Raises ``CheckpointError``."""
        path = self.find(part)
        source = self._sources.get(path)
        if source is None or not source.is_current():
            source = self._sources[path] = open_source(path, self.segment)
        return source

    def find(self, part: str) -> Path:
        """Where a part is; where it should be, if it is nowhere."""
        if part in self.given:
            return self.given[part]
        if part in ("transformer", "reference"):  # DeepSpeed's `latest` knows better than an alphabet
            for folder in (self.path / "hallo3", self.path):
                if not self.own(part).exists() and (folder / "latest").is_file():
                    return folder
        for pattern in PLACES[part]:
            places = sorted(self.path.glob(pattern)) if "*" in pattern else [self.path / pattern]
            if place := next((place for place in places if place.exists()), None):
                return place
        return self.own(part)

    def own(self, part: str) -> Path:
        """A part's place in a model folder of this package's making."""
        return self.path / PLACES[part][0]


def output_path(folder: Path, part: str, precision: str) -> Path:
    """Where a converted part goes: under its own name among ComfyUI's models, else as a model folder's."""
    if (folder / "diffusion_models").is_dir() and (folder / "vae").is_dir():
        return folder / COMFYUI[part].format(precision=precision)
    return ModelFolder(folder).own(part)
