"""ONNX operators as torch functions, differentiable: what `from_onnx` makes a network of.

A function takes the operator's inputs in ONNX's order, None for one left out, and its attributes by name with ONNX's
defaults; what became an input in a later version may come either way. A parameter of type `Ints` holds sizes or
places: plain numbers where the model file has them, else a tensor. `opset` and `outputs` are given where asked for, a
stored tensor of one value as the pair of that value and its dtype.
An attribute that a function does not take is one that edgecut does not know.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch.nn import functional

from .torch_windows import Ints, Refused, average_pool, conv, max_pool, numbers, widened

Tensor = torch.Tensor
DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


def _over_space(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


def _batch_normalization(
    x: Tensor,
    scale: Tensor,
    offset: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
) -> Tensor:
    if training_mode or not spatial:
        raise Refused("it is set up for training, or for statistics of every place; export it for inference")
    return functional.batch_norm(x, mean, variance, scale, offset, training=False, eps=epsilon)


def _layer_normalization(
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    normal = functional.layer_norm(x, x.shape[axis:], eps=epsilon) * scale
    return normal if offset is None else normal + offset


def _local_response(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """Over `size` neighbouring channels; of an even number, one more lies after than before."""
    squares = widened(x * x, [((size - 1) // 2, size // 2), *[(0, 0)] * (x.dim() - 2)])
    total = sum((squares.narrow(1, start, x.shape[1]) for start in range(size)), torch.zeros_like(x))
    return x / (bias + alpha / size * total) ** beta


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    product = (a.T if transA else a) @ (b.T if transB else b)
    if alpha != 1:
        product = alpha * product
    if c is None or beta == 0:
        return product
    return product + (c if beta == 1 else beta * c)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(base, exponent).to(base.dtype)


def _modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def _clip(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    return x if min is None and max is None else torch.clamp(x, min, max)


def _softmax(x: Tensor, function: Callable[..., Tensor], axis: int | None, opset: int) -> Tensor:
    """Until version 12 over all dimensions from `axis` on, as one."""
    if opset >= 13:
        return function(x, dim=-1 if axis is None else axis)
    place = (1 if axis is None else axis) % x.dim()
    return function(x.reshape(math.prod(x.shape[:place]), -1), dim=1).reshape(x.shape)


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    place = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:place]), math.prod(x.shape[place:]))


def _reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    wanted = numbers(shape)
    if not allowzero:
        wanted = [x.shape[place] if size == 0 else size for place, size in enumerate(wanted)]
    return x.reshape(wanted)


def _transpose(x: Tensor, *, perm: Ints = None) -> Tensor:
    return x.permute(numbers(perm) if perm is not None else list(range(x.dim()))[::-1])


def _squeeze(x: Tensor, axes: Ints = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(numbers(axes)))


def _unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    rank = x.dim() + len(numbers(axes))
    for axis in sorted(axis % rank for axis in numbers(axes)):
        x = x.unsqueeze(axis)
    return x


def _range_of(size: int, start: int, end: int, step: int) -> range:
    """The places a slice takes; backwards it starts at the first place at the earliest, where Python takes nothing."""
    start, end = (place + size if place < 0 else place for place in (start, end))
    if step > 0:
        return range(min(max(start, 0), size), min(max(end, 0), size), step)
    return range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)


def _slice(x: Tensor, starts: Ints, ends: Ints, axes: Ints = None, steps: Ints = None) -> Tensor:
    first, last = numbers(starts), numbers(ends)
    places = numbers(axes) if axes is not None else list(range(len(first)))
    for axis, start, end, step in zip(places, first, last, numbers(steps) or [1] * len(first), strict=True):
        taken = _range_of(x.shape[axis], start, end, step)
        if step == 1:
            x = x.narrow(axis, taken.start, len(taken))
        else:
            x = x.index_select(axis, torch.tensor(taken, dtype=torch.int64, device=x.device))
    return x


def _split(x: Tensor, split: Ints = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int) -> Any:
    """Into equal parts where no sizes are given, the last smaller where it does not go up."""
    if split is None:
        size, parts = x.shape[axis], num_outputs or outputs
        each = -(-size // parts)
        split = [each] * (parts - 1) + [size - each * (parts - 1)]
    return x.split(numbers(split), axis)


def _wrapped(indices: Tensor, size: int) -> Tensor:
    return torch.where(indices < 0, indices + size, indices).long()


def _gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    place = axis % x.dim()
    taken = x.index_select(place, _wrapped(indices, x.shape[place]).reshape(-1))
    return taken.reshape(*x.shape[:place], *indices.shape, *x.shape[place + 1 :])


def _pad(
    x: Tensor,
    pads: Ints,
    constant: Tensor | None = None,
    axes: Ints = None,
    *,
    mode: str = "constant",
    value: float = 0,
) -> Tensor:
    given = numbers(pads)
    places = numbers(axes) if axes is not None else list(range(x.dim()))
    margins = [(0, 0)] * x.dim()
    for axis, before, after in zip(places, given[: len(places)], given[len(places) :], strict=True):
        margins[axis] = (before, after)
    if mode == "constant":
        return widened(x, margins, value if constant is None else constant.item())
    for axis, (before, after) in enumerate(margins):
        if before or after:
            source = np.pad(np.arange(x.shape[axis]), (before, after), mode=mode)  # type: ignore[call-overload]
            x = x.index_select(axis, torch.as_tensor(source, device=x.device))
    return x


def _cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    if to not in DTYPES:
        raise Refused(f"it makes numbers of ONNX's type {to}, which torch cannot compute with")
    return x.to(DTYPES[to])


def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64, device=x.device)


def _constant_of_shape(shape: Tensor, *, value: tuple[float, torch.dtype] = (0.0, torch.float32)) -> Tensor:
    fill, dtype = value
    return torch.full(numbers(shape), fill, dtype=dtype, device=shape.device)


def _expand(x: Tensor, shape: Ints) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, numbers(shape)))


def _tile(x: Tensor, repeats: Ints) -> Tensor:
    return x.repeat(numbers(repeats))


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)


def _dropout(x: Tensor, ratio: Any = None, training_mode: Any = None, *, seed: int = 0) -> Tensor:
    if training_mode is not None and bool(training_mode):
        raise Refused("it drops values, as in training; export it for inference")
    return x


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduced(x: Tensor, axes: Ints = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        places = numbers(axes)
        if not places and noop_with_empty_axes:
            return x
        return function(x, tuple(places) or tuple(range(x.dim())), bool(keepdims))

    return reduced


def _each(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """For operators that take any number of inputs."""
    return lambda *inputs: functools.reduce(function, inputs)


def _product(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keepdims)
    return x


NORMALISING: dict[str, Callable[..., Any]] = {
    "BatchNormalization": _batch_normalization,
    "InstanceNormalization": lambda x, scale, offset, *, epsilon=1e-5: functional.instance_norm(
        x, weight=scale, bias=offset, eps=epsilon
    ),
    "LRN": _local_response,
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": lambda x, *, axis=None, opset: _softmax(x, functional.log_softmax, axis, opset),
    "Softmax": lambda x, *, axis=None, opset: _softmax(x, functional.softmax, axis, opset),
}
ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "Celu": lambda x, *, alpha=1.0: functional.celu(x, alpha),
    "Clip": _clip,
    "Elu": lambda x, *, alpha=1.0: functional.elu(x, alpha),
    "Erf": torch.erf,
    "Gelu": lambda x, *, approximate="none": functional.gelu(x, approximate=approximate),
    "HardSigmoid": lambda x, *, alpha=0.2, beta=0.5: torch.clamp(alpha * x + beta, 0, 1),
    "HardSwish": functional.hardswish,
    "LeakyRelu": lambda x, *, alpha=0.01: functional.leaky_relu(x, alpha),
    "Mish": functional.mish,
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
    "Relu": torch.relu,
    "Selu": torch.selu,
    "Sigmoid": torch.sigmoid,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Tanh": torch.tanh,
}
ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Div": _divide,
    "Equal": torch.eq,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "Max": _each(torch.maximum),
    "Mean": lambda *inputs: functools.reduce(torch.add, inputs) / len(inputs),
    "Min": _each(torch.minimum),
    "Mod": _modulo,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Pow": _power,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Sum": _each(torch.add),
}
PRODUCTS: dict[str, Callable[..., Any]] = {
    "Conv": conv,
    "Einsum": lambda *inputs, equation: torch.einsum(equation, *inputs),
    "Gemm": _gemm,
    "MatMul": torch.matmul,
}
REDUCTIONS: dict[str, Callable[..., Any]] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": lambda x: x.mean(_over_space(x), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(_over_space(x), keepdim=True),
    "MaxPool": max_pool,
    "ReduceL2": _reduce(lambda x, axes, keepdims: torch.linalg.vector_norm(x, dim=axes, keepdim=keepdims)),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(torch.sum),
}
MOVEMENT: dict[str, Callable[..., Any]] = {
    "Cast": _cast,
    "Concat": lambda *inputs, axis: torch.cat(inputs, axis),
    "ConstantOfShape": _constant_of_shape,
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": lambda x: x,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda x: torch.tensor(x.numel(), device=x.device),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": torch.where,
}
OPERATORS = NORMALISING | ACTIVATIONS | ARITHMETIC | PRODUCTS | REDUCTIONS | MOVEMENT
"""All that can be converted, besides `Constant`."""
