"""Bundles: what is in them, what never is, that the halves compute the model, and what refuses to become one."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgecut.runtime.bundle as bundling
from edgecut.errors import ArtefactError, BundleError, DataError, EdgecutError, ModelError
from edgecut.models.load import Model
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.partitioner.plan import Plan
from edgecut.privacy.learn import Learned
from edgecut.profiler.profile import Profile
from edgecut.runtime.bundle import bundle, served_name
from edgecut.runtime.manifest import Manifest
from edgecut.runtime.verify import verify

ort = pytest.importorskip("onnxruntime")
LearnedFile = tuple[Learned, Path]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def run(model: bytes | str, *arrays: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)}))


def other_noise(collection: NoiseCollection, **changes: object) -> bytes:
    fields = ("loc", "scale", "orders", "tensors", "model_digest", "cut")
    return NoiseCollection(**{name: changes.get(name, getattr(collection, name)) for name in fields}).to_bytes()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy over one draw is enough where it is not what is tested."""
    monkeypatch.setattr(bundling, "DRAWS", 1)


def test_a_bundle_verifies_and_says_what_it_is(bundle_folder: Path, lenet: Model, planned: Plan) -> None:
    found = verify(bundle_folder)
    assert isinstance(found.manifest, Manifest)
    assert found.manifest.model_digest == lenet.spec.digest and found.manifest.cut_name == planned.choice
    present = files(bundle_folder)
    assert set(present) == {
        "manifest.json",
        "edge/manifest.json",
        "edge/edge.onnx",
        "edge/noise.npz",
        "edge/noise.c",
        "edge/noise.cu",
        "edge/edgecut_edge.pyz",
        "cloud/manifest.json",
        "cloud/model_repository/lenet5/config.pbtxt",
        "cloud/model_repository/lenet5/1/model.onnx",
        "cloud/model_repository/lenet5/1/model.py",
        "cloud/model_repository/lenet5/configs/batching.pbtxt",
        "cloud/model_repository/lenet5/configs/python.pbtxt",
        "cloud/deploy/kserve.yaml",
        "cloud/deploy/ray_serve.yaml",
        "profile/plan.json",
        "profile/edge.profile.json",
        "profile/cloud.profile.json",
    }
    assert found.files == len(present) and found.size_bytes == sum(map(len, present.values()))
    assert not any(path.is_symlink() for path in bundle_folder.rglob("*"))
    assert Plan.load(bundle_folder / "profile" / "plan.json") == planned.model_copy(
        update={"kind": "plan", "version": Plan.VERSION}
    )


def test_both_halves_are_the_model(bundle_folder: Path, lenet: Model) -> None:
    edge = str(bundle_folder / "edge" / "edge.onnx")
    cloud = str(bundle_folder / "cloud" / "model_repository" / "lenet5" / "1" / "model.onnx")
    for half in (edge, cloud):
        onnx.checker.check_model(half, full_check=True)
    for batch in (1, 2, 7):
        x = np.random.default_rng(batch).uniform(0, 1, (batch, 1, 32, 32)).astype(np.float32)
        (activation,) = run(edge, x)
        assert activation.shape == (batch, 120)
        np.testing.assert_allclose(run(cloud, activation)[0], run(lenet.read(), x)[0], rtol=1e-4, atol=1e-4)


def test_the_cloud_side_tells_nothing_of_the_rest(bundle_folder: Path, learned: LearnedFile, planned: Plan) -> None:
    cloud = {name: text.lower() for name, text in files(bundle_folder / "cloud").items()}
    everything = b"\n".join([*cloud.values(), *(name.encode() for name in cloud)])
    secrets = [b"noise", b"shredder", b"laplace", b"edgecut.name", b"prefix:c", b"slowdown", b"wifi", b"conv1"]
    secrets += [b"conv3", b"accuracy", b"privacy", b"profile", b"plan.json", b"latency", b"edge.onnx", b"edge-side"]
    assert [secret for secret in secrets if secret in everything] == []
    collection = learned[0].noise
    kept = learned[1].read_bytes()
    with zipfile.ZipFile(learned[1]) as archive:
        members = [archive.read(name) for name in archive.namelist()]
    raw = [collection.loc.tobytes(), collection.scale.tobytes(), *(order.tobytes() for order in collection.orders)]
    plain = b"\n".join(files(bundle_folder / "cloud").values())
    for data in (kept, *members, *raw):
        assert data not in plain
    for digest in (planned.model.digest, verify(bundle_folder / "edge").id, verify(bundle_folder).id):
        assert digest.removeprefix("sha256:").encode() not in everything
    # The negative control: the edge side holds what was looked for.
    assert kept in files(bundle_folder / "edge").values()
    assert b"shredder" in (bundle_folder / "edge" / "manifest.json").read_bytes()


def test_weights_stay_on_their_side(bundle_folder: Path) -> None:
    edge = onnx.load(bundle_folder / "edge" / "edge.onnx")
    cloud = onnx.load(bundle_folder / "cloud" / "model_repository" / "lenet5" / "1" / "model.onnx")
    names = [{tensor.name for tensor in model.graph.initializer} for model in (edge, cloud)]
    assert {name for name in names[0] if "conv" in name} and not {name for name in names[0] if "fc" in name}
    assert {name for name in names[1] if "fc" in name} and not {name for name in names[1] if "conv" in name}
    for model in (edge, cloud):
        assert not model.metadata_props and not model.graph.doc_string and not model.functions
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_nothing_is_a_pickle(bundle_folder: Path) -> None:
    for name, data in files(bundle_folder).items():
        assert not name.endswith((".pkl", ".pt", ".pt2", ".pickle")) and not data.startswith(b"\x80")
    with np.load(bundle_folder / "edge" / "noise.npz", allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)


@pytest.mark.usefixtures("quick")
def test_halves_and_sides_are_the_same_each_time(
    bundle_folder: Path, planned: Plan, learned: LearnedFile, tmp_path: Path
) -> None:
    again = bundle(planned, model="lenet5", noise=learned[1], output=tmp_path / "again").folder
    for side in ("edge", "cloud"):
        assert files(again / side) == files(bundle_folder / side)


@pytest.mark.usefixtures("quick")
def test_only_a_bundle_is_overwritten(bundle_folder: Path, learned: LearnedFile, planned: Plan, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "thesis.txt").write_text("years")

    def write(overwrite: bool) -> None:
        bundle(planned, model="lenet5", noise=learned[1], output=target, overwrite=overwrite)

    for overwrite, words in ((False, "exists already.*--overwrite"), (True, "is no bundle, so it is not overwritten")):
        with pytest.raises(BundleError, match=words):
            write(overwrite)
        assert files(tmp_path) == {"mine/thesis.txt": b"years"}
    shutil.rmtree(target)
    target.symlink_to(bundle_folder)
    with pytest.raises(BundleError, match="is no bundle"):
        write(True)
    target.unlink()
    shutil.copytree(bundle_folder, target)
    (target / "old").write_text("of the older bundle")
    with pytest.raises(BundleError, match="exists already"):
        write(False)
    assert (target / "old").exists()
    write(True)
    assert not (target / "old").exists() and verify(target).manifest
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("fault", ["garbage", "missing", "folder", "other model", "other cut", "truncated"])
def test_noise_that_does_not_belong_leaves_nothing(
    fault: str, learned: LearnedFile, planned: Plan, tmp_path: Path
) -> None:
    collection, good = learned[0].noise, learned[1].read_bytes()
    made = {
        "garbage": b"no noise at all",
        "truncated": good[:-7],
        "other model": other_noise(collection, model_digest="sha256:" + "0" * 64),
        "other cut": other_noise(collection, tensors=[("max_pool", (30, 2, 2))], cut="conv2"),
    }
    source, target = tmp_path / "given" / "x.npz", tmp_path / "out" / "bundle"
    source.parent.mkdir()
    if fault == "folder":
        source.mkdir()
    elif fault != "missing":
        source.write_bytes(made[fault])
    words = {
        "garbage": "no noise file",
        "truncated": "no noise file",
        "missing": "there is no file",
        "folder": "cannot be read",
        "other model": "another model",
        "other cut": "at the cut conv2, the plan cuts after conv3",
    }
    with pytest.raises((BundleError, ArtefactError), match=words[fault]) as raised:
        bundle(planned, model="lenet5", noise=source, output=target)
    assert str(source) in str(raised.value) and "\n" not in str(raised.value)
    assert not target.exists() and not list(tmp_path.glob("out/*"))


def test_parts_of_another_model_are_refused(
    profiled: Profile, planned: Plan, learned: LearnedFile, tmp_path: Path
) -> None:
    spec = profiled.model.model_copy(update={"digest": "sha256:" + "1" * 64})
    other = profiled.model_copy(update={"model": spec}).save(tmp_path / "other.profile.json")
    target = tmp_path / "bundle"
    with pytest.raises(ArtefactError, match="profile of another model"):
        bundle(planned, model="lenet5", noise=learned[1], output=target, profiles=[other, other])
    with pytest.raises(ArtefactError, match="give the model that was profiled"):
        bundle(planned.model_copy(update={"model": spec}), model="lenet5", noise=learned[1], output=target)
    with pytest.raises(ModelError, match=r"'conv9'.*conv1"):
        bundle(planned.model_copy(update={"choice": "conv9"}), model="lenet5", noise=learned[1], output=target)
    with pytest.raises(DataError, match="unknown data set"):
        bundle(planned, model="lenet5", noise=learned[1], output=target, data="mnits")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.profile.json"]


@pytest.mark.parametrize("target", ["file/bundle", "/proc/bundle"])
def test_an_impossible_folder_is_one_sentence(target: str, planned: Plan, learned: LearnedFile, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgecutError, match=r"cannot be written \(.+\); choose another folder"):
        bundle(planned, model="lenet5", noise=learned[1], output=tmp_path / target)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_accuracy_is_in_the_manifest_with_its_interval(bundle_folder: Path) -> None:
    stored = json.loads((bundle_folder / "manifest.json").read_bytes())
    accuracy = stored["accuracy"]
    assert accuracy["without"]["total"] == 1000 and accuracy["with_noise"]["total"] == 1000 * accuracy["draws"]
    assert accuracy["without"]["low"] < accuracy["without"]["correct"] / 1000 < accuracy["without"]["high"]
    assert stored["accuracy_of"].startswith("the stored halves in float32")
    assert stored["largest_difference"] < 1e-3 and stored["versions"].keys() >= {"edgecut", "onnx", "numpy"}


@pytest.mark.usefixtures("quick")
def test_a_stated_time_makes_the_whole_bundle_the_same(
    planned: Plan, learned: LearnedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str) -> dict[str, bytes]:
        return files(bundle(planned, model="lenet5", noise=learned[1], output=tmp_path / name).folder)

    # The noise on the unseen items is fresh each time, so without accuracy.
    monkeypatch.setattr(bundling, "accuracy_through", lambda *_: None)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first = made("first")
    assert json.loads(first["manifest.json"])["created_at"] == "2023-11-14T22:13:20+00:00"
    assert made("second") == first
    for wrong in ("yesterday", "9" * 30, "1e9"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        with pytest.raises(BundleError, match=r"SOURCE_DATE_EPOCH is '.*', which is no time"):
            made("third")
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("name", "served"), [("lenet5", "lenet5"), ("a b/c", "a_b_c"), ("..", "model"), (".x", "x"), ("naïve", "na_ve")]
)
def test_served_names_are_safe(name: str, served: str) -> None:
    assert served_name(name) == served
