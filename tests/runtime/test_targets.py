"""Edge sides for each target: how their models are written, that they still compute the model, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, defs, helper, numpy_helper

import edgecut.runtime.bundle as bundling
from edgecut.errors import BundleError, EdgecutError, ModelError
from edgecut.models.load import load_model
from edgecut.models.spec import CutSpec
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.partitioner.plan import Plan
from edgecut.runtime.bundle import bundle
from edgecut.runtime.manifest import EdgeManifest
from edgecut.runtime.precision import as_in_float16
from edgecut.runtime.targets import TARGETS, TENSORRT_8_2, TENSORRT_8_6, find_target
from edgecut.runtime.verify import verify

ort = pytest.importorskip("onnxruntime")
NodeRuntime = Callable[[Any, Mapping[str, np.ndarray]], dict[str, np.ndarray]]
SIZE, CLASSES = 6, 3


def weights(name: str, *shape: int, scale: float = 0.3) -> onnx.TensorProto:
    generator = np.random.default_rng(len(name))
    return numpy_helper.from_array((generator.standard_normal(shape) * scale).astype(np.float32), name)


def network(
    folder: Path, *middle: onnx.NodeProto, opset: int = 18, batch: int | str = "n", extra: Any = (), scale: float = 0.3
) -> Path:
    """Conv, whatever is in the middle from `a` to `b`, Conv, Flatten, Gemm; IR 10. Saved as an ONNX file."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        *(middle or [helper.make_node("Relu", ["a"], ["b"])]),
        helper.make_node("Conv", ["b", "w2"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "w3"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
        [weights("w1", 4, 1, 3, 3, scale=scale), weights("w2", 2, 4, 3, 3), weights("w3", 32, CLASSES), *extra],
    )
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


def noise_at(cut: CutSpec, digest: str, folder: Path) -> Path:
    """A collection nobody learned; what a bundle is made of does not depend on its values."""
    generator = np.random.default_rng(0)
    collection = NoiseCollection(
        loc=np.zeros(2, np.float32),
        scale=np.full(2, 0.1, np.float32),
        orders=np.stack([generator.permutation(cut.elements) for _ in range(2)]),
        tensors=[(tensor.name, tensor.shape) for tensor in cut.tensors],
        model_digest=digest,
        cut=cut.name,
    )
    path = folder / "net.noise.npz"
    path.write_bytes(collection.to_bytes())
    return path


Make = Callable[..., Path]


@pytest.fixture
def make(planned: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`make(path, target, **options)`: the bundle of a model, cut after its first layer."""
    monkeypatch.setattr(bundling, "DRAWS", 1)

    def made(path: Path, target: str, **options: Any) -> Path:
        model = load_model(str(path))
        cut = model.spec.cuts[0]
        plan = planned.model_copy(update={"model": model.spec, "choice": cut.name})
        folder = tmp_path / f"{target}-{len(list(tmp_path.iterdir()))}"
        given = {"model": str(path), "noise": noise_at(cut, model.spec.digest, tmp_path), "target": target}
        return bundle(plan, output=folder, **given, **options).folder

    return made


def run(model: Path | bytes, **feed: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(
        model if isinstance(model, bytes) else str(model), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 1, SIZE, SIZE)).astype(np.float32)


def through(folder: Path, x: np.ndarray, rest: str = "cloud/model_repository/net/1/model.onnx") -> np.ndarray:
    """The logits of a bundle's halves without noise, item by item."""
    edge = folder / "edge" / "edge.onnx"
    return np.concatenate([run(folder / rest, **run(edge, x=item[None]))["logits"] for item in x])


def described(folder: Path) -> EdgeManifest:
    manifest = verify(folder / "edge").manifest
    assert isinstance(manifest, EdgeManifest)
    return manifest


WRITTEN = {
    "cpu": (18, 10, None),
    "cuda": (18, 10, None),
    "tensorrt": (17, 8, 1),
    "jetson-orin": (17, 8, 1),
    "tx2": (13, 7, 1),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_side_is_written_as_its_target_reads_it(name: str, make: Make, tmp_path: Path) -> None:
    path = network(tmp_path)
    folder = make(path, name, local_fallback=True)
    opset, ir_version, batch = WRITTEN[name]
    target = described(folder).target
    assert (target.name, target.opset, target.ir_version, target.batch) == (name, opset, ir_version, batch)
    assert target.runtime == TARGETS[name].runtimes[0] and target.precision == "float32"
    for file in ("edge.onnx", "fallback.onnx"):
        model = onnx.load(folder / "edge" / file)
        onnx.checker.check_model(model, full_check=True)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
        assert model.ir_version == ir_version
        for value in [*model.graph.input, *model.graph.output]:
            assert value.type.tensor_type.shape.dim[0].dim_value == (batch or 0)
    x = images(4)
    expected = run(path, x=x)["logits"]
    np.testing.assert_allclose(through(folder, x), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(through(folder, x, "edge/fallback.onnx"), expected, rtol=1e-4, atol=1e-4)


def test_the_cloud_side_is_the_same_for_all(make: Make, tmp_path: Path) -> None:
    path = network(tmp_path)
    sides = []
    for options in ({"target": "cpu"}, {"target": "tx2"}, {"target": "cuda", "precision": "float16"}):
        cloud = make(path, **options) / "cloud"
        sides.append({p.relative_to(cloud): p.read_bytes() for p in cloud.rglob("*") if p.is_file()})
    assert sides[0] == sides[1] == sides[2] and len(sides[0]) >= 3


def test_only_what_was_asked_for_is_in_a_side(make: Make, tmp_path: Path) -> None:
    path = network(tmp_path)
    usual = {"manifest.json", "edge.onnx", "noise.npz", "noise.c", "noise.cu", "edgecut_edge.pyz"}
    plain, rich = make(path, "cpu"), make(path, "cpu", local_fallback=True)
    assert {p.name for p in (plain / "edge").iterdir()} == usual
    assert {p.name for p in (rich / "edge").iterdir()} == usual | {"fallback.onnx"}
    assert described(plain).fallback is None and described(rich).fallback == "fallback.onnx"
    assert described(rich).engines == ()


NORM = (helper.make_node("LayerNormalization", ["a", "s"], ["b"], axis=3), [weights("s", SIZE)])
HARDMAX = (helper.make_node("Hardmax", ["a"], ["b"], axis=1), [])
SHRINK = (helper.make_node("Shrink", ["a"], ["b"], lambd=0.1), [])


@pytest.mark.parametrize(
    ("what", "name", "opset"),
    [
        (NORM, "tensorrt", 17),
        (NORM, "jetson-orin", 16),
        (NORM, "tx2", 13),
        (SHRINK, "jetson-orin", 17),
    ],
)
def test_an_operator_that_is_not_read_is_spelt_otherwise(
    what: Any, name: str, opset: int, make: Make, tmp_path: Path
) -> None:
    node, extra = what
    path = network(tmp_path, node, extra=extra)
    folder = make(path, name)
    assert described(folder).target.opset == opset
    found = {node.op_type for node in onnx.load(folder / "edge" / "edge.onnx").graph.node}
    assert found <= (TARGETS[name].operators or found)
    x = images(2)
    np.testing.assert_allclose(through(folder, x), run(path, x=x)["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("what", "name"), [(HARDMAX, "tx2"), (HARDMAX, "tensorrt"), (SHRINK, "tx2")])
def test_an_operator_without_another_form_is_named(what: Any, name: str, make: Make, tmp_path: Path) -> None:
    node, extra = what
    path = network(tmp_path, node, extra=extra)
    with pytest.raises(ModelError, match=rf"edge half of net needs {node.op_type}, which TensorRT 8.* does not read"):
        make(path, name)
    assert not list(tmp_path.glob(f"*{name}*"))
    assert verify(make(path, "cpu")).manifest


def test_operators_are_onnx_operators() -> None:
    known = {schema.name for schema in defs.get_all_schemas_with_history() if schema.domain == ""}
    assert known > TENSORRT_8_6 > TENSORRT_8_2
    assert len(TENSORRT_8_2) == 126


def test_half_precision_in_the_model(make: Make, tmp_path: Path) -> None:
    path = network(tmp_path)
    folder = make(path, "cuda", precision="float16", local_fallback=True)
    assert described(folder).target.precision == "float16"
    for file in ("edge.onnx", "fallback.onnx"):
        model = onnx.load(folder / "edge" / file)
        kinds = {tensor.data_type for tensor in model.graph.initializer if tensor.dims}
        assert TensorProto.FLOAT not in kinds and TensorProto.FLOAT16 in kinds
        for value in [*model.graph.input, *model.graph.output]:
            assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    x = images(8)
    activation, exact = run(folder / "edge" / "edge.onnx", x=x)["b"], np.maximum(run_first(path, x), 0)
    assert activation.dtype == np.float32
    assert 0 < np.abs(activation - exact).max() < 2e-3 * np.abs(exact).max()
    whole = json.loads((folder / "manifest.json").read_bytes())
    assert 0 < whole["largest_difference"] < 0.05


def test_rounding_is_that_of_half_precision(tmp_path: Path) -> None:
    """Against NumPy's own float16: the convolution's sums in float32, then the square rounded, and so its root."""
    square, root = helper.make_node("Mul", ["a", "a"], ["q"]), helper.make_node("Sqrt", ["q"], ["b"])
    path, x = network(tmp_path, square, root), images(5)
    graph = onnx.load(path)
    del graph.graph.node[3:], graph.graph.output[:]
    graph.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", 4, SIZE, SIZE]))
    got = run(as_in_float16(graph.SerializeToString(), "net"), x=x)["b"]
    halved = numpy_helper.from_array(numpy_helper.to_array(graph.graph.initializer[0]).astype(np.float16), "w1")
    graph.graph.initializer[0].CopyFrom(halved)
    onnx.save(graph, tmp_path / "halved.onnx")
    first = run_first(tmp_path / "halved.onnx", x.astype(np.float16)).astype(np.float16)
    expected = np.sqrt((first * first).astype(np.float32)).astype(np.float16)
    assert got.dtype == np.float32 and (got == got.astype(np.float16)).all()
    # A sum in another order may round the other way, by one place in the last of 11 bits.
    np.testing.assert_allclose(got, expected.astype(np.float32), rtol=4e-3, atol=1e-4)
    assert (got == expected).mean() > 0.95
    exact = np.abs(run_first(path, x))
    assert (got == exact.astype(np.float32)).mean() < 0.5


def run_first(path: Path, x: np.ndarray) -> np.ndarray:
    """The first convolution in NumPy, in double precision: three by three, padded by one."""
    kernel = numpy_helper.to_array(onnx.load(path).graph.initializer[0]).astype(np.float64)
    padded = np.pad(x[:, 0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("nhwij,oij->nohw", windows, kernel[:, 0])


@pytest.mark.parametrize("name", ["tensorrt", "jetson-orin"])
def test_half_precision_that_the_builder_makes(name: str, make: Make, tmp_path: Path) -> None:
    path = network(tmp_path)
    folder = make(path, name, precision="float16")
    assert described(folder).target.precision == "float16"
    kinds = {tensor.data_type for tensor in onnx.load(folder / "edge" / "edge.onnx").graph.initializer}
    assert TensorProto.FLOAT16 not in kinds


@pytest.mark.parametrize(
    ("scale", "middle", "words"),
    [
        (1e6, "Relu", "'w1' of net holds values beyond 65504"),
        (1e3, "Square", "NaN or infinite values at the cut"),
    ],
)
@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_what_half_precision_cannot_hold_is_refused(
    scale: float, middle: str, words: str, name: str, make: Make, tmp_path: Path
) -> None:
    square = helper.make_node("Mul", ["a", "a"], ["b"])
    path = network(tmp_path, *([square] if middle == "Square" else []), scale=scale)
    with pytest.raises(ModelError, match=f"{words}.*--precision float32"):
        make(path, name, precision="float16")
    assert make(path, name).is_dir()


def labelled(folder: Path, path: Path, count: int) -> Path:
    x = images(count)
    labels = run(path, x=x)["logits"].argmax(1) if load_model(str(path)).spec.batch is None else np.zeros(count, int)
    labels[:3] = (labels[:3] + 1) % CLASSES
    np.savez(folder / "data.npz", x_train=x, y_train=labels, x_test=x, y_test=labels)
    return folder / "data.npz"


@pytest.mark.parametrize(("name", "precision"), [("cpu", "float32"), ("tx2", "float32"), ("tensorrt", "float16")])
def test_accuracy_is_measured_in_the_arithmetic_of_the_target(
    name: str, precision: str, make: Make, tmp_path: Path
) -> None:
    path = network(tmp_path)
    folder = make(path, name, precision=precision, data=str(labelled(tmp_path, path, 20)))
    stored = json.loads((folder / "manifest.json").read_bytes())
    assert (stored["accuracy"]["without"]["correct"], stored["accuracy"]["without"]["total"]) == (17, 20)
    assert stored["accuracy"]["with_noise"]["total"] == 20
    assert precision in stored["accuracy_of"]
    assert ("rounded" in stored["accuracy_of"]) is (precision == "float16")


@pytest.mark.parametrize("name", TARGETS)
def test_a_file_with_a_batch_of_one_is_deployed_with_it(name: str, make: Make, tmp_path: Path) -> None:
    path = network(tmp_path, batch=1)
    folder = make(path, name, local_fallback=True, data=str(labelled(tmp_path, path, 7)))
    assert described(folder).target.batch == 1
    assert "dims: 1\n" in (folder / "cloud" / "model_repository" / "net" / "config.pbtxt").read_text()
    x = images(3)
    expected = np.concatenate([run(path, x=item[None])["logits"] for item in x])
    np.testing.assert_allclose(through(folder, x), expected, rtol=1e-4, atol=1e-4)
    stored = json.loads((folder / "manifest.json").read_bytes())
    assert stored["accuracy"]["without"]["total"] == 7


def test_another_fixed_batch_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"net was exported for a batch of 4.*dynamic batch, or a batch of 1"):
        make(network(tmp_path, batch=4), "cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "tx"}, "unknown target 'tx', did you mean 'tx2'; known: cpu, cuda, jetson-orin, tensorrt, tx2"),
        ({"target": "tx2", "precision": "float16"}, "tx2 computes in float32; targets with float16: cuda, jets"),
        ({"target": "cpu", "precision": "float16"}, "cpu computes in float32"),
        ({"target": "cuda", "precision": "half"}, "unknown precision 'half'; known: float16, float32"),
        ({"target": "tx2", "engine_for": ["8.6"]}, "built ahead for the target tensorrt only, not for tx2"),
        ({"target": "tensorrt", "engine_for": ["86"]}, "'86' is no compute capability; give them as 8.6,8.9"),
        ({"target": "tensorrt", "engine_for": ["8.6", ""]}, "'' is no compute capability"),
    ],
)
def test_what_no_target_has_is_said_first(options: dict[str, Any], words: str, planned: Plan, tmp_path: Path) -> None:
    with pytest.raises(EdgecutError, match=words):
        bundle(planned, model="no-such-model", noise=tmp_path / "none", output=tmp_path / "b", **options)
    assert not list(tmp_path.iterdir())


def test_each_target_says_what_it_needs() -> None:
    for name, target in TARGETS.items():
        assert find_target(name) is target and target.title and target.needs
    with pytest.raises(BundleError, match="known: cpu"):
        find_target("")


@pytest.mark.deep
@pytest.mark.parametrize("what", [None, NORM], ids=["plain", "normalised"])
def test_a_tx2_side_runs_on_its_own_runtime(what: Any, make: Make, tmp_path: Path, node_runtime: NodeRuntime) -> None:
    """ONNX Runtime 1.11 is what a TX2 can have; it takes neither a newer opset nor a newer IR."""
    node, extra = what or (helper.make_node("Relu", ["a"], ["b"]), [])
    path = network(tmp_path, node, extra=extra)
    edge = make(path, "tx2", local_fallback=True) / "edge"
    for item in images(3):
        given = node_runtime((edge / "edge.onnx").read_bytes(), {"x": item[None]})
        logits = node_runtime((edge / "fallback.onnx").read_bytes(), given)["logits"]
        np.testing.assert_allclose(logits, run(path, x=item[None])["logits"], rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError):
        node_runtime((make(path, "cpu") / "edge" / "edge.onnx").read_bytes(), {"x": images(1)})


@pytest.mark.deep
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_an_engine_is_built_ahead_without_a_gpu(precision: str, make: Make, tmp_path: Path) -> None:
    """Built only: no GPU here has loaded it."""
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
    folder = make(network(tmp_path), "tensorrt", precision=precision, engine_for=["8.6", "8.9"])
    (engine,) = described(folder).engines
    assert (engine.file, engine.runtime) == ("edge-rtx.engine", "tensorrt-rtx")
    assert engine.compute_capabilities == ("8.6", "8.9") and engine.version == tensorrt_rtx.__version__
    assert (folder / "edge" / engine.file).stat().st_size > 1000
    with pytest.raises(EdgecutError, match=r"needs compute capability 7\.5"):
        make(network(tmp_path), "tensorrt", engine_for=["6.1"])
