"""A segment's cheapest cuts, one after the other, by minimum s-t cuts.

The source stands for the edge, the sink for the cloud. A layer pays on the side it runs on; a value that crosses pays
once, however many layers need it, through a node of its own; an infinite arc from every layer back to those it needs
keeps data from flowing back. networkx finds the first cut; the next ones follow by Lawler's branching, each from the
flow of the one before it.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from .segments import Segment, mask_of, places

EDGE, CLOUD = -1, -2
"""The network's source and sink; layers are their places, and a value that is paid once comes below these."""

Arcs = dict[tuple[int, int], int]


def payments(segment: Segment) -> tuple[Arcs, int]:
    """The arcs that are paid when their start is on the edge and their end is not, and what is paid in any case."""
    arcs: Arcs = {}
    always = segment.constant
    for place, extra in segment.extra.items():
        if extra < 0:
            arcs[EDGE, place] = -extra
            always += extra
        else:
            arcs[place, CLOUD] = extra
    infinite = _infinite(segment)
    for number, (maker, consumers, weight) in enumerate(segment.shared):
        start, end = EDGE if maker is None else maker, consumers[0]
        if len(consumers) > 1:
            end = CLOUD - 1 - number
            arcs.update(((end, consumer), infinite) for consumer in consumers)
        arcs[start, end] = arcs.get((start, end), 0) + weight
    return arcs, always


def bonds(segment: Segment) -> Arcs:
    """The infinite arcs: with a layer on the edge, those that it needs are there, and who takes what cannot be sent."""
    order, free, infinite = segment.order, mask_of(segment.free), _infinite(segment)
    arcs: Arcs = {}
    for place in segment.free:
        arcs.update(((place, other), infinite) for other in places(order.holds[place] & free))
        needs = order.takes[place] & free
        while needs:
            latest = needs.bit_length() - 1
            arcs[place, latest] = infinite
            needs &= ~(order.ancestors[latest] | 1 << latest)
    return arcs


def _infinite(segment: Segment) -> int:
    """More than any cut of the segment can cost beside its constant."""
    return 1 + sum(map(abs, segment.extra.values())) + sum(weight for *_, weight in segment.shared)


class Network:
    """A segment's arcs, each beside its reverse, as networkx' maximum flow leaves them, and how to push more through.

    An arc and its reverse are one bit apart. `room` is what each has left.
    """

    def __init__(self, segment: Segment) -> None:
        import networkx as nx
        from networkx.algorithms.flow import boykov_kolmogorov

        arcs, always = payments(segment)
        for pair, capacity in bonds(segment).items():
            arcs[pair] = arcs.get(pair, 0) + capacity
        network: nx.DiGraph[int] = nx.DiGraph()
        network.add_nodes_from((EDGE, CLOUD))
        network.add_edges_from((start, end, {"capacity": capacity}) for (start, end), capacity in arcs.items())
        flow = boykov_kolmogorov(network, EDGE, CLOUD)
        self.cost: int = always + flow.graph["flow_value"]
        self.ends: list[int] = []
        self.room: list[int] = []
        self.out: dict[int, list[int]] = {node: [] for node in flow}
        for start, end in flow.edges:
            if start < end:
                for one, other in ((start, end), (end, start)):
                    self.out[one].append(len(self.ends))
                    self.ends.append(other)
                    self.room.append(flow[one][other]["capacity"] - flow[one][other]["flow"])

    def push(
        self, room: list[int], starts: set[int], goals: set[int], closed: set[int], *, back: bool, most: int | None
    ) -> tuple[int, set[int]] | None:
        """Send all that fits from `starts` to `goals`, never through `closed`; with `back`, against the arcs.

        Changes `room`. How much it was, and all that the starts still reach; None as soon as it is more than `most`.
        """
        total = 0
        while True:
            path, reached = self._path(room, starts, goals, closed, back)
            if not path:
                return total, reached
            least = min(room[arc] for arc in path)
            for arc in path:
                room[arc] -= least
                room[arc ^ 1] += least
            total += least
            if most is not None and total > most:
                return None

    def _path(
        self, room: list[int], starts: set[int], goals: set[int], closed: set[int], back: bool
    ) -> tuple[list[int], set[int]]:
        """The arcs of a shortest way that has room, or none, and all that the starts reach."""
        came: dict[int, int] = {}
        queue = deque(starts)
        while queue:
            node = queue.popleft()
            for step in self.out[node]:
                end = self.ends[step]
                if not room[step ^ 1 if back else step] or end in closed or end in came or end in starts:
                    continue
                came[end] = step
                if end in goals:
                    return list(_traced(self.ends, came, end, back)), set()
                queue.append(end)
        return [], starts | came.keys()


def _traced(ends: list[int], came: dict[int, int], end: int, back: bool) -> Iterator[int]:
    while end in came:
        step = came[end]
        yield step ^ 1 if back else step
        end = ends[step ^ 1]


@dataclass
class _Found:
    """The cheapest cut with `inside` on the edge and `outside` in the cloud: its nodes there, and its flow's room."""

    cost: int
    inside: int
    outside: int
    nodes: set[int]
    room: list[int]

    @property
    def edge(self) -> int:
        """The layers on the edge."""
        return self.inside | mask_of(node for node in self.nodes if node >= 0)


@dataclass
class _Rival:
    """The cheapest cut between bounds that force layers to one side; found from another, by the nodes that change.

    `back` says that they leave the edge. The flow is pushed again when it is needed, since most never are.
    """

    cost: int
    other: _Found
    inside: int
    outside: int
    back: bool
    changed: set[int]

    @property
    def nodes(self) -> set[int]:
        """The nodes on the edge."""
        return self.other.nodes - self.changed if self.back else self.other.nodes | self.changed


class Branching:
    """A segment's cuts, cheapest first; at least `most` of them, or all where it is None.

    The rivals of a cut are told apart by where they first differ from it: a layer at its border that they lack, or one
    just beyond that they have. Forcing such a layer needs only as much more flow as the rival costs more.
    """

    def __init__(self, segment: Segment, most: int | None) -> None:
        self.segment, self.order, self.most = segment, segment.order, most
        self.network = Network(segment)
        self.known: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        room = list(self.network.room)
        pushed = self.network.push(room, {EDGE}, {CLOUD}, set(), back=False, most=None)
        assert pushed is not None
        found = _Found(self.network.cost, self.segment.inside, self.segment.outside, pushed[1], room)
        self._note(found)
        numbers = itertools.count()
        waiting: list[tuple[int, int, _Rival]] = []
        while True:
            if self.order.crosses(found.edge):
                yield found.cost, found.edge
            for rival in self._rivals(found):
                heapq.heappush(waiting, (rival.cost, next(numbers), rival))
            if not waiting:
                return
            rival = heapq.heappop(waiting)[2]
            room = list(rival.other.room)
            self._push(rival.other, room, rival.inside, rival.outside, back=rival.back, most=None)
            found = _Found(rival.cost, rival.inside, rival.outside, rival.nodes, room)

    def _rivals(self, found: _Found) -> Iterator[_Rival]:
        """The cheapest cut of every kind that differs from this one and keeps its bounds."""
        edge, inside, outside = found.edge, found.inside, found.outside
        order, free = self.order, self.segment.free
        for place in free:
            if edge >> place & 1 and not inside >> place & 1 and not order.gives[place] & edge:
                yield from self._forced(found, inside, outside | order.forbids[place], back=True)
                inside |= order.requires[place]
        for place in free:
            if not (edge | outside) >> place & 1 and not order.takes[place] & ~edge:
                yield from self._forced(found, edge | order.requires[place], outside, back=False)
                outside |= order.forbids[place]

    def _forced(self, found: _Found, inside: int, outside: int, *, back: bool) -> Iterator[_Rival]:
        """The cheapest cut between these bounds, unless enough others are known that are cheaper."""
        most = None
        if self.most is not None and len(self.known) >= self.most:
            most = self.known[self.most - 1] - found.cost
        pushed = self._push(found, list(found.room), inside, outside, back=back, most=most)
        if pushed is not None:
            more, changed = pushed
            rival = _Rival(found.cost + more, found, inside, outside, back, changed)
            self._note(_Found(rival.cost, inside, outside, rival.nodes, []))
            yield rival

    def _note(self, found: _Found) -> None:
        if self.order.crosses(found.edge):
            bisect.insort(self.known, found.cost)

    def _push(
        self, found: _Found, room: list[int], inside: int, outside: int, *, back: bool, most: int | None
    ) -> tuple[int, set[int]] | None:
        """The flow that forcing layers to these bounds adds, from or to those that are forced; other nodes stay."""
        here = {place for place in self.segment.free if inside >> place & 1}
        there = {place for place in self.segment.free if outside >> place & 1}
        if back:
            closed = self.network.out.keys() - found.nodes
            return self.network.push(room, there & found.nodes, here | {EDGE}, closed, back=True, most=most)
        return self.network.push(room, here - found.nodes, there | {CLOUD}, found.nodes, back=False, most=most)
