"""``hallo3 convert``: checkpoints in any published form -> safetensors files of ours."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from .. import __version__
from ..checkpoints.component import find_component, find_components
from ..checkpoints.convert import plan_output, write_output
from ..checkpoints.load import check_fit, get_config, read_config, read_json, verify_component
from ..checkpoints.locate import EXTRA_FILES, ModelFolder, output_path
from ..checkpoints.source import open_source
from ..checkpoints.verify import FileVerifier
from ..config import COMPONENT_TITLES, COMPONENTS
from ..errors import CheckpointError, InputError, OutputError, sanitize
from ..progress import no_progress
from ..quantization import PRECISIONS, Precision, get_precision
from ..storage.files import free_disk, link_or_copy, temporary_path, write_error
from ..units import format_bytes
from .options import ConvertOptions
from .progress import file_verifier, show_bytes

TOKENIZER_FILES = (
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
EXTRAS = {"faces": "the face analyzer", "vocals": "the vocal separator"}
MAX_NAMED = 3  # dropped tensors that are named one by one


def run_convert(options: ConvertOptions) -> None:
    """Convert file by file; those that an earlier call finished are not written again."""
    precision = get_precision(options.dtype)
    sources = _find_sources(options)
    targets = {
        part: output_path(options.target, part, _precision_of(part, precision).name) for part in sources
    }
    for part, source in sources.items():
        _check_target(source, targets[part])
    _check_disk(options, sources, targets)
    verifier = file_verifier()
    for part, source in sources.items():
        _convert(part, source, targets[part], _precision_of(part, precision), verifier, options.config)
    here, there = ModelFolder(options.source), ModelFolder(options.target)
    if "text_encoder" in sources:
        folder, target = here.find("tokenizer"), output_path(options.target, "tokenizer", "")
        files = {target / name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}
        _bring("T5's tokenizer", files)
    if not options.part:
        for part, (place, *_) in EXTRA_FILES.items():
            folder = (there.faces if part == "faces" else None) or options.target / Path(place).parent
            found, have = here.extras(part), there.extras(part)
            _bring(EXTRAS[part], {folder / name: found[name] for name in found if name not in have})


def _bring(what: str, files: Mapping[Path, Path]) -> None:
    """Link or copy files that are not converted: target -> source."""
    files = {target: source for target, source in files.items() if target.resolve() != source.resolve()}
    for target, source in files.items():
        try:
            link_or_copy(source, target)
        except OSError as error:
            raise write_error("A file cannot be copied.", target, error) from error
    if files:
        print(f"{next(iter(files)).parent}: {what}, {len(files)} files")


def _find_sources(options: ConvertOptions) -> dict[str, Path]:
    """Components that are asked for: in a folder wherever a model folder finds them, else in the one file or
    network that is given. Raises ``CheckpointError`` where one is missing."""
    source = options.source
    paths = dict[str, Path]()
    if source.is_dir():
        places = {part: ModelFolder(source).find(part) for part in COMPONENTS}
        paths = {part: path for part, path in places.items() if path.exists()}
    if not paths and source.exists():
        with open_source(source) as opened:
            paths = dict.fromkeys(find_components(opened), source)
    missing = [part for part in options.part if part not in paths]
    if missing or not paths:
        what = COMPONENT_TITLES[missing[0]] if missing else "component of Hallo3"
        raise CheckpointError(
            "There is nothing to convert.",
            found=f"no {what} in {source}" if source.exists() else f"no {source}",
            expected="a checkpoint, or the folder into which the original's files were downloaded",
            fix="choose that file or folder; `hallo3 inspect` tells what a file is",
        )
    return {part: paths[part] for part in options.part or COMPONENTS if part in paths}


def _check_target(source: Path, target: Path) -> None:
    """Raises ``InputError`` for a file that could not be written in an hour."""
    above = next(folder for folder in target.parents if folder.exists())
    wrong = next((path for path in (target, temporary_path(target)) if path.is_dir()), None)
    if wrong is not None or not above.is_dir():
        raise InputError(
            "The converted weights cannot be written there.",
            found=f"{wrong or above}, which is {'a folder' if wrong else 'a file'}",
            expected="a folder to write files to",
            fix="choose another folder, or remove what is in the way",
        )
    if target.exists() and target.samefile(source):
        raise InputError(
            "A file cannot be converted onto itself.",
            found=str(source),
            expected="another folder",
            fix="choose another folder to write to",
        )


def _check_disk(options: ConvertOptions, sources: Mapping[str, Path], targets: Mapping[str, Path]) -> None:
    """Say what will be written. Raises ``OutputError`` if the disk has no room for it."""
    sizes = dict[str, int]()
    for part, path in sources.items():
        precision = _precision_of(part, get_precision(options.dtype))
        with open_source(path) as source:
            assemblies = find_component(source, part).assemblies
            shapes = {name: assembly.shape for name, assembly in assemblies.items()}
        bits = precision.compute.itemsize
        sizes[part] = sum(
            math.prod(shapes[name]) * (1 if precision.is_fp8(name) else bits) for name in shapes
        )
    done = [part for part, path in targets.items() if path.is_file() and path.stat().st_size >= sizes[part]]
    needed, free = sum(sizes[part] for part in sizes if part not in done), free_disk(options.target)
    print(f"{options.target}: {format_bytes(needed)} to write, {format_bytes(free)} free")
    if needed > free:
        raise OutputError(
            "The converted weights do not fit on the disk.",
            found=f"{format_bytes(free)} free in {options.target}",
            expected=f"{format_bytes(needed)}: "
            + ", ".join(f"{part} {format_bytes(size)}" for part, size in sizes.items() if part not in done),
            fix="free some space, choose a folder on another disk, or convert to --dtype fp8",
        )


def _precision_of(part: str, precision: Precision) -> Precision:
    """fp8 is for the two large networks, and the speech encoder stays in fp32, in which it computes."""
    if part == "speech_encoder":
        return PRECISIONS["fp32"]
    large = part in ("transformer", "reference")
    return PRECISIONS["bf16"] if precision.fp8_weights and not large else precision


def _convert(
    part: str, path: Path, target: Path, precision: Precision, verifier: FileVerifier, sizes: Path | None
) -> None:
    started = time.monotonic()
    with open_source(path) as source:
        component = find_component(source, part)
        if sizes is not None:
            component = replace(component, own_config={"config": read_json(sizes)})
        config = get_config(component)
        check_fit(component, config)
        names = [file.path.name for file in source.files]
        metadata = {
            "part": part,
            "config": config,
            "precision": precision.name,
            "source": dict(zip(names, verify_component(source, verifier), strict=True)),
            "dropped": dict(component.dropped),
            "writer": f"hallo3 {__version__}",
        }
        with suppress(CheckpointError):
            if target.exists() and read_config(target) == metadata:
                print(f"{target}: already there")
                return
        bar = show_bytes("measuring", source.size) if precision.fp8_weights else nullcontext(no_progress)
        with bar as progress:
            output = plan_output(component, precision, metadata, progress)
        with show_bytes(f"writing {target.name}", output.size) as progress:
            verifier.remember(target, write_output(output, target, progress))
        seconds = time.monotonic() - started
        print(
            f"{target}: {COMPONENT_TITLES[part]}, {len(component.assemblies)} tensors, "
            f"{output.size:,} bytes, in {seconds:.1f} s"
        )
        for reason, count in Counter(component.dropped.values()).items():
            names = [name for name, why in component.dropped.items() if why == reason][:MAX_NAMED]
            shown = ", ".join(names) + ", ..." * (count > MAX_NAMED)
            print(sanitize(f"  dropped: {count} ({shown}): {reason}"))
        beside = {name for file in component.source.files for name in file.beside}
        if beside:
            print(f"  dropped: {len(beside)} entries that training kept beside the weights")
