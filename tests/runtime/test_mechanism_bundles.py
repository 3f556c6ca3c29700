"""Bundles of every mechanism: what crosses, what the sides say, how right the answers are, and what the plan counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgecut.runtime.bundle as bundling
from edgecut.errors import ArtefactError, BundleError, ModelError
from edgecut.models.data import load_data, to_input
from edgecut.models.load import Model
from edgecut.models.spec import CutSpec
from edgecut.models.split import halves
from edgecut.noise_kernels.element_noise import ElementNoise
from edgecut.noise_kernels.linear_map import LinearMap
from edgecut.noise_kernels.mechanism import load_noise
from edgecut.partitioner.choose import plan
from edgecut.partitioner.plan import Plan, PlannedNoise
from edgecut.profiler.profile import Profile
from edgecut.runtime.bundle import bundle
from edgecut.runtime.edge import EdgeSession
from edgecut.runtime.manifest import CloudManifest, EdgeManifest, Manifest
from edgecut.runtime.measure import measure
from edgecut.runtime.noise_words import noise_words
from edgecut.runtime.processes import cloud_server
from edgecut.runtime.targets import find_target, foreign_operators
from edgecut.runtime.verify import Verified, verify

ort = pytest.importorskip("onnxruntime")
N, SENT = 120, 30
MECHANISMS = ("laplace", "gaussian", "channel", "cloak", "none")


def run(model: bytes | Path, *arrays: np.ndarray) -> np.ndarray:
    source = model if isinstance(model, bytes) else str(model)
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)})[0])


class Fitted:
    """Noise by hand for LeNet-5 after conv3, from some activations of its own data."""

    def __init__(self, model: Model, cut: CutSpec) -> None:
        data = load_data("mnist")
        edge, cloud = (half.SerializeToString() for half in halves(model.graph, cut))
        self.edge, self.cloud = edge, cloud
        self.x, self.labels = to_input(data.x_test[:200], model.spec), data.y_test[:200]
        self.activations = run(edge, to_input(data.x_train[:600], model.spec)).reshape(600, N)
        self.cut_tensors = [(tensor.name, tensor.shape) for tensor in cut.tensors]
        self.input_tensors = [(model.spec.input.name, model.spec.input.shape)]
        self.digest, self.cut = model.spec.digest, cut.name

    def noise(self, mechanism: str) -> ElementNoise:
        spread = float(self.activations.std())
        law = "laplace" if mechanism in ("laplace", "cloak") else "normal"
        place, map, mixing, tensors = "cut", None, None, self.cut_tensors
        loc, scale = np.zeros(N), np.full(N, 0.2 * spread)
        if mechanism == "gaussian":
            mixing = np.linalg.cholesky(np.cov(self.activations.T) + 1e-3 * np.eye(N)) / spread
        elif mechanism == "channel":
            map = self._components()
            loc, scale = np.zeros(SENT), np.full(SENT, 0.1)
        elif mechanism == "cloak":
            place, map, tensors = "input", self._frame(), self.input_tensors
            loc, scale = np.zeros(1024), np.full(1024, 0.05)
        elif mechanism == "none":
            scale = np.zeros(N)
        return ElementNoise(mechanism, law, loc, scale, tensors, self.digest, self.cut, mixing, place, map)

    def _components(self) -> LinearMap:
        """The first principal components, each scaled to a variance of 1."""
        mean = self.activations.mean(axis=0)
        _, sizes, rows = np.linalg.svd(self.activations - mean, full_matrices=False)
        scales = sizes[:SENT] / np.sqrt(len(self.activations))
        return LinearMap((N,), mean, [rows], np.arange(SENT), 1 / scales, scales)

    def _frame(self) -> LinearMap:
        """The pixels of the frame are held at a constant."""
        inner = np.zeros((32, 32), bool)
        inner[3:-3, 3:-3] = True
        index = np.flatnonzero(inner)
        return LinearMap((1, 32, 32), np.full(1024, 0.1), [None] * 3, index, np.ones(len(index)), np.ones(len(index)))


@pytest.fixture(scope="module")
def fitted(lenet: Model, planned: Plan) -> Fitted:
    return Fitted(lenet, planned.cut)


@pytest.fixture(scope="module")
def profiles(profiled: Profile, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("profiles")
    return [profiled.save(folder / f"{side}.profile.json") for side in ("edge", "cloud")]


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundling, "DRAWS", 1)
        yield


class Bundled:
    """Bundles made once for a mechanism, with the device's rest of the model in them."""

    def __init__(self, fitted: Fitted, planned: Plan, profiles: list[Path], folder: Path) -> None:
        self.fitted, self.planned, self.profiles, self.folder = fitted, planned, profiles, folder
        self._made: dict[str, Verified] = {}

    def __call__(self, mechanism: str, wire: Any = None) -> Verified:
        key = f"{mechanism}-{wire}"
        if key not in self._made:
            file = self.folder / f"{key}.noise.npz"
            file.write_bytes(self.fitted.noise(mechanism).to_bytes())
            self._made[key] = bundle(
                self.planned, model="lenet5", noise=file, output=self.folder / key, profiles=self.profiles, wire=wire,
                local_fallback=True,
            )  # fmt: skip
        return self._made[key]


@pytest.fixture(scope="module")
def bundled(
    fitted: Fitted, planned: Plan, profiles: list[Path], quick: None, tmp_path_factory: pytest.TempPathFactory
) -> Bundled:
    return Bundled(fitted, planned, profiles, tmp_path_factory.mktemp("mechanisms"))


def sides(made: Verified) -> tuple[Manifest, EdgeManifest, CloudManifest]:
    whole, edge, cloud = (verify(made.folder / side).manifest for side in (".", "edge", "cloud"))
    assert isinstance(whole, Manifest) and isinstance(edge, EdgeManifest) and isinstance(cloud, CloudManifest)
    return whole, edge, cloud


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_sides_fit_each_other_and_the_accuracy_is_that_of_the_mechanism(mechanism: str, bundled: Bundled) -> None:
    made = bundled(mechanism)
    whole, edge, cloud = sides(made)
    tensors = [("sent_values", (SENT,))] if mechanism == "channel" else bundled.fitted.cut_tensors
    assert [(t.name, t.shape) for t in edge.cut] == [(t.name, t.shape) for t in cloud.inputs] == tensors
    assert edge.mechanism == mechanism and not edge.sticky and whole.leakage is None
    for text in ("sticky", "leakage"):
        assert (
            text not in (made.folder / "manifest.json").read_text() + (made.folder / "edge/manifest.json").read_text()
        )
    stored = load_noise(made.folder / "edge" / "noise.npz")
    assert stored == bundled.fitted.noise(mechanism).deployed() and stored.map is None
    # The accuracy without noise is the model's own, whatever the map leaves of an activation.
    assert whole.accuracy is not None and whole.accuracy.without.value > 0.9
    exact = whole.accuracy.with_noise.correct == whole.accuracy.without.correct
    assert exact if mechanism == "none" else whole.accuracy.loss_points < 20
    assert whole.largest_difference < 1e-3
    values = SENT if mechanism == "channel" else N
    lines = noise_words(made)
    assert lines[0] == f"mechanism {mechanism}: {values} float32 values are sent of each input"
    assert lines[1].startswith("leakage: not audited")


@pytest.mark.parametrize(("target", "precision"), [("tx2", "float32"), ("cuda", "float16")])
@pytest.mark.parametrize("mechanism", ["channel", "cloak"])
def test_old_and_half_precision_targets_take_a_map(
    target: str, precision: str, mechanism: str, lenet: Model, planned: Plan, fitted: Fitted
) -> None:
    device, noise = find_target(target), fitted.noise(mechanism)
    models = bundling.edge_models(lenet, planned.cut, device, device.precision(precision), True, noise)
    assert models.written.opset == (13 if target == "tx2" else 18) and models.fallback is not None
    # Raises where a half does not give what it must.
    assert bundling._largest_difference(lenet, planned.cut, models, noise) < (1e-3 if precision == "float32" else 1)
    if device.operators is not None:
        for half in (models.edge, models.fallback):
            assert not foreign_operators(onnx.load_model_from_string(half).graph.node, device.operators)


def expected_of(fitted: Fitted, mechanism: str, x: np.ndarray) -> np.ndarray:
    """The answers without noise, by NumPy and the model's own halves."""
    noise = fitted.noise(mechanism)
    if noise.map is None:
        return run(fitted.cloud, run(fitted.edge, x))
    if noise.place == "input":
        x = noise.map.restored(noise.map.sent(x.reshape(len(x), -1))).reshape(x.shape)
        return run(fitted.cloud, run(fitted.edge, x))
    restored = noise.map.restored(noise.map.sent(run(fitted.edge, x).reshape(len(x), -1)))
    return run(fitted.cloud, restored.reshape(len(x), *fitted.cut_tensors[0][1]))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_stored_models_compute_the_map_and_the_rest(mechanism: str, bundled: Bundled) -> None:
    folder, fitted = bundled(mechanism).folder, bundled.fitted
    x = fitted.x[:5]
    cloud = folder / "cloud" / "model_repository" / "lenet5" / "1" / "model.onnx"
    sent = run(folder / "edge" / "edge.onnx", x)
    for half in (cloud, folder / "edge" / "fallback.onnx"):
        onnx.checker.check_model(str(half), full_check=True)
        np.testing.assert_allclose(run(half, sent), expected_of(fitted, mechanism, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("mechanism", "wire"), [("channel", None), ("channel", "int8"), ("cloak", "int8")])
def test_sessions_answer_through_a_server_and_without_one(mechanism: str, wire: Any, bundled: Bundled) -> None:
    made, fitted = bundled(mechanism, wire), bundled.fitted
    cloud = made.folder / "cloud" / "model_repository"
    with cloud_server(cloud, threads=1) as at, EdgeSession(made.folder, "{}:{}".format(*at)) as session:
        right = (session.infer(fitted.x).argmax(axis=1) == fitted.labels).mean()
    assert right > 0.7
    # Where nobody answers the device runs the rest, on what the map gives without noise.
    with EdgeSession(made.folder, "127.0.0.1:1", away="local", timeout_s=1) as session:
        local = session.infer(fitted.x[:20])
        assert session.answered_by == "local"
        noise_free = mechanism == "channel"
    if noise_free:
        np.testing.assert_allclose(local, expected_of(fitted, mechanism, fitted.x[:20]), rtol=1e-3, atol=1e-3)


def test_the_cloud_side_has_the_map_and_nothing_of_the_noise(bundled: Bundled) -> None:
    for mechanism in MECHANISMS:
        made, noise = bundled(mechanism), bundled.fitted.noise(mechanism)
        side = made.folder / "cloud"
        files = {str(p.relative_to(side)): p.read_bytes() for p in side.rglob("*") if p.is_file()}
        everything = b"\n".join([*files.values(), *(name.encode() for name in files)]).lower()
        # "channel" is also what images have, and "none" a word of many files.
        told = [word for word in (b"laplace", b"gaussian", b"cloak", b"sticky", b"mechanism") if word in everything]
        assert told == []
        raw = b"\n".join(files.values())
        # Runs of the file's own numbers; zeros are everybody's.
        for array in (noise.loc, noise.scale, noise.mixing):
            if array is not None and array.any():
                assert array.reshape(-1)[:8].tobytes() not in raw
        if mechanism == "channel":
            assert noise.map is not None and noise.map.centre.tobytes() in raw  # the control


def test_a_plan_counts_what_a_mechanism_sends(
    bundled: Bundled, profiled: Profile, planned: Plan, tmp_path: Path, fitted: Fitted
) -> None:
    file = tmp_path / "x.noise.npz"
    file.write_bytes(fitted.noise("channel").to_bytes())
    made = plan(profiled, profiled, link="wifi", edge_slowdown=5, noises=[file])
    row, before = made.cost("conv3"), planned.cost("conv3")
    assert (row.payload_bytes, row.sends, before.payload_bytes) == (4 * SENT, f"float32 {SENT}", 4 * N)
    assert made.noises == (PlannedNoise(cut="conv3", mechanism="channel", values=SENT, sent_values=SENT),)
    assert {r.name: r for r in made.cuts}.keys() == {r.name: r for r in planned.cuts}.keys()
    assert made.cost("conv2") == planned.cost("conv2").model_copy(update={"best_share": made.cost("conv2").best_share})
    small = plan(profiled, profiled, link="wifi", edge_slowdown=5, wire="int8", noises=[fitted.noise("channel")])
    assert (small.cost("conv3").payload_bytes, small.cost("conv3").sends) == (SENT, f"int8 {SENT}")
    plain = plan(profiled, profiled, link="wifi", edge_slowdown=5, noises=[fitted.noise("gaussian")])
    assert plain.cost("conv3").payload_bytes == 4 * N
    at_input = plan(profiled, profiled, link="wifi", edge_slowdown=5, noises=[fitted.noise("cloak")])
    assert at_input.noises[0].values == 1024 and at_input.cost("conv3").payload_bytes == 4 * N
    # A bundle keeps such a plan; its own it has from the profiles.
    assert bundle(
        made.model_copy(update={"choice": "conv3"}), model="lenet5", noise=file, output=tmp_path / "planned"
    ).files
    for name in ("channel", "channel-int8"):
        stored = Plan.load(bundled(*name.split("-")).folder / "profile" / "plan.json")
        assert stored.choice == "conv3" and stored.noises == made.noises
        assert stored.chosen.payload_bytes == (SENT if name.endswith("int8") else 4 * SENT)


def test_a_plan_refuses_noise_that_is_not_of_its_model(profiled: Profile, fitted: Fitted, tmp_path: Path) -> None:
    noise = fitted.noise("laplace")

    def changed(**fields: Any) -> ElementNoise:
        given = {"tensors": noise.tensors, "model_digest": noise.model_digest, "cut": noise.cut}
        return ElementNoise("laplace", "laplace", noise.loc, noise.scale, **{**given, **fields})

    garbage = tmp_path / "x.npz"
    garbage.write_bytes(b"nothing")
    for noises, words in (
        ([changed(model_digest="sha256:" + "0" * 64)], "learned for another model"),
        ([changed(cut="conv9")], "conv9"),
        ([changed(cut="conv2")], "is for 120 values"),
        ([noise, noise], "two noise files are given for the cut conv3"),
        ([garbage], "x.npz"),
        ([tmp_path / "none"], "is not a file"),
    ):
        with pytest.raises(ArtefactError, match=words) as raised:
            plan(profiled, profiled, noises=noises)
        assert "\n" not in str(raised.value)


def test_what_does_not_belong_is_refused(
    fitted: Fitted, planned: Plan, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(noise: ElementNoise, error: type[Exception], words: str) -> None:
        file = tmp_path / "x.npz"
        file.write_bytes(noise.to_bytes())
        with pytest.raises(error, match=words) as raised:
            bundle(planned, model="lenet5", noise=file, output=tmp_path / "out")
        assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()

    channel, cloak = fitted.noise("channel"), fitted.noise("cloak")
    refused(channel, BundleError, "120 values sent after conv3, and this channel sends 30; plan again with --noise")
    other = ElementNoise(
        "cloak", "laplace", cloak.loc, cloak.scale, cloak.tensors, cloak.model_digest, "conv2", None, "input"
    )
    refused(other, ArtefactError, "learned at the cut conv2, the plan cuts after conv3")
    # The control for the check of the halves: with another map in between they are told apart.
    counted = planned.model_copy(
        update={"noises": (PlannedNoise(cut="conv3", mechanism="channel", values=SENT, sent_values=SENT),)}
    )
    planned = counted
    good = bundling.edge_models
    wrong = fitted.noise("channel")
    assert wrong.map is not None
    turned = LinearMap(
        wrong.map.shape, wrong.map.centre, wrong.map.axes, wrong.map.index, wrong.map.forward[::-1], wrong.map.backward
    )
    swapped = ElementNoise(
        "channel", "normal", wrong.loc, wrong.scale, wrong.tensors, wrong.model_digest, wrong.cut, None, "cut", turned
    )
    monkeypatch.setattr(bundling, "edge_models", lambda *a: good(*a[:-1], swapped))
    refused(channel, ModelError, "sends values that are off by")
    monkeypatch.setattr(bundling, "check_sent", lambda *_: None)
    refused(channel, ModelError, "the two halves of lenet5 at conv3")


def test_sticky_bundles_say_so_and_the_session_keeps_to_it(
    fitted: Fitted, planned: Plan, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundling, "_labelled", lambda *_: (None, "not asked for here"))
    file = tmp_path / "x.npz"
    file.write_bytes(fitted.noise("laplace").to_bytes())
    made = bundle(planned, model="lenet5", noise=file, output=tmp_path / "out", sticky=True)
    assert json.loads((tmp_path / "out" / "edge" / "manifest.json").read_text())["sticky"] is True
    monkeypatch.setenv("EDGECUT_CACHE", str(tmp_path / "cache"))  # for the secret
    assert noise_words(made)[0].endswith("; the same input always gets the same noise")
    cloud = made.folder / "cloud" / "model_repository"
    with cloud_server(cloud, threads=1) as at, EdgeSession(made.folder, "{}:{}".format(*at)) as session:
        answers = [session.infer(fitted.x[:2]) for _ in range(2)]
    assert np.array_equal(*answers)


@pytest.mark.deep
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_each_mechanism_is_measured_end_to_end(mechanism: str, bundled: Bundled) -> None:
    made = measure(bundled(mechanism).folder, model="lenet5", max_seconds=2)
    payload = 4 * (SENT if mechanism == "channel" else N)
    assert made.split.predicted.payload_bytes == payload and payload < made.split.uplink_bytes < payload + 600
    assert made.split.wrong_answers <= 0.3 * made.split.latency.count
