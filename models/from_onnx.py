"""A torch network from an ONNX graph, for models that were not exported here: so that noise can be learned for any.

The operators it knows are `torch_operators.OPERATORS`; another one is refused by name. What depends on the file alone
is computed once, here. Whoever converts compares the network with ONNX Runtime, as `twin.suffix_of` does.
"""

from __future__ import annotations

import functools
import inspect
import operator as python
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import fx

from ..errors import ModelError
from .torch_operators import OPERATORS
from .torch_windows import Refused

OLDEST_OPSET = 7
"""Before it, arithmetic broadcast in another way."""


def convert(proto: onnx.ModelProto, name: str) -> fx.GraphModule:
    """The graph as a module: takes the graph's inputs in order, gives its outputs, one as it is, several as a tuple.

    Everything learned is a buffer without gradient; gradients flow to the inputs. `name` is the model's, for messages.
    Raises ModelError where the graph has an operator, an attribute or a type that is not known here.
    """
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise ModelError(
            f"{name} is of ONNX opset {opset}, and noise can be learned from {OLDEST_OPSET} on; convert it with "
            "onnx.version_converter, or export it again"
        )
    network = _Network(proto.graph, name, opset)
    for node in proto.graph.node:
        network.add(node)
    return network.finish([value.name for value in proto.graph.output])


def run(operator: str, place: str, *inputs: Any, **attributes: Any) -> Any:
    """Compute one operator; `place` is its node's name."""
    try:
        return OPERATORS[operator](*inputs, **attributes)
    except Refused as error:
        raise ModelError(f"noise cannot be learned through {operator} at '{place}': {error}") from None


class _Network:
    """A module in the making: `known` has the values that depend on the file alone, `nodes` all the others."""

    def __init__(self, graph: onnx.GraphProto, name: str, opset: int) -> None:
        self.name, self.opset = name, opset
        self.root, self.graph = torch.nn.Module(), fx.Graph()
        self.nodes = {value.name: self.graph.placeholder(f"input_{i}") for i, value in enumerate(graph.input)}
        self.known = {tensor.name: self.tensor(tensor) for tensor in graph.initializer}

    def tensor(self, stored: onnx.TensorProto) -> torch.Tensor:
        try:
            return torch.from_numpy(np.array(onnx.numpy_helper.to_array(stored)))
        except TypeError:  # NumPy has no such numbers of its own, or torch has none
            raise ModelError(
                f"{self.name} stores '{stored.name}' in a type that noise cannot be learned through; export it in "
                "float32"
            ) from None

    def add(self, node: onnx.NodeProto) -> None:
        """Append what a node computes."""
        made = [value for value in node.output if value]
        if node.op_type == "Constant":
            self.known[made[0]] = self.constant(node)
            return
        attributes = self.attributes(node)
        given = [value for value in node.input if value]
        if all(value in self.known for value in given):
            inputs = [self.known[value] if value else None for value in node.input]
            with torch.no_grad():
                results = run(node.op_type, node.name, *inputs, **attributes)
            self.known.update(zip(made, results if isinstance(results, tuple) else [results], strict=False))
            return
        integral = _integral(OPERATORS[node.op_type])
        inputs = [
            self.value(value, node, place in integral) if value else None for place, value in enumerate(node.input)
        ]
        result = self.graph.call_function(run, (node.op_type, node.name, *inputs), attributes)
        if node.op_type == "Split":
            for index, value in enumerate(node.output):
                self.nodes[value] = self.graph.call_function(python.getitem, (result, index))
        else:  # no other operator's further outputs, as a pool's indices, are made
            self.nodes[node.output[0]] = result

    def attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """A node's attributes as its function takes them."""
        function = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if function is None:
            raise ModelError(
                f"noise cannot be learned through the operator {node.op_type} of {self.name} (node '{node.name}'), "
                "of which edgecut has no torch form; choose a cut behind it, or give the torch model itself"
            )
        attributes = {attribute.name: self.attribute(attribute) for attribute in node.attribute}
        taken = _parameters(function)
        strange = [name for name in attributes if name not in taken]
        if strange:
            raise ModelError(
                f"noise cannot be learned through {node.op_type} of {self.name} (node '{node.name}') with the "
                f"attribute '{strange[0]}'; choose a cut behind it, or export the model again"
            )
        given = {"opset": self.opset, "outputs": len(node.output)}
        return attributes | {name: value for name, value in given.items() if name in taken}

    def attribute(self, attribute: onnx.AttributeProto) -> Any:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            stored = self.tensor(value)
            return (stored.item(), stored.dtype)
        if isinstance(value, bytes):
            return value.decode()
        return tuple(value) if isinstance(value, list | tuple) else value

    def constant(self, node: onnx.NodeProto) -> torch.Tensor:
        attribute = node.attribute[0]
        value = helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            return self.tensor(value)
        dtype = torch.float32 if attribute.name.startswith("value_float") else torch.int64
        if not attribute.name.startswith(("value_float", "value_int")):
            raise ModelError(
                f"noise cannot be learned through the {attribute.name} at '{node.name}' of {self.name}; export it again"
            )
        return torch.tensor(value, dtype=dtype)

    def value(self, name: str, node: onnx.NodeProto, integral: bool = False) -> Any:
        """What stands for a value in the graph: plain numbers where sizes are wanted, a buffer, or its node."""
        if name in self.nodes:
            return self.nodes[name]
        if name not in self.known:
            raise ModelError(
                f"{self.name} cannot be turned into a torch network: {node.op_type} (node '{node.name}') needs "
                f"'{name}', which is neither sent nor computed by any operator that is known; choose another cut"
            )
        stored = self.known[name]
        if integral:
            return tuple(stored.reshape(-1).tolist())
        buffer = f"stored_{len(list(self.root.buffers()))}"
        self.root.register_buffer(buffer, stored)
        self.nodes[name] = self.graph.get_attr(buffer)
        return self.nodes[name]

    def finish(self, outputs: list[str]) -> fx.GraphModule:
        """The module, without what none of its outputs needs."""
        last = onnx.NodeProto(op_type="the output")
        made = tuple(self.value(output, last) for output in outputs)
        self.graph.output(made[0] if len(made) == 1 else made)
        self.graph.eliminate_dead_code()
        return fx.GraphModule(self.root, self.graph).requires_grad_(False)


@functools.cache
def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except ValueError:  # torch's own functions, all of them without attributes
        return {}


@functools.cache
def _integral(function: Any) -> set[int]:
    """The places of inputs that hold sizes or places."""
    return {place for place, p in enumerate(_parameters(function).values()) if p.annotation == "Ints"}
