"""Cutting a model in two: an edge half that ends at the activation and a cloud half that starts there.

Both halves are ordinary ONNX models with the whole model's tensor names. Nothing but the computation is copied:
no metadata, no documentation, no source locations, so that the cloud half tells nothing of the plan or the noise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
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
Source = bytes | str | os.PathLike[str]


def halves(graph: ModelGraph, cut: CutSpec) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The edge half and the cloud half of a model at a cut, weights included.

    Raises ModelError where a half has more than 2 GB.
    """
    edge, cloud = partitions(graph, cut)
    return graph.weights.embed(edge), graph.weights.embed(cloud)


def partitions(graph: ModelGraph, cut: CutSpec) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The two halves as skeletons, their weights left in `graph.weights`."""
    wanted = {tensor.name for tensor in cut.tensors}
    prefix = _ancestors(graph, wanted, stop=set())
    suffix = _ancestors(graph, {spec.name for spec in graph.outputs}, stop=wanted)
    edge = _model(graph, prefix, graph.inputs, cut.tensors)
    cloud = _model(graph, list(_resized(graph, suffix, cut.tensors[0].name)), cut.tensors, graph.outputs)
    return edge, cloud


def whole(graph: ModelGraph) -> onnx.ModelProto:
    """The whole model as a skeleton, bare like its halves."""
    return _model(graph, graph.nodes, graph.inputs, graph.outputs)


def _ancestors(graph: ModelGraph, wanted: set[str], stop: set[str]) -> list[onnx.NodeProto]:
    """The nodes that make `wanted`, in execution order, taking the tensors in `stop` as given.

    Where something is given, sizes are taken from that, and not from what lies before it.
    """
    needed, kept = set(wanted), []
    for node in reversed(graph.nodes):
        if needed & set(node.output):
            kept.append(node)
            if not (stop and _takes_size(graph, node)):
                needed.update(value for value in node.input if value and value not in stop)
    return kept[::-1]


def _takes_size(graph: ModelGraph, node: onnx.NodeProto) -> bool:
    return node.op_type == "Shape" and node.output[0] in graph.sizes and node.input[0] not in graph.constants


def _resized(graph: ModelGraph, nodes: Sequence[onnx.NodeProto], given: str) -> Iterator[onnx.NodeProto]:
    """`nodes` with every shape taken from the given tensor's batch, the only size that is not fixed."""
    for node in nodes:
        if not _takes_size(graph, node):
            yield node
            continue
        sizes = [-1, *graph.tensors[node.input[0]].shape]
        start, end = (_bound(node, name, default, len(sizes)) for name, default in (("start", 0), ("end", len(sizes))))
        wanted, name = sizes[start:end], node.output[0]
        parts = []
        if wanted[:1] == [-1]:
            yield helper.make_node("Shape", [given], [f"{name}/given"])
            yield _constant(f"{name}/first", [0])
            yield helper.make_node("Gather", [f"{name}/given", f"{name}/first"], [f"{name}/batch"], axis=0)
            parts, wanted = [f"{name}/batch"], wanted[1:]
        if wanted or not parts:
            yield _constant(f"{name}/fixed", wanted)
            parts.append(f"{name}/fixed")
        yield helper.make_node("Concat", parts, [name], axis=0)


def _bound(node: onnx.NodeProto, name: str, default: int, rank: int) -> int:
    value = next((attribute.i for attribute in node.attribute if attribute.name == name), default)
    return max(0, min(rank, value + rank if value < 0 else value))


def _constant(name: str, values: Sequence[int]) -> onnx.NodeProto:
    tensor = helper.make_tensor(name, onnx.TensorProto.INT64, [len(values)], values)
    return helper.make_node("Constant", [], [name], value=tensor)


def _model(
    graph: ModelGraph,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> onnx.ModelProto:
    used = {value for node in nodes for value in node.input}
    constant_nodes = [n for n in graph.proto.graph.node if n.op_type == "Constant" and n.output[0] in used]
    bare = [_bare(node) for node in [*constant_nodes, *nodes]]
    batch = graph.batch or BATCH
    made = helper.make_graph(
        bare,
        "partition",
        [_value(spec, batch) for spec in inputs],
        [_value(spec, batch) for spec in outputs],
        initializer=[_bare_tensor(tensor) for name, tensor in graph.initializers.items() if name in used],
    )
    model = helper.make_model(made, opset_imports=list(graph.proto.opset_import))
    # Before version 4 every weight had to be an input, too.
    model.ir_version = max(4, graph.proto.ir_version)
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


def _value(spec: TensorSpec, batch: str | int) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(spec.name, kind, [batch, *spec.shape])


def with_uint8_input(graph: ModelGraph) -> onnx.ModelProto:
    """The whole model behind `input = pixel * scale + offset`, taking uint8: what a careful cloud-only user runs.

    Raises ModelError where the model does not say how pixels become its input.
    """
    spec = graph.spec()
    pixels = spec.pixels
    if pixels is None:
        raise ModelError(f"model {graph.name} does not say how pixels become its input, so it has no uint8 form")
    source = spec.input.model_copy(update={"name": "pixels", "dtype": "uint8"})
    shape = [-1 if len(pixels.scale) > 1 else 1] + [1] * (len(source.shape) - 1)
    scale = np.asarray(pixels.scale, np.float32).reshape(shape)
    offset = np.asarray(pixels.offset, np.float32).reshape(shape)
    front = [
        helper.make_node("Cast", ["pixels"], ["pixels_float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels_float", "pixel_scale"], ["pixels_scaled"]),
        helper.make_node("Add", ["pixels_scaled", "pixel_offset"], [spec.input.name]),
    ]
    model = graph.weights.embed(_model(graph, [*front, *graph.nodes], [source], graph.outputs))
    model.graph.initializer.append(onnx.numpy_helper.from_array(scale, "pixel_scale"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(offset, "pixel_offset"))
    return model


Run = tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]
BATCHES = (1, 3)
"""What a model with an open batch is tried on."""


def check_split(whole: Source, edge: Source, cloud: Source, name: str, tolerance: float = 1e-4) -> float:
    """Run both halves and the whole on random inputs, batch 1 and 3; return the largest difference found.

    Raises ModelError when they differ by more than `tolerance` of the output's largest finite magnitude, and when one
    of them cannot run.
    """
    return check_halves(reference_runs(whole, name), edge, cloud, name, tolerance)


def reference_runs(whole: Source, name: str, inputs: Sequence[TensorSpec] = ()) -> list[Run]:
    """Random inputs and the whole model's outputs for them, to check any number of cuts against.

    `inputs` bounds whole numbers. A model with a fixed batch is run on that one alone.
    """
    session = open_session(whole)
    fixed = session.get_inputs()[0].shape[0]
    runs = []
    for batch in (fixed,) if isinstance(fixed, int) else BATCHES:
        feed = random_feed(session, batch, seed=batch, inputs=inputs)
        runs.append((feed, _run(session, feed, f"the whole model of {name}")))
    return runs


def one_by_one(run: Run) -> list[Run]:
    """A run of several items as runs of one."""
    count = len(next(iter(run[0].values())))
    pairs = [[{name: value[i : i + 1] for name, value in part.items()} for part in run] for i in range(count)]
    return [(given, expected) for given, expected in pairs]


def check_halves(runs: Sequence[Run], edge: Source, cloud: Source, name: str, tolerance: float = 1e-4) -> float:
    """Run both halves on the same inputs as the whole; see `check_split`."""
    edge_session, cloud_session = open_session(edge), open_session(cloud)
    worst = 0.0
    for feed, expected in runs:
        batch = len(next(iter(feed.values())))
        given = _run(edge_session, feed, f"the edge half of {name}")
        alone = [tensor for tensor, value in given.items() if value.shape[:1] != (batch,)]
        if alone:
            raise ModelError(f"{name} sends '{alone[0]}', whose first dimension is not the batch; choose another cut")
        got = _run(cloud_session, given, f"the cloud half of {name}")
        worst = max([worst, *(_compared(got[value], right, name, tolerance) for value, right in expected.items())])
    return worst


def _compared(got: npt.NDArray[Any], expected: npt.NDArray[Any], name: str, tolerance: float) -> float:
    if got.shape != expected.shape:
        raise ModelError(f"the two halves of {name} give {got.shape} for {expected.shape}; do not deploy them")
    difference = _difference(got, expected)
    finite = np.abs(expected[np.isfinite(expected)])
    if not difference <= tolerance * max(1.0, float(finite.max(initial=0.0))):
        raise ModelError(
            f"the two halves of {name} differ from the whole model by {difference:.3g}; do not deploy them"
        )
    return difference


def _run(session: Any, feed: dict[str, npt.NDArray[Any]], what: str) -> dict[str, npt.NDArray[Any]]:
    # An input that no node needs is none of a session's.
    wanted = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    try:
        outputs = session.run(names, {name: value for name, value in feed.items() if name in wanted})
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise ModelError(
            f"{what} does not run on a batch of {len(next(iter(feed.values())))}; export it with a dynamic batch "
            f"dimension ({str(error).splitlines()[0][:200]})"
        ) from None
    return dict(zip(names, outputs, strict=True))


def _difference(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The largest difference; equal infinities and NaN in the same places count as equal."""
    if got.dtype.kind in "biu":  # a difference of bytes or truth values would not be one of numbers
        got, expected = got.astype(np.float64), expected.astype(np.float64)
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        return float(np.where(same, 0.0, np.abs(got - expected)).max(initial=0.0))
