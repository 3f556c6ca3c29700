"""Small constants that a graph computes for itself, computed once: exporters write the pads of a Pad as eight nodes.

Shape inference looks through few operators. A size or a pad that is a plain constant it always understands, so that
more values have a known shape, and a model more cuts. Large weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

LARGEST = 1024
"""Values of a tensor that is still folded; sizes, pads and masks have far fewer."""
LARGEST_FLOAT = 8
"""Of floating-point ones, which may as well be weights: the scales of a Resize have four."""


def fold(proto: onnx.ModelProto, left: Collection[str]) -> None:
    """Replace nodes whose inputs are small initialisers by their results, in place; `left` are operators that stay.

    What onnx's reference implementation cannot compute stays, too.
    """
    graph = proto.graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if _small(tensor)}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        made = _run(node, known, proto) if node.op_type not in left and _all_known(node, known) else None
        if made is None:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        known.update(made)
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in made.items())
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _small(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor is small and its values are in place: a skeleton's large ones lie elsewhere."""
    in_place = tensor.data_location != onnx.TensorProto.EXTERNAL
    return in_place and int(np.prod(tensor.dims, dtype=np.int64)) <= LARGEST


def _all_known(node: onnx.NodeProto, known: Collection[str]) -> bool:
    given = [value for value in node.input if value]
    return bool(given) and all(value in known for value in given)


def _run(
    node: onnx.NodeProto, known: dict[str, npt.NDArray[np.generic]], proto: onnx.ModelProto
) -> dict[str, npt.NDArray[np.generic]] | None:
    given = {value: known[value] for value in node.input if value}
    outputs = [value for value in node.output if value]
    inputs = [
        helper.make_tensor_value_info(value, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for value, array in given.items()
    ]
    graph = helper.make_graph([node], "constant", inputs, [onnx.ValueInfoProto(name=value) for value in outputs])
    try:
        model = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
        made = [np.asarray(value) for value in ReferenceEvaluator(model).run(outputs, given)]
    except Exception:  # whatever a reference implementation raises: the runtime will compute the node
        return None
    return dict(zip(outputs, made, strict=True)) if all(map(_worth_folding, made)) else None


def _worth_folding(value: npt.NDArray[np.generic]) -> bool:
    whole = np.issubdtype(value.dtype, np.integer) or value.dtype == np.bool_
    return value.size <= (LARGEST if whole else LARGEST_FLOAT)
