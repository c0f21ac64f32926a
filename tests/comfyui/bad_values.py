"""A server whose nodes give sound and pictures of every kind, and what must come of them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from comfyui import saboteur
from comfyui.prompts import simple
from comfyui.server import Server

RAW = re.compile(
    r"NoneType|Traceback|index out of|out of range|KeyError|enforce fail|has no attribute|unsupported operand"
    r"|must be Tensor|size mismatch|shape mismatch|Expected .* argument|subscriptable"
)
"""Words of programs, which tell a user nothing."""


@dataclass(frozen=True)
class Outcome:
    """What a node made, told in numbers; or which node refused, and its words. ``said`` is in the log."""

    told: dict[str, Any]
    node: str
    error: str
    said: str


class Memory:
    """What a process takes, as Linux says it."""

    def __init__(self, process: int) -> None:
        self._place = Path("/proc") / str(process)

    def forget(self) -> bool:
        """Begin anew with the highest so far, if this system can."""
        try:
            (self._place / "clear_refs").write_text("5")
        except OSError:
            return False
        return True

    def megabytes(self, kind: str) -> float:
        """``VmRSS`` now, ``VmHWM`` at most."""
        lines = (self._place / "status").read_text().splitlines()
        return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(kind))


class Rows:
    """A server with the saboteur's nodes."""

    def __init__(self, server: Server) -> None:
        self.server, self.memory = server, Memory(server._process.pid)

    def run(self, wanted: str, **nodes: Any) -> Outcome:
        """What comes of a prompt that tells the output of ``wanted``."""
        prompt = {name: node for name, node in simple(**nodes).items() if name in ("set", *nodes, wanted)}
        prompt.setdefault("tell", node("SaboteurTell", value=[wanted, 0]))
        before = self.server.log.stat().st_size
        history = self.server.run(prompt)
        said = self.server.log.read_bytes()[before:].decode(errors="replace")
        failed = dict(history["status"]["messages"]).get("execution_error", {})
        told = {
            name: json.loads(output["told"][0])
            for name, output in history["outputs"].items()
            if "told" in output
        }
        return Outcome(told, failed.get("node_id", ""), failed.get("exception_message", ""), said)

    def heard(self, made: dict[str, Any]) -> Outcome:
        """Of a sound."""
        return self.run("speech", made=made, speech__audio=["made", 0])

    def seen(self, made: dict[str, Any]) -> Outcome:
        """Of a picture."""
        return self.run("identity", made=made, identity__portrait=["made", 0])


def node(name: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": name, "inputs": inputs}


def sound(kind: str) -> dict[str, Any]:
    return node("SaboteurSound", kind=kind)


def picture(kind: str) -> dict[str, Any]:
    return node("SaboteurPicture", kind=kind)


def watched(made: dict[str, Any], wanted: str) -> dict[str, Any]:
    """Nodes that tell what ``made`` holds before and after ``wanted`` has had it."""
    return {
        "made": made,
        "before": node("SaboteurTell", value=["made", 0]),
        "after": node("SaboteurTell", value=["made", 0], after=[wanted, 0]),
    }


def refused(outcome: Outcome, by: str, said: str) -> None:
    """A clear error of our node: what was found, what is expected and what to do, in no program's words."""
    assert outcome.node == by
    headline, *lines = outcome.error.splitlines()
    assert headline.endswith(".")
    assert [line.split()[0] for line in lines] == ["Found:", "Expected:", "Fix:"]
    assert not RAW.search(outcome.error)
    assert re.search(said, outcome.error), outcome.error
    assert outcome.told == {}


SILENT_SOUND = {
    "A01-zero": ("zero", r"recording is empty(.|\n)*1 channels, 0 samples"),
    "A02-1": ("1 samples", r"too short(.|\n)*0\.04 s"),
    "A02-639": ("639 samples", r"too short(.|\n)*0\.04 s"),
    "A04-nan": ("nan", r"not numbers(.|\n)*0\.250 s"),
    "A05-inf": ("inf", r"not numbers(.|\n)*0\.250 s"),
    "A05--inf": ("-inf", r"not numbers(.|\n)*0\.250 s"),
    "A10-batch3": ("batch3", r"several recordings(.|\n)*3 recordings(.|\n)*one"),
    "A10-batch0": ("batch0", r"no recording in a waveform \[0, 1, 9000\]"),
    "A12-13 h": ("13 h", r"too long(.|\n)*13\.00 h(.|\n)*at most 12 h"),
    "A14-i64": ("i64", r"torch\.int64"),
    "A14-bool": ("bool", r"torch\.bool"),
    "A16-none": ("none", "no audio to listen to(.|\n)*a source video may have no sound track"),
    "A16-no waveform": ("no waveform", "audio without 'waveform'"),
    "A16-no rate": ("no rate", "audio without 'sample_rate'"),
    "A16-other keys": ("other keys", "audio without 'waveform'"),
    "A16-list": ("list", "a list"),
    "A16-text": ("text", "a str"),
    "A16-numpy": ("numpy", "a waveform that is a ndarray"),
    "A17-broken": ("broken", "cannot be read: ffmpeg gave up"),
    "A18-ndim1": ("ndim1", r"\[16000\](.|\n)*\[1, channels, samples\]"),
    "A18-ndim2": ("ndim2", r"\[1, 16000\](.|\n)*\[1, channels, samples\]"),
    "A18-c0": ("c0", "recording is empty(.|\n)*0 channels, 9000 samples"),
    "A18-axes": ("c9000", "9000 channels of 2 samples(.|\n)*at most 64(.|\n)*the wrong way round"),
    **{
        f"A19-{rate!r}": (
            f"rate {rate!r}",
            rf"sample rate cannot be used(.|\n)*{rate}(.|\n)*1000 to 768000 Hz",
        )
        for rate in saboteur.RATES
        if rate != 16000.0
    },
}


UNSEEN = {
    "I02-none": ("none", "wrong layout(.|\n)*nothing"),
    "I04-grey3d": ("grey3d", r"wrong layout(.|\n)*\[1, 96, 96\](.|\n)*\[1, height, width, 3\]"),
    "I04-c2": ("c2", r"wrong layout(.|\n)*\[1, 96, 96, 2\](.|\n)*\[1, height, width, 3\]"),
    "I04-text": ("text", "wrong layout(.|\n)*a str"),
    "I04-numpy": ("numpy", "wrong layout(.|\n)*a ndarray"),
    "I05-batch4": ("batch4", "not one picture(.|\n)*4 pictures(.|\n)*pick one"),
    "I05-batch0": ("batch0", "not one picture(.|\n)*0 pictures"),
    "I06-nan": ("nan", "values cannot be used(.|\n)*at x 40, y 30"),
    "I06-inf": ("inf", "values cannot be used(.|\n)*at x 40, y 30"),
    "I06--inf": ("-inf", "values cannot be used(.|\n)*at x 40, y 30"),
    "I07-255": ("255", r"values cannot be used(.|\n)*from 25\.5 to 224\.4(.|\n)*0 to 1"),
    "I07--0.5": ("-0.5", r"values cannot be used(.|\n)*from -0\.5(.|\n)*0 to 1"),
    "I07-1.2": ("1.2", r"values cannot be used(.|\n)*to 1\.2(.|\n)*0 to 1"),
    "I08-i32": ("i32", r"values cannot be used(.|\n)*torch\.int32"),
    "I08-bool": ("bool", r"values cannot be used(.|\n)*torch\.bool"),
    "I09-chw": ("chw", r"wrong layout(.|\n)*\[1, 3, 96, 96\](.|\n)*put the channels last"),
    "I10-tall": ("16x4096", "too small(.|\n)*16 x 4096 px(.|\n)*at least 64 px"),
    "I10-wide": ("4096x16", "too small(.|\n)*4096 x 16 px(.|\n)*at least 64 px"),
}


def odd_files(folder: Path) -> None:
    """Pictures as people have them, and one that was cut off."""
    drawn = Image.fromarray((saboteur.picture()[0] * 255).byte().numpy())
    turned = Image.Exif()
    turned[0x0112] = 6
    drawn.save(folder / "turned.jpg", exif=turned)
    drawn.convert("CMYK").save(folder / "CMYK.jpg")
    Image.fromarray(np.asarray(drawn.convert("L"), np.uint16) * 257).save(folder / "deep.png")
    drawn.quantize(16).save(folder / "palette.png")
    others = [drawn.rotate(90), drawn.rotate(180)]
    drawn.save(folder / "moving.webp", save_all=True, append_images=others, duration=100, lossless=True)
    whole = (folder / "palette.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
