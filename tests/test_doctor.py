"""What the doctor says of GPU memory limits; ``cli/`` and ``comfyui/`` test the reports."""

from __future__ import annotations

from hallo3 import doctor
from hallo3.units import GB


def test_a_line_for_this_gpu_and_for_common_limits() -> None:
    lines = doctor.ceilings(6 * GB, 64 * GB)
    assert lines[0].startswith("this card, 6.0 GB")
    assert [line.split(":")[0] for line in lines[1:]] == [f"--vram {size}" for size in doctor.CEILINGS]
    assert lines[0].split(": ", 1)[1] == lines[1].split(": ", 1)[1]
    assert "does not fit" in doctor.ceilings(3 * GB, 64 * GB)[0]
    assert len(doctor.ceilings(0, 64 * GB)) == len(doctor.CEILINGS)
