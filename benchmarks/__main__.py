"""``python -m benchmarks NAME [--json FILE] [options]``: a command per figure; NAME --help lists options."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, RawTextHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch (docs/measurements/README.md)

SCENARIOS = {
    "counts": ("counts.COUNTS", "operations, bytes and memory of a step at full size, without weights"),
    "ceilings": ("ceilings.CEILINGS", "a whole run at full size under memory limits, counted without a GPU"),
    "fits": ("fits.FITS", "whether planned runs fit, by a model of PyTorch's allocator, without a GPU"),
    "times": ("times.TIMES", "times on this device, beside the original's way"),
    "smoke": ("smoke.SMOKE", "first contact with a GPU: kernels, streaming, layouts"),
    "goals": ("goals.GOALS_TABLE", "the table of goals, from the results of GPUs that are kept here"),
    "length": ("cpu.LENGTH", "time and memory by length of speech"),
    "cpu": ("cpu.CPU_TIMES", "seconds of a NANO segment; small 3D convolutions"),
    "exactness": ("exactness.EXACTNESS", "error of each exact saving, relative to the original's"),
    "precision": ("exactness.PRECISION", "distance of one forward pass in bf16, fp16 and fp8 from float32"),
    "mixtures": ("mixtures.MIXTURES", "samplers and approximations on data with a known distribution"),
    "approximations": ("built_in.APPROXIMATE", "what approximations do to videos of the built-in model"),
    "built-in": ("built_in.BUILT_IN", "how the built-in model behaves on unseen portraits and speech"),
    "drift": ("drift.DRIFT", "for owners of released weights: what approximations do to your video"),
    "stock-schedule": ("comfyui.STOCK_SCHEDULE", "ComfyUI's own schedule beside the original's"),
    "torch-compile": ("comfyui.TORCH_COMPILE", "the model in ComfyUI's TorchCompileModel"),
}
"""Name -> the Scenario, and what it measures."""


def usage() -> str:
    rows = "\n".join(f"  {name:15} {about}" for name, (_, about) in SCENARIOS.items())
    return f"usage: python -m benchmarks NAME [--json FILE] [options]\n\n{rows}"


def main(words: Sequence[str]) -> int:
    """Run a scenario; the exit status."""
    if not words or words[0] in {"-h", "--help"}:
        print(usage())
        return 0
    name, *rest = words
    if name not in SCENARIOS:
        print(f"{usage()}\n\nThere is no {name!r}.", file=sys.stderr)
        return 2
    from benchmarks.report import CPU, Scenario, describe_machine, get_device, result_path, stamp, write_json
    from hallo3.media.image import write_picture

    module, _, attribute = SCENARIOS[name][0].partition(".")
    place = import_module(f"benchmarks.{module}")
    scenario: Scenario = getattr(place, attribute)
    title, form = f"python -m benchmarks {name}", RawTextHelpFormatter
    parser = ArgumentParser(title, description=place.__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    if scenario.draw:
        parser.add_argument("--chart", type=Path, metavar="PNG", help="also draw it")
    scenario.add_options(parser)
    options = parser.parse_args(rest)
    device = get_device(options.device) if hasattr(options, "device") else CPU
    machine, path, result = describe_machine(device), options.json, {}
    measured = scenario.measure(options)
    for each in [measured] if isinstance(measured, dict) else measured:
        result = stamp(each, name, rest, machine)
        path = path or (result_path(result) if scenario.keep else None)
        if path:
            write_json(result, path)
    if scenario.draw and options.chart:
        write_picture(scenario.draw(result), options.chart)
    scenario.show(result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
