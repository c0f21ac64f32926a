"""Renders on a GPU: ``make test-gpu``. ``HALLO3_TEST_DEVICE=cpu`` tries the suite without one.

Not yet run on a GPU.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hallo3.loading import load_models
from hallo3.media.audio import Recording
from hallo3.model.kernels.select import choose_kernels, why_unsupported
from hallo3.models import Models
from hallo3.quantization import PRECISIONS
from support.short_runs import video

DEVICE = torch.device(os.environ.get("HALLO3_TEST_DEVICE", "cpu"))
MAX_MEAN_ERROR = {"fp32": 1e-3, "bf16": 0.03}
"""Of pixels in 0..1 after two steps. On a CPU, bf16 is 0.010 from fp32."""
needs_cuda = pytest.mark.skipif(DEVICE.type != "cuda", reason="Triton kernels need a CUDA device")


@pytest.fixture(autouse=True)
def _without_tf32() -> Iterator[None]:
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.fixture(scope="module")
def resident(nano_folder: Path) -> Models:
    return load_models(nano_folder, DEVICE, PRECISIONS["fp32"])


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_fused_kernels_pass_their_self_test(dtype: torch.dtype) -> None:
    """Every fused operation within 2 % of the eager one."""
    assert why_unsupported(DEVICE, dtype) == ""


@needs_cuda
def test_a_render_with_fused_kernels_is_close(
    nano_folder: Path, portrait: Tensor, speech: Recording, resident: Models
) -> None:
    kernels = choose_kernels("fused", DEVICE, torch.float32).kernels
    fused = load_models(nano_folder, DEVICE, PRECISIONS["fp32"], kernels=kernels)
    expected = video(portrait, speech, resident, steps=2)
    assert_close(video(portrait, speech, fused, steps=2), expected, "fp32")


@pytest.mark.parametrize("offload", ["blocks", "disk"])
def test_streamed_weights_equal_resident_ones(
    nano_folder: Path, portrait: Tensor, speech: Recording, resident: Models, offload: str
) -> None:
    streamed = load_models(nano_folder, DEVICE, PRECISIONS["fp32"], offload=offload)
    expected = video(portrait, speech, resident, steps=2)
    assert_close(video(portrait, speech, streamed, steps=2), expected, "fp32")


@pytest.mark.parametrize("precision", MAX_MEAN_ERROR)
def test_a_render_is_close_to_the_cpus(
    nano_folder: Path, portrait: Tensor, speech: Recording, nano: Models, precision: str
) -> None:
    models = load_models(nano_folder, DEVICE, PRECISIONS[precision])
    result, expected = (video(portrait, speech, each, steps=2) for each in (models, nano))
    assert_close(result, expected, precision)


def assert_close(result: Tensor, expected: Tensor, precision: str) -> None:
    assert result.device.type == "cpu"
    assert result.shape == expected.shape
    assert float((result - expected).abs().mean()) <= MAX_MEAN_ERROR[precision]
