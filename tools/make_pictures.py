"""Make template thumbnails, the README's pictures and preview colours: ``make pictures``.

The animation shows the sample portrait, the video that the built-in model makes of it, and the loudness of
its sound. The README's other picture is ComfyUI's page after the first template, on a server of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]

import fit_previews  # noqa: E402
from comfyui.browser import opened  # noqa: E402
from comfyui.server import Server  # noqa: E402
from comfyui.torchvision_stubs import lend_operators  # noqa: E402
from hallo3.cli.main import main as run_command  # noqa: E402
from thumbnails import draw_thumbnails, read_frames  # noqa: E402

WORKFLOWS = ROOT / "workflows"
FIRST = "Hallo3 talking portrait"
README_PICTURE = ROOT / "docs" / "pictures" / "talking_portrait.png"
ANIMATION = ROOT / "docs" / "pictures" / "demo.gif"
ICON, BANNER = (ROOT / "docs" / "pictures" / f"{name}.png" for name in ("icon", "banner"))
Box = tuple[int, int, int]
PAPER, INK, MARK = (250, 250, 248), (150, 160, 175), (214, 84, 60)


def crop_square(picture: Image.Image, side: int) -> Image.Image:
    """The middle of a picture, resized to side x side."""
    least = min(picture.size)
    left, top = (picture.width - least) // 2, (picture.height - least) // 2
    return picture.crop((left, top, left + least, top + least)).resize((side, side), Image.Resampling.LANCZOS)


def read_loudness(path: Path, columns: int) -> np.ndarray[Any, Any]:
    """Peak of a file's sound in each of ``columns`` equal spans, 0..1."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", 16000)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    peaks = np.array([np.abs(part).max() for part in np.array_split(samples, columns)])
    return peaks / peaks.max()


def make_animation(video: Path, portrait: Path, target: Path, side: int = 256, every: int = 2) -> None:
    """The portrait beside every second frame of its video, and the sound below with a mark that moves."""
    with av.open(str(video)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)][::every]
    still = crop_square(Image.open(portrait).convert("RGB"), side)
    margin, strip = 12, 56
    width = 2 * side + 3 * margin
    peaks = read_loudness(video, (width - 2 * margin) // 4)
    pictures: list[Image.Image] = []
    for number, frame in enumerate(frames):
        picture = Image.new("RGB", (width, side + strip + 3 * margin), PAPER)
        picture.paste(still, (margin, margin))
        picture.paste(frame.resize((side, side), Image.Resampling.LANCZOS), (side + 2 * margin, margin))
        reached = len(peaks) * (number + 1) // len(frames)
        draw_sound(ImageDraw.Draw(picture), peaks, reached, (margin, side + 2 * margin + strip // 2, strip))
        pictures.append(picture)
    palette = pictures[len(pictures) // 2].quantize(128)
    first, *rest = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    first.save(target, save_all=True, append_images=rest, duration=40 * every, loop=0, optimize=True)


def draw_sound(draw: ImageDraw.ImageDraw, peaks: np.ndarray[Any, Any], reached: int, place: Box) -> None:
    """Bars of loudness in ``place`` (left, middle, height), the first ``reached`` of them marked."""
    left, middle, height = place
    for column, peak in enumerate(peaks):
        x, half = left + 4 * column, max(1, round(peak * height / 2))
        draw.rectangle((x, middle - half, x + 2, middle + half), MARK if column < reached else INK)


def make_registry_pictures(video: Path, portrait: Path) -> None:
    """The icon, square, and the banner, 21:9: the portrait, six frames of its video and the sound."""
    still = Image.open(portrait).convert("RGB")
    crop_square(still, 400).save(ICON, optimize=True)
    banner = Image.new("RGB", (1260, 540), PAPER)
    banner.paste(crop_square(still, 540), (0, 0))
    for index, frame in enumerate(read_frames(video, 6)):
        banner.paste(crop_square(frame, 232), (552 + 236 * (index % 3), 4 + 236 * (index // 3)))
    peaks = read_loudness(video, 704 // 4)
    draw_sound(ImageDraw.Draw(banner), peaks, len(peaks) // 3, (552, 508, 48))
    banner.quantize(256).save(BANNER, optimize=True)


def picture_page(server: Server) -> None:
    """The page after the first template has run; smaller, its nodes would have no text."""
    with opened(server.url, 1920, 1080) as page:
        page.open(json.loads((WORKFLOWS / f"{FIRST}.json").read_text(encoding="utf-8")), FIRST)
        shutil.rmtree(server.base / "output" / "hallo3_jobs", ignore_errors=True)  # as on the first day
        page.run()
        page.page.wait_for_timeout(9000)
        page.page.screenshot(path=str(README_PICTURE))
    Image.open(README_PICTURE).convert("RGB").quantize(256).save(README_PICTURE, optimize=True)


def main() -> None:
    lend_operators()
    with tempfile.TemporaryDirectory() as folder:
        portrait, video = ROOT / "samples" / "portrait.png", Path(folder) / "demo.mp4"
        words = ["--portrait", str(portrait), "--speech", str(ROOT / "samples" / "speech.wav")]
        if run_command(["animate", *words, "--enlarge", "4", "-o", str(video)]):
            raise SystemExit("The demo's video was not made.")
        make_animation(video, portrait, ANIMATION)
        make_registry_pictures(video, portrait)
    fit_previews.main()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            draw_thumbnails(server)
            picture_page(server)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
