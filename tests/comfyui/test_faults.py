"""Whatever fails in a node, a library's exit included, is an error with advice, and ComfyUI works on."""

import asyncio
import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from comfyui.client import SOCKETS, node, saved_file, simple
from comfyui.host import Host
from comfyui.server import Server
from comfyui.stages import Stages, run_extra
from comfyui.trouble_pack import ERRORS, Panic

FIRST_CALLS = {
    "CombineSpeech": "people.check_speech",
    "Doctor": "doctor.find_landmarks",
    "EncodeSpeech": "speech.to_recording",
    "Extrapolate": "extrapolate.Sampling",
    "Guider": "sampling.config_of",
    "IdentityReference": "identity.check_socket",
    "IdentitySpeakers": "people.check_socket",
    "LoadBuiltIn": "loaders.load_model",
    "LoadIdentity": "identity.list_identities",
    "LoadModel": "loaders.weights_path",
    "LoadReferenceNetwork": "loaders.weights_path",
    "OriginalSampler": "sampling.original_sampler",
    "OriginalSchedule": "sampling.config_of",
    "PasteBack": "identity.check_socket",
    "Plan": "plan.to_recording",
    "Sample": "loaders.read_picture",
    "Sampler": "sampling.Sampling",
    "SaveIdentity": "identity.check_socket",
    "Script": "script.check_socket",
    "SegmentConditioning": "sampling.config_of",
    "VAEDecode": "sampling._get_latents",
}
"""What each node calls before it looks at most inputs."""


class UnshowableError(Exception):
    def __str__(self) -> str:
        raise ValueError


def chained(cause: BaseException) -> Exception:
    error = ValueError("the file is damaged")
    error.__cause__ = cause
    return error


def numpy_error() -> BaseException:
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 60, np.uint8)
    return caught.value


OUT_OF_MEMORY: list[BaseException] = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    numpy_error(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    chained(MemoryError()),
    *map(ERRORS.__getitem__, ("memory", "allocator")),
    *map(
        RuntimeError,
        (
            "DefaultCPUAllocator: not enough memory: you tried to allocate 12 bytes.",
            "std::bad_alloc",
            "bad allocation",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "cuFFT error: CUFFT_ALLOC_FAILED",
            "CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY",
            "HIP error: hipErrorOutOfMemory",
            "MPS backend out of memory (MPS allocated: 1 GB)",
            "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
            "could not create a memory object",
            "[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 9",
        ),
    ),
]
OTHERS = [*map(ERRORS.__getitem__, ("exit", "panic", "other")), OSError(errno.ENOENT, "out of memory.wav")]
OTHERS += [
    UnshowableError(),
    RecursionError(),
    StopIteration(),
    RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
]


def first_value(widget: Any) -> Any:
    """A widget's default or first choice; nothing for a socket."""
    default, options = getattr(widget, "default", None), getattr(widget, "options", None)
    return next(iter(options or [None])) if default is None else default


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def error_of(run: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        run()
    return caught.value


def check_shown(host: Host, error: BaseException, *parts: str) -> None:
    """It is ours, in short lines without control characters."""
    import comfy.model_management as mm

    text = str(error)
    assert type(error).__module__ == "hallo3"
    assert isinstance(error, host.module("hallo3.errors").Hallo3Error) or mm.is_oom(error)
    assert [part for part in (*parts, "Found:", "Fix:") if part not in text] == []
    assert len(text) < 2500
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", FIRST_CALLS)
def test_a_node_explains_what_fails_in_it(host: Host, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import comfy.model_management as mm

    kind = host.node(f"Hallo3{name}")
    inputs = {each.id: first_value(each) for each in kind.GET_SCHEMA().inputs if not each.optional}
    module, _, function = FIRST_CALLS[name].partition(".")

    def run(error: BaseException) -> BaseException:
        monkeypatch.setattr(host.module(f"nodes.{module}"), function, raising(error))
        return error_of(lambda: kind.execute(**inputs))

    for error in OUT_OF_MEMORY:
        found = run(error)
        assert mm.is_oom(found), error
        check_shown(host, found, "Out of memory.", kind.MEMORY_ADVICE)
    for error in OTHERS:
        check_shown(host, run(error), "failed unexpectedly", type(error).__name__)
    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/preview.png")
    check_shown(host, run(full), "cannot be written", "/tmp/preview.png", "bytes free")
    ours = host.module("hallo3.errors").InputError("No.", found="a", fix="b")
    for error in (mm.InterruptProcessingException(), GeneratorExit(), asyncio.CancelledError(), ours):
        assert run(error) is error
    assert run(chained(ours)).__cause__.__cause__ is ours, "the log shows the cause"
    assert isinstance(run(KeyboardInterrupt()), KeyboardInterrupt), "of the terminal, in the main thread"
    found = []
    worker = Thread(target=lambda: found.append(run(KeyboardInterrupt())))
    worker.start()
    worker.join()
    check_shown(host, found[0], "wanted to end ComfyUI")


def test_all_that_comfyui_calls_of_a_node_is_guarded(host: Host) -> None:
    base, kinds = host.module("nodes.schema"), host.module("nodes.extension").NODES
    assert {kind.__name__ for kind in kinds} == {f"Hallo3{name}" for name in FIRST_CALLS}
    for kind in kinds:
        assert kind.__bases__ == (base.Hallo3Node,)
        assert len(vars(kind)["MEMORY_ADVICE"]) > 20
        called = vars(kind).keys() & set(base.ENTRY_POINTS)
        assert called >= {"define_schema", "execute"}
        assert all(hasattr(vars(kind)[name].__func__, "__wrapped__") for name in called)


def sample_with_ours(stages: Stages) -> Any:
    """ComfyUI's node with our SAMPLER and SIGMAS."""
    sampling = stages.original_sampler("ddim"), stages.original_schedule()
    texts_and_latent = stages.conditioning()
    inputs = stages.model, True, 0, 1.0, *texts_and_latent[:2], *sampling, texts_and_latent[2]
    return run_extra("custom_sampler.SamplerCustom", *inputs)


def clip_of(stages: Stages) -> Any:
    return stages.clip.cond_stage_model


def autoencoder(stages: Stages) -> Any:
    return stages.vae.first_stage_model


def builtin(stages: Stages) -> Any:
    return stages.module("nodes.comfy.builtin")


IMAGE, CLIP = torch.rand(1, 64, 64, 3), {"samples": torch.zeros(1, 16, 3, 8, 8)}
AUDIO = {"waveform": torch.zeros(1, 1, 16000), "sample_rate": 16000}
ENCODER = "audio_encoder.AudioEncoderEncode"
CALLBACKS: dict[str, tuple[Callable[[Stages], Any], str, Callable[[Stages], Any]]] = {
    "network": (lambda s: s.model.model.diffusion_model, "velocity", lambda s: s.run_ksampler()),
    "conditions": (lambda s: s.module("nodes.comfy.model"), "_segment", lambda s: s.run_ksampler()),
    "sampler": (lambda s: s.module("nodes.comfy.sampling"), "sigmas_to_schedule", sample_with_ours),
    "encode": (autoencoder, "encode", lambda s: nodes().VAEEncode().encode(s.vae, IMAGE)),
    "decode": (autoencoder, "decode", lambda s: nodes().VAEDecode().decode(s.vae, CLIP)),
    "sound": (builtin, "normalize", lambda s: run_extra(ENCODER, s.audio_encoder, AUDIO)),
    "words": (builtin, "show_messages", lambda s: s.encode_text("light")),
    "text": (lambda s: clip_of(s).t5, "forward", lambda s: s.encode_text("light")),
}


def nodes() -> Any:
    return import_module("nodes")


@pytest.mark.parametrize("name", CALLBACKS)
def test_comfyuis_own_nodes_survive_what_fails_in_our_parts(
    stages: Stages, monkeypatch: Any, name: str
) -> None:
    """Other errors are as they are: ComfyUI and other packs may wait for them."""
    import comfy.model_management as mm

    place, function, run = CALLBACKS[name]
    sentinel = ValueError()
    for error in (ERRORS["allocator"], MemoryError(), ERRORS["exit"], Panic(), sentinel):
        with monkeypatch.context() as patch:
            patch.setattr(place(stages), function, raising(error))
            found = error_of(lambda: run(stages))
        memory = error is not sentinel and isinstance(error, Exception)
        assert (found is error) == (error is sentinel)
        if error is not sentinel:
            check_shown(stages.host, found, *(["weight_dtype"] * memory))
        assert mm.is_oom(found) == memory
    run(stages)


def test_values_of_sockets_are_shown_in_a_few_letters(stages: Stages) -> None:
    """ComfyUI shows the inputs of a node that failed: no numbers of a face, no folders."""
    for value in (stages.identity, stages.speech, stages.reference, stages.vae, stages.audio_encoder):
        assert len(str(value)) < 200
        assert "/" not in str(value)


def test_the_innermost_block_finds_and_the_outermost_advises(stages: Stages, monkeypatch: Any) -> None:
    monkeypatch.setattr(stages.model.model.diffusion_model, "velocity", raising(MemoryError("here")))
    advice = stages.host.node("Hallo3Extrapolate").MEMORY_ADVICE
    check_shown(stages.host, error_of(lambda: stages.extrapolate(steps=1)), "MemoryError: here", advice)


NETWORK = "hallo3.model.transformer.Hallo3Transformer"
KSAMPLER = {
    "model": ["set", 0],
    "positive": ["cond", 0],
    "negative": ["cond", 1],
    "latent_image": ["cond", 2],
}
KSAMPLER |= {
    "seed": 1,
    "steps": 1,
    "cfg": 1.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "denoise": 1.0,
}


def with_ksampler() -> dict[str, Any]:
    segment = {**SOCKETS, "segment": 0, "seed": 1, "motion_drop": 0.1}
    changes = {"cond": node("Hallo3SegmentConditioning", **segment), "sampled": node("KSampler", **KSAMPLER)}
    prompt = simple(**changes, show=node("PreviewAny", source=["sampled", 0]))
    return {name: each for name, each in prompt.items() if name not in ("extrapolate", "save")}


@pytest.mark.parametrize(
    ("error", "place", "prompt", "parts"),
    [
        ("allocator", "nodes.extrapolate.draw_drift", simple, "Out of memory. disconnect queue"),
        ("memory", f"{NETWORK}.forward", with_ksampler, "Out of memory. TIPS"),
        ("exit", "nodes.extrapolate.draw_drift", simple, "end ComfyUI SystemExit:"),
        ("panic", f"{NETWORK}.forward", with_ksampler, "end ComfyUI Panic:"),
        ("other", "nodes.extrapolate.draw_drift", simple, "unexpectedly ValueError:"),
    ],
)
def test_the_server_works_on_after_an_error(
    server: Server, error: str, place: str, prompt: Any, parts: str
) -> None:
    server.make_trouble(error, place)
    changed = prompt()
    changed["set"]["inputs"]["again"] = f"{error} {place}"
    message = server.error(changed)
    assert [part for part in parts.split() if part not in message] == []
    saved_file(server, server.run(simple(extrapolate__seed=31)))


def test_the_server_works_on_where_it_asks_a_node(server: Server) -> None:
    """For the fingerprint of its inputs, whether they are valid, and what they are."""
    server.make_trouble("exit", "nodes.identity.face_file_states")
    saved_file(server, server.run(simple(extrapolate__seed=32)))
    load = {"loaded": node("Hallo3LoadIdentity", file="a"), "show": node("PreviewAny", source=["loaded", 0])}
    server.make_trouble("exit", "nodes.identity.find_identity")
    assert "wanted to end ComfyUI" in str(server.post("/prompt", {"prompt": load}))
    server.make_trouble("panic", "nodes.identity.list_identities")
    assert "Hallo3LoadIdentity" not in server.get("/object_info")
    assert "Hallo3LoadIdentity" in server.get("/object_info")
    saved_file(server, server.run(simple(extrapolate__seed=31)))


def test_the_server_refuses_what_no_node_should_output(server: Server) -> None:
    for place, values in {
        "speech__audio": "NaN sound, nothing, no picture",
        "identity__portrait": "no picture, NaN picture, text",
        "identity__face_box": "list, number",
        "identity__framing": "text, nothing",
        "identity__vae": "mapping, text",
        "extrapolate__steps": "nothing, text, NaN picture",
        "extrapolate__redo": "text, nothing",
        "extrapolate__continue_from": "text, number",
        "extrapolate__positive": "number, text",
        "extrapolate__sampler": "mapping, text",
    }.items():
        for value in values.split(", "):
            steps = {"extrapolate__steps": 1}
            text = server.error(
                simple(trouble=node("Trouble", value=value), **steps | {place: ["trouble", 0]})
            )
            assert ("Found:" in text, "unexpectedly" in text) == (True, False), (place, value, text)
            assert text.replace("\n", "").isprintable()
            assert len(text) < 2500
    saved_file(server, server.run(simple(extrapolate__seed=31)))


def test_files_are_missed_by_workflow_and_each_time(host: Host, tmp_path: Path) -> None:
    """Workflows with the same node numbers do not disturb each other; numbers make no other workflow."""
    from comfy_execution.graph import DynamicPrompt
    from comfy_execution.progress import reset_progress_state
    from comfy_execution.utils import CurrentNodeContext

    files = host.module("nodes.comfy.workflow").NamedFiles()

    def in_workflow(seed: int, call: Callable[[], Any], number: str = "5") -> Any:
        reset_progress_state("", DynamicPrompt({number: node("Hallo3Sampler", seed=seed)}))
        with CurrentNodeContext("", number, 0):
            return call()

    def write(name: str, seed: int) -> Path:
        (tmp_path / name).write_text(name)
        in_workflow(seed, lambda: files.add(tmp_path / name))
        return tmp_path / name

    seen = [in_workflow(1, files.losses)]
    for _ in range(3):
        first, second = write("first", 1), write("second", 1)
        other = in_workflow(2, files.losses)
        assert in_workflow(1, files.losses) == seen[-1]
        write("other", 2)
        (first, second)[len(seen) % 2].unlink()
        seen += [in_workflow(1, files.losses)]
        assert in_workflow(1, files.losses, "6") == seen[-1]
        assert in_workflow(2, files.losses) == other
    assert len(set(seen)) == 4
    assert files.losses() == 0, "outside of a workflow"


WIDGETS = [
    None,
    "",
    "x\0",
    "x" * 20_000,
    [],
    {},
    float("nan"),
    float("inf"),
    -(10**400),
    torch.zeros(2),
    0.5j,
]
NOT_SHOWN = {"String": {"", "x\0"}, "Combo": set(), "Int": set(), "Float": set(), "Boolean": set()}


def test_a_widget_takes_no_other_value(host: Host) -> None:
    """From another node; the kinds that it can mean are converted."""
    schema, errors = host.module("nodes.schema"), host.module("hallo3.errors")
    for kind in host.module("nodes.extension").NODES:
        for widget in kind.define_schema().inputs:
            name = type(widget).__qualname__.partition(".")[0]
            if name not in NOT_SHOWN:
                continue
            for value in WIDGETS:
                if not (isinstance(value, str) and value in NOT_SHOWN[name]):
                    error = error_of(partial(schema.to_widget_value, widget, value))
                    assert isinstance(error, errors.InputError | ValueError), (kind, widget.id, value)
                    assert not isinstance(error, ValueError) or value == WIDGETS[8]
            if name in ("Int", "Float"):
                assert widget.min < widget.max
                for value in (1, 1.0, np.int64(1), torch.tensor(1), True):
                    found = schema.to_widget_value(widget, value)
                    assert (found, type(found)) == (1, int if name == "Int" else float)


WATCHED = ("open", "os.mkdir", "os.rename", "os.remove")
OUTSIDE_NAMES = ("../{}", "{}", "a/../../{}", "..\\..\\{}", "%year%/../../../{}", "../" * 40 + "{}", "C:\\{}")
OUTSIDE_NAMES += ("link/bait", "link/bait_00001_.safetensors", "file://{}", "~/{}", "{} [output]", "x\0")
OUTSIDE_NAMES += ("\ud800", "y" * 300, "y/" * 30 + "y")


@pytest.mark.parametrize("pattern", OUTSIDE_NAMES)
def test_a_workflows_names_lead_nowhere_else(stages: Stages, folders: Path, pattern: str) -> None:
    """What widgets name is neither read, written nor hashed outside of ComfyUI's folders."""
    outside = folders / "outside"
    outside.mkdir()
    (bait := outside / "bait_00001_.safetensors").write_bytes(b"private")
    for name in ("output", "input"):
        (folders / name / "hallo3_identities").mkdir()
        for folder in (folders / name, folders / name / "hallo3_identities"):
            (folder / "link").symlink_to(outside)
    opened: list[str] = []
    # a hook cannot be taken away
    sys.addaudithook(lambda event, values: event in WATCHED and opened.append(str(values[0])))
    load = stages.host.node("Hallo3LoadIdentity")
    for place in ("outside/bait", bait, f"outside/{bait.name}", outside / "bait"):
        name = pattern.format(place)
        assert stages.module("nodes.comfy.workflow")._find_files(name) == []
        assert load.validate_inputs(file=name) is not True
        assert load.fingerprint_inputs(file=name) == []
        for kind, inputs in (
            ("Hallo3LoadIdentity", {"file": name}),
            ("Hallo3LoadModel", {"model_name": name, "weight_dtype": "default"}),
            ("Hallo3LoadReferenceNetwork", {"reference_network_name": name}),
            ("Hallo3Extrapolate", stages.inputs(continue_from=name)),
            ("Hallo3Extrapolate", stages.inputs(redo=name)),
        ):
            check_shown(stages.host, error_of(partial(stages.run, kind, **inputs)))
        inputs = {"identity": stages.identity, "model": stages.model, "filename_prefix": name}
        with suppress(stages.errors.InputError):  # some are plain names, as strange as they are
            stages.run("Hallo3SaveIdentity", **inputs)
    paths, opened = opened, []
    assert [path for path in paths if outside in Path(os.path.realpath(path)).parents] == []
    assert [path for path in outside.iterdir() if path != bait] == []
    assert {path.name for path in folders.iterdir()} == {"outside", "output", "input"}
    assert bait.read_bytes() == b"private"
