"""A ComfyUI server of our own, and what tests ask of it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfyui.host import REPOSITORY, find_comfyui

START_LIMIT = 120.0
PACK = "ComfyUI-Hallo3"
TROUBLE = Path(__file__).with_name("trouble_pack.py")


class Server:
    """ComfyUI with this checkout among its custom nodes and a base directory of its own."""

    def __init__(self, base: Path, environment: Mapping[str, str] | None = None) -> None:
        self.base, self.log, self.environment = base, base / "server.log", environment or {}
        for name in ("custom_nodes", "input", "output", "user"):
            (base / name).mkdir(parents=True, exist_ok=True)
        pack = base / "custom_nodes" / PACK
        if not pack.exists():
            pack.symlink_to(REPOSITORY, target_is_directory=True)
            (pack.parent / TROUBLE.name).symlink_to(TROUBLE)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._process = self._start()
        self._wait_until_ready()

    def _start(self) -> subprocess.Popen[bytes]:
        folder, launcher = find_comfyui(), Path(__file__).with_name("torchvision_stubs.py")
        assert folder is not None
        command = [sys.executable, launcher, folder / "main.py", "--cpu", "--listen", "127.0.0.1"]
        command += ["--port", self.url.rsplit(":")[-1], "--base-directory", self.base]
        command += ["--database-url", f"sqlite:///{self.base / 'user' / 'comfyui.db'}"]
        command += ["--disable-api-nodes", "--disable-auto-launch", "--preview-method", "auto"]
        env = (
            os.environ
            | {"OMP_WAIT_POLICY": "passive"}
            | dict.fromkeys(("HOME", "USERPROFILE"), str(self.base))
            | self.environment
        )
        with self.log.open("wb") as log:
            words = [str(word) for word in command]
            return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=env)

    def _wait_until_ready(self) -> None:
        begun = time.monotonic()
        while time.monotonic() - begun < START_LIMIT and self._process.poll() is None:
            try:
                self.get("/system_stats")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
            else:
                return
        self.stop()
        raise RuntimeError(f"ComfyUI did not start:\n{self.log.read_text(encoding='utf-8')[-4000:]}")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait()

    def weight(self) -> tuple[float, int, int]:
        """Its memory in MB, its threads and its open files."""
        place = Path(f"/proc/{self._process.pid}")
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        files = len(list((place / "fd").iterdir()))
        return int(status["VmRSS"].split()[0]) / 1000, int(status["Threads"]), files

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, data: Any) -> Any:
        body = json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def queue(self, prompt: dict[str, Any], client: str = "", previews: str = "default") -> str:
        """A prompt's id, once it is accepted; ``previews`` is its preview method."""
        more = {"client_id": client, "extra_data": {"preview_method": previews}}
        answer = self.post("/prompt", {"prompt": prompt} | more)
        assert "prompt_id" in answer, json.dumps(answer, indent=1)
        return answer["prompt_id"]

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def finished(self, prompt_id: str, limit: float = 120.0) -> dict[str, Any]:
        begun = time.monotonic()
        while time.monotonic() - begun < limit:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.05)
        raise TimeoutError(f"{prompt_id} has not finished after {limit} s")

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        return self.finished(self.queue(prompt))

    def make_trouble(self, error: str, place: str) -> None:
        """The next call of a function of ours fails with one of the ``ERRORS`` of ``trouble_pack``."""
        body = json.dumps({"error": error, "place": place}).encode()
        urllib.request.urlopen(f"{self.url}/trouble", body, timeout=60).close()

    def error(self, prompt: dict[str, Any]) -> str:
        """The message of a prompt that fails when it runs."""
        return dict(self.run(prompt)["status"]["messages"])["execution_error"]["exception_message"]
