"""The ``openai`` package as a client, if it is installed."""

import base64
from pathlib import Path
from typing import Any

import pytest

from conftest import REPOSITORY

openai = pytest.importorskip("openai")
pytestmark = [pytest.mark.any_message, pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")]


def test_its_own_calls_make_a_video(start: Any, speech_file: Path, tmp_path: Path) -> None:
    token = "a-token-of-tests-0123456789"
    running = start(token=token)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key=token, max_retries=0)
    sound = "data:audio/wav;base64," + base64.b64encode(speech_file.read_bytes()).decode()
    options = {"speech": sound, "whole_picture": True, "approximate": ["steps-20"]}
    with (REPOSITORY / "samples" / "portrait.png").open("rb") as portrait:
        made = client.videos.create(prompt="a person", input_reference=portrait, extra_body=options)
    assert (made.object, made.size) == ("video", "32x32")
    while (video := client.videos.retrieve(made.id)).status not in ("completed", "failed"):
        pass
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    client.videos.download_content(made.id).write_to_file(tmp_path / "got.mp4")
    assert (tmp_path / "got.mp4").read_bytes()[4:8] == b"ftyp"
    reference = ("me.png", (REPOSITORY / "samples" / "portrait.png").read_bytes())
    second = client.videos.create(prompt="", input_reference=reference, extra_body=options)
    assert [each.id for each in client.videos.list(limit=1)] == [second.id, made.id], "all pages"
    assert client.videos.delete(made.id).deleted
    assert client.videos.delete(second.id).deleted
    with pytest.raises(openai.NotFoundError, match="no such video"):
        client.videos.retrieve(made.id)
    with pytest.raises(openai.BadRequestError, match="The video will have another size"):
        client.videos.create(prompt="", size="720x1280", input_reference=reference, extra_body=options)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="another").videos.list()
    assert running.names == set()
