"""Make the templates' thumbnails, square as ComfyUI's own: each template runs on a ComfyUI server, and its
picture shows with frames of its video what is special about it, over its label.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]

from comfyui.server import Server  # noqa: E402
from comfyui.templates import WORKFLOWS, api_form, bring_files, needs_weights  # noqa: E402

SIDE, STRIP, QUALITY = 350, 54, 85
HIGH = SIDE - STRIP
DARK, LIGHT, MARK = (24, 26, 32), (245, 245, 245), (214, 84, 60)

Frames = list[Image.Image]


def read_frames(path: Path, count: int) -> Frames:
    """``count`` frames, spread over a video."""
    with av.open(str(path)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return [frames[(2 * index + 1) * len(frames) // (2 * count)] for index in range(count)]


def fill(
    picture: Image.Image, width: int, height: int, method: int = Image.Resampling.LANCZOS
) -> Image.Image:
    """A picture cropped in the middle and resized to width x height."""
    scale = min(picture.width / width, picture.height / height)
    wide, high = round(width * scale), round(height * scale)
    left, top = (picture.width - wide) // 2, (picture.height - high) // 2
    return picture.crop((left, top, left + wide, top + high)).resize((width, height), method)


def grid(frames: Frames, columns: int, rows: int, gap: int = 3) -> Image.Image:
    """Frames side by side, row by row."""
    image = Image.new("RGB", (SIDE, HIGH), DARK)
    xs, ys = (
        np.linspace(0, length, count + 1).astype(int) for length, count in ((SIDE, columns), (HIGH, rows))
    )
    for index, frame in enumerate(frames[: columns * rows]):
        column, row = index % columns, index // columns
        wide, high = xs[column + 1] - xs[column] - gap, ys[row + 1] - ys[row] - gap
        image.paste(fill(frame, int(wide), int(high)), (int(xs[column]), int(ys[row])))
    return image


def one(videos: list[Frames]) -> Image.Image:
    return fill(videos[0][3], SIDE, HIGH)


def form(videos: list[Frames]) -> Image.Image:
    """A video beside three fields."""
    image = Image.new("RGB", (SIDE, HIGH), DARK)
    image.paste(fill(videos[0][3], 220, HIGH), (0, 0))
    draw = ImageDraw.Draw(image)
    for index, text in enumerate(("portrait", "voice", "prompt", "Run")):
        top, colour = 22 + 68 * index, MARK if text == "Run" else (62, 66, 78)
        draw.rounded_rectangle((230, top, SIDE - 10, top + 48), 8, colour)
        draw.text((290, top + 24), text, LIGHT, ImageFont.load_default(20), "mm")
    return image


def files(_: list[Frames]) -> Image.Image:
    """The files to load; nothing of theirs has been rendered here."""
    image = Image.new("RGB", (SIDE, HIGH), DARK)
    draw = ImageDraw.Draw(image)
    for index, name in enumerate(("transformer", "reference network", "VAE", "wav2vec2", "T5-XXL")):
        top = 46 + 50 * index  # below the page's badge
        draw.rounded_rectangle((24, top, SIDE - 24, top + 42), 8, (40, 74, 110))
        draw.text((44, top + 21), name, LIGHT, ImageFont.load_default(22), "lm")
    return image


def noise_to_frame(videos: list[Frames]) -> Image.Image:
    """Noise that becomes a frame, from left to right."""
    frame = np.asarray(fill(videos[0][3], SIDE, HIGH), np.float32)
    noise = (
        np.random.default_rng(0).normal(128, 70, (HIGH // 7 + 1, SIDE // 7 + 1, 3)).repeat(7, 0).repeat(7, 1)
    )
    share = np.clip(np.linspace(1.3, -0.6, SIDE), 0, 1)[None, :, None]
    return Image.fromarray((noise[:HIGH, :SIDE] * share + frame * (1 - share)).clip(0, 255).astype(np.uint8))


def small_and_large(videos: list[Frames]) -> Image.Image:
    """The model's pixels on the left, the upscaled frame on the right."""
    frame = videos[0][3]
    image = fill(frame, SIDE, HIGH)
    coarse = fill(fill(frame, SIDE // 10, HIGH // 10), SIDE, HIGH, Image.Resampling.NEAREST)
    image.paste(coarse.crop((0, 0, SIDE // 2, HIGH)), (0, 0))
    ImageDraw.Draw(image).line((SIDE // 2, 0, SIDE // 2, HIGH), LIGHT, 3)
    return image


PICTURES: dict[str, tuple[str, Callable[[list[Frames]], Image.Image]]] = {
    "Hallo3 talking portrait": ("Talking portrait", one),
    "Hallo3 talking portrait.app": ("App", form),
    "Hallo3 talking portrait (released weights)": ("Released weights", files),
    "Hallo3 five stages": ("Stage by stage", lambda videos: grid(videos[0], 2, 1)),
    "Hallo3 with KSampler": ("KSampler", noise_to_frame),
    "Hallo3 long speech": ("Long speech", lambda videos: grid(videos[0], 5, 4)),
    "Hallo3 continue a video": ("Continue a video", lambda videos: grid(videos[0][::3], 3, 2)),
    "Hallo3 several portraits": ("Several portraits", lambda videos: grid([v[3] for v in videos], 3, 1)),
    "Hallo3 two people": ("Two people", one),
    "Hallo3 video sound and upscale": ("Upscale", small_and_large),
}
"""Each template's label, and what draws its picture from its videos."""


def draw_thumbnail(name: str, videos: list[Frames]) -> Image.Image:
    """``videos`` have twenty frames each."""
    label, draw = PICTURES[name]
    image = Image.new("RGB", (SIDE, SIDE), DARK)
    image.paste(draw(videos), (0, 0))
    ImageDraw.Draw(image).text((SIDE // 2, HIGH + STRIP // 2), label, LIGHT, ImageFont.load_default(28), "mm")
    return image


def run_template(server: Server, prompt: dict[str, Any]) -> list[Path]:
    """Run a prompt; the paths of its videos."""
    result = server.run(prompt)
    if result["status"]["status_str"] != "success":
        raise SystemExit(json.dumps(result["status"], indent=1))
    files = [file for out in result["outputs"].values() for file in out.get("images", [])]
    videos = [file for file in files if file["filename"].endswith(".mp4")]
    return [server.base / file["type"] / file["subfolder"] / file["filename"] for file in videos]


def draw_thumbnails(server: Server) -> None:
    """Write all, beside their templates."""
    with bring_files(server.base):
        for path in WORKFLOWS:
            videos = [] if needs_weights(path) else run_template(server, api_form(path))
            picture = draw_thumbnail(path.stem, [read_frames(video, 20) for video in videos])
            picture.save(path.with_suffix(".jpg"), quality=QUALITY)
            print(f"{path.stem}.jpg")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            draw_thumbnails(server)
        finally:
            server.stop()
