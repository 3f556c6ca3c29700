"""Bundles whose noisy activations travel as int8: a quarter of the bytes, measured accuracy, and an ordinary model."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format

import edgecut.runtime.bundle as bundling
from edgecut.agent.transport import TransportError
from edgecut.errors import BundleError, ModelError, ServerError
from edgecut.models.data import load_data
from edgecut.models.load import Model
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.partitioner.plan import Plan
from edgecut.privacy.learn import Learned
from edgecut.profiler.profile import Profile
from edgecut.runtime.bundle import bundle
from edgecut.runtime.client import CloudClient
from edgecut.runtime.edge import EdgeSession
from edgecut.runtime.manifest import CloudManifest, EdgeManifest, Manifest
from edgecut.runtime.oip import message
from edgecut.runtime.packing import pack, unpack
from edgecut.runtime.processes import cloud_server
from edgecut.runtime.relay import LinkShape, Relay
from edgecut.runtime.replan import planned_for
from edgecut.runtime.verify import verify

ort = pytest.importorskip("onnxruntime")
LearnedFile = tuple[Learned, Path]
FREE = LinkShape(uplink_bps=1e11, downlink_bps=1e11, rtt_s=0.0)
MODEL = Path("cloud", "model_repository", "lenet5")


@pytest.fixture(scope="module")
def sides(profiled: Profile, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("profiles")
    return [profiled.save(folder / f"{side}.profile.json") for side in ("edge", "cloud")]


@pytest.fixture(scope="module")
def int8_folder(
    planned: Plan, sides: list[Path], learned: LearnedFile, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle for int8 from a plan for float32, with the rest of the model for the device."""
    target = tmp_path_factory.mktemp("int8") / "bundle"
    return bundle(
        planned, model="lenet5", noise=learned[1], output=target, profiles=sides, wire="int8", local_fallback=True
    ).folder


@pytest.fixture(scope="module")
def address(int8_folder: Path) -> Iterator[str]:
    with cloud_server(int8_folder / "cloud" / "model_repository", threads=1) as (host, port):
        yield f"{host}:{port}"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundling, "DRAWS", 1)


def run(model: bytes | str | Path, *arrays: np.ndarray) -> np.ndarray:
    source = model if isinstance(model, bytes) else str(model)
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    feed = {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)}
    return np.asarray(session.run(None, feed)[0])


def step_of(folder: Path) -> float:
    manifest = verify(folder / "edge").manifest
    assert isinstance(manifest, EdgeManifest) and manifest.wire is not None
    (step,) = manifest.wire.steps
    return step


def images(count: int) -> np.ndarray:
    return load_data("mnist").x_test[:count]


def test_what_the_sides_say(int8_folder: Path, bundle_folder: Path) -> None:
    edge, cloud = verify(int8_folder / "edge").manifest, verify(int8_folder / "cloud").manifest
    assert isinstance(edge, EdgeManifest) and isinstance(cloud, CloudManifest)
    assert edge.wire is not None and edge.wire.dtype == "int8" and len(edge.wire.steps) == 1
    assert [tensor.dtype for tensor in edge.cut] == ["float32"]
    assert [(tensor.name, tensor.dtype) for tensor in cloud.inputs] == [(edge.cut[0].name, "int8")]
    for config in (int8_folder / MODEL).rglob("*.pbtxt"):
        parsed = text_format.Parse(config.read_text(), message("ModelConfig")(), allow_unknown_field=True)
        types = [type(parsed).DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number[one.data_type].name
                 for one in (*parsed.input, *parsed.output)]  # fmt: skip
        assert types == ["TYPE_INT8", "TYPE_FP32"], config
    # What is private is what it is for float32, but for the manifest.
    for name in ("edge.onnx", "noise.npz", "noise.c"):
        assert (int8_folder / "edge" / name).read_bytes() == (bundle_folder / "edge" / name).read_bytes()
    fallback = onnx.load(int8_folder / "edge" / "fallback.onnx")
    assert fallback.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_the_cloud_partition_is_the_other_one_behind_a_step(int8_folder: Path, bundle_folder: Path) -> None:
    stored, plain = (folder / MODEL / "1" / "model.onnx" for folder in (int8_folder, bundle_folder))
    onnx.checker.check_model(stored, full_check=True)
    levels = np.random.default_rng(0).integers(-128, 128, (7, 120)).astype(np.int8)
    expected = run(plain, levels * np.float32(step_of(int8_folder)))
    np.testing.assert_allclose(run(stored, levels), expected, rtol=1e-5, atol=1e-3)
    model = onnx.load(stored)
    assert not model.metadata_props and not model.graph.doc_string and not model.functions
    everything = b"\n".join(path.read_bytes() for path in (int8_folder / "cloud").rglob("*") if path.is_file()).lower()
    words = (b"noise", b"shredder", b"laplace", b"accuracy", b"privacy", b"quantis", b"edge-side", b"conv3")
    assert [word for word in words if word in everything] == []


def test_accuracy_is_of_int8_and_hardly_another(int8_folder: Path, bundle_folder: Path) -> None:
    made, plain = (verify(folder).manifest for folder in (int8_folder, bundle_folder))
    assert isinstance(made, Manifest) and isinstance(plain, Manifest)
    assert made.accuracy is not None and plain.accuracy is not None
    assert "sent as int8" in made.accuracy_of and "int8" not in plain.accuracy_of
    assert made.accuracy.without == plain.accuracy.without
    # Fresh noise on 1,000 items each time; an eighth of a bit more or less of it would show.
    assert abs(made.accuracy.with_noise.value - plain.accuracy.with_noise.value) < 0.01


@pytest.mark.usefixtures("quick")
def test_accuracy_goes_through_the_steps(
    planned: Plan, learned: LearnedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: in steps so coarse that all is rounded to 0, the answer is a guess."""
    import edgecut.runtime.sent as sending

    monkeypatch.setattr(sending, "wire_steps", lambda *_: (1e6,))
    made = bundle(
        planned.model_copy(update={"wire": "int8"}), model="lenet5", noise=learned[1], output=tmp_path / "b"
    ).manifest
    assert isinstance(made, Manifest) and made.accuracy is not None
    assert made.accuracy.with_noise.value < 0.2 < made.accuracy.without.value


def test_the_plan_in_it_is_for_int8(int8_folder: Path, planned: Plan) -> None:
    stored = Plan.load(int8_folder / "profile" / "plan.json")
    assert (stored.wire, stored.choice) == ("int8", planned.choice)
    assert stored.chosen.payload_bytes * 4 == planned.chosen.payload_bytes == 480
    assert stored.link == planned.link and stored.edge_slowdown == planned.edge_slowdown


def test_a_plan_for_another_wire_needs_the_profiles(
    planned: Plan, learned: LearnedFile, sides: list[Path], tmp_path: Path
) -> None:
    for profiles in ([], sides[:1]):
        with pytest.raises(BundleError, match="reckons with float32 on the wire; plan again with --wire int8"):
            bundle(planned, model="lenet5", noise=learned[1], output=tmp_path / "b", profiles=profiles, wire="int8")
    noise = learned[0].noise
    assert planned_for(planned, None, noise, []) is planned and planned_for(planned, "float32", noise, []) is planned
    other = planned.model_copy(update={"edge_slowdown": 7.0, "choice": "conv1"})
    back = planned_for(planned_for(other, "int8", noise, sides), "float32", noise, sides)
    assert (back.wire, back.choice, back.edge_slowdown) == ("float32", "conv1", 7.0)


def counted(folder: Path, server: str, scheme: str) -> tuple[float, list[np.ndarray]]:
    """Bytes up per request over a real socket, and what the session sent."""
    host, _, port = server.rpartition(":")
    sent: list[np.ndarray] = []
    with Relay(host, int(port), FREE) as relay:
        near = f"127.0.0.1:{relay.port}"
        with EdgeSession(folder, near if scheme == "grpc" else f"http://{near}") as session:
            plain = session.caller.infer

            def infer(model: str, tensors: Any, timeout_s: float | None = None) -> Any:
                sent.extend(array for _, array in tensors)
                return plain(model, tensors, timeout_s)

            session.caller.infer = infer
            session.infer(images(1))
            before = relay.uplink_bytes
            for _ in range(10):
                session.infer(images(1))
            return (relay.uplink_bytes - before) / 10, sent


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_quarter_of_the_bytes_crosses(int8_folder: Path, bundle_folder: Path, scheme: str) -> None:
    up, arrays = {}, {}
    for name, folder in (("int8", int8_folder), ("float32", bundle_folder)):
        with cloud_server(folder / "cloud" / "model_repository", threads=1, scheme=scheme) as (host, port):
            up[name], arrays[name] = counted(folder, f"{host}:{port}", scheme)
    assert {(array.dtype.name, array.nbytes) for array in arrays["int8"]} == {("int8", 120)}
    assert {(array.dtype.name, array.nbytes) for array in arrays["float32"]} == {("float32", 480)}
    # The framing is the same, up to a few digits of lengths.
    assert up["float32"] - up["int8"] == pytest.approx(360, abs=16) and up["int8"] >= 120


def test_answers_over_the_wire(int8_folder: Path, address: str) -> None:
    with EdgeSession(int8_folder, address) as session:
        sent: list[np.ndarray] = []
        plain = session.caller.infer

        def infer(model: str, tensors: Any, timeout_s: float | None = None) -> Any:
            sent.extend(array.copy() for _, array in tensors)
            return plain(model, tensors, timeout_s)

        session.caller.infer = infer
        for batch in (1, 5):
            logits = session.infer(images(batch))
            np.testing.assert_allclose(
                logits, run(int8_folder / MODEL / "1" / "model.onnx", sent[-1]), rtol=1e-5, atol=1e-4
            )
        assert len({row.tobytes() for array in sent for row in array}) == 6
        classes = np.argmax(session.infer(images(200)), axis=1)
    labels = load_data("mnist").y_test[:200]
    assert (classes == labels).mean() > 0.85


def test_the_wrong_wire_is_refused_by_either_side(
    int8_folder: Path, bundle_folder: Path, address: str, server: str
) -> None:
    for folder, there in ((int8_folder, server), (bundle_folder, address)):
        with pytest.raises(ServerError, match="serves another model as 'lenet5'"):
            EdgeSession(folder, there)
    with CloudClient(address) as client, pytest.raises((TransportError, ServerError), match="INT8"):
        client.infer("lenet5", [("view", np.zeros((1, 120), np.float32))])


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_tritons_own_client_asks_it(int8_folder: Path, scheme: str) -> None:
    library = pytest.importorskip(f"tritonclient.{scheme}")
    levels = np.random.default_rng(1).integers(-128, 128, (3, 120)).astype(np.int8)
    with cloud_server(int8_folder / "cloud" / "model_repository", threads=1, scheme=scheme) as (host, port):
        client = library.InferenceServerClient(f"{host}:{port}")
        (name,) = (tensor.name for tensor in verify(int8_folder / "cloud").manifest.inputs)  # type: ignore[union-attr]
        given = library.InferInput(name, list(levels.shape), "INT8")
        given.set_data_from_numpy(levels)
        answer = client.infer("lenet5", [given]).as_numpy("logits")
        client.close()
    np.testing.assert_allclose(answer, run(int8_folder / MODEL / "1" / "model.onnx", levels), rtol=1e-5, atol=1e-4)


def test_it_is_packed_and_unpacked(int8_folder: Path, tmp_path: Path) -> None:
    pack(int8_folder, tmp_path / "b.tar")
    found = unpack(tmp_path / "b.tar", tmp_path / "again")
    assert found.id == verify(int8_folder).id == verify(tmp_path / "b.tar").id
    assert step_of(tmp_path / "again") == step_of(int8_folder)


@pytest.mark.parametrize("part", ["bundle", "edge"])
def test_a_changed_step_is_found(int8_folder: Path, tmp_path: Path, part: str) -> None:
    folder = Path(shutil.copytree(int8_folder, tmp_path / "b"))
    path = folder / "edge" / "manifest.json"
    text = path.read_text()
    step = json.loads(text)["wire"]["steps"][0]
    path.write_text(text.replace(str(step), str(2 * step)))
    assert path.read_text() != text
    with pytest.raises(BundleError, match="altered"):
        verify(folder if part == "bundle" else folder / "edge")
    with pytest.raises(BundleError, match="altered"):
        EdgeSession(folder / "edge", "127.0.0.1:1")


def test_steps_for_other_tensors_are_found(int8_folder: Path, tmp_path: Path) -> None:
    """Sealed, and yet wrong: as many steps as tensors are needed."""
    folder = Path(shutil.copytree(int8_folder / "edge", tmp_path / "edge"))
    values = json.loads((folder / "manifest.json").read_text())
    values["wire"]["steps"] *= 2
    del values["seal"]
    (folder / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match="2 steps of int8 for 1 tensors"):
        verify(folder)


@pytest.mark.usefixtures("quick")
def test_the_same_each_time(int8_folder: Path, planned: Plan, learned: LearnedFile, tmp_path: Path) -> None:
    """The noise of the steps' measurement comes from a known key, so that nothing differs."""
    plan = planned.model_copy(update={"wire": "int8"})
    again = bundle(plan, model="lenet5", noise=learned[1], output=tmp_path / "b", local_fallback=True).folder
    for side in ("edge", "cloud"):
        for path in (again / side).rglob("*"):
            if path.is_file():
                assert path.read_bytes() == (int8_folder / path.relative_to(again)).read_bytes(), path


def residual_noise(model: Model, planned: Plan, path: Path) -> Path:
    tensors = [(tensor.name, tensor.shape) for tensor in planned.cut.tensors]
    n = sum(int(np.prod(shape)) for _, shape in tensors)
    orders = np.stack([np.random.default_rng(seed).permutation(n) for seed in range(3)])
    collection = NoiseCollection([0.0] * 3, [0.1] * 3, orders, tensors, model.spec.digest, planned.choice)
    path.write_bytes(collection.to_bytes())
    return path


def test_a_cut_of_two_tensors(residual: Any, tmp_path: Path) -> None:
    """Each has a step of its own, and goes under its own name."""
    planned = residual.planned.model_copy(update={"wire": "int8"})
    made = bundle(
        planned,
        model=str(residual.model.path),
        noise=residual_noise(residual.model, planned, tmp_path / "n.npz"),
        output=tmp_path / "b",
        data=str(residual.data),
    )
    assert isinstance(made.manifest, Manifest) and made.manifest.accuracy is not None
    accuracy = made.manifest.accuracy
    assert accuracy.without.value > 0.8 and abs(accuracy.with_noise.value - accuracy.without.value) < 0.1
    edge = verify(tmp_path / "b" / "edge").manifest
    assert isinstance(edge, EdgeManifest) and edge.wire is not None and len(edge.wire.steps) == 2 == len(edge.cut)
    x = np.load(residual.data)["x_test"][:50]
    repository = tmp_path / "b" / "cloud" / "model_repository"
    with (
        cloud_server(repository, threads=1) as (host, port),
        EdgeSession(tmp_path / "b", f"{host}:{port}") as session,
    ):
        classes = np.argmax(session.infer(x), axis=1)
    assert (classes == np.load(residual.data)["y_test"][:50]).mean() > 0.8


def test_without_data_there_are_no_steps(residual: Any, tmp_path: Path) -> None:
    planned = residual.planned.model_copy(update={"wire": "int8"})
    noise = residual_noise(residual.model, planned, tmp_path / "n.npz")
    with pytest.raises(BundleError, match="steps of an int8 wire are measured on data, and no labelled data"):
        bundle(planned, model=str(residual.model.path), noise=noise, output=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_edge_half_that_overflows_is_refused(learned: LearnedFile, lenet: Model) -> None:
    from edgecut.runtime.halves import wire_steps

    edge = onnx.helper.make_graph(
        [onnx.helper.make_node("Log", ["x"], ["a"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 1, 32, 32])],
        [onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["n", 1, 32, 32])],
    )
    model = onnx.helper.make_model(edge, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    collection = NoiseCollection([0.0], [1.0], np.arange(1024)[None], [("a", (1, 32, 32))], lenet.spec.digest, "a")
    with pytest.raises(ModelError, match="NaN or infinite values at the cut"):
        wire_steps(model.SerializeToString(), collection, lenet.spec, load_data("mnist"))


@pytest.mark.deep
def test_under_tritons_python_backend(int8_folder: Path, tmp_path: Path) -> None:
    path = Path(__file__).resolve().parents[1] / "triton_server.py"
    spec = importlib.util.spec_from_file_location("triton_server", path)
    assert spec is not None and spec.loader is not None
    server = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(server)
    if server.missing():
        pytest.skip(server.missing())
    repository = Path(shutil.copytree(int8_folder / "cloud" / "model_repository", tmp_path / "model_repository"))
    with server.triton(repository, "python") as running:
        for scheme in ("grpc", "http"):
            with EdgeSession(int8_folder, f"{scheme}://{getattr(running, scheme)}", timeout_s=30) as session:
                classes = np.argmax(session.infer(images(40)), axis=1)
                assert (classes == load_data("mnist").y_test[:40]).mean() > 0.85 and session.answered_by == "cloud"
