"""The page: what it fills in, lists and resumes; in a browser with ``make soak``."""

import importlib.util
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import REPOSITORY
from hallo3.cli import ui
from hallo3.cli.main import main
from hallo3.cli.ui import Studio, Wishes
from hallo3.errors import InputError
from support.audio_samples import tone, write_wav

pytestmark = pytest.mark.any_message
PORTRAIT, SPEECH = (str(REPOSITORY / "samples" / name) for name in ("portrait.png", "speech.wav"))
WISHES = Wishes(PORTRAIT, SPEECH, whole_picture=True, steps=1, enlarge=1)
SECONDS = 4.2  # seven segments


@pytest.fixture
def studio(tmp_path: Path, nano_folder: Path) -> Studio:
    return Studio(tmp_path / "videos", nano_folder)


def test_a_run_is_checked_stopped_listed_and_resumed(studio: Studio, tmp_path: Path) -> None:
    write_wav(tmp_path / "short.wav", tone(16000, SECONDS), 16000)
    wishes = WISHES._replace(speech=str(tmp_path / "short.wav"))
    preview, text = studio.check(wishes)
    assert Path(preview).is_file()
    assert "segments" in text
    raised: list[BaseException] = []

    def run() -> None:
        try:
            studio.render(wishes)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive() and not any(re.search(": [1-9] of", each) for each, _ in studio.runs()):
        time.sleep(0.01)
    assert studio.so_far() is not None
    with pytest.raises(InputError, match="Another video is being made"):
        studio.render(wishes)
    studio.stop()
    thread.join()
    assert [type(error) for error in raised] == [KeyboardInterrupt]
    [(described, name)] = studio.runs()
    assert " of " in described
    kept = studio.wishes(name)
    assert kept._replace(portrait=PORTRAIT, speech=wishes.speech) == wishes
    video = studio.render(kept)
    assert any("resuming after" in text for text in studio.messages)
    assert studio.render(wishes) == video, "the same files and values"
    assert [described for described, _ in studio.runs()] == [f"{name}.mp4: finished"]
    assert studio.render(wishes._replace(seed=2)) != video
    assert len(studio.runs()) == 2


@pytest.mark.parametrize(("wishes", "text"), [
    (Wishes(None, SPEECH), "no portrait"),
    (Wishes(PORTRAIT, None), "no speech"),
    (WISHES._replace(portrait=SPEECH), "cannot be read"),
])  # fmt: skip
def test_what_is_wrong_is_named(studio: Studio, wishes: Wishes, text: str) -> None:
    with pytest.raises(InputError, match=text):
        studio.render(wishes)
    assert studio.so_far() is None


@pytest.mark.parametrize("kept", ["", "[]", "{}", '{"portrait": 1, "other": 2}', None])
def test_a_damaged_note_is_named(studio: Studio, kept: str | None) -> None:
    studio.folder.mkdir()
    if kept is not None:
        (studio.folder / "video-1.json").write_text(kept)
    with pytest.raises(InputError, match="not known"):
        studio.wishes("video-1")
    with pytest.raises(InputError, match="not known"):
        studio.wishes("../videos/other")


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["ui", str(tmp_path)]) == 1


@pytest.fixture
def page(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The page in a headless Chromium."""
    missing = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"no {' and '.join(missing)}")
    import gradio as gr
    from playwright.sync_api import sync_playwright

    from comfyui.browser import ARGUMENTS, find_chromium

    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    blocks = ui.build_page(gr, studio)
    blocks.queue().launch(prevent_thread_lock=True, quiet=True, allowed_paths=[str(studio.folder)])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        shown = browser.new_page(viewport={"width": 1280, "height": 1000})
        shown.goto(blocks.local_url)
        yield SimpleNamespace(page=shown, studio=studio)
        browser.close()
    blocks.close()


@pytest.mark.soak
def test_the_page_makes_a_video(page: SimpleNamespace, tmp_path: Path) -> None:
    shown = page.page
    uploads = shown.locator("input[type=file]")
    uploads.nth(0).set_input_files(PORTRAIT)
    uploads.nth(1).set_input_files(SPEECH)
    shown.get_by_role("button", name="More").click()
    shown.get_by_label("Use the whole picture").check()
    shown.get_by_role("button", name="Check", exact=True).click()
    shown.get_by_role("tab", name="What is used").click()
    shown.get_by_text("163 frames, 6.52 s").wait_for()
    shown.get_by_role("button", name="Render", exact=True).click()
    shown.wait_for_selector("video", timeout=120_000)
    while page.studio.runs()[0][0] != "video-1.mp4: finished":
        shown.wait_for_timeout(200)
    shown.wait_for_timeout(6000)  # the page looks every five seconds
    shown.screenshot(path=str(tmp_path / "page.png"))
    length = "() => Math.round(100 * document.querySelector('video').duration)"
    assert shown.evaluate(length) == 652
