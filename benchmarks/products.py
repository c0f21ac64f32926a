"""How far products in eight bits are from exact ones: ``python -m benchmarks products``.

One Linear of the model's width on inputs and weights of several kinds, against float64; every kind of layer
of the built-in model on what it is given; and the built-in model's velocity against float32's, with some
kinds of layers left in bf16. Errors are relative L2 of a row: their median and 99th percentile over rows.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.precision import Inputs, apart, forward, real_inputs
from hallo3.built_in import FOLDER
from hallo3.loading import load_models
from hallo3.quantization.precision import PRECISIONS, QuantizationScheme

CPU = torch.device("cpu")
WIDTH, ROWS, CHANNELS = 3072, 512, 8
HELD = ("fp8", "fp8-products", "int8")
LEFT_OUT = {
    "": "all in eight bits",
    r"ff\.net\.2": "ff.net.2 in bf16",
    "to_out": "to_out in bf16",
    "attn_": "face and audio in bf16",
}
HOLDING, PRODUCTS = (cast(QuantizationScheme, PRECISIONS[name].held_as) for name in HELD[:2])
Figures = dict[str, float]


def drawn(kind: str, rows: int, columns: int, seed: int) -> Tensor:
    """Numbers [rows, columns]: gaussian, heavy-tailed (Student's t, 3 degrees of freedom), or gaussian with
    some columns ("outlier rows": rows) 30 to 100 times as large."""
    source = torch.Generator().manual_seed(seed)
    made = torch.randn(rows, columns, generator=source)
    if kind == "heavy-tailed":
        squares = torch.randn(3, rows, columns, generator=source).square().mean(0)
        return made / squares.sqrt()
    if kind.startswith("outlier"):
        axis = made if kind == "outlier channels" else made.T
        chosen = torch.randperm(axis.shape[1], generator=source)[:CHANNELS]
        axis[:, chosen] *= torch.linspace(30, 100, CHANNELS)
    return made


KINDS = (
    ("gaussian", "gaussian"),
    ("heavy-tailed", "heavy-tailed"),
    ("outlier channels", "gaussian"),
    ("gaussian", "outlier rows"),
    ("outlier channels", "outlier channels"),
)


def layer_of(linear: nn.Linear, holding: QuantizationScheme, *, one_scale: bool = False) -> nn.Linear:
    """A bf16 layer as it is held in eight bits."""
    made = holding.layer(linear.in_features, linear.out_features, device="meta")
    weight = linear.weight.detach()
    if one_scale:
        numbers, scale = HOLDING.made(weight.float().clone())
        scales = holding.scales(scale, len(weight))
    else:
        numbers, scales = holding.made(weight.float().clone())
    made.weight = nn.Parameter(numbers, requires_grad=False)
    made.weight_scale, made.bias = scales, linear.bias
    return made


def error_of(made: Tensor, exact: Tensor) -> Figures:
    """The median and the 99th percentile of the rows' relative L2 errors."""
    made, exact = made.double().flatten(0, -2), exact.flatten(0, -2)
    errors = (made - exact).norm(dim=-1) / exact.norm(dim=-1)
    return {name: float(f"{float(errors.quantile(q)):.3g}") for name, q in (("p50", 0.5), ("p99", 0.99))}


def ways(linear: nn.Linear) -> dict[str, nn.Module]:
    """A bf16 layer in every precision."""
    found: dict[str, nn.Module] = {"bf16": linear}
    for name in HELD:
        holding = cast(QuantizationScheme, PRECISIONS[name].held_as)
        found[name] = layer_of(linear, holding)
    return found | {"fp8-products, a scale a matrix": layer_of(linear, PRODUCTS, one_scale=True)}


@torch.inference_mode()
def of_a_linear() -> dict[str, dict[str, Figures]]:
    """Errors by kind and precision; "exact" is float64 of the same bf16 inputs and weights."""
    found: dict[str, dict[str, Figures]] = {}
    for of_inputs, of_weights in KINDS:
        linear = nn.Linear(WIDTH, WIDTH, dtype=torch.bfloat16)
        linear.weight.copy_(drawn(of_weights, WIDTH, WIDTH, 1) / WIDTH**0.5)
        linear.bias.copy_(drawn("gaussian", 1, WIDTH, 2)[0] / 10)
        given = drawn(of_inputs, ROWS, WIDTH, 3).bfloat16()
        exact = F.linear(given.double(), linear.weight.double(), linear.bias.double())
        kind = f"{of_inputs} inputs, {of_weights} weights"
        found[kind] = {name: error_of(way(given), exact) for name, way in ways(linear).items()}
    return found


def held_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """The layers whose weights are held in eight bits, by name."""
    held = PRECISIONS["fp8"].held
    named = cast("list[tuple[str, nn.Module]]", list(network.named_modules()))
    return {name: m for name, m in named if isinstance(m, nn.Linear) and held(f"{name}.weight")}


def of_the_layers(inputs: Inputs) -> dict[str, dict[str, Figures]]:
    """Errors by kind of layer and precision, the worst block's, on what the built-in model gives them."""
    found: dict[str, dict[str, Figures]] = defaultdict(dict)

    def watch(kind: str) -> Callable[[nn.Linear, tuple[Tensor], Tensor], None]:
        def after(layer: nn.Linear, given: tuple[Tensor], made: Tensor) -> None:
            del made
            x, bias = given[0].double(), layer.bias.double()
            exact = F.linear(x, layer.weight.double(), bias)
            for name, way in {**ways(layer), "bf16": None}.items():
                result = way(given[0]) if way else F.linear(given[0], layer.weight, layer.bias)
                figures, worst = error_of(result, exact), found[kind].get(name, {})
                found[kind][name] = {q: max(figures[q], worst.get(q, 0.0)) for q in figures}

        return after

    with load_models(FOLDER, CPU, "bf16").transformer as network:
        for name, layer in held_layers(network).items():
            layer.register_forward_hook(watch(re.sub(r"transformer_blocks\.\d+\.", "", name)))
        forward(network, inputs, torch.bfloat16)
    return dict(found)


def of_the_model(inputs: Inputs) -> dict[str, dict[str, float]]:
    """The velocity's relative L2 from float32's, by precision and by what is left in bf16."""
    with load_models(FOLDER, CPU, "fp32").transformer as network:
        exact = forward(network, inputs, torch.float32)
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for name in HELD:
        holding = cast(QuantizationScheme, PRECISIONS[name].held_as)
        for pattern, said in LEFT_OUT.items():
            with load_models(FOLDER, CPU, "bf16").transformer as network:
                for place, layer in held_layers(network).items():
                    if not pattern or not re.search(pattern, place):
                        network.set_submodule(place, layer_of(layer, holding))
                found[name][said] = apart(forward(network, inputs, torch.bfloat16), exact)
    return dict(found)


def table(found: dict[str, dict[str, Figures]]) -> str:
    """Kinds by precisions, p50 / p99 in per cent."""
    names = list(next(iter(found.values())))
    lines = [" " * 52 + "".join(f"{name[:22]:>24}" for name in names)]
    for kind, figures in found.items():
        cells = (f"{100 * figures[name]['p50']:.2f} / {100 * figures[name]['p99']:.2f}" for name in names)
        lines.append(f"{kind:52}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    inputs = real_inputs()
    linear, layers, model = of_a_linear(), of_the_layers(inputs), of_the_model(inputs)
    print(
        f"one Linear, per cent\n{table(linear)}\n\nthe built-in model's layers, per cent\n{table(layers)}\n"
    )
    print(json.dumps(model, indent=1))
    kept = {
        f"one Linear, {WIDTH} -> {WIDTH}, {ROWS} rows: relative L2 of a row from float64's": linear,
        "the built-in model's layers, the worst block: relative L2 of a row from float64's": layers,
        "relative L2 of the built-in model's velocity from fp32's": model,
    }
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
