"""How operators of newer opsets are spelt in opset 13: one rule an operator, for `downgrade`.

`SAME` lists those that only took more types or got attributes whose default says the old meaning; `downgrade` drops
such attributes, and refuses other values and types by the older operator's schema.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto, helper

from .rewriting import Place, Refused, Rule

_SAME = """
Acos Acosh Add Asin Asinh Atan Atanh BatchNormalization Constant ConstantOfShape Conv ConvTranspose Cos Cosh
CumSum DequantizeLinear Det Div Dropout Elu Equal EyeLike Flatten GRU GlobalAveragePool GlobalLpPool GlobalMaxPool
GreaterOrEqual HardSigmoid Identity InstanceNormalization IsInf IsNaN LSTM LeakyRelu LessOrEqual LpNormalization
Mul PRelu Pow QLinearMatMul RNN Relu Round ScatterElements ScatterND Selu Sin Sinh Size Softplus
Softsign Squeeze Sub Tan ThresholdedRelu TopK Transpose Unsqueeze Where
"""
SAME = frozenset(_SAME.split())
PAD_MODES = ("constant", "reflect", "edge")
RESIZE_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize")


def _reshape(place: Place) -> None:
    """`allowzero` only matters where the shape holds a zero; a computed zero would mean an empty tensor."""
    if place.attribute("allowzero", 0):
        name = place.input(1)
        producer = place.values.producers.get(name)
        parts = producer.input if producer is not None and producer.op_type == "Concat" else [name]
        known = [place.values.constants[part] for part in parts if part in place.values.constants]
        external = [part for part in parts if part not in place.values.constants | place.values.producers]
        if external or any((part == 0).any() for part in known):
            raise Refused("'allowzero' is set, and the shape holds a zero or is not in the model file")
    place.replace(drop=["allowzero"])


def _reduce(place: Place) -> None:
    """From 18 on the axes are an input; before, an attribute, and none of them means all."""
    axes = place.constant(place.input(1)).ravel().tolist() if place.input(1) else []
    if not axes and place.attribute("noop_with_empty_axes", 0):
        raise Refused("'noop_with_empty_axes' is set, and there are no axes")
    drop = ["noop_with_empty_axes"]
    if axes:
        place.replace(drop=drop, inputs=place.node.input[:1], axes=axes)
    else:
        place.replace(drop=drop, inputs=place.node.input[:1])


def _split(place: Place) -> None:
    """`num_outputs` may leave a smaller rest for the last output; the older one needs its size spelt out."""
    count = place.attribute("num_outputs")
    if count is None:
        place.replace()
        return
    size = place.shape(place.input(0))[place.attribute("axis", 0)]
    if size is None:
        raise Refused("the size to be split is dynamic")
    part = -(-size // count)
    sizes = [part] * (count - 1) + [size - part * (count - 1)]
    if sizes[-1] < 0:
        raise Refused(f"{size} cannot be split into {count}")
    place.replace(drop=["num_outputs"], inputs=[place.input(0), place.add_constant(sizes, np.int64, "sizes")])


def _shape(place: Place) -> None:
    start, end = place.attribute("start", 0), place.attribute("end")
    if not start and end is None:
        place.replace(drop=["start"])
        return
    whole = place.add("Shape", place.node.input)
    bounds = (([start], "start"), ([np.iinfo(np.int64).max if end is None else end], "end"), ([0], "axis"))
    place.finish("Slice", [whole, *(place.add_constant(value, np.int64, hint) for value, hint in bounds)])


def _pad(place: Place) -> None:
    """Axes are an input from 18 on; before, every axis is padded."""
    if place.attribute("mode", "constant") not in PAD_MODES:
        raise Refused(f"its mode is {place.attribute('mode')}")
    if not place.input(3):
        place.replace()
        return
    rank = len(place.shape(place.input(0)))
    pads, axes = place.constant(place.input(1)), place.constant(place.input(3))
    full = np.zeros((2, rank), np.int64)
    full[:, axes] = pads.reshape(2, len(axes))
    inputs = [place.input(0), place.add_constant(full.ravel(), np.int64, "pads"), place.input(2)]
    place.replace(inputs=inputs)


def _resize(place: Place) -> None:
    if place.attribute("coordinate_transformation_mode", "half_pixel") not in RESIZE_COORDINATES:
        raise Refused(f"its coordinates are {place.attribute('coordinate_transformation_mode')}")
    place.replace(drop=["keep_aspect_ratio_policy"] if not place.input(3) else [])


def _pool(place: Place) -> None:
    """Spell `ceil_mode` as padding at the end, which every runtime reads alike.

    Old definitions, and ONNX Runtime 1.11 in all opsets, keep a last window that starts in the padding at the end,
    newer ones and torch leave it out; and 1.11 counts what lies behind the padding into an average that includes it.
    """
    dilations = place.attribute("dilations", [])
    if place.node.op_type != "MaxPool" and any(step != 1 for step in dilations):
        raise Refused("'dilations' is set")
    drop = ["dilations"] if place.node.op_type != "MaxPool" else []
    if not place.attribute("ceil_mode", 0):
        place.replace(drop=drop)
        return
    pads = place.attribute("pads", [0] * 2 * len(place.attribute("kernel_shape")))
    wanted = _pads_of_ceil_mode(place)
    if wanted != pads and place.attribute("count_include_pad", 0):
        raise Refused("'ceil_mode' and 'count_include_pad' are set, and the last window is cut off")
    place.replace(drop=[*drop, "ceil_mode"], pads=wanted)


def _pads_of_ceil_mode(place: Place) -> list[int]:
    kernel = place.attribute("kernel_shape")
    rank = len(kernel)
    strides, dilations = (place.attribute(name, [1] * rank) for name in ("strides", "dilations"))
    pads = list(place.attribute("pads", [0] * 2 * rank))
    if place.attribute("auto_pad", "NOTSET") != "NOTSET":
        raise Refused("'ceil_mode' and 'auto_pad' are set")
    for axis, size in enumerate(place.shape(place.input(0))[2:]):
        if size is None:
            raise Refused("'ceil_mode' is set, and the size is dynamic")
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        last = -(-(size + pads[axis] + pads[axis + rank] - reach) // strides[axis]) * strides[axis]
        if last < size + pads[axis]:
            pads[axis + rank] = max(pads[axis + rank], last + reach - size - pads[axis])
    return pads


def _cast(place: Place) -> None:
    """How to saturate and round only concerns float8, which old runtimes do not have."""
    place.replace(drop=["saturate", "round_mode"])


def _cast_like(place: Place) -> None:
    place.finish("Cast", [place.input(0)], to=place.type(place.input(1)))


def _floating(place: Place) -> np.dtype:
    """The NumPy type of the first input, which must be a float that NumPy has."""
    kind = place.type(place.input(0))
    if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
        raise Refused("it is not of floats")
    return helper.tensor_dtype_to_np_dtype(kind)


def _gelu(place: Place) -> None:
    x, dtype = place.input(0), _floating(place)
    if place.attribute("approximate", "none") == "tanh":
        cube = place.add("Mul", [place.add("Mul", [x, x], "square"), x], "cube")
        bent = place.add("Mul", [cube, place.add_constant(0.044715, dtype, "bend")], "bent")
        scale = place.add_constant(math.sqrt(2 / math.pi), dtype, "scale")
        inner = place.add("Mul", [place.add("Add", [x, bent], "sum"), scale], "scaled")
        curve = place.add("Tanh", [inner])
    else:
        inner = place.add("Div", [x, place.add_constant(math.sqrt(2), dtype, "root")], "scaled")
        curve = place.add("Erf", [inner])
    raised = place.add("Add", [curve, place.add_constant(1, dtype, "one")], "raised")
    half = place.add("Mul", [x, place.add_constant(0.5, dtype, "half")], "halved")
    place.finish("Mul", [half, raised])


def _hard_swish(place: Place) -> None:
    _floating(place)
    gate = place.add("HardSigmoid", [place.input(0)], "gate", alpha=1 / 6, beta=0.5)
    place.finish("Mul", [place.input(0), gate])


def _swish(place: Place) -> None:
    x, dtype, alpha = place.input(0), _floating(place), place.attribute("alpha", 1.0)
    inner = x if alpha == 1 else place.add("Mul", [x, place.add_constant(alpha, dtype, "alpha")], "scaled")
    place.finish("Mul", [x, place.add("Sigmoid", [inner], "gate")])


def _mish(place: Place) -> None:
    _floating(place)
    soft = place.add("Softplus", [place.input(0)])
    place.finish("Mul", [place.input(0), place.add("Tanh", [soft], "gate")])


def _normalised(place: Place, x: str, axes: list[int], mean: str = "", inverse: str = "") -> str:
    """(x - mean) / sqrt(variance + epsilon) over `axes`, in float32 as `stash_type` says, then in x's own type."""
    if place.attribute("stash_type", 1) != TensorProto.FLOAT:
        raise Refused("'stash_type' is set")
    own = place.type(place.input(0))
    narrow = own != TensorProto.FLOAT
    if narrow:
        x = place.add("Cast", [x], "wide", to=TensorProto.FLOAT)
    centre = place.add("ReduceMean", [x], "mean", output=mean, axes=axes, keepdims=1)
    apart = place.add("Sub", [x, centre], "centred")
    variance = place.add("ReduceMean", [place.add("Mul", [apart, apart], "squares")], "variance", axes=axes, keepdims=1)
    epsilon = place.add_constant(place.attribute("epsilon", 1e-5), np.float32, "epsilon")
    spread = place.add("Sqrt", [place.add("Add", [variance, epsilon], "shifted")], "spread")
    if inverse:
        place.add("Reciprocal", [spread], output=inverse)
    normal = place.add("Div", [apart, spread], "normalised")
    return place.add("Cast", [normal], "narrow", to=own) if narrow else normal


def _layer_normalization(place: Place) -> None:
    _floating(place)
    axis = place.attribute("axis", -1)
    axes = list(range(axis, 0 if axis < 0 else len(place.shape(place.input(0)))))
    mean, inverse = [*place.node.output[1:], "", ""][:2]
    normal = _normalised(place, place.input(0), axes, mean, inverse)
    if place.input(2):
        scaled = place.add("Mul", [normal, place.input(1)], "scaled")
        place.finish("Add", [scaled, place.input(2)])
    else:
        place.finish("Mul", [normal, place.input(1)])


def _group_normalization(place: Place) -> None:
    """Scale and bias are per group in version 18, per channel from 21 on."""
    _floating(place)
    x, groups = place.input(0), place.attribute("num_groups")
    grouped = place.add("Reshape", [x, place.add_constant([0, groups, -1], np.int64, "groups")], "grouped")
    normal = _normalised(place, grouped, [2])
    whole = place.add("Shape", [x])
    if place.version >= 21:
        normal = place.add("Reshape", [normal, whole], "ungrouped")
        spread = [-1] + [1] * (len(place.shape(x)) - 2)
    else:
        spread = [-1, 1]
    form = place.add_constant(spread, np.int64, "form")
    scale, bias = (place.add("Reshape", [place.input(i), form], hint) for i, hint in ((1, "scale"), (2, "bias")))
    scaled = place.add("Mul", [normal, scale], "scaled")
    if place.version >= 21:
        place.finish("Add", [scaled, bias])
    else:
        place.finish("Reshape", [place.add("Add", [scaled, bias], "biased"), whole])


def _trilu(place: Place) -> None:
    """A constant mask of the last two sizes."""
    x = place.input(0)
    rows, columns = place.shape(x)[-2:]
    if rows is None or columns is None:
        raise Refused("its size is dynamic")
    k = int(place.constant(place.input(1)).item()) if place.input(1) else 0
    ones = np.ones((rows, columns), np.bool_)
    mask = np.triu(ones, k) if place.attribute("upper", 1) else np.tril(ones, k)
    zero = place.add_constant(0, helper.tensor_dtype_to_np_dtype(place.type(x)), "zero")
    place.finish("Where", [place.add_constant(mask, np.bool_, "mask"), x, zero])


def _attention(place: Place) -> None:
    """softmax(q kᵀ scale + mask) v, for as many heads of keys as of queries and without a cache."""
    _floating(place)
    if any(place.node.input[4:]) or any(place.node.output[1:]):
        raise Refused("it has a cache or more than one output")
    limits = [place.attribute(f"{side}_window_size", -1) for side in ("left", "right")]
    if place.attribute("softcap", 0.0) or limits != [-1, -1]:
        raise Refused("it has a soft cap or a window")
    if place.attribute("softmax_precision", place.type(place.input(0))) != place.type(place.input(0)):
        raise Refused("'softmax_precision' is set")
    flat = len(place.shape(place.input(0))) == 3
    q, k, v = (_heads(place, index) if flat else place.input(index) for index in range(3))
    keys = place.add("Transpose", [k], "keys", perm=[0, 1, 3, 2])
    scale = place.add_constant(_attention_scale(place, flat), _floating(place), "scale")
    scores = place.add("MatMul", [place.add("Mul", [q, scale], "queries"), keys], "scores")
    for mask in _attention_masks(place, flat):
        scores = place.add("Add", [scores, mask], "masked")
    weights = place.add("Softmax", [scores], "weights", axis=-1)
    if not flat:
        place.finish("MatMul", [weights, v])
        return
    mixed = place.add("Transpose", [place.add("MatMul", [weights, v], "mixed")], "rows", perm=[0, 2, 1, 3])
    place.finish("Reshape", [mixed, place.add_constant([0, 0, -1], np.int64, "joined")])


def _head_counts(place: Place, flat: bool) -> tuple[int | None, int | None]:
    if flat:
        return place.attribute("q_num_heads"), place.attribute("kv_num_heads")
    return place.shape(place.input(0))[1], place.shape(place.input(1))[1]


def _heads(place: Place, index: int) -> str:
    count = place.attribute("kv_num_heads" if index else "q_num_heads")
    part = "qkv"[index]
    form = place.add_constant([0, 0, count, -1], np.int64, f"{part}_form")
    split = place.add("Reshape", [place.input(index), form], f"{part}_split")
    return place.add("Transpose", [split], f"{part}_heads", perm=[0, 2, 1, 3])


def _attention_scale(place: Place, flat: bool) -> float:
    queries, keys = _head_counts(place, flat)
    if queries is None or queries != keys:
        raise Refused("it has fewer heads of keys than of queries, or how many is not known")
    width = place.shape(place.input(0))[-1]
    if place.attribute("scale"):
        return float(place.attribute("scale"))
    if width is None:
        raise Refused("the size of a head is dynamic")
    return 1 / math.sqrt(width // queries if flat else width)


def _attention_masks(place: Place, flat: bool) -> list[str]:
    masks, dtype = [], _floating(place)
    if place.attribute("is_causal", 0):
        rows, columns = (place.shape(place.input(index))[1 if flat else 2] for index in (0, 1))
        if rows is None or columns is None:
            raise Refused("'is_causal' is set, and the length is dynamic")
        later = np.triu(np.full((rows, columns), -np.inf), 1)
        masks.append(place.add_constant(later, dtype, "causal"))
    if place.input(3):
        mask = place.input(3)
        if place.shape(mask)[-1] != place.shape(place.input(1))[-2]:
            raise Refused("its mask may be shorter than the keys")
        if place.type(mask) == TensorProto.BOOL:
            bounds = [place.add_constant(value, dtype, hint) for value, hint in ((0, "seen"), (-np.inf, "unseen"))]
            mask = place.add("Where", [mask, *bounds], "mask")
        masks.append(mask)
    return masks


ALWAYS = frozenset({"AveragePool", "MaxPool"})
"""Rewritten even where the definition stayed, since old runtimes read it in another way."""
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
RULES: dict[str, Rule] = {
    **{f"Reduce{what}": _reduce for what in REDUCTIONS},
    "Attention": _attention,
    "AveragePool": _pool,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Gelu": _gelu,
    "GroupNormalization": _group_normalization,
    "HardSwish": _hard_swish,
    "LayerNormalization": _layer_normalization,
    "LpPool": _pool,
    "MaxPool": _pool,
    "Mish": _mish,
    "Pad": _pad,
    "QuantizeLinear": _cast,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Split": _split,
    "Swish": _swish,
    "Trilu": _trilu,
}
