"""An int8 wire: the step of each tensor that is sent, and the cloud partition that takes it.

What is sent is clamp(rint(value / step), -128, 127), and the cloud multiplies by the step again. A small step rounds
finely and cuts the largest values off, a large one the other way round. The step with the least mean squared error on
samples of what will be sent is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import DataError, ModelError
from .session import open_session

LEAST, MOST = -128, 127
_TRIED = 1.03 ** np.arange(128)
"""Divisors of the step that cuts nothing off: down to a fortieth of it, 3 % apart."""
_SAMPLES = 1 << 18


def best_step(values: npt.NDArray[Any]) -> float:
    """The step of least mean squared error for float32 values of any shape, itself a float32.

    At most 2^18 of them are looked at, evenly spread. Raises DataError where one is not finite.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    flat = flat[:: max(1, -(-flat.size // _SAMPLES))]
    if not np.isfinite(flat).all():
        raise DataError("a step cannot be measured on values that are not finite; check the data and the model")
    largest = float(np.abs(flat).max(initial=0.0))
    if largest < MOST * 1e-37:  # nothing but zeros, for which any step will do
        return 1.0
    steps = (largest / MOST / _TRIED).astype(np.float32)
    errors = [float(np.square(flat - rounded(flat, step), dtype=np.float64).mean()) for step in steps]
    return float(steps[int(np.argmin(errors))])


def rounded(values: npt.NDArray[Any], step: float) -> npt.NDArray[np.float32]:
    """What the cloud makes of values that were sent in steps."""
    made: npt.NDArray[np.float32] = np.clip(np.rint(values / np.float32(step)), LEAST, MOST) * np.float32(step)
    return made


def with_int8_inputs(cloud: bytes, steps: Mapping[str, float], name: str) -> bytes:
    """A cloud partition that takes int8 under the same names, each input multiplied by its step first.

    Raises ModelError where the result does not compute what `cloud` does.
    """
    model = onnx.load_model_from_string(cloud)
    graph = model.graph
    taken = {value for node in graph.node for value in (*node.input, *node.output)}
    taken |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    front, renamed = [], {}
    for value in graph.input:
        whole, step, scaled = (_free(f"{value.name}/{what}", taken) for what in ("float", "step", "value"))
        value.type.tensor_type.elem_type = TensorProto.INT8
        graph.initializer.append(numpy_helper.from_array(np.asarray(steps[value.name], np.float32), step))
        front.append(helper.make_node("Cast", [value.name], [whole], to=TensorProto.FLOAT))
        front.append(helper.make_node("Mul", [whole, step], [scaled]))
        renamed[value.name] = scaled
    for node in graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*front, *nodes])
    made: bytes = model.SerializeToString(deterministic=True)
    _check(cloud, made, steps, name)
    return made


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _check(cloud: bytes, made: bytes, steps: Mapping[str, float], name: str) -> None:
    """Both on the same random values, which the one gets as int8 and the other as float32."""
    plain, whole = open_session(cloud), open_session(made)
    generator, sent = np.random.default_rng(0), {}
    for value in whole.get_inputs():
        shape = [1 if not isinstance(size, int) else size for size in value.shape]
        sent[value.name] = generator.integers(LEAST, MOST + 1, shape).astype(np.int8)
    given = {value: levels * np.float32(steps[value]) for value, levels in sent.items()}
    for expected, got in zip(plain.run(None, given), whole.run(None, sent), strict=True):
        finite = np.abs(expected[np.isfinite(expected)])
        if not np.allclose(got, expected, rtol=0, atol=1e-4 * max(1.0, float(finite.max(initial=0.0))), equal_nan=True):
            raise ModelError(f"the cloud half of {name} gives other answers for int8; bundle it with --wire float32")
