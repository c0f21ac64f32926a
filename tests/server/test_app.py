"""The routes, as programs use them, and everything that is refused."""

import errno
import http.client
import io
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from conftest import REPOSITORY
from hallo3.cli.batch import render_row
from hallo3.cli.main import main
from hallo3.cli.session import Session
from hallo3.client import Client
from hallo3.errors import Hallo3Error, InputError
from support.audio_samples import tone, write_wav

pytestmark = pytest.mark.any_message
PORTRAIT = REPOSITORY / "samples" / "portrait.png"
QUICK: dict[str, Any] = {"whole_picture": True, "steps": 1}


def write_text(options: Any, _: Callable[[float], object]) -> None:
    options.output.write_bytes(options.prompt.encode() or b"video")


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): headers[name] for name in headers})
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data else None, dict(answer.headers)


def form(**parts: bytes | str) -> tuple[bytes, str]:
    """A form's body and content type; files are bytes."""
    body = io.BytesIO()
    for name, value in parts.items():
        file = '; filename="f"' if isinstance(value, bytes) else ""
        body.write(f'--mark\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode())
        body.write((value if isinstance(value, bytes) else value.encode()) + b"\r\n")
    body.write(b"--mark--\r\n")
    return body.getvalue(), "multipart/form-data; boundary=mark"


def test_a_video_is_that_of_the_command(
    start: Any, speech_file: Path, nano_folder: Path, tmp_path: Path
) -> None:
    running = start()
    client: Client = running.client
    made = client.create(PORTRAIT, speech_file, seed=3, prompt="a person", **QUICK)
    assert (made["object"], made["size"], made["prompt"]) == ("video", "32x32", "a person")
    seen = [*client.events(made["id"])]
    assert seen[-1]["status"] == "completed"
    assert [each["progress"] for each in seen] == sorted(each["progress"] for each in seen)
    assert seen[-1]["progress"] == 100
    client.download(made["id"], tmp_path / "got.mp4")
    alone = tmp_path / "alone.mp4"
    words = ["animate", "--portrait", str(PORTRAIT), "--speech", str(speech_file), "--seed", "3", "--prompt"]
    words += ["a person", "--whole-picture", "--steps", "1", "--model", str(nano_folder), "-o", str(alone)]
    assert main(words) == 0
    assert (tmp_path / "got.mp4").read_bytes() == alone.read_bytes()
    assert client.list()["data"][0]["id"] == made["id"]
    schema = ask(running.port, "GET", "/openapi.json")[1]
    assert "requestBody" in schema["paths"]["/v1/videos"]["post"]
    with closing(http.client.HTTPConnection("127.0.0.1", running.port)) as connection:
        connection.request("GET", f"/v1/videos/{made['id']}/content", headers={"Range": "bytes=4-7"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (206, b"ftyp")
        assert answer.headers["Content-Type"] == "video/mp4"
        connection.request("GET", "/docs")
        page = connection.getresponse().read().decode()
    assert "curl" in page
    assert "paste_back" in page
    assert "<script" not in page
    assert client.delete(made["id"]) == {"id": made["id"], "object": "video.deleted", "deleted": True}
    assert running.names == set()
    with pytest.raises(InputError, match="no such video"):
        client.get(made["id"])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another type": ({"seed": "x"}, "invalid int value"),
    "out of range": ({"steps": 0}, "number of steps"),
    "no choice": ({"codec": "vhs"}, "invalid choice"),
    "no truth": ({"paste_back": "maybe"}, "neither true nor false"),
    "no option": ({"sped": 1}, "no such option"),
    "a file of the server": ({"sign": "/etc/passwd"}, "The server decides this"),
    "an output": ({"output": "s3://bucket/x.mp4"}, "The server decides this"),
    "a chart": ({"chart": "x.png"}, "The server decides this"),
    "a folder": ({"jobs_folder": "/"}, "The server decides this"),
    "a device": ({"device": "cuda"}, "The server decides this"),
    "another video": ({"continue_from": "x"}, "The server decides this"),
    "another model": ({"model": "sora-2"}, "another model"),
    "another size": ({"size": "1280x720"}, "another size"),
    "another length": ({"seconds": 12}, "another seconds"),
    "a letter case": ({"SEED": 3}, "no such option"),
}  # fmt: skip


def test_what_is_wrong_is_said_as_the_command_says_it(start: Any, speech_file: Path, tmp_path: Path) -> None:
    running = start(write_text, max_speech=0.02)
    for name, (options, sentence) in BAD.items():
        with pytest.raises(InputError, match=sentence):
            running.client.create(PORTRAIT, speech_file, **{**QUICK, **options})
        assert running.names == set(), name
    with pytest.raises(InputError, match="There is no speech"):
        running.client.create(PORTRAIT, **QUICK)
    with pytest.raises(InputError) as wrong:
        running.client.create(speech_file, speech_file, **QUICK)
    assert "cannot be read" in str(wrong.value)
    assert str(tmp_path) not in str(wrong.value), "no place of this computer"
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{speech_file}\n")
    with pytest.raises(InputError):
        running.client.create(PORTRAIT, tmp_path / "list.m3u8", **QUICK)
    with pytest.raises(InputError, match="The speech is too long"):
        running.client.create(PORTRAIT, REPOSITORY / "samples" / "speech.wav", **QUICK)
    body, kind = form(portrait=f"file://{PORTRAIT}", speech=b"x")
    status, answer, _ = ask(running.port, "POST", "/v1/videos", body, Content_Type=kind)
    assert (status, answer["error"]["headline"]) == (400, "portrait is no uploaded file.")
    assert running.names == set()
    assert running.worker.runs == []


def bad_requests(count: int, seed: int) -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    """Requests of which none may succeed or stay."""
    draw = random.Random(seed)
    whole, kind = form(portrait=PORTRAIT.read_bytes()[:3000], speech=b"RIFF" * 50, prompt="p", seed="x")
    for _ in range(count):
        method, path, body, headers = "POST", "/v1/videos", bytearray(whole), {"Content-Type": kind}
        match draw.randrange(9):
            case 0:  # flipped bytes
                for _ in range(draw.randint(1, 40)):
                    body[draw.randrange(len(body))] = draw.randrange(256)
            case 1:  # cut
                del body[draw.randrange(len(body)) :]
            case 2:
                headers["Content-Type"] = draw.choice([
                    "", "application/json", "multipart/form-data", "multipart/form-data; boundary=",
                    "multipart/form-data; boundary=" + "b" * 300, "multipart/form-data; boundary=other",
                ])  # fmt: skip
            case 3:
                method = draw.choice(["PUT", "PATCH", "DELETE", "TRACE"])
            case 4:
                name = draw.choice(
                    ["..", "%2e%2e%2fetc", "video_" + "0" * 32, "x" * 2000, "%00", "a/b/c", "%ff"]
                )
                method, path = draw.choice(["GET", "DELETE"]), f"/v1/videos/{name}"
                path += draw.choice(["", "/content", "/events"]) if method == "GET" else ""
                body.clear()
            case 5:
                many = {f"n{number}": "x" for number in range(draw.choice([65, 200]))}
                body[:] = form(**many)[0]
            case 6:
                body[:] = form(portrait=b"x", prompt="x" * draw.choice([70_000, 200_000]))[0]
            case 7:
                name = draw.choice(["device", "output", "sign", "jobs_folder", "--seed", "", "vocals", "é"])
                body[:] = form(
                    **{"portrait": b"x", "speech": b"x", name: draw.choice(["", "/etc", "-o", "\0"]) + "1"}
                )[0]
            case _:
                method, path = (
                    "GET",
                    "/v1/videos?" + draw.choice(["limit=0", "limit=x", "order=up", "after=none"]),
                )
                body.clear()
        yield method, path, bytes(body), headers


def send_bad_requests(running: Any, count: int, seed: int) -> None:
    for method, path, body, headers in bad_requests(count, seed):
        named = {name.replace("-", "_"): value for name, value in headers.items()}
        status, answer, _ = ask(running.port, method, path, body, **named)
        case = (seed, method, path[:80], body[:200], status, answer)
        assert 400 <= status < 500, case
        assert answer["error"]["message"], case
    assert running.names == set()
    assert ask(running.port, "GET", "/health")[0] == 200
    assert running.worker.runs == []


def test_bad_requests_are_refused_and_leave_nothing(start: Any) -> None:
    send_bad_requests(start(write_text), 200, 22)


@pytest.mark.soak
def test_many_more_bad_requests(start: Any) -> None:
    running = start(write_text)
    for seed in range(10):
        send_bad_requests(running, 500, seed)


def test_fifty_at_once(start: Any, speech_file: Path) -> None:
    running = start(write_text)

    def make(number: int) -> tuple[str, bytes]:
        made = running.client.create(PORTRAIT, speech_file, prompt=f"video {number}", **QUICK)
        assert running.client.wait(made["id"], 0.2)["status"] == "completed"
        path = running.folder / f"got{number}"
        running.client.download(made["id"], path)
        return made["id"], path.read_bytes()

    with ThreadPoolExecutor(50) as pool:
        made = [*pool.map(make, range(50))]
    assert len({name for name, _ in made}) == 50
    assert [data.decode() for _, data in made] == [f"video {number}" for number in range(50)]
    assert len(running.worker.runs) == 50
    names, after = list[str](), ""
    while True:
        page = running.client.list(7, after, "asc")
        names += [video["id"] for video in page["data"]]
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert sorted(names) == sorted(name for name, _ in made)


def test_who_leaves_at_any_stage_disturbs_no_one(start: Any, speech_file: Path) -> None:
    going = threading.Event()

    def render(options: Any, follow: Callable[[float], object]) -> None:
        while not going.wait(0.01):
            follow(0.5)
        options.output.write_bytes(bytes(4 << 20))

    running = start(render)
    body, kind = form(portrait=PORTRAIT.read_bytes(), speech=speech_file.read_bytes(), whole_picture="yes")
    head = f"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    for share in (0, 1, len(body) // 2, len(body) - 1):
        with closing(socket.create_connection(("127.0.0.1", running.port))) as sender:
            sender.sendall(head.encode() + body[:share])
    while running.names:
        time.sleep(0.01)
    made = running.client.create(PORTRAIT, speech_file, **QUICK)
    with closing(running.client.events(made["id"])) as events:
        assert next(iter(events))["status"] in ("queued", "in_progress")
    going.set()
    assert running.client.wait(made["id"], 0.05)["status"] == "completed"
    with closing(socket.create_connection(("127.0.0.1", running.port))) as reader:
        reader.sendall(f"GET /v1/videos/{made['id']}/content HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert reader.recv(1000).startswith(b"HTTP/1.1 200")
    running.client.download(made["id"], running.folder / "got")
    assert (running.folder / "got").stat().st_size == 4 << 20


def test_what_is_rendered_stays_when_a_video_is_cancelled_and_resumed(start: Any, tmp_path: Path) -> None:
    write_wav(speech_file := tmp_path / "long.wav", tone(16000, 2.2), 16000)  # four segments
    halfway, on = threading.Event(), threading.Event()

    def render(options: Any, follow: Callable[[float], object]) -> None:
        def tell(share: float) -> None:
            if 0.6 < share < 1 and not on.is_set():
                halfway.set()
                on.wait()
            follow(share)

        render_row(options, tell, Session())

    running = start(render)
    made = running.client.create(PORTRAIT, speech_file, seed=3, **QUICK)
    name = made["id"]
    halfway.wait()
    waiting = running.client.create(PORTRAIT, speech_file, seed=4, **QUICK)
    assert running.client.cancel(waiting["id"])["status"] == "cancelled"
    running.client.cancel(name)
    on.set()
    stopped = running.client.wait(name, 0.05)
    assert stopped["status"] == "cancelled"
    assert 50 <= stopped["progress"] < 100
    files = {path: path.stat().st_mtime_ns for path in running.folder.rglob("*.safetensors")}
    assert len(files) == 2
    with pytest.raises(InputError, match="not finished"):
        running.client.download(name, running.folder / "none")
    running.stop()
    running = start()
    assert running.client.get(name)["status"] == "cancelled"
    running.client.resume(name)
    assert running.client.wait(name, 0.05)["status"] == "completed"
    assert all(path.stat().st_mtime_ns == changed for path, changed in files.items())
    again = running.client.create(PORTRAIT, speech_file, seed=3, **QUICK)
    running.client.wait(again["id"], 0.05)
    assert running.videos.output(running.videos.get(name)).read_bytes() == (
        running.videos.output(running.videos.get(again["id"])).read_bytes()
    )
    assert running.client.cancel(name)["status"] == "completed", "too late"
    assert running.client.resume(name)["status"] == "completed"


def test_a_server_that_starts_again_goes_on(start: Any, speech_file: Path) -> None:
    first = threading.Event()

    def render(options: Any, follow: Callable[[float], object]) -> None:
        if options.prompt == "0":
            return write_text(options, follow)
        first.set()
        while True:
            follow(0.5)
            time.sleep(0.005)

    running = start(render)
    names = [running.client.create(PORTRAIT, speech_file, prompt=str(n), **QUICK)["id"] for n in range(3)]
    first.wait()
    running.stop()
    (running.folder / f"video_{'0' * 32}").mkdir()  # an upload that was stopped
    damaged = running.folder / f"video_{'1' * 32}"
    damaged.mkdir()
    (damaged / "video.json").write_text("{")
    running = start(write_text)
    for name in names:
        assert running.client.wait(name, 0.02)["status"] == "completed"
    assert [options.prompt for options in running.worker.runs] == ["1", "2"]
    assert running.names == {*names, damaged.name}, "damaged ones are left"
    assert [video["id"] for video in running.client.list(order="asc")["data"]] == names


def test_failures(start: Any, speech_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hallo3.server.videos.RETRY_SECONDS", 0.0)
    tries = list[str]()

    def render(options: Any, follow: Callable[[float], object]) -> None:
        tries.append(options.prompt)
        if options.prompt == "refused":
            raise InputError("This is refused.", found=str(options.speech))
        if options.prompt == "once" and tries.count("once") == 2:
            return write_text(options, follow)
        if options.prompt == "long":
            while True:
                follow(0.5)
        raise ValueError("a fault")

    running = start(render, max_minutes=0.005)
    made = {
        p: running.client.create(PORTRAIT, speech_file, prompt=p, **QUICK)["id"]
        for p in ("refused", "never", "once", "long")
    }
    ended = {prompt: running.client.wait(name, 0.05) for prompt, name in made.items()}
    assert {p: video["status"] for p, video in ended.items()} == {
        "refused": "failed", "never": "failed", "once": "completed", "long": "failed",
    }  # fmt: skip
    assert [tries.count(prompt) for prompt in made] == [1, 3, 2, 1]
    assert ended["refused"]["error"]["found"] == "speech", "no place of this computer"
    assert "a fault" in ended["never"]["error"]["message"]


def test_limits(start: Any, speech_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on = threading.Event()

    def render(_: Any, follow: Callable[[float], object]) -> None:
        while not on.wait(0.01):
            follow(0.1)

    running = start(render, max_upload=0.1, max_queue=2)
    names = [running.client.create(PORTRAIT, speech_file, **QUICK)["id"]]
    while running.client.get(names[0])["status"] == "queued":
        time.sleep(0.01)
    names += [running.client.create(PORTRAIT, speech_file, **QUICK)["id"] for _ in range(2)]
    body, kind = form(portrait=PORTRAIT.read_bytes(), speech=speech_file.read_bytes())
    status, answer, headers = ask(running.port, "POST", "/v1/videos", body, Content_Type=kind)
    assert (status, answer["error"]["headline"]) == (429, "The queue is full.")
    assert int(headers["retry-after"]) > 0
    running.client.delete(names[1])
    large, _ = form(portrait=bytes(3 << 20), speech=b"")
    assert ask(running.port, "POST", "/v1/videos", large, Content_Type=kind)[0] == 413
    chunks = [large[start : start + 50_000] for start in range(0, len(large), 50_000)]
    with closing(http.client.HTTPConnection("127.0.0.1", running.port)) as connection:
        connection.request("POST", "/v1/videos", iter(chunks), {"Content-Type": kind})  # of unknown length
        assert connection.getresponse().status == 413
    monkeypatch.setattr("hallo3.server.uploads.free_disk", lambda _: 1000)
    assert ask(running.port, "POST", "/v1/videos", body, Content_Type=kind)[0] == 507
    monkeypatch.undo()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("hallo3.server.uploads.create_file", "hallo3.server.videos.write_json"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            with pytest.raises(Hallo3Error, match="disk is full"):
                running.client.create(PORTRAIT, speech_file, **QUICK)
    assert running.names == {names[0], names[2]}
    on.set()


def test_a_client_that_stops_sending_is_dropped(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hallo3.server.uploads.IDLE_SECONDS", 0.1)
    running = start(write_text)
    with closing(socket.create_connection(("127.0.0.1", running.port))) as sender:
        sender.sendall(b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n")
        sender.sendall(b"Content-Type: multipart/form-data; boundary=mark\r\n\r\n--mark")
        assert sender.recv(100).startswith(b"HTTP/1.1 408")
    assert running.names == set()


def test_finished_videos_go_after_a_while(
    start: Any, speech_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hallo3.server.videos.LOOK_SECONDS", 0.02)
    running = start(write_text, keep=1e-6)
    running.client.create(PORTRAIT, speech_file, **QUICK)
    until = time.monotonic() + 10
    while running.names and time.monotonic() < until:
        time.sleep(0.01)
    assert running.names == set()


TOKEN = "a-token-of-tests-0123456789"


def test_only_who_has_the_token_is_served(start: Any) -> None:
    running = start(write_text, token=TOKEN)
    assert running.client.list()["data"] == []
    assert ask(running.port, "GET", "/health")[0] == 200
    for given in ("", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer é"):
        for path in ("/v1/videos", "/openapi.json", "/docs", "//health", "/health/../v1/videos"):
            assert ask(running.port, "GET", path, Authorization=given)[0] == 401
    with pytest.raises(InputError, match="token is missing"):
        Client(f"http://127.0.0.1:{running.port}", "wrong").create(PORTRAIT, PORTRAIT)


@pytest.mark.parametrize(("headers", "expected"), [
    ({"Host": "evil.example"}, 421),
    ({"Host": "127.0.0.1.evil.example:8000"}, 421),
    ({"Host": ""}, 421),
    ({"Host": "[::1"}, 421),
    ({"Host": "localhost"}, 200),
    ({"Host": "[::1]:8000"}, 200),
    ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
    ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "https://evil.example"}, 403),
])  # fmt: skip
def test_pages_of_other_sites_are_refused(start: Any, headers: dict[str, str], expected: int) -> None:
    status, _, answered = ask(start(write_text).port, "GET", "/v1/videos", **headers)
    assert status == expected
    assert not [name for name in answered if name.lower().startswith("access-control")]


def test_a_client_without_a_server_says_so() -> None:
    with pytest.raises(Hallo3Error, match="does not answer"):
        Client("http://127.0.0.1:9").list()
