"""The cloud partition as learning needs it: a linear head, which noise passes on its own, and the rest.

    head(a + n) = head(a) + (head(n) - head(0))

Where the partition starts with a product or a convolution, head(a) is computed once for every item, and head(n) once
for a whole batch that shares n, so that the first layer costs next to nothing; for AlexNet that layer is most of the
work. Where it does not, the head is the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..models.from_onnx import run
from ..models.spec import CutSpec

aten = torch.ops.aten
LINEAR: dict[Any, int] = {
    aten.linear.default: 0,
    aten.conv1d.default: 0,
    aten.conv2d.default: 0,
    aten.convolution.default: 0,
    aten.mm.default: 0,
    aten.matmul.default: 0,
    aten.addmm.default: 1,
    "Conv": 2,
    "Gemm": 2,
    "MatMul": 2,
}
"""What is linear in one of its arguments, and which that is; the others must be constants. Words are ONNX's names."""
SHAPING: set[Any] = {
    aten.alias.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.reshape.default,
    aten.squeeze.dims,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view.default,
    "Flatten",
    "Identity",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
SIZE = aten.sym_size.int
WIDEST = 2
"""A head that makes more than so many values of one is left out: its results would have to be kept for every item."""

Tensors = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Cloud:
    """`head`: flat activations [batch, n] to [batch, width]; `rest`: those to logits [batch, classes]."""

    head: Tensors
    rest: Tensors
    width: int
    hoisted: bool

    def of_noise(self, noise: torch.Tensor) -> torch.Tensor:
        """What noise [count, n] adds to the head's results, [count, width]."""
        if not self.hoisted:
            return noise
        return self.head(noise) - self.head(torch.zeros_like(noise[:1]))

    def logits(self, flat: torch.Tensor) -> torch.Tensor:
        """The whole partition on flat activations [batch, n]."""
        return self.rest(self.head(flat))


def cloud_of(suffix: torch.nn.Module, cut: CutSpec) -> Cloud:
    """A partition in two, its head linear where that is possible and worth it."""
    parts = _split(suffix) if len(cut.tensors) == 1 and isinstance(suffix, fx.GraphModule) else None
    if parts is not None:
        head, rest = parts
        shape = cut.tensors[0].shape
        with torch.no_grad():
            made = head(torch.zeros(1, *shape)).shape[1:]
        if made.numel() <= WIDEST * cut.elements:
            return Cloud(
                head=lambda flat: head(flat.unflatten(1, shape)).flatten(1),
                rest=lambda flat: rest(flat.unflatten(1, made)),
                width=made.numel(),
                hoisted=True,
            )
    return Cloud(
        head=lambda flat: flat, rest=lambda flat: suffix(*tensors_of(flat, cut)), width=cut.elements, hoisted=False
    )


def tensors_of(flat: torch.Tensor, cut: CutSpec) -> list[torch.Tensor]:
    """Flat activations [batch, n] as the cut's tensors."""
    parts = flat.split([tensor.elements for tensor in cut.tensors], dim=1)
    return [part.unflatten(1, tensor.shape) for part, tensor in zip(parts, cut.tensors, strict=True)]


def bytes_per_item(cloud: Cloud) -> int:
    """What autograd keeps for one more item in a batch, in the rest of the partition."""
    kept = [0]

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[0] += tensor.numel() * tensor.element_size()
        return tensor

    sizes = []
    for batch in (1, 3):
        kept[0] = 0
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            cloud.rest(torch.zeros(batch, cloud.width, requires_grad=True))
        sizes.append(kept[0])
    return max(4 * cloud.width, (sizes[1] - sizes[0]) // 2)


def _split(suffix: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule] | None:
    """Modules up to the first linear operation and behind it, or None where something else comes first."""
    start = next(node for node in suffix.graph.nodes if node.op == "placeholder")
    node = start
    while True:
        users = [user for user in node.users if user.target is not SIZE]
        if len(users) != 1 or users[0].op != "call_function":
            return None
        after = users[0]
        what = operation(after)
        if what in LINEAR:
            place = LINEAR[what]
            others = [other for other in after.all_input_nodes if other is not node]
            if after.args[place] is not node or any(other.op != "get_attr" for other in others):
                return None
            return _module(suffix, [start], after), _module(suffix, [after], None)
        if what not in SHAPING or any(_other(other, node) for other in after.all_input_nodes):
            return None
        node = after


def operation(node: fx.Node) -> Any:
    """What a node computes, as `LINEAR` and `SHAPING` spell it."""
    return node.args[0] if node.target is run else node.target


def _other(value: fx.Node, node: fx.Node) -> bool:
    return value is not node and value.target is not SIZE


def _module(suffix: fx.GraphModule, given: Iterable[fx.Node], wanted: fx.Node | None) -> fx.GraphModule:
    """What computes `wanted` (the output, for None) from one given value, parameters shared."""
    graph, copied = fx.Graph(), {}
    for node in given:
        copied[node] = graph.placeholder("given")
        batch = graph.call_function(SIZE, (copied[node], 0))
    for node in suffix.graph.nodes:
        if node in copied or node.op in ("placeholder", "output"):
            continue
        if node.target is SIZE and node.args[1] == 0:
            copied[node] = batch
        elif all(value in copied for value in node.all_input_nodes):
            copied[node] = graph.node_copy(node, copied.__getitem__)
    output = next(node for node in suffix.graph.nodes if node.op == "output")
    graph.output(copied[wanted] if wanted is not None else fx.map_arg(output.args[0], copied.__getitem__))
    graph.eliminate_dead_code()
    return fx.GraphModule(suffix, graph)
