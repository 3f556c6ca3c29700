"""What a bundle's edge side is made for: each target says how its models are written and what a device needs.

A target bounds the edge models' opset, IR version and operators, says whether they take any batch or one item, and in
which arithmetic they may compute. The cloud side is never changed by it.

Which operators TensorRT's parser reads is onnx-tensorrt's docs/operators.md. The list here is that of 8.4 (commit
009d6541); its Changelog.md says what came when: Xor and Shrink with 8.4, what `_SINCE_8_5` and `_SINCE_8_6` hold with
those. That an operator is listed does not say that each of its attributes is supported: the build on the device tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from ..errors import BundleError, unknown
from .manifest import Precision

_OPERATORS_8_2 = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat
Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal
Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool
GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity If InstanceNormalization IsNaN LRN LSTM LeakyRelu Less
LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean Min Mul Neg NonMaxSuppression Not Or
PRelu Pad Pow QuantizeLinear RNN RandomUniform RandomUniformLike Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence Round Scan
Scatter ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth
Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Where
"""
_SINCE_8_4 = "Shrink Xor"
_SINCE_8_5 = "GridSample HardSwish MeanVarianceNormalization Mod NonZero RandomNormal RoiAlign Trilu"
_SINCE_8_6 = "GroupNormalization IsInf LayerNormalization"
TENSORRT_8_2 = frozenset(_OPERATORS_8_2.split())
TENSORRT_8_5 = TENSORRT_8_2 | set(_SINCE_8_4.split()) | set(_SINCE_8_5.split())
TENSORRT_8_6 = TENSORRT_8_5 | set(_SINCE_8_6.split())


@dataclass(frozen=True)
class Target:
    """How edge models are written for a kind of device, and what runs them.

    `opset` and `ir_version` are the newest that its runtimes read, None where the model stays as it was exported.
    `operators` are those of the default domain that it reads, None for all. `batch` 1 fixes the batch, None leaves it
    as the model has it. `float16` says how half precision is had: "model" converts the model, "builder" leaves it to
    the engine's builder on the device, None where there is none. `runtimes` are in order of preference.
    """

    name: str
    title: str
    runtimes: tuple[str, ...]
    needs: str
    opset: int | None = None
    ir_version: int | None = None
    operators: frozenset[str] | None = None
    parser: str = ""
    batch: int | None = None
    float16: str | None = None

    def precision(self, wanted: str) -> Precision:
        """The precision itself. Raises BundleError where it is unknown or the target does not have it."""
        if wanted == "float32":
            return "float32"
        if wanted != "float16":
            raise BundleError(unknown("precision", wanted, ("float16", "float32")))
        if self.float16 is None:
            having = ", ".join(sorted(target.name for target in TARGETS.values() if target.float16))
            raise BundleError(f"the target {self.name} computes in float32; targets with float16: {having}")
        return "float16"


_ALL = (
    Target(
        name="cpu",
        title="any processor",
        runtimes=("onnxruntime-cpu",),
        needs="Python 3.6 or later, NumPy, onnxruntime",
    ),
    Target(
        name="cuda",
        title="an NVIDIA GPU through ONNX Runtime",
        runtimes=("onnxruntime-cuda", "onnxruntime-cpu"),
        needs="Python 3.6 or later, NumPy, onnxruntime-gpu, CUDA and cuDNN",
        float16="model",
    ),
    Target(
        name="tensorrt",
        title="an NVIDIA GPU through TensorRT 8.6 to 10, or TensorRT-RTX",
        runtimes=("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-cpu"),
        needs="Python 3.6 or later, NumPy, tensorrt or tensorrt-rtx-cu12",
        opset=17,
        ir_version=8,
        operators=TENSORRT_8_6,
        parser="TensorRT 8.6's parser",
        batch=1,
        float16="builder",
    ),
    Target(
        name="jetson-orin",
        title="a Jetson Orin with JetPack 5.1 or 6 (TensorRT 8.5 to 10)",
        runtimes=("tensorrt", "onnxruntime-cuda", "onnxruntime-cpu"),
        needs="JetPack 5.1 or 6 with its TensorRT and NumPy",
        opset=17,
        ir_version=8,
        operators=TENSORRT_8_5,
        parser="TensorRT 8.5's parser",
        batch=1,
        float16="builder",
    ),
    Target(
        name="tx2",
        title="a Jetson TX2 with JetPack 4.6 (TensorRT 8.2, ONNX Runtime 1.10 or 1.11, Python 3.6)",
        runtimes=("tensorrt", "onnxruntime-cuda", "onnxruntime-cpu"),
        needs="JetPack 4.6 with its TensorRT, Python 3.6 and NumPy",
        opset=13,
        ir_version=7,
        operators=TENSORRT_8_2,
        parser="TensorRT 8.2's parser",
        batch=1,
    ),
)
TARGETS = {target.name: target for target in _ALL}


def find_target(name: str) -> Target:
    """The target called `name`. Raises BundleError naming the known ones."""
    if name not in TARGETS:
        raise BundleError(unknown("target", name, TARGETS))
    return TARGETS[name]


def foreign_operators(nodes: Iterable[onnx.NodeProto], allowed: frozenset[str]) -> list[str]:
    """The operators among the nodes that are not allowed, sorted; those of other domains with their domain."""
    found = set()
    for node in nodes:
        if node.domain not in ("", "ai.onnx"):
            found.add(f"{node.domain}.{node.op_type}")
        elif node.op_type not in allowed:
            found.add(node.op_type)
    return sorted(found)
