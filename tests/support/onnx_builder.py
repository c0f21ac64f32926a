"""ONNX files, written field by field (onnx.proto), so that tests need no onnx package.

``detector`` and ``recognizer`` have the inputs and outputs of the real networks, and results that follow from
the pixels: a test paints a face.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Content = bytes
Value = int | Sequence[int]
Shape = Sequence[int | str]


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number: int, value: int | str | bytes) -> bytes:
    """One field: a varint, or text or a message with its length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def tensor(name: str, values: Any, *more: bytes) -> Content:
    array = np.asarray(values)
    kind = 1 if array.dtype.kind == "f" else 7
    raw = array.astype("<f4" if kind == 1 else "<i8").tobytes()
    dims = b"".join(field(1, size) for size in array.shape)
    return dims + field(2, kind) + field(8, name) + field(9, raw) + b"".join(more)


def attribute(name: str, value: Value) -> Content:
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, 2)
    return field(1, name) + b"".join(field(8, each) for each in value) + field(20, 7)


def node(operator: str, inputs: str, outputs: str, *more: bytes, **attributes: Value) -> Content:
    names = b"".join(field(1, name) for name in inputs.split())
    names += b"".join(field(2, name) for name in outputs.split())
    rest = b"".join(field(5, attribute(*item)) for item in attributes.items())
    return names + field(4, operator) + rest + b"".join(more)


def port(name: str, shape: Shape, kind: int = 1) -> Content:
    sizes = (field(1, size) if isinstance(size, int) else field(2, size) for size in shape)
    dims = b"".join(field(1, size) for size in sizes)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, dims)))


Contents = Sequence[Content]


def model(
    nodes: Contents, weights: Contents, inputs: Contents, outputs: Contents, *, in_graph: bytes = b""
) -> Content:
    parts = (1, nodes), (2, ["graph"]), (5, weights), (11, inputs), (12, outputs)
    graph = b"".join(field(number, each) for number, part in parts for each in part) + in_graph
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))


EYES, NOSE, MOUTH = ((-30, -20), (30, -20)), (0, 5), ((-22, 40), (22, 40))
LANDMARKS = (*EYES, NOSE, *MOUTH)
"""A painted face's landmarks, in pixels of the network's input from its middle."""
RIGHT = 128
"""The level of blue at which the nose is in the middle; each level more moves it a pixel to the right."""


def detector(side: int | str = 640, *, batched: bool = False, **more: bytes) -> Content:
    """At a pixel on its grid, a face: red / 255 is its score, green half its side in pixels, blue turns it.

    Both anchors answer; the second one never finds anything. All grids see the same pixels.
    """
    nodes, outputs = list[Content](), list[tuple[str, list[int | str]]]()
    weights = [tensor("two", [2, 3]), tensor("zero", [0, 0])]
    weights.append(tensor("rows", [1, -1, 3] if batched else [-1, 3]))
    for stride in (8, 16, 32):
        n = 2 * (640 // stride) ** 2
        weights += [tensor(f"every{stride}", [stride, stride]), tensor(f"end{stride}", [640, 640])]
        nodes.append(node("Slice", f"pixels zero end{stride} two every{stride}", f"seen{stride}"))
        nodes.append(node("Transpose", f"seen{stride}", f"last{stride}", perm=[0, 2, 3, 1]))
        nodes.append(node("Reshape", f"last{stride} rows", f"flat{stride}"))
        for kind, (matrix, offset) in _answers(stride).items():
            channels, name = matrix.shape[1] // 2, f"{kind}{stride}"
            shape = [1, n, channels] if batched else [n, channels]
            weights += [tensor(f"m{name}", matrix), tensor(f"o{name}", offset), tensor(f"s{name}", shape)]
            nodes.append(node("MatMul", f"flat{stride} m{name}", f"p{name}"))
            nodes.append(node("Add", f"p{name} o{name}", f"a{name}"))
            nodes.append(node("Reshape", f"a{name} s{name}", name))
            outputs.append((name, [*shape]))
    ports = [port(name, shape) for name, shape in sorted(outputs, key=lambda each: each[1][-1])]
    return model(nodes, weights, [port("pixels", [1, 3, side, side])], ports, **more)


def _answers(stride: int) -> dict[str, tuple[Any, Any]]:
    """Of (level - 127.5) / 128 in red, green, blue: three outputs of two anchors, matrix and offset."""
    score = np.zeros((3, 2), np.float32), np.zeros(2, np.float32)
    score[0][0, 0], score[1][0] = 128 / 255, 127.5 / 255
    box = np.zeros((3, 8), np.float32), np.zeros(8, np.float32)
    box[0][1, :4], box[1][:4] = 128 / stride, 127.5 / stride
    points = np.zeros((3, 20), np.float32), np.zeros(20, np.float32)
    points[1][:10] = np.array(LANDMARKS, np.float32).flatten() / stride
    points[0][2, 4], points[1][4] = 128 / stride, (127.5 - RIGHT) / stride
    return {"score": score, "box": box, "points": points}


def recognizer(side: int = 112, numbers: int = 512, **more: bytes) -> Content:
    """Means of 8 x 8 pixels, channel by channel: the first 196 numbers are red."""
    weights = [tensor("first", [numbers]), tensor("one", [1]), tensor("zero", [0])]
    nodes = [
        node("AveragePool", "pixels", "small", kernel_shape=[8, 8], strides=[8, 8]),
        node("Flatten", "small", "flat", axis=1),
        node("Slice", "flat zero first one", "embedding"),
    ]
    ports = [port("pixels", ["batch", 3, side, side])], [port("embedding", [1, numbers])]
    return model(nodes, weights, *ports, **more)


def separator(factor: float = 1, shape: Shape = ("batch", 4, 3072, 256), **more: bytes) -> Content:
    """Outputs its input times a factor."""
    ports, weights = ([port("input", shape)], [port("output", shape)]), [tensor("factor", np.float32(factor))]
    return model([node("Mul", "input factor", "output")], weights, *ports, **more)


def deaf_separator(seed: int = 0) -> Content:
    """Two 3 x 3 convolutions with random weights: the output depends on every place and level."""
    draw = np.random.default_rng(seed).standard_normal
    weights = [tensor("first", draw((6, 4, 3, 3)) / 6), tensor("offset", draw(6))]
    weights.append(tensor("second", draw((4, 6, 3, 3)) / 7))
    nodes = [
        node("Conv", "input first offset", "one", pads=[1, 1, 1, 1]),
        node("Relu", "one", "two"),
        node("Conv", "two second", "output", pads=[1, 1, 1, 1]),
    ]
    shape = (1, 4, 3072, 256)
    return model(nodes, weights, [port("input", shape)], [port("output", shape)])
