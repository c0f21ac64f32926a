"""Content Credentials: signed, read and checked; what is no certificate or was changed is named."""

import datetime
import io
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from conftest import REPOSITORY
from hallo3.cli.main import main
from hallo3.errors import DependencyError, InputError
from hallo3.media.provenance import Certificate, read_certificate, read_provenance, sign_video
from support.certificates import CHAIN, KEY, ROOT_KEY, issue, pem

SAMPLES = REPOSITORY / "samples"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certificate") / "anna.pem"
    path.write_bytes(b"# mine\n" + CHAIN + b"\n" + pem(KEY))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import av
    import numpy as np

    path = tmp_path_factory.mktemp("video") / "me.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        for index in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * index, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_signed_video_says_by_whom_when_and_from_what(
    video: Path, certificate: Path, tmp_path: Path
) -> None:
    signed = tmp_path / "me.mp4"
    signed.write_bytes(video.read_bytes())
    assert read_provenance(signed) is None
    inputs = {"portrait": "ab" * 32, "speech": "cd" * 32}
    sign_video(signed, read_certificate(certificate), "hallo3 1.2", inputs)
    said = read_provenance(signed)
    assert said is not None
    assert (said.signer, said.generator, said.changes) == ("Anna, Anna", "hallo3 1.2", ())
    assert said.inputs == {name: f"sha256:{digest}" for name, digest in inputs.items()}
    assert datetime.datetime.fromisoformat(said.time).date() == datetime.datetime.now(datetime.UTC).date()
    assert [path.name for path in tmp_path.iterdir()] == ["me.mp4"]
    whole = signed.read_bytes()
    at = whole.index(b"mdat") + 4
    for place in (at + 1, (at + len(whole)) // 2, len(whole) - 40, whole.index(b"ab" * 32)):
        changed = bytearray(whole)
        changed[place] ^= 1
        signed.write_bytes(changed)
        try:
            now = read_provenance(signed)
        except InputError:  # the signature itself
            continue
        assert now is None or now.changes, place


KEYS = {
    "es384": ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ps256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_every_kind_sign(name: str, video: Path, tmp_path: Path) -> None:
    key, signed = KEYS[name], tmp_path / "me.mp4"
    signed.write_bytes(video.read_bytes())
    path = tmp_path / "a.pem"
    chain = issue("Anna", key, "Root", ROOT_KEY) + issue("Root", ROOT_KEY, "Root", ROOT_KEY)
    path.write_bytes(pem(key) + chain)
    found = read_certificate(path)
    assert found.algorithm == name
    sign_video(signed, found, "hallo3 1", {})
    said = read_provenance(signed)
    assert said is not None
    assert not said.changes


BAD = {
    "nothing": b"",
    "text": b"hello",
    "no key": CHAIN,
    "no certificate": pem(KEY),
    "a password": CHAIN + pem(KEY, serialization.BestAvailableEncryption(b"x")),
    "a curve that C2PA does not have": CHAIN + pem(ec.generate_private_key(ec.SECP192R1())),
    "broken": CHAIN + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_certificate_is_named(case: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pem"
    path.write_bytes(BAD[case])
    with pytest.raises(InputError, match="The certificate cannot be used"):
        read_certificate(path)


@pytest.mark.parametrize("case", ["of another key", "self-signed"])
def test_a_certificate_that_does_not_sign_leaves_the_video(case: str, video: Path, tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    chain = {"of another key": CHAIN, "self-signed": issue("Root", KEY, "Root", KEY), "expired chain": b""}[
        case
    ]
    signed = tmp_path / "me.mp4"
    signed.write_bytes(video.read_bytes())
    key = pem(other if case == "of another key" else KEY)
    with pytest.raises(InputError, match="the video is there, unsigned"):
        sign_video(signed, Certificate(chain=chain, key=key, algorithm="es256"), "hallo3 1", {})
    assert signed.read_bytes() == video.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["me.mp4"]


def test_a_certificate_that_does_not_sign_is_refused_before_there_is_a_video(tmp_path: Path) -> None:
    path = tmp_path / "a.pem"
    path.write_bytes(issue("Root", KEY, "Root", KEY) + pem(KEY))
    with pytest.raises(InputError, match="The certificate does not sign"):
        read_certificate(path)


@pytest.mark.parametrize("content", [b"", b"hello" * 99])
def test_what_is_no_video_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "me.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match="signature cannot be read"):
        read_provenance(path)


def test_the_library_is_asked_for(monkeypatch: pytest.MonkeyPatch, video: Path) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    for call in (read_provenance, read_certificate):
        with pytest.raises(DependencyError, match="pip install"):
            call(video)


@pytest.mark.any_message
def test_the_command_signs_once_and_verifies(
    certificate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], nano_folder: Path
) -> None:
    out = tmp_path / "me.mp4"
    words = ["animate", "--portrait", str(SAMPLES / "portrait.png"), "--speech", str(SAMPLES / "speech.wav")]
    words += ["--model", str(nano_folder), "--whole-picture", "--trial", "-o", str(out)]
    assert main(words) == 0
    assert main(["verify", str(out)]) == 2
    assert "not signed" in capsys.readouterr().err
    assert main([*words, "--sign", str(certificate)]) == 0
    first = out.read_bytes()
    assert main([*words, "--sign", str(certificate)]) == 0
    assert out.read_bytes() == first, "signed already"
    assert main(["verify", str(out)]) == 0
    assert "signed by      Anna" in (said := capsys.readouterr().out)
    assert "from speech    sha256:" in said
    with io.BytesIO(first) as changed:
        changed.seek(first.index(b"mdat") + 9)
        changed.write(b"x")
        out.write_bytes(changed.getvalue())
    assert main(["verify", str(out)]) == 2
    assert "changed after it was signed" in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "me.mkv"), "--sign", str(certificate)]) == 2
    assert ".mp4 or .mov" in capsys.readouterr().err
