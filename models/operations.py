"""From ONNX nodes to `Operation`s: the kind of work, its floating-point operations and the values it moves.

Counts are per item of the batch. What costs nothing at run time (a reshape, a constant, arithmetic on shapes) is no
operation. They follow the operators' definitions: a multiply-add is two, a comparison one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import onnx
from onnx import helper

from .work import Kind, Operation

Shape = tuple[int, ...]
ShapeOf = Callable[[str], Shape | None]

COMPUTE = {
    "Attention",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "DeformConv",
    "Einsum",
    "GRU",
    "Gemm",
    "LSTM",
    "MatMul",
    "MatMulInteger",
    "MultiHeadAttention",
    "QLinearConv",
    "QLinearMatMul",
    "RNN",
}
"""Operators that start a layer."""
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
VIEWS = {"Flatten", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Unsqueeze", "Constant", "Dropout"}
MOVEMENT = {
    "Cast",
    "Concat",
    "ConstantOfShape",
    "DepthToSpace",
    "Expand",
    "Gather",
    "GatherElements",
    "GatherND",
    "Pad",
    "Range",
    "Resize",
    "ScatterElements",
    "ScatterND",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Tile",
    "Transpose",
    "Upsample",
    "Where",
}
POOLS: dict[str, Kind] = {
    "MaxPool": "maxpool",
    "GlobalMaxPool": "maxpool",
    "AveragePool": "avgpool",
    "GlobalAveragePool": "avgpool",
    "LpPool": "avgpool",
    "GlobalLpPool": "avgpool",
}
PER_VALUE = {"Softmax": 5, "LogSoftmax": 5, "LayerNormalization": 8, "InstanceNormalization": 8, "Gelu": 8, "Erf": 8}
"""Operations for each value of what is not one: exponentials and divisions count as one."""
PER_ITEM = ("flops", "input_elements", "output_elements", "rows")


def operation(node: onnx.NodeProto, shape_of: ShapeOf, weights: set[str], batch: int = 1) -> Operation | None:
    """The work of one node per item of the batch, or None for what costs nothing or has no known shape.

    `shape_of` gives a value's shape at that batch, `weights` are the values that do not depend on the input.
    """
    out = shape_of(next(value for value in node.output if value))
    if out is None or node.op_type in VIEWS or all(v in weights for v in node.input if v):
        return None
    data = [shape for v in node.input if v and v not in weights and (shape := shape_of(v)) is not None]
    counts: dict[str, Any] = {
        "operator": node.op_type,
        "input_elements": sum(math.prod(shape) for shape in data),
        "output_elements": sum(math.prod(shape) for v in node.output if v and (shape := shape_of(v)) is not None),
        "parameters": sum(math.prod(shape_of(v) or ()) for v in node.input if v in weights and shape_of(v)),
    }
    special = _special(node, out, data, shape_of, weights)
    counts |= special or _plain(node, out, weights)
    for name in PER_ITEM:
        if name in counts:
            counts[name] = -(-counts[name] // batch)
    return Operation.model_validate(counts)


def _special(
    node: onnx.NodeProto, out: Shape, data: list[Shape], shape_of: ShapeOf, weights: set[str]
) -> dict[str, Any] | None:
    """What a convolution, product, recurrent layer or pool adds; None for everything else and for odd shapes."""
    kind = node.op_type
    second = shape_of(node.input[1]) if len(node.input) > 1 else None
    if kind in ("Conv", "ConvInteger", "ConvTranspose", "DeformConv", "QLinearConv"):
        weight = shape_of(node.input[3]) if kind == "QLinearConv" else second
        return _conv(node, out, data, weight) if data and weight else None
    if kind in ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul") and data:
        return _product(node, out, shape_of, weights)
    if kind in GATES and second:
        return _recurrent(node, data, second)
    if kind in ("Attention", "MultiHeadAttention") and data:
        return _attention(node, out, shape_of)
    if kind == "Einsum":
        return _einsum(node, [shape for v in node.input if (shape := shape_of(v)) is not None])
    if kind in POOLS and data and len(data[0]) >= 3:
        return _pool(node, out, data[0])
    return None


def _plain(node: onnx.NodeProto, out: Shape, weights: set[str]) -> dict[str, Any]:
    kind: Kind = "elementwise"
    if node.op_type == "Gather" and node.input[0] in weights:
        kind = "embedding"
    elif node.op_type in MOVEMENT:
        kind = "movement"
    elif node.op_type in ("Softmax", "LogSoftmax"):
        kind = "softmax"
    elif node.op_type == "BatchNormalization":
        return {
            "kind": "batchnorm",
            "flops": 2 * math.prod(out),
            "input_hw": _square(out[2:]) if len(out) > 2 else None,
            "in_channels": out[1] if len(out) > 1 else None,
            "out_channels": out[1] if len(out) > 1 else None,
        }
    each = 0 if kind in ("embedding", "movement") else PER_VALUE.get(node.op_type, 1)
    return {"kind": kind, "flops": each * math.prod(out)}


def _conv(node: onnx.NodeProto, out: Shape, data: list[Shape], weight: Shape) -> dict[str, Any]:
    source, groups = data[0], int(attribute(node, "group", 1))
    spatial = len(source) - 2
    transposed = node.op_type == "ConvTranspose"
    depthwise = groups > 1 and groups == source[1] == out[1] and not transposed
    return {
        "kind": "depthwise_conv" if depthwise else "conv",
        "flops": 2 * math.prod(source if transposed else out) * math.prod(weight[1:]),
        "input_hw": _square(source[2:]),
        "in_channels": source[1],
        "out_channels": out[1],
        "kernel": _square(weight[2:]),
        "stride": _square(attribute(node, "strides", [1] * spatial)),
        "groups": groups,
    }


def _product(node: onnx.NodeProto, out: Shape, shape_of: ShapeOf, weights: set[str]) -> dict[str, Any] | None:
    factors = [node.input[place] for place in ((0, 3) if node.op_type == "QLinearMatMul" else (0, 1))]
    left, right = (shape_of(value) for value in factors)
    if not left or not right or not out:
        return None
    inner = left[0] if node.op_type == "Gemm" and attribute(node, "transA", 0) else left[-1]
    columns = out[-1] if len(right) > 1 else 1
    if factors[0] in weights and len(left) > 1:  # weights on the left: their rows are the features made
        columns = out[-2] if len(right) > 1 else out[-1]
    return {
        "kind": "linear" if any(value in weights for value in factors) else "matmul",
        "flops": 2 * math.prod(out) * inner,
        "in_channels": inner,
        "out_channels": columns,
        "rows": max(1, math.prod(out) // max(1, columns)),
    }


def _recurrent(node: onnx.NodeProto, data: list[Shape], weight: Shape) -> dict[str, Any] | None:
    if len(weight) != 3 or not data or len(data[0]) != 3:
        return None
    directions, gated, features = weight
    hidden = gated // GATES[node.op_type]
    # The sequence and the batch, in either order (the attribute `layout`).
    steps = math.prod(data[0][:2])
    return {
        "kind": "recurrent",
        "flops": 2 * steps * directions * gated * (features + hidden),
        "in_channels": features,
        "out_channels": directions * hidden,
        "rows": steps,
    }


def _attention(node: onnx.NodeProto, out: Shape, shape_of: ShapeOf) -> dict[str, Any] | None:
    """Two products of the queries with every key: scores, and the values they weigh. Earlier keys may be given."""
    queries, keys = shape_of(node.input[0]), shape_of(node.input[1]) if len(node.input) > 1 else None
    if queries is None or keys is None or len(keys) < 2 or len(out) < 2:
        return None
    earlier = shape_of(node.input[4]) if node.op_type == "Attention" and len(node.input) > 4 else None
    positions = keys[-2] + (earlier[-2] if earlier else 0)
    flops = 2 * positions * (math.prod(queries) + math.prod(out))
    return {"kind": "matmul", "flops": flops, "rows": out[0] * out[-2]}


def _einsum(node: onnx.NodeProto, shapes: Sequence[Shape]) -> dict[str, Any] | None:
    terms = str(attribute(node, "equation", b"").decode()).replace(" ", "").split("->")[0].split(",")
    if "..." in "".join(terms) or [len(t) for t in terms] != [len(s) for s in shapes]:
        return None
    pairs = zip("".join(terms), [size for shape in shapes for size in shape], strict=True)
    sizes = dict(pairs)
    return {"kind": "matmul", "flops": 2 * math.prod(sizes.values())}


def _pool(node: onnx.NodeProto, out: Shape, source: Shape) -> dict[str, Any]:
    spatial = source[2:]
    kernel = spatial if node.op_type.startswith("Global") else attribute(node, "kernel_shape", [1] * len(spatial))
    return {
        "kind": POOLS[node.op_type],
        "flops": math.prod(out) * math.prod(kernel),
        "input_hw": _square(spatial),
        "in_channels": source[1],
        "out_channels": out[1],
        "kernel": _square(kernel),
        "stride": _square(attribute(node, "strides", [1] * len(spatial))),
    }


def _square(sizes: Sequence[int]) -> tuple[int, int]:
    """Any number of spatial sizes as (height, width): one is a width, a third multiplies the first."""
    padded = [1, 1, *(int(size) for size in sizes)]
    return math.prod(padded[:-1]), padded[-1]


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default
