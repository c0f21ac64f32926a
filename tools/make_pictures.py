"""Make the pictures people see: template thumbnails, the README's picture, preview colours.

    make pictures

Runs every template on a ComfyUI server of its own, with whatever weights the pack has; so better weights make
better pictures. A thumbnail shows the portrait and four frames of the template's video. The README's
picture is ComfyUI's page after the first template has run.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import av
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]

import fit_previews  # noqa: E402
from comfyui.browser import opened  # noqa: E402
from comfyui.server import Server  # noqa: E402
from comfyui.torchvision_stubs import lend_operators  # noqa: E402

WORKFLOWS = ROOT / "workflows"
FIRST = "Hallo3 talking portrait"
README_PICTURE = ROOT / "docs" / "pictures" / "talking_portrait.png"
SIDE, QUALITY = 320, 85


def frames_of(path: Path, count: int) -> list[Image.Image]:
    """So many frames, spread over a video."""
    with av.open(str(path)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return [frames[(2 * index + 1) * len(frames) // (2 * count)] for index in range(count)]


def squared(picture: Image.Image, side: int) -> Image.Image:
    """The middle of a picture, side x side."""
    least = min(picture.size)
    left, top = (picture.width - least) // 2, (picture.height - least) // 2
    return picture.crop((left, top, left + least, top + least)).resize((side, side), Image.Resampling.LANCZOS)


def thumbnail(video: Path, portrait: Path) -> Image.Image:
    """The portrait on the left, four frames on the right."""
    made = Image.new("RGB", (2 * SIDE, SIDE))
    made.paste(squared(Image.open(portrait).convert("RGB"), SIDE), (0, 0))
    half = SIDE // 2
    for index, frame in enumerate(frames_of(video, 4)):
        made.paste(squared(frame, half), (SIDE + half * (index % 2), half * (index // 2)))
    return made


def video_of(server: Server, prompt: dict[str, Any]) -> Path:
    """What a prompt saved."""
    result = server.run(prompt)
    if result["status"]["status_str"] != "success":
        raise SystemExit(json.dumps(result["status"], indent=1))
    saved = [made for out in result["outputs"].values() for made in out.get("images", [])]
    made = next(made for made in saved if made["filename"].endswith(".mp4"))
    return server.base / made["type"] / made["subfolder"] / made["filename"]


def main() -> None:
    """Fit, run, draw, photograph."""
    lend_operators()
    fit_previews.main()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            for path in sorted((WORKFLOWS / "api").glob("*.json")):
                video = video_of(server, json.loads(path.read_text(encoding="utf-8")))
                picture = thumbnail(video, ROOT / "samples" / "portrait.png")
                picture.save(WORKFLOWS / f"{path.stem}.jpg", quality=QUALITY)
                print(f"{path.stem}.jpg")
            README_PICTURE.parent.mkdir(parents=True, exist_ok=True)
            with opened(server.url, 1600, 900) as page:
                page.open(json.loads((WORKFLOWS / f"{FIRST}.json").read_text(encoding="utf-8")), FIRST)
                shutil.rmtree(server.base / "output" / "hallo3_jobs")  # as on the first day
                page.run()
                page.page.wait_for_timeout(9000)
                page.page.screenshot(path=str(README_PICTURE))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
