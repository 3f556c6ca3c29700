"""From profile to measurement with a cut through two branches, which no first layers of the network make.

The network has two branches of the input, one with a residual sum, one that is pooled; the edge runs the first layer of
each. Once with the torch program that the model came from, and once from the ONNX file alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402 - needs torch

from edgecut.errors import ArtefactError, DeviceError  # noqa: E402 - needs torch
from edgecut.models.exporting import export  # noqa: E402 - needs torch
from edgecut.models.load import Model, load_model, models_folder  # noqa: E402 - needs torch
from edgecut.models.spec import PixelFormat  # noqa: E402 - needs torch
from edgecut.partitioner.choose import plan  # noqa: E402 - needs torch
from edgecut.partitioner.link import Link  # noqa: E402 - needs torch
from edgecut.partitioner.plan import Plan  # noqa: E402 - needs torch
from edgecut.privacy.learn import Learned, Settings, learn  # noqa: E402 - needs torch
from edgecut.profiler.profile import Profile  # noqa: E402 - needs torch
from edgecut.profiler.run import profile  # noqa: E402 - needs torch
from edgecut.runtime.bundle import bundle  # noqa: E402 - needs torch
from edgecut.runtime.infer import infer  # noqa: E402 - needs torch
from edgecut.runtime.measure import measure  # noqa: E402 - needs torch
from edgecut.runtime.processes import cloud_server  # noqa: E402 - needs torch
from edgecut.runtime.verify import Verified  # noqa: E402 - needs torch

CUT = "{one+three}"
QUICK: dict[str, Any] = {"threads": 1, "max_seconds": 0.3, "pause_s": 0.0, "meter": "none"}
FAST = Link(
    name="bench",
    uplink_bps=200e6,
    downlink_bps=200e6,
    rtt_s=1e-3,
    radio_tx_w=None,
    radio_rx_w=None,
    radio_source="none",
    provenance="published",
    source="a test",
)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.three, self.four = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.pool, self.last = nn.MaxPool2d(3, 1, 1), nn.Linear(5 * 64, 4)

    def forward(self, x: Any) -> Any:
        a = torch.relu(self.one(x))
        b = torch.relu(self.two(a)) + a
        c = torch.relu(self.three(x))
        d = torch.relu(self.four(self.pool(c)))
        return self.last(torch.cat([b, d], 1).flatten(1))


def quadrants(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with one bright quadrant of four, which is the label."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, count)
    x = generator.normal(0, 0.3, (count, 1, 8, 8)).astype(np.float32)
    for i, label in enumerate(labels):
        x[i, 0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 1
    return x, labels.astype(np.int64)


def trained() -> nn.Module:
    torch.manual_seed(0)
    network = Branches()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    x, y = (torch.from_numpy(part) for part in quadrants(0, 512))
    for _ in range(40):
        loss = nn.functional.cross_entropy(network(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


class Case(NamedTuple):
    """A model, its data, the profile of its layers alone, and the one that a first plan's candidates joined."""

    model: Model
    data: Path
    layers: Profile
    first: Plan
    both: Profile


@pytest.fixture(scope="module")
def exported() -> Path:
    pixels = PixelFormat(scale=(1.0,), offset=(0.0,))
    name = export(models_folder(), trained(), "branches", [torch.zeros(2, 1, 8, 8)], pixels)
    return models_folder() / name.removeprefix("sha256:") / "model.onnx"


@pytest.fixture(scope="module", params=["with its torch program", "a file from elsewhere"])
def case(request: pytest.FixtureRequest, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder, path = tmp_path_factory.mktemp("branches"), exported
    if request.param == "a file from elsewhere":
        proto = onnx.load(path)
        proto.producer_name = "another"
        onnx.save(proto, folder / "branches.onnx")
        path = folder / "branches.onnx"
    model = load_model(str(path))
    assert (model.twin is None) == (request.param == "a file from elsewhere")
    x, y = quadrants(1, 600)
    np.savez(folder / "data.npz", x_train=x[:400], y_train=y[:400], x_test=x[400:], y_test=y[400:])
    layers = profile(str(path), cuts="layers", output=folder / "p.profile.json", **QUICK)
    first = plan(layers, layers, link=FAST, output=folder / "p.plan.json")
    both = profile(str(path), cuts=folder / "p.plan.json", add_to=folder / "p.profile.json", **QUICK)
    return Case(model, folder / "data.npz", layers, first, both)


@pytest.fixture(scope="module")
def planned(case: Case) -> Plan:
    made = plan(case.both, case.both, link=FAST)
    return made.model_copy(update={"choice": CUT})


@pytest.fixture(scope="module")
def learned(case: Case, planned: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Learned, Path]:
    path = tmp_path_factory.mktemp("noise") / "n.npz"
    settings = Settings(distributions=3, steps=120, scale=0.3, max_accuracy_loss=20.0)
    return learn(planned, model=str(case.model.path), data=str(case.data), settings=settings, output=path), path


@pytest.fixture(scope="module")
def bundled(
    case: Case, planned: Plan, learned: tuple[Learned, Path], tmp_path_factory: pytest.TempPathFactory
) -> Verified:
    folder = tmp_path_factory.mktemp("bundle")
    sides = [case.both.save(folder / f"{side}.profile.json") for side in ("edge", "cloud")]
    return bundle(
        planned,
        model=str(case.model.path),
        noise=learned[1],
        output=folder / "b",
        data=str(case.data),
        profiles=sides,
    )


def test_layers_alone_name_what_to_time(case: Case) -> None:
    """Both branches take the input, so no cut has fewer layers on the edge than this one."""
    assert case.layers.cuts == ()
    assert CUT in case.first.candidates and CUT in {cut.name for cut in case.first.model.cuts}
    assert case.first.cost(CUT).basis == "layers"
    timed = {cut.name for cut in case.both.cuts}
    assert timed == {*case.first.candidates, case.first.choice}


def test_the_plan_goes_by_what_was_timed(case: Case, planned: Plan) -> None:
    row = planned.cost(CUT)
    measured = case.both.cut(CUT)
    assert row.basis == "sub-models" and row.depth == 2
    assert (row.edge_s, row.cloud_s) == (measured.prefix.median_s, measured.suffix.median_s)
    assert row.payload_bytes == 4 * 8 * 8 * (3 + 2)
    assert planned.cut.layers == (0, 2) and len(planned.cut.tensors) == 2
    assert CUT not in planned.candidates
    assert case.model.graph.check_cut(planned.cut) == planned.cut


def test_noise_is_learned_for_both_tensors(planned: Plan, learned: tuple[Learned, Path]) -> None:
    made = learned[0].noise
    assert made.cut == CUT and made.tensors == tuple((t.name, t.shape) for t in planned.cut.tensors)
    assert learned[0].elements == 5 * 64


def test_served_answers_are_the_networks(case: Case, bundled: Verified) -> None:
    with np.load(case.data) as data:
        x, y = data["x_test"], data["y_test"]
    with cloud_server(bundled.folder / "cloud" / "model_repository", threads=1) as (host, port):
        logits = infer(bundled.folder, f"{host}:{port}", x)
    assert logits.shape == (len(x), 4)
    assert (logits.argmax(1) == y).mean() > 0.8


def test_neither_half_has_the_layers_of_the_other(planned: Plan, bundled: Verified) -> None:
    cloud = onnx.load(next((bundled.folder / "cloud").rglob("model.onnx")))
    edge = onnx.load(bundled.folder / "edge" / "edge.onnx")
    for half, own, other in ((edge, ("one", "three"), ("two", "four", "last")), (cloud, ("two", "four"), ("one",))):
        names = {tensor.name.split(".")[0] for tensor in half.graph.initializer}
        assert names.issuperset(own) and names.isdisjoint(other), names
    assert {value.name for value in cloud.graph.input} == {tensor.name for tensor in planned.cut.tensors}


def test_noise_of_this_cut_fits_no_other(
    case: Case, planned: Plan, learned: tuple[Learned, Path], tmp_path: Path
) -> None:
    other = next(name for name in (row.name for row in planned.cuts) if name != CUT)
    with pytest.raises(ArtefactError, match="learn"):
        bundle(
            planned.model_copy(update={"choice": other}),
            model=str(case.model.path),
            noise=learned[1],
            output=tmp_path / "b",
            data=str(case.data),
        )
    assert not list(tmp_path.iterdir())


def test_measured_end_to_end(case: Case, bundled: Verified) -> None:
    made = measure(bundled.folder, model=str(case.model.path), data=str(case.data), max_seconds=1)
    assert made.plan.choice == CUT and made.split.name == f"split after {CUT}"
    assert made.split.latency.count >= 2
    # Another link has the plan made anew from the stored profiles, at the same cut.
    slower = FAST.model_copy(update={"rtt_s": 2e-3})
    again = measure(bundled.folder, model=str(case.model.path), data=str(case.data), link=slower, max_seconds=1)
    assert again.plan.choice == CUT and again.plan.chosen.rtt_s == 2e-3


def test_torch_times_it_too(case: Case, tmp_path: Path) -> None:
    path = case.first.save(tmp_path / "p.plan.json")
    if case.model.twin is None:
        with pytest.raises(DeviceError, match="torch runs models that came from torch"):
            profile(str(case.model.path), backend="torch-cpu", cuts=path, **QUICK)
        return
    made = profile(str(case.model.path), backend="torch-cpu", cuts=path, **QUICK)
    assert CUT in {cut.name for cut in made.cuts} and made.cut(CUT).prefix.median_s > 0
