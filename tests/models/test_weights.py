"""Weights beside the graph: files good and hostile, more than 2 GB, odd types, and digests that see every change."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.errors import ModelError
from edgecut.models import weights as weights_module
from edgecut.models.graph import ModelGraph
from edgecut.models.load import Model, load_model
from edgecut.models.split import halves, partitions, whole
from edgecut.models.weights import ALIGNMENT, Weights, refer, take

EveryCut = Callable[..., list[tuple[str, ...]]]
Run = Callable[..., dict[str, np.ndarray]]
node = helper.make_node
WIDE = 24


def model(*between: onnx.NodeProto, **more: np.ndarray) -> onnx.ModelProto:
    """`x` [n, 24] through three products to `y`, by weights of 2304 bytes each and a bias of 96."""
    generator = np.random.default_rng(4)
    values: dict[str, np.ndarray] = {
        **{f"w{i}": generator.standard_normal((WIDE, WIDE)).astype(np.float32) for i in range(3)},
        "bias": generator.standard_normal(WIDE).astype(np.float32),
        "folded": np.array([-1, 4, 6]),
        **more,
    }
    nodes = [
        node("MatMul", ["x", "w0"], ["a"], name="one"),
        node("Add", ["a", "bias"], ["b"]),
        node("MatMul", ["b", "w1"], ["c"], name="two"),
        node("Reshape", ["c", "folded"], ["d"]),
        node("Flatten", ["d"], ["e"]),
        *between,
        node("MatMul", ["e", "w2"], ["y"], name="three"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDE])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def saved(folder: Path, *, one_file: bool = True, threshold: int = 1024) -> Path:
    path = folder / "m.onnx"
    onnx.save_model(
        model(),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=one_file,
        location="weights.data" if one_file else None,
        size_threshold=threshold,
    )
    return path


@pytest.mark.parametrize("threshold", [0, 1024])
@pytest.mark.parametrize("one_file", [True, False])
def test_weights_in_other_files(tmp_path: Path, run: Run, one_file: bool, threshold: int) -> None:
    """Even a shape that a reshape needs may lie there."""
    path = saved(tmp_path, one_file=one_file, threshold=threshold)
    assert len(list(tmp_path.iterdir())) == (2 if one_file else 1 + (3 if threshold else 5))
    loaded = load_model(str(path))
    assert path.stat().st_size < 2000
    inside = ModelGraph(model(), "m", loaded.spec.digest)
    assert loaded.spec == inside.spec()
    assert [cut.name for cut in loaded.spec.cuts] == ["one", "two"]
    assert loaded.graph.whole().SerializeToString() == inside.whole().SerializeToString()
    x = {"x": np.random.default_rng(0).standard_normal((3, WIDE)).astype(np.float32)}
    expected = run(model(), x)["y"]
    for cut in loaded.spec.cuts:
        edge, cloud = halves(loaded.graph, cut)
        np.testing.assert_allclose(run(cloud, run(edge, x))["y"], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(
        ModelError, match="keeps its weights in another file: it can be profiled and planned; to deploy"
    ):
        loaded.read()


def test_halves_embed_what_the_whole_has(tmp_path: Path) -> None:
    graph = load_model(str(saved(tmp_path))).graph
    values = {t.name: numpy_helper.to_array(t) for t in model().graph.initializer}
    for cut in graph.cuts():
        found: set[str] = set()
        for half in halves(graph, cut):
            for tensor in half.graph.initializer:
                np.testing.assert_array_equal(numpy_helper.to_array(tensor), values[tensor.name])
                assert tensor.data_location == TensorProto.DEFAULT and not tensor.external_data
                found.add(tensor.name)
        assert found == set(values)
    stored = sum(value.nbytes for value in values.values() if value.nbytes >= 1024)
    assert graph.weights.size_bytes(set(values)) == stored == 3 * 4 * WIDE * WIDE


def test_one_file_for_all_halves(tmp_path: Path, run: Run) -> None:
    """Written once, aligned to pages, and referred to by every half; ONNX Runtime reads them so."""
    from onnxruntime import InferenceSession

    graph = ModelGraph(model(), "m", "")
    layout = graph.weights.write(tmp_path / "w.bin")
    assert layout.keys() == {"w0", "w1", "w2"}
    assert all(offset % ALIGNMENT == 0 and length == 4 * WIDE * WIDE for offset, length in layout.values())
    raw = (tmp_path / "w.bin").read_bytes()
    for name, (offset, length) in layout.items():
        assert raw[offset : offset + length] == b"".join(graph.weights.read(name))
    cut = next(graph.cuts())
    values = {"x": np.random.default_rng(0).standard_normal((2, WIDE)).astype(np.float32)}
    expected = run(model(), values)["y"]
    for part, skeleton in (("edge", partitions(graph, cut)[0]), ("cloud", partitions(graph, cut)[1])):
        path = tmp_path / f"{part}.onnx"
        path.write_bytes(refer(skeleton, "w.bin", layout).SerializeToString())
        session = InferenceSession(str(path))
        values = dict(zip([v.name for v in session.get_outputs()], session.run(None, values), strict=True))
    np.testing.assert_allclose(values["y"], expected, rtol=1e-5, atol=1e-5)


def changed(path: Path, **entries: str | None) -> Path:
    """The model's file with another description of where `w1` is."""
    proto = onnx.load_model(str(path), load_external_data=False)
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == "w1")
    known = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in known.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())
    return path


OUTSIDE = "which is outside its own folder; keep its files together"
ELSEWHERE = "does not lie in .* as the model says"


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"location": "../secret.bin"}, OUTSIDE),
        ({"location": "sub/../../secret.bin"}, OUTSIDE),
        ({"location": "/etc/passwd"}, OUTSIDE),
        ({"location": ""}, OUTSIDE),
        ({"location": None}, OUTSIDE),
        ({"location": "a\0b"}, OUTSIDE),
        ({"location": "link"}, OUTSIDE),
        ({"location": "folder-link/secret.bin"}, OUTSIDE),
        ({"location": "gone.bin"}, "file of weights .*gone.bin is missing; put it beside the .onnx file"),
        ({"location": "sub"}, "is missing"),
        ({"offset": "1000000"}, ELSEWHERE),
        ({"offset": "-1"}, ELSEWHERE),
        ({"offset": "many"}, ELSEWHERE),
        ({"length": "2300"}, ELSEWHERE),
        ({"length": "-4"}, ELSEWHERE),
        ({"location": "short.bin", "offset": "0"}, ELSEWHERE),
    ],
    ids=str,
)
def test_hostile_files(tmp_path: Path, entries: dict[str, str | None], said: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    (folder / "link").symlink_to(tmp_path / "secret.bin")
    (folder / "folder-link").symlink_to(tmp_path)
    (folder / "short.bin").write_bytes(bytes(4 * WIDE * WIDE - 1))
    path = saved(folder)
    load_model(str(path))
    with pytest.raises(ModelError, match=said) as caught:
        load_model(str(changed(path, **entries)))
    assert "\n" not in str(caught.value)
    assert "w1" in str(caught.value) or "is missing" in str(caught.value)


def test_no_length_means_the_shapes(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = load_model(str(path))
    after = load_model(str(changed(path, length=None)))
    assert after.graph.whole().SerializeToString() == before.graph.whole().SerializeToString()


def test_a_link_within_the_folder_is_fine(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (tmp_path / "weights.data").rename(tmp_path / "blob")
    (tmp_path / "weights.data").symlink_to("blob")
    load_model(str(path)).graph.whole()


def test_bytes_alone_have_no_folder(tmp_path: Path) -> None:
    proto = onnx.load_model(str(saved(tmp_path)), load_external_data=False)
    with pytest.raises(ModelError, match=r"keeps 'w0' in the file 'weights.data', and here only one file is given"):
        ModelGraph(proto, "m", "")


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    graph = load_model(str(saved(tmp_path))).graph
    os.truncate(tmp_path / "weights.data", 100)
    with pytest.raises(ModelError, match=r"weights.data became shorter while it was read"):
        graph.whole()


def test_every_change_gives_another_digest(tmp_path: Path) -> None:
    path = saved(tmp_path)
    first = load_model(str(path)).spec.digest
    assert load_model(str(path)).spec.digest == first
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert load_model(str(saved(elsewhere))).spec.digest == first
    raw = bytearray((tmp_path / "weights.data").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "weights.data").write_bytes(raw)
    assert load_model(str(path)).spec.digest != first


def test_chosen_sizes_give_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    proto = model()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.save_model(proto, path)
    digests = [load_model(str(path), sizes=sizes).spec.digest for sizes in (None, {}, {"n": 1}, {"n": 2}, {"n": 1})]
    assert digests[0] == digests[1] and digests[2] == digests[4]
    assert len(set(digests)) == 3
    with pytest.raises(ModelError, match=r"no dimension 'm' to fix; its inputs' named dimensions: n"):
        load_model(str(path), sizes={"m": 1})
    with pytest.raises(
        ModelError, match=r"only an .onnx file's dimensions can be fixed with --dim, and 'lenet5' is none"
    ):
        load_model("lenet5", sizes={"n": 1})


@pytest.fixture
def huge(tmp_path: Path) -> Model:
    """Two products by 1.2 GB of zeros each, which take no room on a file system that knows holes."""
    rows = 300_000_000 // 1000
    tensors = []
    for index, dims in enumerate(([1000, rows], [rows, 1000])):
        tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=dims)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "big"), ("offset", index * 4 * 1000 * rows), ("length", 4 * 1000 * rows)):
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
    graph = helper.make_graph(
        [node("MatMul", ["x", "w0"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "w1"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1000])],
        tensors,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "huge.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "big").touch()
    os.truncate(tmp_path / "big", 2 * 4 * 1000 * rows)
    return load_model(str(tmp_path / "huge.onnx"))


def test_more_than_two_gigabytes(huge: Model) -> None:
    """Read, cut and counted without a copy; only what must be one file is refused."""
    assert huge.spec.parameters == 600_000_000
    (cut,) = huge.spec.cuts
    assert [tensor.shape for tensor in cut.tensors] == [(300_000,)]
    for skeleton, name in zip(partitions(huge.graph, cut), ("w0", "w1"), strict=True):
        names = {tensor.name for tensor in skeleton.graph.initializer}
        assert names == {name}
        assert huge.graph.weights.size_bytes(names) == 1_200_000_000
        assert skeleton.ByteSize() < 1000
        offset = {"w0": 0, "w1": 1_200_000_000}[name]
        referring = refer(skeleton, "big", {"w0": (0, 1_200_000_000), "w1": (1_200_000_000, 1_200_000_000)})
        entries = {entry.key: entry.value for entry in referring.graph.initializer[0].external_data}
        assert entries == {"location": "big", "offset": str(offset), "length": "1200000000"}
    for refused in (huge.graph.whole, lambda: huge.graph.weights.embed(whole(huge.graph))):
        with pytest.raises(
            ModelError, match=r"holds 2\.4 GB of weights, and one ONNX file holds at most 2 GB; profile"
        ):
            refused()
    with pytest.raises(ModelError, match="keeps its weights in another file"):
        huge.read()


def quantised(values: np.ndarray) -> onnx.ModelProto:
    """A product by weights that are dequantised from `values` first."""
    proto = model(
        node("DequantizeLinear", ["q", "scale"], ["dequantised"]),
        node("MatMul", ["e", "dequantised"], ["f"]),
        node("Relu", ["f"], ["g"]),
        q=values,
        scale=np.array(0.1, np.float32),
    )
    proto.graph.node[-1].input[0] = "g"
    return proto


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("kind", ["int4", "uint4", "int8", "uint8", "float8_e4m3fn"])
def test_small_types(tmp_path: Path, run: Run, kind: str, raw: bool) -> None:
    """Half a byte a value, an odd number of them too; stored as bytes or as numbers; inside, beside and cut."""
    dtype = np.dtype(getattr(ml_dtypes, kind, None) or kind)
    integers = np.random.default_rng(0).integers(0 if kind[0] == "u" else -7, 8, (WIDE, WIDE))
    proto = quantised(integers.astype(dtype))
    odd = numpy_helper.from_array(np.resize(integers, 2301).astype(dtype), "odd")
    proto.graph.initializer.append(odd)
    if not raw:
        for index, tensor in enumerate(proto.graph.initializer):
            if tensor.name in ("q", "odd"):
                numbers = helper.make_tensor(
                    tensor.name, tensor.data_type, list(tensor.dims), numpy_helper.to_array(tensor).flatten()
                )
                proto.graph.initializer[index].CopyFrom(numbers)
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    graph = ModelGraph(copy, "m", "")
    assert graph.spec().parameters == 3 * WIDE * WIDE + WIDE + 1  # learned as floats: what is quantised is not counted
    put_back = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.whole().graph.initializer}
    for name, expected in ((tensor.name, numpy_helper.to_array(tensor)) for tensor in proto.graph.initializer):
        np.testing.assert_array_equal(put_back[name], expected)
        assert put_back[name].dtype == expected.dtype
    onnx.save_model(graph.whole(), tmp_path / "m.onnx", save_as_external_data=True, location="w")
    beside = load_model(str(tmp_path / "m.onnx")).graph
    assert beside.whole().SerializeToString() == graph.whole().SerializeToString()
    if kind == "float8_e4m3fn":
        return
    x = {"x": np.random.default_rng(0).standard_normal((3, WIDE)).astype(np.float32)}
    for cut in graph.cuts():
        edge, cloud = halves(graph, cut)
        expected = run(graph.whole(), x)["y"]
        # Loosely: ONNX Runtime may quantise what goes in front of such weights, too, and differently in a half.
        got = run(cloud, run(edge, x))["y"]
        np.testing.assert_allclose(got, expected, rtol=0, atol=0.02 * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    "value",
    [
        np.random.default_rng(0).standard_normal((40, 40)).astype(np.float16),
        np.random.default_rng(0).standard_normal((40, 40)).astype(ml_dtypes.bfloat16),
        np.random.default_rng(0).standard_normal((40, 40)),
        np.random.default_rng(0).integers(0, 2, (40, 40)) > 0,
        np.arange(2000),
        np.zeros((0, 4), np.float32),
    ],
    ids=lambda value: str(value.dtype),
)
def test_other_types_come_back_as_they_were(value: np.ndarray) -> None:
    proto = model()
    proto.graph.initializer.append(numpy_helper.from_array(value, "other"))
    expected = proto.SerializeToString()
    weights = take(proto, None)
    assert ("other" in weights.sources) == (value.dtype.kind in "fV" and value.size > 0)
    assert weights.embed(proto).SerializeToString() == expected


def test_constants_are_parameters() -> None:
    """A tensor in a node weighs as much as one beside it; numbers that are no tensor stay nodes."""
    proto = model()
    kept = [tensor for tensor in proto.graph.initializer if tensor.name != "w1"]
    moved = next(tensor for tensor in proto.graph.initializer if tensor.name == "w1")
    constants = [
        node("Constant", [], ["w1"], value=moved),
        node("Constant", [], ["two"], value_float=2.0),
    ]
    nodes = [*constants, *proto.graph.node[:-1], node("Mul", ["e", "two"], ["g"]), node("MatMul", ["g", "w2"], ["y"])]
    nodes = [onnx.NodeProto.FromString(one.SerializeToString()) for one in nodes]
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.initializer.extend(kept)
    proto.graph.node.extend(nodes)
    graph = ModelGraph(proto, "m", "")
    assert graph.spec().parameters == 3 * WIDE * WIDE + WIDE
    assert "w1" in graph.weights.sources
    assert [one.output[0] for one in graph.proto.graph.node if one.op_type == "Constant"] == ["two"]
    onnx.checker.check_model(graph.whole(), full_check=True)
    for half in halves(graph, next(graph.cuts())):
        onnx.checker.check_model(half, full_check=True)


def spoiled(**changes: Any) -> onnx.ModelProto:
    proto = model()
    tensor = proto.graph.initializer[1]
    for name, value in changes.items():
        if name == "dims":
            tensor.dims[:] = value
        else:
            setattr(tensor, name, value)
    return proto


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data_type": 0}, "tensor 'w1' has the type 0 and the shape .*, which cannot be"),
        ({"data_type": 99}, "tensor 'w1' has the type 99"),
        ({"dims": [-1, WIDE]}, "tensor 'w1' has .* the shape .*, which cannot be"),
        ({"dims": [WIDE, 2 * WIDE]}, "tensor 'w1' does not have the values its shape says"),
        ({"raw_data": bytes(100)}, "tensor 'w1' does not have the values its shape says"),
    ],
    ids=str,
)
def test_damaged_tensors(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        ModelGraph(spoiled(**changes), "m", "")


def test_too_large_for_one_file_by_a_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = ModelGraph(model(), "m", "")
    size = graph.weights.size_bytes(set(graph.initializers)) + graph.proto.ByteSize()
    monkeypatch.setattr(weights_module, "MAX_PROTO_BYTES", size)
    graph.whole()
    monkeypatch.setattr(weights_module, "MAX_PROTO_BYTES", size - 1)
    with pytest.raises(ModelError, match="one ONNX file holds at most 2 GB"):
        graph.whole()
    assert Weights().size_bytes({"nothing"}) == 0
