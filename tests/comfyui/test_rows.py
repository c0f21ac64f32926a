"""Sound and pictures of every kind through a real server, row by row of the catalogue of bad inputs (A01 to
A21, I01 to I19): each runs, or fails with words that help, and the next prompt works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comfyui import saboteur
from comfyui.bad_values import SILENT_SOUND, UNSEEN, Rows, node, odd_files, picture, refused, sound, watched
from comfyui.server import Server


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    base = tmp_path_factory.mktemp("rows")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "saboteur.py").symlink_to(Path(saboteur.__file__))
    server = Server(base)
    yield Rows(server)
    server.stop()


@pytest.fixture(scope="module")
def plain(rows: Rows) -> dict[str, Any]:
    """What comes of a sound that nothing is wrong with."""
    return rows.heard(sound("plain")).told["tell"]


@pytest.fixture(scope="module")
def portrait(rows: Rows) -> dict[str, Any]:
    """What comes of a picture that nothing is wrong with."""
    return rows.seen(picture("plain")).told["tell"]


def test_rows_begin_with_a_prompt_that_works(plain: dict[str, Any], portrait: dict[str, Any]) -> None:
    assert plain["frames"] == 25
    assert plain["finite"]
    assert portrait["finite"]


@pytest.mark.parametrize(("kind", "said"), SILENT_SOUND.values(), ids=SILENT_SOUND.keys())
def test_sound_that_cannot_be_used_is_refused(rows: Rows, kind: str, said: str) -> None:
    refused(rows.heard(sound(kind)), "speech", said)


def test_a01_an_empty_sound_of_comfyui_s_own_is_refused(rows: Rows) -> None:
    empty = node("EmptyAudio", duration=0.0, sample_rate=44100, channels=2)
    refused(rows.heard(empty), "speech", "recording is empty(.|\n)*2 channels, 0 samples")


FRAMES = {
    "A03-640": ("640 samples", 1),
    "A03-800": ("800 samples", 2),
    "A07-1000": ("1000 Hz", 25),
    "A07-8000": ("8000 Hz", 25),
    "A07-44100": ("44100 Hz", 25),
    "A07-192000": ("192000 Hz", 25),
    "A08-c6": ("c6", 25),
    "A13-clipped": ("clipped", 25),
    "A13-loud": ("loud", 25),
    "A13-quiet": ("quiet", 25),
    "A15-f16": ("f16", 25),
    "A15-bf16": ("bf16", 25),
}


@pytest.mark.parametrize(("kind", "frames"), FRAMES.values(), ids=FRAMES.keys())
def test_sound_that_can_be_used_is_heard(rows: Rows, kind: str, frames: int) -> None:
    outcome = rows.heard(sound(kind))
    assert outcome.error == ""
    assert (outcome.told["tell"]["frames"], outcome.told["tell"]["finite"]) == (frames, True)


EQUAL = {
    "A08-equal stereo": "equal stereo",
    "A15-f64": "f64",
    "A17-lazy": "lazy",
    "A19-16000.0": "rate 16000.0",
    "A20-channels last": "channels last",
    "A20-every second": "every second",
    "A20-expanded": "expanded",
}


@pytest.mark.parametrize("kind", EQUAL.values(), ids=EQUAL.keys())
def test_the_same_sound_in_another_form_is_the_same(rows: Rows, plain: dict[str, Any], kind: str) -> None:
    assert rows.heard(sound(kind)).told["tell"]["hash"] == plain["hash"]


STEPS = {"A14-i16": ("i16", 2**-16), "A14-i32": ("i32", 1e-7), "A14-u8": ("u8", 2**-8)}


@pytest.mark.parametrize(("kind", "step"), STEPS.values(), ids=STEPS.keys())
def test_whole_numbers_are_heard_to_scale(rows: Rows, plain: dict[str, Any], kind: str, step: float) -> None:
    """To half a step of what they are stored in."""
    told = rows.heard(sound(kind)).told["tell"]
    assert np.abs(np.array(told["heard"]) - np.array(plain["heard"])).max() <= 1.01 * step


WARNED = {
    "A06-silence": ("silence", "The recording is digital silence"),
    "A09-opposite": ("opposite stereo", "The channels cancel each other"),
}


@pytest.mark.parametrize(("kind", "said"), WARNED.values(), ids=WARNED.keys())
def test_doubtful_sound_is_heard_with_one_word(rows: Rows, kind: str, said: str) -> None:
    outcome = rows.heard(sound(kind))
    assert outcome.told["tell"]["finite"]
    assert outcome.said.count("Hallo3: ") == outcome.said.count(f"Hallo3: {said}") == 1


def test_a17_lazy_sound_is_asked_once(rows: Rows) -> None:
    outcome = rows.run("speech", **watched(sound("lazy"), "speech"), speech__audio=["made", 0])
    assert outcome.told["after"] == {"asked": {"waveform": 1, "sample_rate": 1}}


@pytest.mark.parametrize("kind", ["plain", "opposite stereo", "u8", "loud"], ids=lambda kind: f"A21-{kind}")
def test_sound_is_not_changed(rows: Rows, kind: str) -> None:
    outcome = rows.run("speech", **watched(sound(kind), "speech"), speech__audio=["made", 0])
    assert outcome.told["after"] == outcome.told["before"]
    assert outcome.told["tell"]["finite"]


@pytest.mark.parametrize(("kind", "said"), UNSEEN.values(), ids=UNSEEN.keys())
def test_a_picture_that_cannot_be_used_is_refused(rows: Rows, kind: str, said: str) -> None:
    refused(rows.seen(picture(kind)), "identity", said)


@pytest.mark.parametrize("side", [1, 2], ids=lambda side: f"I01-{side}")
def test_tiny_pictures_of_comfyui_s_own_are_refused(rows: Rows, side: int) -> None:
    tiny = node("EmptyImage", width=side, height=side, batch_size=1, color=0)
    refused(rows.seen(tiny), "identity", f"too small(.|\n)*{side} x {side} px(.|\n)*at least 64 px")


SAME = {
    "I03-clear": ("clear", "plain"),
    "I03-opaque": ("opaque", "plain"),
    "I04-grey1": ("grey1", "grey3"),
    "I08-u8": ("u8", "of u8"),
    "I08-f64": ("f64", "plain"),
}


@pytest.mark.parametrize(("kind", "other"), SAME.values(), ids=SAME.keys())
def test_the_same_picture_in_another_form_is_the_same(rows: Rows, kind: str, other: str) -> None:
    one, two = (rows.seen(picture(each)).told["tell"] for each in (kind, other))
    assert one == two


SEEN = {
    **{f"I07-{kind}": kind for kind in ("1.1", "-0.1", "rounding")},
    **{f"I08-{kind}": kind for kind in ("f16", "bf16")},
    **{f"I10-{kind}": kind for kind in ("64x4096", "4096x64")},
}


@pytest.mark.parametrize("kind", SEEN.values(), ids=SEEN.keys())
def test_a_picture_that_can_be_used_is_seen(rows: Rows, kind: str) -> None:
    outcome = rows.seen(picture(kind))
    assert outcome.error == ""
    assert outcome.told["tell"]["finite"]


DOUBTED = {
    "I03-clear": ("clear", "The portrait is transparent in places"),
    "I07-1.1": ("1.1", r"The portrait's values go beyond 0..1, from 0.100 to 1.100"),
    "I07--0.1": ("-0.1", r"The portrait's values go beyond 0..1, from -0.100 to 0.880"),
}


@pytest.mark.parametrize(("kind", "said"), DOUBTED.values(), ids=DOUBTED.keys())
def test_a_doubtful_picture_is_seen_with_one_word(rows: Rows, kind: str, said: str) -> None:
    outcome = rows.seen(picture(kind))
    assert outcome.told["tell"]["finite"]
    assert outcome.said.count(f"Hallo3: {said}") == 1


@pytest.mark.parametrize("kind", ["I03-opaque", "I07-rounding", "I08-u8", "I08-f16"])
def test_what_is_nothing_to_speak_of_is_not_spoken_of(rows: Rows, kind: str) -> None:
    said = rows.seen(picture(kind.partition("-")[2])).said
    assert "transparent" not in said
    assert "beyond" not in said


@pytest.mark.parametrize("kind", ["plain", "clear", "1.1", "u8", "f64"], ids=lambda kind: f"I19-{kind}")
def test_a_picture_is_not_changed(rows: Rows, kind: str) -> None:
    """Nor when a second prompt has it from the cache."""
    given = {**watched(picture(kind), "identity"), "identity__portrait": ["made", 0]}
    first = rows.run("identity", **given)
    assert first.told["after"] == first.told["before"]
    second = rows.run("identity", **{**given, "identity__framing": "face"})
    assert second.told["after"] == first.told["before"]
    assert second.told["tell"]["finite"]


@pytest.fixture(scope="module")
def files(rows: Rows) -> Path:
    """Pictures as people have them, and one that was cut off, where Load Image looks."""
    odd_files(rows.server.base / "input")
    return rows.server.base / "input"


@pytest.mark.parametrize(
    "name", ["turned.jpg", "CMYK.jpg", "deep.png", "palette.png", "cut.png"], ids="I18-{}".format
)
def test_what_load_image_makes_of_odd_files_is_seen(rows: Rows, files: Path, name: str) -> None:
    """Of a file that was cut off, too: ComfyUI hands over what is there and says nothing."""
    assert (files / name).is_file()
    outcome = rows.seen(node("LoadImage", image=name))
    assert outcome.error == ""
    assert outcome.told["tell"]["finite"]


@pytest.mark.usefixtures("files")
def test_i18_an_animation_is_several_pictures(rows: Rows) -> None:
    refused(rows.seen(node("LoadImage", image="moving.webp")), "identity", "not one picture(.|\n)*3 pictures")


def test_i02_a_very_large_picture_takes_little_more_than_itself(rows: Rows) -> None:
    """8192 x 8192: half a gigabyte beside the picture that another node holds."""
    if not rows.memory.forget():
        pytest.skip("only Linux says how much memory a process had")
    rows.run("made", made=picture("8k"))
    rows.memory.forget()
    before = rows.memory.megabytes("VmRSS")
    outcome = rows.seen(picture("8k"))
    if not outcome.told["tell"]["finite"]:
        raise RuntimeError(outcome.error)
    taken = rows.memory.megabytes("VmHWM") - before
    assert taken <= 500, f"{taken:.0f} MB"


def test_rows_end_with_the_prompts_they_began_with(
    rows: Rows, plain: dict[str, Any], portrait: dict[str, Any]
) -> None:
    """Computed anew, for the set was unloaded: nothing that went before has left a trace."""
    rows.server.post("/free", {"unload_models": True, "free_memory": True})
    assert rows.heard(sound("plain")).told["tell"] == plain
    assert rows.seen(picture("plain")).told["tell"] == portrait
