"""An edge model in float16: float32 goes in and comes out, between them all is computed and kept in half precision.

`to_float16` makes it, by ONNX Runtime's own converter, for the device. On a processor ONNX Runtime runs most of its
operators in float32 and leaves the rounding between them out, so what it gives there says nothing of float16.
`as_in_float16` is for that: a float32 model that rounds its weights, its input and every operator's outputs to float16,
as a GPU does that keeps halves and sums products in float32.

float16 ends at 65504: a weight beyond that would be cut off there without a word, so such a model is refused;
activations beyond it become infinite, which whoever runs the model checks.
"""

from __future__ import annotations

import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from ..errors import DeviceError, ModelError

LARGEST = float(np.finfo(np.float16).max)
TOLERANCE = 0.05
"""How far the answer of the halves may be off with a float16 edge, as a share of the largest logit."""


def to_float16(model: bytes, name: str) -> bytes:
    """The model called `name` with float32 inputs and outputs and float16 in between.

    Raises ModelError for weights beyond float16 and for what the converter refuses, DeviceError without ONNX Runtime.
    """
    try:
        from onnxruntime.transformers import float16
    except ImportError as error:
        raise DeviceError(
            f"float16 needs ONNX Runtime's converter ({error}); install edgecut[cpu] or edgecut[gpu]"
        ) from None
    proto = onnx.load_model_from_string(model)
    _check_weights(proto, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values too small for float16 become the smallest one
            converted = float16.convert_float_to_float16(proto, keep_io_types=True)
    except Exception as error:  # the converter and shape inference raise several unrelated types
        raise ModelError(
            f"{name} cannot be converted to float16 ({type(error).__name__}: {str(error)[:200]}); bundle it with "
            "--precision float32"
        ) from None
    for node in converted.graph.node:
        node.ClearField("doc_string")
    raw: bytes = converted.SerializeToString(deterministic=True)
    return raw


def as_in_float16(model: bytes, name: str) -> bytes:
    """A float32 model that computes what its float16 form would, for a processor. Raises ModelError as `to_float16`."""
    proto = shape_inference.infer_shapes(onnx.load_model_from_string(model))
    _check_weights(proto, name)
    graph = proto.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            halves = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(halves.astype(np.float32), tensor.name))
    values = [*graph.input, *graph.value_info, *graph.output]
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    weights = {tensor.name for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    given = {value.name: f"{value.name}/rounded" for value in graph.input if value.name in floats - weights}
    for value, rounded in given.items():
        nodes += _rounding(value, rounded)
    for node in graph.node:
        inputs = [given.get(value, value) for value in node.input]
        del node.input[:]
        node.input.extend(inputs)
        nodes.append(node)
        for place, value in enumerate(node.output):
            if value in floats:
                node.output[place] = f"{value}/exact"
                nodes += _rounding(f"{value}/exact", value)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    del graph.value_info[:]
    raw: bytes = proto.SerializeToString(deterministic=True)
    return raw


def _rounding(value: str, rounded: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", [value], [f"{value}/half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [f"{value}/half"], [rounded], to=TensorProto.FLOAT),
    ]


def _check_weights(proto: onnx.ModelProto, name: str) -> None:
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            if values.size and not np.abs(values).max() <= LARGEST:
                raise ModelError(
                    f"'{tensor.name}' of {name} holds values beyond {LARGEST:.0f}, the largest float16; bundle it with "
                    "--precision float32"
                )
