"""Values that the cloud makes anew of others that cross, and a sum of weights that no cut costs less than.

Such a value is paid only where not all that it is made of crosses, which is not additive. Its price is bounded from
below by additive ones: with one source that costs at least as much, the source alone is paid where both are needed,
so as much of the source's weight as the value weighs is paid once for the two of them, and the bound is the price.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..models.spec import LayerGraph, Value


@dataclass(frozen=True)
class Bound:
    """A graph whose values, weighing `weights`, together cost at most as much as the real ones after every cut.

    `exact`: just as much, with the same legal cuts.
    """

    graph: LayerGraph
    weights: list[int]
    exact: bool


def bounded(graph: LayerGraph, weights: list[int]) -> Bound:
    """The graph itself where nothing is made of other values, else one in which that is left out."""
    if not any(value.made_of for value in graph.values):
        return Bound(graph, weights, exact=True)
    by_name = {value.tensor.name: number for number, value in enumerate(graph.values)}
    values, left, exact = list(graph.values), list(weights), True
    for number, value in enumerate(graph.values):
        sources = [graph.values[by_name[name]] for name in value.made_of]
        if not sources or any(not source.sendable and not source.made_of for source in sources):
            continue
        values[number], left[number] = value.model_copy(update={"sendable": True, "made_of": ()}), 0
        known = [by_name[source.tensor.name] for source in sources if _shares(source, value)]
        best = max(known, key=lambda source: left[source], default=None)
        shared = 0 if best is None or not value.sendable else min(weights[number], left[best])
        exact = exact and value.sendable and len(value.made_of) == 1 and shared == weights[number]
        if best is not None and shared:
            left[best] -= shared
            consumers = tuple(sorted({*values[best].consumers, *value.consumers}))
            values.append(values[best].model_copy(update={"consumers": consumers}))
            left.append(shared)
    return Bound(graph.model_copy(update={"values": tuple(values)}), left, exact)


def _shares(source: Value, value: Value) -> bool:
    """Whether the value cannot be needed of the edge without its source being there too."""
    return not source.made_of and source.layer is not None and value.layer in (source.layer, *source.consumers)
