"""The main node's ``sign`` in a real server: which files are signed, and which names are refused."""

from comfyui.client import saved_file, saved_segments, simple
from comfyui.server import Server
from hallo3.media.provenance import read_provenance
from support.certificates import CHAIN, KEY, issue, pem


def test_the_jobs_file_and_what_save_video_writes_are_signed(server: Server) -> None:
    folder = server.base / "models" / "certificates"
    folder.mkdir(parents=True)
    (folder / "anna.pem").write_bytes(CHAIN + pem(KEY))
    (folder / "root.pem").write_bytes(issue("Root", KEY, "Root", KEY) + pem(KEY))
    prompt, before = simple(extrapolate__seed=61, extrapolate__steps=1), saved_segments(server)
    assert read_provenance(saved_file(server, server.run(prompt))) is None
    [job] = jobs = saved_segments(server).keys() - before.keys()
    prompt["extrapolate"]["inputs"]["sign"] = " anna.pem"
    saved = saved_file(server, server.run(prompt))
    assert saved_segments(server).keys() - before.keys() == jobs, "a signature makes no other job"
    for path in (saved, server.base / "output" / "hallo3_jobs" / job / "video.mp4"):
        said = read_provenance(path)
        assert said is not None
        assert (said.signer, said.changes) == ("Anna, Anna", ())
        assert said.inputs.keys() == {"portrait", "speech"}
    unrendered = simple(extrapolate__seed=62)
    for name in ("bert.pem", "../certificates/anna.pem", str(folder / "anna.pem"), ".."):
        unrendered["extrapolate"]["inputs"]["sign"] = name
        assert "The certificate is missing" in server.error(unrendered)
    unrendered["extrapolate"]["inputs"]["sign"] = "root.pem"
    assert "The certificate does not sign" in server.error(unrendered)
    unrendered["extrapolate"]["inputs"]["sign"] = "anna.pem"
    unrendered["save"]["inputs"]["format"] = "webm"
    assert "ending of a signed video" in server.error(unrendered)
    assert saved_segments(server).keys() - before.keys() == jobs, "nothing was rendered"
