"""The work of a layer, operation by operation: what predictors of time and energy need to know of it.

Counts are per item of the batch and free of precision: elements, not bytes (`Operation.bytes` multiplies by the
size of a value). A multiply-add counts as two floating-point operations.
"""

from __future__ import annotations

from typing import Literal

from ..artefacts import Record

Kind = Literal[
    "conv",
    "depthwise_conv",
    "linear",
    "matmul",
    "recurrent",
    "maxpool",
    "avgpool",
    "batchnorm",
    "softmax",
    "elementwise",
    "embedding",
    "movement",
]
COMPUTE_KINDS = ("conv", "depthwise_conv", "linear", "matmul", "recurrent")


class Operation(Record):
    """One operation. Shape features are None where they do not apply.

    `kind`: `matmul` is a product of two activations, `linear` one with weights, `movement` copies or reorders without
    arithmetic. `input_hw`, `kernel` and `stride` are (height, width); a linear layer's `in_channels` and `out_channels`
    are its input and output features, and `rows` how many vectors per item of the batch it is applied to.
    """

    kind: Kind
    operator: str
    flops: int
    input_elements: int
    output_elements: int
    parameters: int
    input_hw: tuple[int, int] | None = None
    in_channels: int | None = None
    out_channels: int | None = None
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    groups: int = 1
    rows: int = 1

    def bytes(self, batch: int = 1, value_bytes: int = 4) -> int:
        """Bytes read and written once each: activations of the whole batch, and the weights."""
        return (batch * (self.input_elements + self.output_elements) + self.parameters) * value_bytes
