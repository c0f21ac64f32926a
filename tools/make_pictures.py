"""Make template thumbnails, the README's picture and preview colours: ``make pictures``.

Runs every template on its own ComfyUI server with the pack's weights. A thumbnail shows the portrait and four
frames of the template's video; the README's picture is ComfyUI's page after the first template has run.
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


def read_frames(path: Path, count: int) -> list[Image.Image]:
    """``count`` frames, spread over a video."""
    with av.open(str(path)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return [frames[(2 * index + 1) * len(frames) // (2 * count)] for index in range(count)]


def crop_square(picture: Image.Image, side: int) -> Image.Image:
    """The middle of a picture, resized to side x side."""
    least = min(picture.size)
    left, top = (picture.width - least) // 2, (picture.height - least) // 2
    return picture.crop((left, top, left + least, top + least)).resize((side, side), Image.Resampling.LANCZOS)


def make_thumbnail(video: Path, portrait: Path) -> Image.Image:
    """The portrait on the left, four frames on the right."""
    image = Image.new("RGB", (2 * SIDE, SIDE))
    image.paste(crop_square(Image.open(portrait).convert("RGB"), SIDE), (0, 0))
    half = SIDE // 2
    for index, frame in enumerate(read_frames(video, 4)):
        image.paste(crop_square(frame, half), (SIDE + half * (index % 2), half * (index // 2)))
    return image


def run_template(server: Server, prompt: dict[str, Any]) -> Path:
    """Run a prompt; the path of its video."""
    result = server.run(prompt)
    if result["status"]["status_str"] != "success":
        raise SystemExit(json.dumps(result["status"], indent=1))
    files = [file for out in result["outputs"].values() for file in out.get("images", [])]
    video = next(file for file in files if file["filename"].endswith(".mp4"))
    return server.base / video["type"] / video["subfolder"] / video["filename"]


def main() -> None:
    lend_operators()
    fit_previews.main()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            for path in sorted((WORKFLOWS / "api").glob("*.json")):
                video = run_template(server, json.loads(path.read_text(encoding="utf-8")))
                picture = make_thumbnail(video, ROOT / "samples" / "portrait.png")
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
