"""A server that is killed again and again while it renders loses no video. ``make soak``."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from conftest import REPOSITORY
from hallo3.client import Client
from hallo3.errors import Hallo3Error
from soak.machine import keep
from support.audio_samples import tone, write_wav

pytestmark = [pytest.mark.soak, pytest.mark.any_message, pytest.mark.skipif(os.name == "nt", reason="kills")]
KILLS, VIDEOS, SEED = 15, 6, 4
PORTRAIT = REPOSITORY / "samples" / "portrait.png"


def serve(folder: Path, model: Path, port: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "hallo3", "serve", str(folder), "--model", str(model), "--port", str(port)]
    environment = os.environ | {"HOME": str(folder.parent), "OMP_NUM_THREADS": "1"}
    with (folder.parent / "log").open("ab") as log:
        return subprocess.Popen(words, env=environment, cwd=REPOSITORY, stdout=log, stderr=log)


def wait_for(client: Client, server: subprocess.Popen[bytes]) -> None:
    while True:
        try:
            client.list()
            return
        except Hallo3Error:
            assert server.poll() is None, "it ended"
            time.sleep(0.05)


def test_a_killed_server_loses_nothing(tmp_path: Path, nano_folder: Path) -> None:
    pytest.importorskip("fastapi")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    write_wav(tmp_path / "s.wav", tone(16000, 12), 16000)  # 20 segments
    client, draw, started = Client(f"http://127.0.0.1:{port}"), random.Random(SEED), time.monotonic()
    server, names, progress = serve(tmp_path / "v", nano_folder, port), list[str](), list[int]()
    try:
        wait_for(client, server)
        for seed in range(VIDEOS):
            names.append(client.create(PORTRAIT, tmp_path / "s.wav", seed=seed % 3, whole_picture=True)["id"])
        for _ in range(KILLS):
            time.sleep(draw.uniform(0, 6))
            progress.append(sum(client.get(name)["progress"] for name in names))
            server.send_signal(draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
            server.wait()
            server = serve(tmp_path / "v", nano_folder, port)
            wait_for(client, server)
            assert {video["id"] for video in client.list()["data"]} == {*names}
        for name in names:
            assert client.wait(name)["status"] == "completed"
            client.download(name, tmp_path / name)
    finally:
        server.kill()
        server.wait()
    made = [(tmp_path / name).read_bytes() for name in names]
    assert len({*made}) == 3, "equal requests are equal videos, whatever was killed"
    assert made[:3] == made[3:]
    result = {"kills": KILLS, "videos": VIDEOS, "seed": SEED, "seconds": round(time.monotonic() - started, 1)}
    keep("soak_serve.json", result)
