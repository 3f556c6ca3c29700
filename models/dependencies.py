"""Which node belongs to which layer of a graph, and what the layers need of each other.

A node belongs to the latest layer that it needs, so that a layer ends after its activation and its pooling. Branches
need one more rule: what is made, without any compute layer, of tensors that cross anyhow (the pooling before a branch
of an inception module, the normalisation after a residual sum) is made anew in the cloud instead of being sent twice;
two noisy copies of one tensor would tell more of it than one. Where only one later layer needs it, and sending it
instead would save nothing, it belongs to that layer from the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .spec import LayerGraph, TensorSpec, Value

if TYPE_CHECKING:
    from .graph import ModelGraph

RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
"""Operators that make something else each time, so never anew."""


def owners(graph: ModelGraph) -> list[int]:
    """The layer of every node, by its place; never before one that the node needs, so there are no cycles."""
    made: dict[str, int] = {}
    starts = {node: layer for layer, node in enumerate(graph.compute)}
    found = []
    for index, node in enumerate(graph.nodes):
        layer = starts.get(index, max((made.get(value, 0) for value in node.input), default=0))
        made.update((value, layer) for value in node.output)
        found.append(layer)
    return _Links(graph, found).deferred()


def layer_graph(graph: ModelGraph) -> LayerGraph:
    """What layers need of each other. What depends on no input, or on the batch's size alone, they make anew."""
    return _Links(graph, graph.owners).graph()


class _Links:
    """Who makes and who needs each tensor of a graph whose nodes belong to `owners`."""

    def __init__(self, graph: ModelGraph, owners: list[int]) -> None:
        self.model, self.owners = graph, owners
        self.compute = set(graph.compute)
        self.maker = {value: index for index, node in enumerate(graph.nodes) for value in node.output if value}
        self.users: dict[str, list[int]] = {}
        for index, node in enumerate(graph.nodes):
            if not graph.by_size(node):
                for value in dict.fromkeys(node.input):
                    self.users.setdefault(value, []).append(index)
        self.outputs = {spec.name for spec in graph.outputs}

    def graph(self) -> LayerGraph:
        """All tensors that another layer needs, and the raw input in all its forms."""
        raw = [
            Value(tensor=spec, layer=None, consumers=self._consumers(spec.name), sendable=False)
            for spec in self.model.inputs
        ]
        ends = {owner for owner, node in zip(self.owners, self.model.nodes, strict=True) if self._ends(node.output)}
        values = (*raw, *self._values())
        return LayerGraph(
            values=values,
            first=tuple(sorted({layer for value in values if value.layer is None for layer in value.consumers})),
            last=tuple(sorted(ends)),
        )

    def deferred(self) -> list[int]:
        """The owners, where what could as well be made later, at no more bytes, belongs to the one layer in need."""
        moved = list(self.owners)
        for name in [value for node in reversed(self.model.nodes) for value in node.output]:
            if not self._crosses(name):
                continue
            consumers = {self.owners[user] for user in self.users[name]}
            found = self._sources(name)
            if len(consumers) > 1 or found is None or name in self.outputs or not self._no_smaller(name, found[0]):
                continue
            chain = found[1]
            if any(set(self.users.get(v, ())) - chain for i in chain for v in self.model.nodes[i].output if v != name):
                continue
            for index in chain:
                moved[index] = min(consumers)
            self.owners = list(moved)
        return moved

    def _values(self) -> Iterator[Value]:
        for owner, node in zip(self.owners, self.model.nodes, strict=True):
            for name in node.output:
                raw = name in self.model.untouched
                if not (self._consumers(name) and self._known(name) if raw else self._crosses(name)):
                    continue
                spec, found = self.model.tensors.get(name), None if raw else self._sources(name)
                yield Value(
                    tensor=spec or TensorSpec(name=name, dtype="float32", shape=()),
                    layer=None if raw else owner,
                    consumers=tuple(place for place in self._consumers(name) if raw or place != owner),
                    sendable=not raw and spec is not None and spec.dtype == "float32",
                    made_of=() if found is None else tuple(sorted(found[0])),
                )

    def _consumers(self, name: str) -> tuple[int, ...]:
        return tuple(sorted({self.owners[user] for user in self.users.get(name, ())}))

    def _known(self, name: str) -> bool:
        return bool(name) and name not in self.model.constants and name not in self.model.sizes

    def _crosses(self, name: str) -> bool:
        """Whether it is neither raw nor of size alone, and a layer other than its own needs it."""
        if not self._known(name) or name in self.model.untouched or name not in self.maker:
            return False
        return bool(set(self._consumers(name)) - {self.owners[self.maker[name]]})

    def _sources(self, name: str) -> tuple[set[str], set[int]] | None:
        """The tensors between layers that a tensor is made of without a compute layer, and the nodes that make it so.

        None where there are none: where a compute layer, the raw input or chance has a part in it.
        """
        found: set[str] = set()
        chain: set[int] = set()
        open_ends = [name]
        while open_ends:
            index = self.maker[open_ends.pop()]
            node = self.model.nodes[index]
            if index in self.compute or node.op_type in RANDOM:
                return None
            if index in chain:
                continue
            chain.add(index)
            for value in filter(self._known, node.input):
                if value in self.model.untouched:
                    return None
                if self._crosses(value):
                    found.add(value)
                else:
                    open_ends.append(value)
        return (found, chain) if found else None

    def _no_smaller(self, name: str, sources: set[str]) -> bool:
        """Whether sending a tensor takes at least as many bytes as sending what it is made of, or cannot be done."""
        own = self.model.tensors.get(name)
        if own is None or own.dtype != "float32":
            return True
        sizes = [self.model.tensors[value].size_bytes for value in sources if value in self.model.tensors]
        return len(sizes) == len(sources) and own.size_bytes >= sum(sizes)

    def _ends(self, made: Iterable[str]) -> bool:
        return not self.outputs.isdisjoint(made)
