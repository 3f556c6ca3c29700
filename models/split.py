"""Cutting a model in two: an edge half that ends at the activation and a cloud half that starts there.

Both halves are ordinary ONNX models with the whole model's tensor names. Nothing but the computation is copied:
no metadata, no documentation, no source locations, so that the cloud half tells nothing of the plan or the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from ..errors import ModelError
from .graph import ModelGraph
from .session import open_session, random_feed
from .spec import CutSpec, TensorSpec

BATCH = "batch"


def halves(graph: ModelGraph, cut: CutSpec) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The edge half and the cloud half of a model at a cut, with a dynamic batch."""
    wanted = {tensor.name for tensor in cut.tensors}
    prefix = _ancestors(graph, wanted, stop=set())
    suffix = _ancestors(graph, {graph.output.name}, stop=wanted)
    edge = _model(graph, prefix, [graph.input], cut.tensors)
    cloud = _model(graph, suffix, cut.tensors, [graph.output])
    return edge, cloud


def _ancestors(graph: ModelGraph, wanted: set[str], stop: set[str]) -> list[onnx.NodeProto]:
    """The nodes that make `wanted`, in execution order, taking the tensors in `stop` as given."""
    needed, kept = set(wanted), []
    for node in reversed(graph.nodes):
        if needed & set(node.output):
            kept.append(node)
            needed.update(value for value in node.input if value not in stop)
    return kept[::-1]


def _model(
    graph: ModelGraph,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> onnx.ModelProto:
    used = {value for node in nodes for value in node.input}
    constant_nodes = [n for n in graph.proto.graph.node if n.op_type == "Constant" and n.output[0] in used]
    bare = [_bare(node) for node in [*constant_nodes, *nodes]]
    made = helper.make_graph(
        bare,
        "partition",
        [_value(spec) for spec in inputs],
        [_value(spec) for spec in outputs],
        initializer=[_bare_tensor(tensor) for name, tensor in graph.initializers.items() if name in used],
    )
    model = helper.make_model(made, opset_imports=list(graph.proto.opset_import))
    model.ir_version = graph.proto.ir_version
    return model


def _bare(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("doc_string")
    copy.ClearField("metadata_props")
    for attribute in copy.attribute:
        attribute.ClearField("doc_string")
        if attribute.HasField("t"):
            attribute.t.CopyFrom(_bare_tensor(attribute.t))
    return copy


def _bare_tensor(tensor: onnx.TensorProto) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.ClearField("doc_string")
    copy.ClearField("metadata_props")
    return copy


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(spec.name, kind, [BATCH, *spec.shape])


def with_uint8_input(graph: ModelGraph) -> onnx.ModelProto:
    """The whole model behind `input = pixel * scale + offset`, taking uint8: what a careful cloud-only user runs.

    Raises ModelError where the model does not say how pixels become its input.
    """
    pixels = graph.spec().pixels
    if pixels is None:
        raise ModelError(f"model {graph.name} does not say how pixels become its input, so it has no uint8 form")
    source = graph.input.model_copy(update={"name": "pixels", "dtype": "uint8"})
    shape = [-1 if len(pixels.scale) > 1 else 1] + [1] * (len(graph.input.shape) - 1)
    scale = np.asarray(pixels.scale, np.float32).reshape(shape)
    offset = np.asarray(pixels.offset, np.float32).reshape(shape)
    front = [
        helper.make_node("Cast", ["pixels"], ["pixels_float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels_float", "pixel_scale"], ["pixels_scaled"]),
        helper.make_node("Add", ["pixels_scaled", "pixel_offset"], [graph.input.name]),
    ]
    model = _model(graph, [*front, *graph.nodes], [source], [graph.output])
    model.graph.initializer.append(onnx.numpy_helper.from_array(scale, "pixel_scale"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(offset, "pixel_offset"))
    return model


def check_split(whole: bytes, edge: bytes, cloud: bytes, name: str, tolerance: float = 1e-4) -> float:
    """Run both halves and the whole on random inputs, batch 1 and 3; return the largest difference found.

    Raises ModelError when they differ by more than `tolerance` of the output's largest finite magnitude, and when one
    of them cannot run.
    """
    whole_session, edge_session, cloud_session = (open_session(model) for model in (whole, edge, cloud))
    crossing = [value.name for value in edge_session.get_outputs()]
    worst = 0.0
    for batch in (1, 3):
        feed = random_feed(whole_session, batch, seed=batch)
        expected = _run(whole_session, None, feed, f"the whole model of {name}")[0]
        activations = _run(edge_session, crossing, feed, f"the edge half of {name}")
        alone = [tensor for tensor, value in zip(crossing, activations, strict=True) if value.shape[:1] != (batch,)]
        if alone:
            raise ModelError(f"{name} sends '{alone[0]}', whose first dimension is not the batch; choose another cut")
        given = dict(zip(crossing, activations, strict=True))
        got = _run(cloud_session, None, given, f"the cloud half of {name}")[0]
        if got.shape != expected.shape:
            raise ModelError(f"the two halves of {name} give {got.shape} for {expected.shape}; do not deploy them")
        difference = _difference(got, expected)
        finite = np.abs(expected[np.isfinite(expected)])
        if not difference <= tolerance * max(1.0, float(finite.max(initial=0.0))):
            raise ModelError(
                f"the two halves of {name} differ from the whole model by {difference:.3g}; do not deploy them"
            )
        worst = max(worst, difference)
    return worst


def _run(session: Any, wanted: list[str] | None, feed: dict[str, Any], what: str) -> list[npt.NDArray[Any]]:
    batch = len(next(iter(feed.values())))
    try:
        outputs: list[npt.NDArray[Any]] = session.run(wanted, feed)
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise ModelError(
            f"{what} does not run on a batch of {batch}; export it with a dynamic batch dimension "
            f"({str(error).splitlines()[0][:200]})"
        ) from None
    return outputs


def _difference(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The largest difference; equal infinities and NaN in the same places count as equal."""
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        return float(np.where(same, 0.0, np.abs(got - expected)).max(initial=0.0))
