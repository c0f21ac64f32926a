"""A server killed again and again, and a hundred prompts in a row: ``make soak-comfyui``."""

import json
import random
import time
from pathlib import Path

import pytest

from comfyui.client import packets, render_uninterrupted, saved_file, saved_segments, simple, slow, stop_after
from comfyui.host import absent
from comfyui.server import Server
from soak.machine import keep

KILLS, SEED, PROMPTS = 12, 1, 100

pytestmark = [
    pytest.mark.soak,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(absent() is not None, reason=str(absent())),
]


def test_twelve_kills_lose_nothing(tmp_path: Path) -> None:
    """Kill at random moments, then run the same workflow in a new server."""
    draw, prompt, lost, done, job = random.Random(SEED), slow(extrapolate__seed=1), 0, list[str](), ""
    for kill in range(KILLS):
        server = Server(tmp_path)
        prompt["extrapolate"]["inputs"]["seed"] = kill // 3
        if kill % 3 == 0:
            done = []
            job = stop_after(server, prompt, 1, lambda: None)
        else:
            server.queue(prompt)
            lost += not set(done) <= set(saved_segments(server)[job])
            started = time.monotonic()
            while len(saved_segments(server)[job]) <= len(done) and time.monotonic() - started < 60:
                time.sleep(0.02)
        time.sleep(draw.uniform(0, 1))
        server.kill()
        lost += not set(done) <= set(saved_segments(server)[job])
        done = saved_segments(server)[job]
        if kill % 3 == 2:
            server = Server(tmp_path)
            try:
                found = packets(saved_file(server, server.run(prompt)))
                assert found == render_uninterrupted(server, json.loads(json.dumps(prompt)))
            finally:
                server.stop()
    assert lost == 0
    figures = {"kills": KILLS, "seed": SEED, "lost": lost, "videos": KILLS // 3}
    keep("soak_server_kills.json", figures)


def test_a_hundred_prompts_leave_no_trace(tmp_path: Path) -> None:
    server = Server(tmp_path)
    sizes: list[tuple[float, int, int]] = []
    try:
        for number in range(PROMPTS):
            saved_file(server, server.run(simple(extrapolate__seed=number, extrapolate__steps=1)))
            sizes.append(server.weight())
    finally:
        server.stop()
    grown = max(size for size, _, _ in sizes[20:]) - sizes[19][0]
    figures = {
        "prompts": PROMPTS,
        "MB after 20": round(sizes[19][0], 1),
        "MB after 100": round(sizes[-1][0], 1),
        "MB more at most": round(grown, 1),
        "threads": [sizes[19][1], sizes[-1][1]],
        "files": [sizes[19][2], sizes[-1][2]],
    }
    keep("soak_server_prompts.json", figures)
    assert grown <= 20
    assert sizes[-1][1:] == sizes[19][1:]
