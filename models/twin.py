"""The torch program that an ONNX file was exported from, and its partitions at a cut, as torch functions.

The program's values have the ONNX names, so a cut is found by name; where the exporter folded something away, the cut
exists in one of the two alone. Learning puts noise in front of a suffix, torch's backends time prefixes and suffixes.
A suffix that no program has, of a foreign file or at such a cut, is made from the ONNX file itself.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from ..artefacts import read_bytes
from ..errors import ModelError
from .exporting import refuse_pickles
from .from_onnx import convert
from .load import MAX_MODEL_BYTES, Model
from .session import open_session
from .spec import CutSpec
from .split import halves


def suffix_of(model: Model, cut: CutSpec) -> fx.GraphModule:
    """The part of the model behind `cut`: takes the cut's tensors float32 [batch, ...], gives logits [batch, classes].

    Parameters are frozen. It comes from the torch twin where there is one that has the cut, else from the ONNX file.
    Raises ModelError where that has an operator without a torch form, and where torch and ONNX Runtime disagree.
    """
    _ = model.spec.output  # of several outputs none is the logits
    # A half, a session and a program take a large network's weights each, so none is kept beside the next.
    feed = _random_feed(model, cut)
    expected = _answer_of_half(model, cut, feed)
    suffix = _from_twin(model, cut)
    source = "torch twin"
    if suffix is None:
        suffix, source = _from_file(model, cut), "torch form"
    _check(suffix, source, feed, expected, model, cut)
    return suffix


def _from_twin(model: Model, cut: CutSpec) -> fx.GraphModule | None:
    """None where there is no twin, or it has another form of what crosses at the cut."""
    program = None if model.twin is None or not model.twin.is_file() else load_twin(model.twin)
    names = [tensor.name for tensor in cut.tensors]
    if program is None or not values_of(program).issuperset(names):
        return None
    return partition(program, names, None, model.spec.name)


def _from_file(model: Model, cut: CutSpec) -> fx.GraphModule:
    try:
        return convert(halves(model.graph, cut)[1], model.spec.name)
    except ModelError as error:
        known = set() if model.twin is None or not model.twin.is_file() else values_of(load_twin(model.twin))
        had = [other.name for other in model.spec.cuts if known.issuperset(tensor.name for tensor in other.tensors)]
        if not had:
            raise
        raise ModelError(f"{error}; its torch program has the cuts {', '.join(had)}") from None


def load_twin(path: Path) -> Any:
    """The exported program in a file. Raises ModelError where it is damaged or holds pickles."""
    refuse_pickles(path)
    return torch.export.load(io.BytesIO(read_bytes(path, limit=MAX_MODEL_BYTES)))


def values_of(program: Any) -> set[str]:
    """Names of all values the program computes."""
    return {node.name for node in program.graph.nodes}


def partition(program: Any, given: list[str] | None, wanted: list[str] | None, model_name: str) -> fx.GraphModule:
    """What computes the values `wanted` from those `given`, as a module with frozen parameters.

    None for `given` means the program's inputs, for `wanted` its outputs. One value comes as it is, several as a tuple;
    parameters are shared with the program. Raises ModelError where the program has no such values.
    """
    source: fx.Graph = program.graph
    nodes = {node.name: node for node in source.nodes}
    missing = [name for name in [*(given or ()), *(wanted or ())] if name not in nodes]
    if missing:
        raise ModelError(f"the torch twin of {model_name} has no value {', '.join(missing)}; choose another cut")
    weights = _weights(program)
    whole = given is None
    inputs = [n.name for n in source.nodes if n.op == "placeholder" and n.name not in weights]
    graph = fx.Graph()
    entering = inputs if given is None else given
    copied: dict[fx.Node, fx.Node] = {nodes[name]: graph.placeholder(name) for name in entering}
    if not whole:
        # A flatten takes its batch size from the model's input, which stays on the edge: here it is the activation's.
        batch = graph.call_function(torch.ops.aten.sym_size.int, (next(iter(copied.values())), 0))
        copied.update({node: batch for node in source.nodes if _is_batch_size(node, source)})
    root = torch.nn.Module()

    def take(node: fx.Node) -> fx.Node:
        if node not in copied:
            if node.op == "placeholder":
                if node.name not in weights:
                    raise ModelError(f"{model_name} cannot be cut there: what follows needs its input '{node.name}'")
                root.register_buffer(node.name, weights[node.name].detach())
                copied[node] = graph.get_attr(node.name)
            else:
                copied[node] = graph.node_copy(node, take)
        return copied[node]

    output = next(node for node in source.nodes if node.op == "output")
    flat = [value for value in _flat(output.args) if isinstance(value, fx.Node)]
    results = flat if wanted is None else [nodes[name] for name in wanted]
    _copy_in_order(source, results, copied, take)
    made = tuple(copied[result] for result in results)
    graph.output(made[0] if len(made) == 1 else made)
    graph.eliminate_dead_code()
    return fx.GraphModule(root, graph).requires_grad_(False)


def _is_batch_size(node: fx.Node, source: fx.Graph) -> bool:
    """Whether a node is the size of the batch, however it is had: the only symbolic size of an exported model."""
    value = node.meta.get("val")
    if not isinstance(value, torch.SymInt):
        return False
    inputs = [other.meta.get("val") for other in source.nodes if other.op == "placeholder"]
    sizes: list[Any] = [size for tensor in inputs if isinstance(tensor, torch.Tensor) for size in tensor.shape]
    symbols = {str(size.node.expr) for size in sizes if isinstance(size, torch.SymInt)}
    return {str(value.node.expr)} == symbols


def _copy_in_order(source: fx.Graph, results: list[fx.Node], copied: dict[fx.Node, fx.Node], take: Any) -> None:
    """Copy the ancestors of `results` back to what is copied already, in execution order, without deep recursion."""
    needed: set[fx.Node] = set(results)
    for node in reversed(list(source.nodes)):
        if node in needed and node not in copied:
            needed.update(node.all_input_nodes)
    for node in source.nodes:
        if node in needed:
            take(node)


def _weights(program: Any) -> dict[str, torch.Tensor]:
    """Parameters, buffers and constants by the name of their placeholder."""
    signature = program.graph_signature
    stored = {**program.state_dict, **program.constants}
    sources = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    return {placeholder: stored[name] for placeholder, name in sources.items()}


def _flat(value: Any) -> list[Any]:
    return [leaf for part in value for leaf in _flat(part)] if isinstance(value, tuple | list) else [value]


def _answer_of_half(model: Model, cut: CutSpec, feed: dict[str, Any]) -> Any:
    session = open_session(halves(model.graph, cut)[1].SerializeToString())
    return session.run(None, feed)[0]


def _random_feed(model: Model, cut: CutSpec) -> dict[str, Any]:
    generator, batch = np.random.default_rng(0), model.spec.batch or 3
    return {t.name: generator.standard_normal((batch, *t.shape)).astype(np.float32) for t in cut.tensors}


def _check(
    suffix: fx.GraphModule, source: str, feed: dict[str, Any], expected: Any, model: Model, cut: CutSpec
) -> None:
    try:
        with torch.no_grad():
            got = suffix(*[torch.from_numpy(feed[t.name]) for t in cut.tensors]).numpy()
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(
            f"the {source} of {model.spec.name} does not run after {cut.name}; choose another cut ({cause})"
        ) from None
    difference = float(np.abs(got - expected).max()) if got.shape == expected.shape else np.inf
    if not difference <= 1e-4 * max(1.0, float(np.abs(expected).max())):
        raise ModelError(
            f"the {source} of {model.spec.name} and its ONNX file differ by {difference:.3g} after {cut.name}"
        )
