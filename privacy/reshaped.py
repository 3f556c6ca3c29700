"""A classifier of other labels in the cloud partition's shape: its weights as training left them, a fresh last layer.

Learning works against one (equation 5's third term), and an audit lets one attack.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import fx, nn

from .cloud import LINEAR, operation

aten = torch.ops.aten
LAST = ("fresh_weight", "fresh_bias")


def reshaped(cloud: fx.GraphModule, shapes: Sequence[tuple[int, ...]], classes: int) -> fx.GraphModule | None:
    """The partition with all its weights free, up to its last product, then a linear layer to `classes` logits.

    `shapes` are those of the tensors that it takes, without the batch. None where its last layer is neither a product
    nor a convolution.
    """
    made = copy.deepcopy(cloud)
    output = next(node for node in made.graph.nodes if node.op == "output")
    found = _last_product(output)
    if found is None:
        return None
    features = found.args[LINEAR[operation(found)]]
    assert isinstance(features, fx.Node)
    output.args = (features,)
    _trim(made)
    for node in made.graph.nodes:
        if node.op == "call_function" and operation(node) in LINEAR:
            for name in {str(value.target) for value in node.all_input_nodes if value.op == "get_attr"}:
                _free(made, name)
    with torch.no_grad():
        width = made(*(torch.zeros(2, *shape) for shape in shapes)).flatten(1).shape[1]
    for name, value in zip(LAST, nn.Linear(width, classes).parameters(), strict=True):
        made.register_parameter(name, value)
    with made.graph.inserting_before(output):
        flat = made.graph.call_function(aten.flatten.using_ints, (features, 1))
        output.args = (made.graph.call_function(aten.linear.default, (flat, *map(made.graph.get_attr, LAST))),)
    _trim(made)
    return made


def _trim(module: fx.GraphModule) -> None:
    module.graph.eliminate_dead_code()
    module.recompile()


def _last_product(output: fx.Node) -> fx.Node | None:
    """The linear operation nearest to the output, going back over what has a single computed input."""
    node = output
    while True:
        before = [value for value in node.all_input_nodes if value.op == "call_function"]
        if len(before) != 1:
            return None
        node = before[0]
        if operation(node) in LINEAR:
            data = node.args[LINEAR[operation(node)]]
            return node if isinstance(data, fx.Node) and data.op != "get_attr" else None


def _free(module: fx.GraphModule, name: str) -> None:
    """Make a stored weight one that is trained, where it is not yet."""
    if name in module._buffers:
        kept = module._buffers.pop(name)
        assert kept is not None
        if kept.is_floating_point():
            module.register_parameter(name, nn.Parameter(kept.clone()))
        else:
            module.register_buffer(name, kept)
    elif name in module._parameters:
        module.get_parameter(name).requires_grad_(True)
