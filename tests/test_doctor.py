"""What the doctor advises; ``cli/`` and ``comfyui/`` test its report."""

from __future__ import annotations

import pytest

from hallo3 import doctor
from hallo3.units import GB


def test_a_line_for_this_gpu_and_for_common_limits() -> None:
    lines = doctor.describe_limits(6 * GB, 64 * GB)
    assert lines[0].startswith("this GPU, 6.0 GB")
    assert [line.split(":")[0] for line in lines[1:]] == [f"--vram {gb}" for gb in doctor.COMMON_LIMITS]
    assert lines[0].split(": ", 1)[1] == lines[1].split(": ", 1)[1]
    assert "does not fit" in doctor.describe_limits(3 * GB, 64 * GB)[0]
    assert len(doctor.describe_limits(0, 64 * GB)) == len(doctor.COMMON_LIMITS)


@pytest.mark.parametrize(
    ("gpu", "memory", "advice"),
    [
        (0, 16, "No GPU"),
        (8, 64, "this GPU, 8.0 GB: 12 of 42 blocks"),
        (12, 64, "this GPU, 12.0 GB"),
        (3, 64, "It needs"),
        (18, 64, "fp8 with everything on the GPU"),
        (80, 128, "bf16, everything on the GPU"),
        (24, 16, "streams them from disk"),
        (0, 16, "--offload disk"),
    ],
)
def test_the_advice_fits_the_machine(gpu: int, memory: int, advice: str) -> None:
    machine = doctor.Machine(
        memory=memory * GB, free_disk=900 * GB, gpu="Card" if gpu else "", gpu_memory=gpu * GB
    )
    text = " ".join(doctor.advise(machine))
    assert advice in text
    assert not gpu or "--low-memory" not in text
    assert not gpu or "--offload" not in text, "a manual offload would have no plan"
