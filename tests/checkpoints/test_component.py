"""The same weights load from every form they are published in; nearly right files do not."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hallo3.checkpoints import component
from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.component import find_component
from hallo3.checkpoints.convert import plan_output, write_output
from hallo3.checkpoints.load import check_file, read_component
from hallo3.checkpoints.locate import ModelFolder
from hallo3.checkpoints.source import open_source, read_small_text
from hallo3.config import TEXT_ENCODERS, to_dict
from hallo3.errors import CheckpointError
from hallo3.loading import load_models
from hallo3.model.transformer import Conditions
from hallo3.models import Models
from hallo3.quantization import PRECISIONS, fp8_scale
from support import original_checkpoints as checkpoints
from support.original_checkpoints import to_original

FP32, CPU = PRECISIONS["fp32"], torch.device("cpu")
NANO = checkpoints.NANO


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, nano_folder: Path) -> Path:
    """A nano set as the original publishes it: the same weights under the original's names and places."""
    folder, files = tmp_path_factory.mktemp("original"), ModelFolder(nano_folder)
    parts = {maps.TRANSFORMER_PREFIX: "transformer", maps.REFERENCE_PREFIX: "reference", "vae": "vae"}
    checkpoints.write_release(folder, NANO, torch.float32, lambda _, name: load_file(files.find(parts[name])))
    return folder


def test_the_originals_files_load_as_they_are(nano_folder: Path, nano: Models, original: Path) -> None:
    files = ModelFolder(nano_folder)
    rest = {part: files.find(part) for part in ("text_encoder", "speech_encoder", "tokenizer")}
    models = load_models(ModelFolder(original, rest), CPU, FP32)
    for name in ("transformer", "reference", "vae"):
        with getattr(models, name) as found, getattr(nano, name) as wanted:
            networks = (found.network, wanted.network) if name == "vae" else (found, wanted)
            assert same(*(network.state_dict() for network in networks))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "vae."])
def test_the_vae_loads_from_other_forms(tmp_path: Path, nano_folder: Path, prefix: str) -> None:
    """diffusers' and ComfyUI's."""
    state = load_file(ModelFolder(nano_folder).find("vae"))
    save_file({prefix + name: t for name, t in state.items()}, tmp_path / "vae.safetensors")
    assert same(read_component(tmp_path / "vae.safetensors", "vae", FP32), state)


def test_t5_loads_from_shards_and_from_scaled_fp8(tmp_path: Path, nano_folder: Path) -> None:
    state = load_file(ModelFolder(nano_folder).find("text_encoder"))
    names, folder = list(state), tmp_path / "t5-v1_1-xxl"
    folder.mkdir()
    shards = {f"model-{n + 1:05d}-of-00002.safetensors": names[n::2] for n in range(2)}
    for file, mine in shards.items():
        save_file({name: state[name] for name in mine}, folder / file)
    assert same(read_component(folder, "text_encoder", FP32), state)
    index = {"metadata": {}, "weight_map": {name: file for file, mine in shards.items() for name in mine}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(read_component(folder, "text_encoder", FP32), state)
    (folder / "model.safetensors.index.json").unlink()
    first = folder / "model-00001-of-00002.safetensors"
    first.rename(tmp_path / first.name)
    with pytest.raises(CheckpointError, match="model-00001-of-00002"):
        read_component(folder, "text_encoder", FP32)

    scaled = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn), **state}
    for name, tensor in state.items():
        if ".block." in name and tensor.ndim == 2:
            scaled[name.removesuffix("weight") + "scale_weight"] = scale = tensor.abs().max() / 448
            scaled[name] = (tensor / scale).to(torch.float8_e4m3fn)
    scaled["encoder.embed_tokens.weight"] = state["shared.weight"].clone()
    scaled["spiece_model"] = torch.zeros(9, dtype=torch.uint8)
    save_file(scaled, tmp_path / "t5xxl_fp8_e4m3fn_scaled.safetensors")
    found = read_component(tmp_path / "t5xxl_fp8_e4m3fn_scaled.safetensors", "text_encoder", FP32)
    assert found.keys() == state.keys()
    assert all(torch.allclose(found[name], state[name], atol=0.2, rtol=0.07) for name in state)


@pytest.mark.parametrize("block", [5, 4 << 20])
@pytest.mark.parametrize("stored", ["fp32", "fp16", "scaled", "scaled rows"])
def test_a_tensor_is_converted_in_blocks(
    tmp_path: Path, nano_folder: Path, stored: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into memory of its own: nothing larger stays alive with it."""
    monkeypatch.setattr(component, "BLOCK_ELEMENTS", block)
    state, wanted = load_file(ModelFolder(nano_folder).find("text_encoder")), dict[str, Tensor]()
    for name, tensor in list(state.items()):
        if stored.startswith("scaled") and tensor.ndim == 2:
            scale = tensor.abs().amax(*([1, True] if "rows" in stored else [])) / 448
            state[name] = (tensor / scale).to(torch.float8_e4m3fn)
            state[name.removesuffix("weight") + "scale_weight"] = scale
            tensor = state[name].float() * scale
        elif stored == "fp16":
            state[name] = tensor = tensor.half()
        wanted[name] = tensor.bfloat16()
    header = {"hallo3": json.dumps({"part": "text_encoder", "config": TEXT_ENCODERS["nano"]})}
    save_file(state, tmp_path / "t5.safetensors", header)
    found = read_component(tmp_path / "t5.safetensors", "text_encoder", PRECISIONS["bf16"])
    assert same(found, wanted)
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in found.values())


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_wav2vec2_loads_with_either_norm(tmp_path: Path, nano_folder: Path, old: bool, file: str) -> None:
    state = load_file(ModelFolder(nano_folder).find("speech_encoder"))
    folder, new = tmp_path / "wav2vec2-base-960h", "conv.parametrizations.weight.original"
    folder.mkdir()
    whole = {"lm_head.weight": torch.ones(2), "wav2vec2.masked_spec_embed": torch.ones(2)}
    for name, tensor in state.items():
        older = name.replace(f"{new}0", "conv.weight_g").replace(f"{new}1", "conv.weight_v")
        whole[f"wav2vec2.{older if old else name}"] = tensor
    (torch.save if file.endswith("bin") else save_file)(whole, folder / file)
    assert same(read_component(folder, "speech_encoder", FP32), state)


def test_an_fp8_forward_is_near_the_exact_one(nano_folder: Path, nano: Models) -> None:
    eight = load_models(nano_folder, CPU, PRECISIONS["fp8"])
    with torch.inference_mode(), nano.transformer as a, eight.transformer as b:
        wanted, velocities = velocity(a, torch.float32), velocity(b, torch.bfloat16).float()
    assert 1e-4 < torch.linalg.norm(velocities - wanted) / torch.linalg.norm(wanted) < 0.1


def velocity(network: torch.nn.Module, dtype: torch.dtype) -> Tensor:
    drawn = torch.Generator().manual_seed(5)
    shape, trunk = NANO.segment.shape.latent, NANO.trunk

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=drawn).to(dtype)

    features = [draw(1, shape.tokens_per_frame, trunk.width) for _ in range(trunk.layers)]
    windows = draw(1, NANO.segment.frames, 5, NANO.audio.layers, NANO.audio.channels)
    conditions: Conditions = network.conditions(features, draw(1, 48), draw(1, 8, 16), windows)  # type: ignore[operator]
    latents = draw(2, 1, 16, *shape)
    return network(latents[0], latents[1], network.modulate(torch.tensor([500]), latents), conditions)  # type: ignore


def refused(path: Path, part: str) -> str:
    with pytest.raises(CheckpointError) as raised:
        check_file(path, part)
    return str(raised.value)


def test_nearly_right_files_are_named(tmp_path: Path, nano_folder: Path) -> None:
    files, path = ModelFolder(nano_folder), tmp_path / "a.safetensors"
    assert "reference network" in refused(files.find("reference"), "transformer")
    assert "Hallo3's transformer" in refused(files.find("transformer"), "reference")

    state = load_file(files.find("transformer"))
    header = {"hallo3": json.dumps({"part": "transformer", "config": to_dict(NANO)})}
    plain = {n: t for n, t in state.items() if "face" not in n and "audio" not in n}
    sat = {maps.TRANSFORMER_PREFIX + n: t for n, t in to_original(maps.REFERENCE, plain).items()}
    k, ff = "transformer_blocks.1.attn1.to_k.weight", "transformer_blocks.1.ff.net.0.proj.weight"

    def quantised(note: bytes) -> dict[str, Tensor]:
        name = "transformer_blocks.0.ff.net.2.comfy_quant"
        return {**state, name: torch.tensor(list(note), dtype=torch.uint8)}

    for nearly, about, message in (
        (plain, None, "plain CogVideoX"),
        (sat, None, "plain CogVideoX"),
        ({n if n != k else k + "s": t for n, t in state.items()}, header, f"missing (first: {k})"),
        ({**state, ff: state[ff].T.contiguous()}, header, f"{ff} [32, 128] instead of [128, 32]"),
        ({n: t for n, t in state.items() if n != "norm_final.weight"}, header, "1 keys missing"),
        (state, None, "hallo3.json"),
        (quantised(b'{"format": "nvfp4"}'), None, "nvfp4"),
        (quantised(b'{"format": "' + b"x" * 50 + b'"}'), None, f"net.2: {'x' * 40}\n"),
        (quantised(b"no JSON"), None, "net.2: a note that is none"),
        (quantised(b"{}" + b" " * 4094), None, "net.2: a note that is none"),
        (quantised(b"{}" + b" " * 4095), None, "net.2 with a note of many bytes"),
    ):
        save_file(nearly, path, about)
        assert message in refused(path, "transformer")


INDEX = "model.safetensors.index.json"
SHARDS = {f"model-0000{n}-of-00002.safetensors": "" for n in (1, 2)}
FOLDERS: dict[str, tuple[dict[str, str], str]] = {
    "nothing": ({}, "no weights in"),
    "several files": ({"a.safetensors": "", "b.safetensors": ""}, "with 2 safetensors files"),
    "one of several": ({"model-00002-of-00002.safetensors": ""}, "without model-00001-of-00002.safetensors"),
    "without two": ({"model-1-of-3.safetensors": ""}, "without model-2-of-3.safetensors and 1 more"),
    "names with dashes": ({"a-b-1-of-2.safetensors": ""}, "without a-b-2-of-2.safetensors$"),
    "another index": ({"a.bin.index.json": '{"weight_map": {"a": "b"}}'}, "without b$"),
    "a large number": ({"model-1-of-999999.safetensors": ""}, "with 1 safetensors files|no weights"),
    "no index": ({INDEX: "[]"} | SHARDS, f"{INDEX}: no list of files"),
    "no map": ({INDEX: '{"weight_map": 7}'} | SHARDS, "no list of files"),
    "a name twice": ({INDEX: '{"weight_map": {}, "weight_map": {}}'} | SHARDS, "no list of files"),
    "numbers": ({INDEX: '{"weight_map": {"a": 7}}'} | SHARDS, r"\[7\]"),
    "an empty map": ({INDEX: '{"weight_map": {}}'} | SHARDS, r"\[\]"),
    "elsewhere": ({INDEX: '{"weight_map": {"a": "../x", "b": "y"}}'} | SHARDS, r"\['../x'\]"),
    "a long name": ({INDEX: json.dumps({"weight_map": {"a": "x" * 200}})} | SHARDS, "xxxx"),
    "a name that is missing": ({INDEX: json.dumps({"weight_map": {"a": "x" * 199}})} | SHARDS, "without xxx"),
    "no number": ({"latest": "../x"}, "in .*latest"),
    "a number": ({"latest": " 7\n"}, "7/mp_rank_00_model_states.pt"),
    "release": ({"latest": "release"}, "release/mp_rank_00_model_states.pt"),
    "cut": ({"latest": "1" * 41}, "/1{40}/mp_rank_00_model_states.pt"),
}


@pytest.mark.parametrize(("files", "message"), FOLDERS.values(), ids=FOLDERS.keys())
def test_folders_that_hold_no_network_are_refused(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=f"(?m){message}"):
        open_source(tmp_path)


@pytest.mark.parametrize("text", ["[]", '{"config": {"a": NaN}}', '{"config": {}, "config": {}}', "x"])
def test_a_configuration_beside_the_weights_is_an_object(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    (tmp_path / "hallo3.json").write_text(text)
    assert "configuration beside the weights cannot be read" in refused(tmp_path / "a.safetensors", "vae")


def test_a_file_of_two_parts_and_two_files_of_one_tensor(tmp_path: Path, nano_folder: Path) -> None:
    files = ModelFolder(nano_folder)
    both = {f"model.diffusion_model.{n}": t for n, t in load_file(files.find("transformer")).items()}
    both |= {f"first_stage_model.{n}": t for n, t in load_file(files.find("vae")).items()}
    save_file(both, tmp_path / "both.safetensors")
    words = refused(tmp_path / "both.safetensors", "text_encoder")
    assert "Hallo3's transformer and CogVideoX's 3D VAE" in words
    (tmp_path / "both.safetensors").unlink()
    os.mkfifo(tmp_path / INDEX)
    with pytest.raises(CheckpointError, match=rf"{INDEX}: not a regular file\n"):
        open_source(tmp_path)
    (tmp_path / INDEX).unlink()
    for name in SHARDS:
        save_file({"a": torch.ones(1)}, tmp_path / name)
    with pytest.raises(CheckpointError, match="hold the same tensor"):
        open_source(tmp_path)


def test_other_models_are_recognised(tmp_path: Path) -> None:
    for key, what in {
        "model.diffusion_model.input_blocks.0.0.weight": "Stable Diffusion",
        "double_blocks.0.img_attn.qkv.weight": "Flux",
        "blocks.0.self_attn.q.weight": "Wan",
        "lora_unet_x.lora_down.weight": "LoRA",
        "whatever": "another model",
    }.items():
        save_file({key: torch.ones(1)}, tmp_path / "a.safetensors")
        assert what in refused(tmp_path / "a.safetensors", "transformer")


SAT = "model.diffusion_model.transformer.layers.0.attention.query_key_value.weight"
ROWS = 3 * NANO.trunk.width


def convert_scaled(folder: Path, precision: str, stored: Tensor, **scales: Tensor) -> dict[str, Tensor]:
    """A converted transformer in which ``SAT`` is ``stored``, with scales beside it."""
    path, state = folder / "mp.safetensors", dict(checkpoints.module(NANO))
    state[SAT] = stored.expand_as(state[SAT])
    state |= {SAT + ending: scale for ending, scale in scales.items()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    path.with_suffix(".json").write_text(json.dumps(to_dict(NANO)))
    check_file(path, "transformer")
    with open_source(path) as source:
        planned = plan_output(find_component(source, "transformer"), PRECISIONS[precision], {})
        write_output(planned, folder / "out")
    return load_file(folder / "out")


@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_scales_are_cut_with_tensors(tmp_path: Path, rows: int, dtype: torch.dtype, precision: str) -> None:
    scale, one = torch.arange(1, rows + 1).float().reshape(-1, 1) / 64, torch.ones(1, 1, dtype=dtype)
    found = convert_scaled(tmp_path, precision, one, _scale=scale if rows > 1 else scale.reshape(()))
    for n, name in enumerate(("to_q", "to_k", "to_v")):
        key = f"transformer_blocks.0.attn1.{name}.weight"
        values = found[key].float() * found.get(f"{key}_scale", torch.ones(()))
        wanted = scale.expand(ROWS, 1)[n * ROWS // 3 : (n + 1) * ROWS // 3].expand_as(values)
        assert torch.allclose(values, wanted, rtol=0.07)


def test_a_scale_belongs_to_a_tensor_fits_it_and_stays_in_range(tmp_path: Path) -> None:
    one, large = (torch.tensor(value).to(torch.float8_e4m3fn) for value in (1.0, 448.0))
    for precision, stored, scales, message in (
        ("bf16", one, {"_scale": torch.ones(1, ROWS)}, "scale does not fit"),
        ("bf16", one, {"x.weight_scale": torch.ones(())}, "scale does not fit"),
        *(("bf16", one, {"_scale": torch.tensor(wrong)}, "zeros, NaN") for wrong in (0.0, float("nan"))),
        ("bf16", one.to(torch.int8), {}, "whole numbers, without a scale"),
        ("fp16", large, {"_scale": torch.tensor(1000.0)}, r"4.48e\+05"),
    ):
        with pytest.raises(CheckpointError, match=message):
            convert_scaled(tmp_path, precision, stored, **scales)
    assert fp8_scale(torch.tensor(1e-44)) > 0, "of the smallest matrix"
    assert fp8_scale(torch.tensor(0.0)) == 1


def test_configurations_of_which_nothing_can_be_built_are_refused(tmp_path: Path) -> None:
    checkpoints.write_release(tmp_path, NANO)
    huge = {"layers": 200_000, "heads": 1 << 40, "text_dim": 1 << 62, "rope_theta": float("nan")}
    wrong = {"block_out_channels": [1 << 61], "layers_per_block": 200_000, "norm_num_groups": 7}
    changes = [("trunk", *item) for item in huge.items()] + [("vae", *item) for item in wrong.items()]
    for section, key, value in [*changes, ("vae", "block_out_channels", [])]:
        config = to_dict(NANO)
        config[section][key] = value
        for path in tmp_path.rglob("*.pt"):
            path.with_suffix(".json").write_text(json.dumps(config))
        part = "vae" if section == "vae" else "transformer"
        refused(ModelFolder(tmp_path).find(part), part)


LLAMA = {
    "shared": "token_embd",
    "encoder.final_layer_norm": "enc.output_norm",
    "encoder.block.": "enc.blk.",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    "layer.0.SelfAttention.": "attn_",
    "layer.0.layer_norm": "attn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
    "layer.1.layer_norm": "ffn_norm",
}
"""T5's names in transformers and in GGUF files."""


@pytest.mark.parametrize(("kind", "error"), [("F16", 1e-3), ("BF16", 1e-2), ("Q8_0", 2e-2), ("Q4_0", 0.2)])
def test_t5_loads_from_gguf(tmp_path: Path, nano_folder: Path, kind: str, error: float) -> None:
    gguf = pytest.importorskip("gguf")
    state = load_file(ModelFolder(nano_folder).find("text_encoder"))
    path, chosen = tmp_path / "t5.gguf", gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "t5encoder")
    for name, tensor in state.items():
        for theirs, short in LLAMA.items():
            name = name.replace(theirs, short)
        kept = tensor.ndim != 2 or tensor.shape[1] % 32
        packed = tensor.numpy() if kept else gguf.quants.quantize(tensor.numpy(), chosen)
        writer.add_tensor(name, packed, raw_dtype=None if kept else chosen)
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()
    found = read_component(path, "text_encoder", FP32)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].shape == tensor.shape
        assert torch.linalg.norm(found[name] - tensor) <= error * torch.linalg.norm(tensor), name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"GGUF|damaged"):
        read_component(path, "text_encoder", FP32)


def test_whole_numbers_stay_what_they_are(tmp_path: Path, nano_folder: Path) -> None:
    state = load_file(ModelFolder(nano_folder).find("vae"))
    name = next(iter(state))
    save_file(state | {name: (state[name] * 9).to(torch.int32)}, tmp_path / "a.safetensors")
    with open_source(tmp_path / "a.safetensors") as source:
        found = find_component(source, "vae")
        pieces = [*found.values(name, torch.float16, 3)]
        assert {piece.dtype for piece in pieces} == {torch.int32}
        assert max(len(piece) for piece in pieces) <= 3
        assert torch.equal(torch.cat(pieces), (state[name] * 9).to(torch.int32).flatten())
        assert (found.dtype(name), found.scaled(name), found.scale(name)) == (torch.int32, False, None)
        assert found.nbytes == sum(tensor.nbytes for tensor in state.values())
        assert (found.part, found.own_config) == ("vae", None)


@pytest.mark.parametrize("part", ["vae", "transformer"])
def test_a_configuration_of_another_part_is_not_this_one_s(
    tmp_path: Path, nano_folder: Path, part: str
) -> None:
    header = {"part": part, "config": {}}
    state = load_file(ModelFolder(nano_folder).find("vae"))
    save_file(state, tmp_path / "a.safetensors", {"hallo3": json.dumps(header)})
    with open_source(tmp_path / "a.safetensors") as source:
        assert find_component(source, "vae").own_config == (header if part == "vae" else None)


def test_the_beginning_of_a_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a\xffcdef")
    assert read_small_text(tmp_path / "a", 3) == "a\ufffdc"
