"""What a Jetson TX2's ONNX Runtime, 1.11, does with models exported today and rewritten for it."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import mmap
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional

from edgecut.models.downgrade import downgrade
from edgecut.models.lenet import LeNet5

NodeRuntime = Callable[[Any, Mapping[str, np.ndarray]], dict[str, np.ndarray]]
FLOAT = TensorProto.FLOAT
pytestmark = pytest.mark.deep


class Residual(nn.Module):
    """BatchNorm, a residual connection, both kinds of pooling, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(torch.relu(self.norm(self.stem(x))), 3, 2, 1, ceil_mode=True)
        x = functional.avg_pool2d(x + self.body(x), 2)
        logits: torch.Tensor = self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class Encoder(nn.Module):
    """One transformer encoder layer over token ids, as BERT has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.position = nn.Parameter(torch.randn(12, 16))
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        self.feed = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids) + self.position
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = self.norms[0](x + self.out(mixed.transpose(1, 2).flatten(2)))
        pooled: torch.Tensor = self.norms[1](x + self.feed(x)).mean(dim=1)
        return pooled


class TextCNN(nn.Module):
    """Branches of one-dimensional convolutions, one of them depthwise, joined and split again."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.branches = nn.ModuleList(nn.Conv1d(8, 6, size, padding="same") for size in (1, 3, 5))
        self.depthwise = nn.Conv1d(18, 18, 3, groups=18)
        self.head = nn.Linear(9, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids).transpose(1, 2)
        joined = self.depthwise(torch.cat([functional.silu(branch(x)) for branch in self.branches], dim=1))
        left, right = joined.amax(dim=2).chunk(2, dim=1)
        logits: torch.Tensor = self.head(left * torch.sigmoid(right))
        return logits


class Decoder(nn.Module):
    """GroupNorm, reflected padding, two kinds of upsampling, and rarer activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3), nn.GroupNorm(3, 6)
        self.up = nn.ConvTranspose2d(6, 2, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.mish(self.norm(self.conv(functional.pad(x, (1, 1, 1, 1), mode="reflect"))))
        x = functional.gelu(self.up(functional.interpolate(x, scale_factor=2)), approximate="tanh")
        return functional.interpolate(x, size=(9, 11), mode="bilinear")


class Recurrent(nn.Module):
    """An LSTM and then a GRU; the last state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.gru(self.lstm(x)[0])
        logits: torch.Tensor = self.head(y[:, -1])
        return logits


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "lenet5": (LeNet5, (1, 32, 32), False),
    "residual": (Residual, (3, 15, 16), False),
    "encoder": (Encoder, (12,), True),
    "text_cnn": (TextCNN, (12,), True),
    "decoder": (Decoder, (2, 5, 6), False),
    "recurrent": (Recurrent, (7, 6), False),
}


def exported(name: str, opset: int = 18) -> onnx.ModelProto:
    return onnx.load_from_string(_exported(name, opset))


@functools.cache
def _exported(name: str, opset: int) -> bytes:
    build, shape, ids = NETWORKS[name]
    torch.manual_seed(0)
    example = torch.from_numpy(feed(shape, ids)["input"])
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            build().eval(),
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=["input"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def feed(shape: tuple[int, ...], ids: bool, batch: int = 3) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    if ids:
        return {"input": generator.integers(0, 50, (batch, *shape), dtype=np.int64)}
    return {"input": generator.standard_normal((batch, *shape)).astype(np.float32)}


def current(proto: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(values)), strict=True))


def close(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).max())


@pytest.mark.parametrize("ir, opset, said", [(10, 18, "IR version"), (7, 18, "opset"), (10, 13, "IR version")])
def test_it_takes_no_newer_model(node_runtime: NodeRuntime, ir: int, opset: int, said: str) -> None:
    proto = exported("lenet5")
    proto.ir_version = ir
    proto.opset_import[0].version = opset
    with pytest.raises(RuntimeError, match=f"(?i){said}"):
        node_runtime(proto.SerializeToString(), feed((1, 32, 32), False))


@pytest.mark.parametrize(
    "name, opset", [*((name, 18) for name in NETWORKS), ("residual", 23), ("encoder", 23), ("decoder", 23)]
)
def test_exports_of_today_run_after_rewriting(node_runtime: NodeRuntime, name: str, opset: int) -> None:
    proto = exported(name, opset)
    _, shape, ids = NETWORKS[name]
    values = feed(shape, ids)
    older = downgrade(proto)
    onnx.checker.check_model(older, full_check=True)
    close(node_runtime(older.SerializeToString(), values), current(proto, values))


@pytest.mark.parametrize(
    "operator, attributes",
    [
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [5, 5]}),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 1]}),
        ("AveragePool", {"kernel_shape": [3, 2], "strides": [2, 5], "pads": [1, 0, 0, 1]}),
    ],
)
def test_it_pools_with_ceil_mode_as_today(
    node_runtime: NodeRuntime, operator: str, attributes: dict[str, list[int]]
) -> None:
    """The first and the last have a window that starts behind the input, which 1.11 keeps unless rewritten."""
    ports = [helper.make_tensor_value_info("x", FLOAT, ["n", 2, 6, 5])]
    results = [helper.make_tensor_value_info("y", FLOAT, ["n", 2, "h", "w"])]
    node = helper.make_node(operator, ["x"], ["y"], ceil_mode=1, **attributes)
    graph = helper.make_graph([node], "g", ports, results)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    values = feed((2, 6, 5), False)
    values = {"x": values["input"]}
    close(node_runtime(downgrade(proto).SerializeToString(), values), current(proto, values))
    relabelled = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    kept = node_runtime(relabelled.SerializeToString(), values)["y"].shape
    assert (kept != current(proto, values)["y"].shape) is (5 in attributes["strides"])


@pytest.mark.parametrize("dtype", ["bool", "float64", "int8", "int64", "uint8", "int32"])
def test_every_type_goes_in_and_out(node_runtime: NodeRuntime, dtype: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ports = [helper.make_tensor_value_info(name, kind, ["n", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ports[:1], ports[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    value = np.array([[0, 1, 2], [3, 0, 5]]).astype(dtype)
    got = node_runtime(proto.SerializeToString(), {"x": value})["y"]
    assert got.dtype == value.dtype
    np.testing.assert_array_equal(got, value)


def stored_beside(proto: onnx.ModelProto, file: Path, alignment: int, start: int = 0) -> None:
    """Move weights of a model to the end of a file that it may share with others."""
    with open(file, "ab") as shared:
        for tensor in proto.graph.initializer:
            if len(tensor.raw_data) < 64:
                continue
            shared.write(b"\xff" * (-shared.tell() % alignment + start))
            offset = shared.tell()
            shared.write(tensor.raw_data)
            entries = {"location": file.name, "offset": str(offset), "length": str(len(tensor.raw_data))}
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)


@pytest.mark.parametrize(
    "alignment, start", [(mmap.PAGESIZE, 0), (mmap.ALLOCATIONGRANULARITY * 16, 0), (64, 0), (1, 1)]
)
def test_models_share_one_file_of_weights(
    node_runtime: NodeRuntime, tmp_path: Path, alignment: int, start: int
) -> None:
    """Whether the offsets are page aligned or even odd; the second model's all lie behind the first's."""
    for name in ("lenet5", "encoder"):
        proto = exported(name)
        _, shape, ids = NETWORKS[name]
        values = feed(shape, ids)
        wanted = current(proto, values)
        stored_beside(proto, tmp_path / "weights.bin", alignment, start)
        older = downgrade(proto)
        moved = [t for t in older.graph.initializer if t.data_location == TensorProto.EXTERNAL]
        assert len(moved) >= 8 and not any(t.raw_data for t in moved)
        offsets = [int(e.value) for t in moved for e in t.external_data if e.key == "offset"]
        assert alignment == 1 or not any(offset % alignment for offset in offsets)
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(older.SerializeToString())
        close(node_runtime(path, values), wanted)


def test_without_the_file_of_weights_it_does_not_load(node_runtime: NodeRuntime, tmp_path: Path) -> None:
    proto = exported("lenet5")
    stored_beside(proto, tmp_path / "weights.bin", 4096)
    path = tmp_path / "model.onnx"
    path.write_bytes(downgrade(proto).SerializeToString())
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(RuntimeError, match=r"weights\.bin"):
        node_runtime(path, feed((1, 32, 32), False))
