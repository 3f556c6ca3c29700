"""One node of an ONNX graph that is being rewritten: what is known around it, and the nodes that take its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Shape = tuple[int | None, ...]


class Refused(Exception):
    """A rule cannot rewrite this node; the text says why, and becomes part of one ModelError."""


@dataclass
class Values:
    """What is known of a graph's values: element types, shapes (None where unknown), and small constants."""

    types: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    producers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def fresh(self, name: str) -> str:
        """`name`, or the first free one of `name_1`, `name_2`, ..."""
        free, number = name, 0
        while free in self.taken:
            number += 1
            free = f"{name}_{number}"
        self.taken.add(free)
        return free


@dataclass
class Place:
    """One node to be rewritten, and the nodes that take its place.

    `version` is the version of the operator that the node was written for.
    """

    node: onnx.NodeProto
    version: int
    values: Values
    made: list[onnx.NodeProto] = field(default_factory=list)

    def input(self, index: int) -> str:
        """The name of an input; empty where it is left out."""
        return str(self.node.input[index]) if index < len(self.node.input) else ""

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value; text as `str`."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def type(self, name: str) -> int:
        """A value's element type. Refuses where it is not known."""
        if name not in self.values.types:
            raise Refused(f"the type of '{name}' is not known")
        return self.values.types[name]

    def shape(self, name: str) -> Shape:
        """A value's shape, None for a dynamic size. Refuses where not even the rank is known."""
        if name not in self.values.shapes:
            raise Refused(f"the rank of '{name}' is not known")
        return self.values.shapes[name]

    def constant(self, name: str) -> npt.NDArray[Any]:
        """A constant's value. Refuses where it is computed or kept in another file."""
        if name not in self.values.constants:
            raise Refused(f"'{name}' is not a constant in the model file")
        return self.values.constants[name]

    def add(self, operator: str, inputs: Sequence[str], hint: str = "", output: str = "", **attributes: Any) -> str:
        """Add a node, and return its output: `output` if given, else a new name."""
        label = hint or operator.lower()
        result = output or self.values.fresh(f"{self.node.output[0]}/{label}")
        # Named like the new tensor, whose name is unique.
        tail = f"/{label}" if output else result.removeprefix(self.node.output[0])
        name = f"{self.node.name}{tail}" if self.node.name else None
        self.made.append(helper.make_node(operator, inputs, [result], name=name, **attributes))
        return result

    def add_constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike, hint: str) -> str:
        """Add a constant as a node, which needs no entry among the inputs in any IR version."""
        return self.add("Constant", [], hint, value=numpy_helper.from_array(np.asarray(value, dtype)))

    def finish(self, operator: str, inputs: Sequence[str], **attributes: Any) -> None:
        """Add the node that makes the rewritten node's first output, under its name."""
        self.made.append(
            helper.make_node(operator, inputs, self.node.output[:1], name=self.node.name or None, **attributes)
        )

    def replace(self, *, drop: Iterable[str] = (), inputs: Sequence[str] | None = None, **attributes: Any) -> None:
        """Add a copy of the node, without some attributes, with other inputs, with more attributes."""
        copy = onnx.NodeProto()
        copy.CopyFrom(self.node)
        copy.ClearField("domain")  # "ai.onnx" is the same as none
        kept = [attribute for attribute in self.node.attribute if attribute.name not in {*drop, *attributes}]
        del copy.attribute[:]
        copy.attribute.extend(kept)
        copy.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        if inputs is not None:
            copy.input[:] = list(inputs)
        self.made.append(copy)


Rule = Callable[[Place], None]
