"""Rewriting an ONNX model for old runtimes: ONNX Runtime 1.10 and 1.11 and TensorRT 8.2 take opset 13 and IR 7.

There is no general road back. An operator passes where its definition is the same in both opsets (the schemas tell),
or where a rule in `downgrade_rules` says how the older one spells it. All others are named in one error. Names of
nodes and tensors stay; what a rule adds is called after the output of the node that it rewrites.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, TensorProto, defs, helper, inliner, numpy_helper, shape_inference

from ..errors import ModelError
from .downgrade_rules import ALWAYS, RULES, SAME
from .rewriting import Place, Refused, Values

TARGETS = range(13, 18)
"""The opsets that the rules write for: from 18 on the axes of reductions are an input."""
NEWEST = 25
"""The newest opset whose changes the rules know."""
SMALL_BYTES = 1024
DEFAULT_DOMAIN = ("", "ai.onnx")
OLD_TYPES = frozenset(range(TensorProto.FLOAT, TensorProto.COMPLEX128 + 1))
"""Every type but bfloat16, the float8s and the sub-byte integers."""


def downgrade(model: onnx.ModelProto, opset: int = 13, ir_version: int = 7) -> onnx.ModelProto:
    """A model of the same function in the default domain's `opset` (13 to 17) and at most `ir_version`.

    A model that is older already keeps its opset. Weights are copied as they are, also references to another file.
    Raises ModelError, which names every operator that has no older form, and ValueError for another `opset`.
    """
    if opset not in TARGETS:
        raise ValueError(f"models are rewritten for opset {TARGETS[0]} to {TARGETS[-1]}, not {opset}")
    result = _inlined(model) if model.functions else _copy(model)
    versions = {entry.domain: entry.version for entry in result.opset_import}
    version = next((versions[domain] for domain in DEFAULT_DOMAIN if domain in versions), 0)
    if not 1 <= version <= NEWEST:
        known = "says no opset" if version < 1 else f"has opset {version}, and {NEWEST} is the newest one known"
        raise ModelError(f"model {result.graph.name} {known}; export it again with opset {opset} to {NEWEST}")
    target = min(opset, version)
    values = _values(result)
    faults: dict[str, list[str]] = defaultdict(list)
    nodes: list[onnx.NodeProto] = []
    for node in result.graph.node:
        try:
            nodes.extend(_older(node, version, target, values))
        except Refused as reason:
            faults[f"{_label(node, version, versions)}: {reason}"].append(node.name or node.output[0])
    _refuse_types(result, values, faults)
    if faults:
        found = "; ".join(f"{what} (at {_some(where)})" for what, where in faults.items())
        raise ModelError(
            f"model {result.graph.name} cannot be rewritten from opset {version} to {target}: {found}; "
            "export it without them, or run it on a newer runtime"
        )
    _set_nodes(result, nodes)
    del result.opset_import[:]
    result.opset_import.append(helper.make_opsetid("", target))
    result.ir_version = min(model.ir_version, ir_version)
    _drop_newer_fields(result)
    return result


def _label(node: onnx.NodeProto, version: int, versions: dict[str, int]) -> str:
    if node.domain not in DEFAULT_DOMAIN:
        return f"{node.domain}.{node.op_type} {versions.get(node.domain, '?')}"
    schema = _schema(node.op_type, version)
    return f"ai.onnx.{node.op_type} {schema.since_version if schema else version}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _schema(operator: str, version: int) -> defs.OpSchema | None:
    try:
        return defs.get_schema(operator, max_inclusive_version=version, domain="")
    except defs.SchemaError:
        return None


def _older(node: onnx.NodeProto, version: int, target: int, values: Values) -> list[onnx.NodeProto]:
    """The nodes that do at `target` what `node` does at `version`."""
    if node.domain not in DEFAULT_DOMAIN:
        raise Refused("only ONNX's own operators are known to old runtimes")
    newer, older = _schema(node.op_type, version), _schema(node.op_type, target)
    if newer is None:
        raise Refused("there is no such operator in the model's opset")
    if version > target and any(
        attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute
    ):
        raise Refused("control flow is not rewritten")
    place = Place(node, newer.since_version, values)
    unchanged = older is not None and older.since_version == newer.since_version
    if unchanged and node.op_type not in ALWAYS:
        place.replace()
        return place.made
    if node.op_type in RULES:
        RULES[node.op_type](place)
    elif node.op_type in SAME:
        place.replace()
    else:
        raise Refused("it has no older form here")
    for made in place.made:
        schema = _schema(made.op_type, target)
        assert schema is not None, f"a rule wrote {made.op_type}, which opset {target} lacks"
        _fit(made, schema, newer.attributes if made.op_type == node.op_type else {}, values)
    return place.made


def _fit(node: onnx.NodeProto, schema: defs.OpSchema, newer: Any, values: Values) -> None:
    """Drop the attributes that the older operator lacks, where they say the default; refuse what it cannot take."""
    kept = []
    for attribute in node.attribute:
        if attribute.name in schema.attributes:
            kept.append(attribute)
            continue
        default = newer[attribute.name].default_value if attribute.name in newer else AttributeProto()
        unset = default.type != AttributeProto.UNDEFINED and _value(attribute) == _value(default)
        if not unset:
            raise Refused(f"'{attribute.name}' is set")
    if len(kept) < len(node.attribute):
        kept = [_copied(attribute) for attribute in kept]
        del node.attribute[:]
        node.attribute.extend(kept)
    for given, formal in ((node.input, schema.inputs), (node.output, schema.outputs)):
        while given and not given[-1]:
            given.pop()
        variadic = bool(formal) and formal[-1].option == defs.OpSchema.FormalParameterOption.Variadic
        if len(given) > len(formal) and not variadic:
            raise Refused(f"'{given[len(formal)]}' has no place in the older one")
    _fit_types(node, schema, values)


def _copied(attribute: AttributeProto) -> AttributeProto:
    copy = AttributeProto()
    copy.CopyFrom(attribute)
    return copy


def _value(attribute: AttributeProto) -> Any:
    return helper.get_attribute_value(attribute)


def _fit_types(node: onnx.NodeProto, schema: defs.OpSchema, values: Values) -> None:
    bound: dict[str, str] = {}
    for given, formal in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for index, name in enumerate(given):
            if name not in values.types:  # left out, or made by a rule for itself
                continue
            parameter = formal[min(index, len(formal) - 1)]
            kind = f"tensor({_type_name(values.types[name])})"
            same = bound.setdefault(parameter.type_str, kind) if parameter.is_homogeneous else kind
            if kind not in parameter.types or kind != same:
                raise Refused(f"it takes no {kind[7:-1]} there ('{name}')")


def _type_name(kind: int) -> str:
    return TensorProto.DataType.Name(kind).lower()


def _refuse_types(model: onnx.ModelProto, values: Values, faults: dict[str, list[str]]) -> None:
    for name, kind in values.types.items():
        if kind not in OLD_TYPES:
            faults[f"values in {_type_name(kind)}"].append(name)


def _values(model: onnx.ModelProto) -> Values:
    """Infer types and shapes on a copy without weights, which may be larger than protobuf can serialise."""
    bare = _copy(model, weights=False)
    try:
        inferred = shape_inference.infer_shapes(bare, data_prop=True).graph
    except Exception as error:  # onnx raises several unrelated types here
        raise ModelError(
            f"model {model.graph.name} is not a consistent ONNX graph: {str(error).splitlines()[0][:200]}"
        ) from None
    values = Values()
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        kind = value.type.tensor_type
        if kind.elem_type:
            values.types[value.name] = kind.elem_type
        if kind.HasField("shape"):
            sizes = (dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
            values.shapes[value.name] = tuple(sizes)
    for tensor in model.graph.initializer:
        values.types[tensor.name] = tensor.data_type
        values.shapes[tensor.name] = tuple(tensor.dims)
        if tensor.data_location != TensorProto.EXTERNAL and _is_small(tensor):
            values.constants[tensor.name] = numpy_helper.to_array(tensor)
    for node in model.graph.node:
        values.taken.update(node.output)
        values.producers.update((name, node) for name in node.output)
        if node.op_type == "Constant":
            values.constants.update(_constant(node))
    values.taken.update(values.types, (value.name for value in model.graph.input))
    return values


def _constant(node: onnx.NodeProto) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.t.data_location != TensorProto.EXTERNAL:
            yield node.output[0], numpy_helper.to_array(attribute.t)
        elif attribute.name in ("value_int", "value_ints"):
            yield node.output[0], np.asarray(_value(attribute), np.int64)


def _is_small(tensor: TensorProto) -> bool:
    return int(np.prod(tensor.dims)) * 8 <= SMALL_BYTES


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the bodies of its own functions in place of their calls; those of another opset stay calls."""
    try:
        result = inliner.inline_local_functions(_copy(model, weights=False))
    except Exception as error:
        raise ModelError(
            f"model {model.graph.name} has functions that cannot be inlined: {str(error).splitlines()[0][:200]}"
        ) from None
    del result.graph.initializer[:]
    for tensor in model.graph.initializer:
        result.graph.initializer.add().CopyFrom(tensor)
    return result


def _copy(model: onnx.ModelProto, *, weights: bool = True) -> onnx.ModelProto:
    """A copy, tensor by tensor. Without `weights` all but small ones only say that their data is elsewhere."""
    copy = onnx.ModelProto()
    for descriptor, value in model.ListFields():
        if descriptor.name != "graph":
            _set_field(copy, descriptor.name, value)
    for descriptor, value in model.graph.ListFields():
        if descriptor.name != "initializer":
            _set_field(copy.graph, descriptor.name, value)
    for tensor in model.graph.initializer:
        if weights or (_is_small(tensor) and tensor.data_location != TensorProto.EXTERNAL):
            copy.graph.initializer.add().CopyFrom(tensor)
        else:
            elsewhere = TensorProto.EXTERNAL
            copy.graph.initializer.add(
                name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=elsewhere
            )
    return copy


def _set_field(message: Any, name: str, value: Any) -> None:
    field_of = getattr(message, name)
    if hasattr(field_of, "CopyFrom"):
        field_of.CopyFrom(value)
    elif hasattr(field_of, "extend"):
        field_of.extend(value)
    else:
        setattr(message, name, value)


def _set_nodes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _drop_newer_fields(model: onnx.ModelProto) -> None:
    """Remove what came with IR 8 and later and carries no computation: functions' leftovers, notes, devices."""
    for message, names in [
        (model, ("functions", "configuration")),
        (model.graph, ("metadata_props",)),
        *((node, ("metadata_props", "overload", "device_configurations")) for node in model.graph.node),
        *((value, ("metadata_props",)) for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]),
    ]:
        for name in names:
            if name in message.DESCRIPTOR.fields_by_name:
                message.ClearField(name)
