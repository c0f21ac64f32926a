"""Every template runs to a video, by the HTTP API and by comfy-cli, and is accepted by its validator."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import av
import pytest

from comfyui.host import REPOSITORY, comfy
from comfyui.server import PACK, Server

TEMPLATES = sorted((REPOSITORY / "workflows").glob("*.json"))
NAMES = [path.stem for path in TEMPLATES]


def api(name: str) -> Path:
    return REPOSITORY / "workflows" / "api" / f"{name}.json"


def videos(result: dict[str, Any], server: Server) -> list[Path]:
    assert result["status"]["status_str"] == "success", json.dumps(result["status"], indent=1)
    saved = [entry for out in result["outputs"].values() for entry in out.get("images", [])]
    paths = [server.base / m["type"] / m["subfolder"] / m["filename"] for m in saved]
    return [path for path in paths if path.suffix == ".mp4"]


def test_comfyui_lists_the_templates_and_the_blueprint(server: Server) -> None:
    assert set(server.get("/workflow_templates")[PACK]) == set(NAMES)
    assert len(NAMES) >= 5
    assert "Talking portrait" in [each["name"] for each in server.get("/global_subgraphs").values()]


def fetched(server: Server, path: str) -> bytes:
    with urllib.request.urlopen(server.url + urllib.parse.quote(path), timeout=60) as answer:
        return answer.read()


def test_comfyui_serves_help_pages_texts_and_thumbnails(server: Server) -> None:
    """At the addresses where its page looks for them."""
    for node in json.loads((REPOSITORY / "tests/data/nodes.json").read_text(encoding="utf-8")):
        for page in (f"{node}.md", f"{node}/en.md", f"{node}/zh.md"):
            found = fetched(server, f"/extensions/{PACK}/docs/{page}")
            assert found == (REPOSITORY / "web" / "docs" / page).read_bytes()
    texts = server.get("/i18n")
    assert texts["zh"]["nodeDefs"]["Hallo3Extrapolate"]["display_name"] == "Hallo3 视频外推"
    assert texts["en"]["nodeDefs"]["Hallo3Extrapolate"]["display_name"] == "Hallo3 Extrapolate"
    for name in NAMES:
        assert fetched(server, f"/api/workflow_templates/{PACK}/{name}.jpg")[:2] == b"\xff\xd8"


@pytest.mark.parametrize("name", NAMES)
def test_a_template_runs_to_a_video_with_sound(server: Server, name: str) -> None:
    paths = videos(server.run(json.loads(api(name).read_text(encoding="utf-8"))), server)
    assert paths
    for path in paths:
        with av.open(str(path)) as container:
            assert container.streams.video[0].frames > 30
            assert float(container.streams.video[0].average_rate) == 25.0
            assert container.streams.audio


@pytest.mark.parametrize("name", NAMES)
def test_comfy_cli_accepts_and_runs_a_template(server: Server, tmp_path: Path, name: str) -> None:
    """Both of its forms."""
    info = tmp_path / "object_info.json"
    info.write_text(json.dumps(server.get("/object_info")), encoding="utf-8")
    host, port = server.url.removeprefix("http://").split(":")
    for form in (api(name), REPOSITORY / "workflows" / f"{name}.json"):
        comfy(tmp_path, "workflow", "validate", "--workflow", str(form), "--input", str(info))
        output = comfy(tmp_path, "run", "--workflow", str(form), "--host", host, "--port", port, "--wait")
        assert ".mp4" in output
