"""Measuring end to end: real processes, one link, and figures that fit the link, the wire and the plan."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil
import pytest

from edgecut.errors import ArtefactError, BundleError, DataError, EdgecutError, LinkError
from edgecut.models.load import Model
from edgecut.partitioner.link import Link
from edgecut.partitioner.plan import Plan
from edgecut.partitioner.serving import SERVING
from edgecut.privacy.learn import Learned
from edgecut.runtime.bundle import bundle
from edgecut.runtime.measure import measure
from edgecut.runtime.measurement import Measurement
from edgecut.runtime.verify import verify

FAST = Link(
    name="bench",
    uplink_bps=200e6,
    downlink_bps=200e6,
    rtt_s=1e-3,
    radio_tx_w=1.0,
    radio_rx_w=0.5,
    radio_source="a test",
    provenance="published",
    source="a test",
)
WAYS = ["split after conv3", "edge-only", "cloud-only float32", "cloud-only uint8"]
PAYLOAD = {"split after conv3": 480, "edge-only": 0, "cloud-only float32": 4096, "cloud-only uint8": 1024}


@pytest.fixture(scope="module")
def measured(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Measurement, Path]:
    path = tmp_path_factory.mktemp("measured") / "lenet5.measure.json"
    return measure(bundle_folder, model="lenet5", link=FAST, edge_slowdown=2, max_seconds=3, output=path), path


def test_all_ways_are_there_with_their_predictions(
    measured: tuple[Measurement, Path], bundle_folder: Path, planned: Plan
) -> None:
    made, path = measured
    assert [variant.name for variant in made.variants] == WAYS
    assert made.split is made.variants[0]
    for variant in made.variants:
        assert variant.predicted.name == variant.name.removeprefix("split after ")
        assert variant.predicted.role == variant.role and variant.predicted.payload_bytes == PAYLOAD[variant.name]
        assert (
            variant.latency.low_s
            <= variant.latency.median_s
            <= variant.latency.high_s
            <= max(variant.latency.samples_s)
        )
        assert variant.latency.count >= 2 and variant.latency.rounds >= 1
    assert made.bundle_id == verify(bundle_folder).id and made.edge_slowdown == 2 and made.emulated_link
    assert made.link_emulation == "relay" and made.congestion_control is None
    assert made.requests >= sum(variant.latency.count for variant in made.variants)
    loaded = Measurement.load(path)
    assert loaded.variants == made.variants and loaded.plan.choice == planned.choice == "conv3"
    assert not list(Path(tempfile.gettempdir()).glob("edgecut-*")), "a scratch folder was left behind"


def test_another_link_costs_the_plan_anew_and_keeps_the_cut(measured: tuple[Measurement, Path], planned: Plan) -> None:
    plan = measured[0].plan
    assert plan.link == measured[0].link == FAST and plan.edge_slowdown == 2 and plan.choice == planned.choice
    assert plan.chosen.rtt_s == 1e-3 != planned.chosen.rtt_s and plan.serving == planned.serving
    best = min(plan.cuts, key=lambda row: row.total_s).name
    assert best == plan.choice or plan.reason == (
        f"The bundle is cut after conv3; here a cut after {best} is predicted to be cheaper."
    )


def test_no_request_is_faster_than_its_link(measured: tuple[Measurement, Path]) -> None:
    for variant in measured[0].variants:
        crossing = 0.0 if variant.role == "edge-only" else FAST.rtt_s + FAST.uplink_s(PAYLOAD[variant.name])
        assert min(variant.latency.samples_s) >= crossing
        assert variant.wait_s >= crossing and (variant.wait_s > 0) == (variant.role != "edge-only")
        assert (variant.edge_s > 0) == (variant.role != "cloud-only") and (variant.add_s > 0) == (
            variant.role == "split"
        )
        assert variant.add_s <= variant.edge_s and (variant.noise_s > 0) == (variant.role == "split")


def test_the_noise_is_weighed_against_the_link(measured: tuple[Measurement, Path]) -> None:
    made, split = measured[0], measured[0].split
    carried_s = FAST.rtt_s + 8 * split.uplink_bytes / FAST.uplink_bps + 8 * split.downlink_bytes / FAST.downlink_bps
    for noise_s, waited_for_s in ((0.5 * split.wait_s, 0.0), (split.wait_s + 0.25, 0.25)):
        taken = split.model_copy(update={"noise_s": noise_s})
        others = tuple(variant for variant in made.variants if variant != split)
        added, worked = made.model_copy(update={"variants": (taken, *others)}).noise_shares
        assert added == pytest.approx((split.add_s + waited_for_s) / carried_s)
        assert worked == pytest.approx((split.add_s + noise_s) / carried_s)


def test_bytes_are_the_payload_and_a_little_framing(measured: tuple[Measurement, Path]) -> None:
    for variant in measured[0].variants:
        if variant.role == "edge-only":
            assert variant.uplink_bytes == variant.downlink_bytes == 0
            continue
        assert PAYLOAD[variant.name] < variant.uplink_bytes < PAYLOAD[variant.name] + 1000
        # What the cost model adds for framing is what crosses the wire.
        assert abs(variant.uplink_bytes - PAYLOAD[variant.name] - SERVING.request_framing_bytes) < 40, variant
        assert abs(variant.downlink_bytes - 40 - SERVING.answer_framing_bytes) < 40, variant


def test_only_noise_changes_an_answer(measured: tuple[Measurement, Path]) -> None:
    wrong = {variant.name: variant.wrong_answers for variant in measured[0].variants}
    assert wrong["edge-only"] == wrong["cloud-only float32"] == wrong["cloud-only uint8"] == 0
    assert wrong["split after conv3"] <= 0.2 * measured[0].requests / 4


def test_energy_is_modelled_from_what_was_measured(measured: tuple[Measurement, Path]) -> None:
    made = measured[0]
    for variant in made.variants:
        assert variant.energy.provenance == "modelled" and variant.energy.energy_j is not None
        assert "a test" in variant.energy.source
        # The edge draws 2 to 8 W, the radio at most 1 W, for no longer than the request takes (and makes its noise).
        seconds = variant.edge_s + variant.wait_s + variant.noise_s
        assert 0 < variant.energy.energy_j < 9 * seconds
    cloud = next(variant for variant in made.variants if variant.name == "cloud-only float32")
    radio = 1.0 * FAST.uplink_s(cloud.uplink_bytes) + 0.5 * FAST.downlink_s(cloud.downlink_bytes)
    assert cloud.energy.energy_j == pytest.approx(2.0 * cloud.wait_s + radio)
    assert made.energy_ratio(cloud) == pytest.approx(cloud.energy.energy_j / made.split.energy.energy_j)
    low, high = made.speedup_interval(cloud)
    assert low <= made.speedup(cloud) <= high
    assert made.speedup(cloud) == pytest.approx(cloud.latency.median_s / made.split.latency.median_s)


def test_without_powers_energy_is_unavailable_and_says_so(
    planned: Plan, learned: tuple[Learned, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = planned.model_copy(
        update={
            "link": FAST,
            "edge": planned.edge.model_copy(update={"power": None}),
            "cuts": tuple(row.model_copy(update={"edge_j": None}) for row in planned.cuts),
            "baselines": tuple(row.model_copy(update={"edge_j": None}) for row in planned.baselines),
        }
    )
    monkeypatch.setattr("edgecut.runtime.bundle.DRAWS", 1)
    folder = bundle(bare, model="lenet5", noise=learned[1], output=tmp_path / "bundle").folder
    made = measure(folder, model="lenet5", max_seconds=0.5)
    for variant in made.variants:
        assert variant.energy.energy_j is None and variant.energy.provenance == "unavailable"
        assert "no power figures" in variant.energy.source
    with pytest.raises(BundleError, match=r"holds no profiles.*--edge-profile and --cloud-profile"):
        measure(folder, model="lenet5", link="lte", max_seconds=0.5)


@pytest.mark.deep
def test_a_real_link_is_named_and_kept_to(bundle_folder: Path, tmp_path: Path) -> None:
    """Also that opening a connection costs a round trip and more there, which the relay of bytes does not show."""
    link = FAST.model_copy(update={"uplink_bps": 10e6, "downlink_bps": 10e6, "rtt_s": 0.02})
    path = tmp_path / "m.json"
    try:
        made = measure(bundle_folder, model="lenet5", link=link, max_seconds=4, real_link=True, output=path)
    except LinkError as error:
        pytest.skip(str(error))
    assert made.emulated_link and made.link_emulation == "tun" and made.congestion_control
    assert Measurement.load(path).congestion_control == made.congestion_control
    assert [variant.name for variant in made.variants] == WAYS
    for variant in made.variants:
        crossing = 0.0 if variant.role == "edge-only" else link.rtt_s + link.uplink_s(PAYLOAD[variant.name])
        assert min(variant.latency.samples_s) >= crossing
        assert PAYLOAD[variant.name] <= variant.uplink_bytes < PAYLOAD[variant.name] + 1000


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_one_side_cannot_be_measured(side: str, bundle_folder: Path) -> None:
    with pytest.raises(BundleError, match="is one side of a bundle; measuring needs the whole bundle"):
        measure(bundle_folder / side, model="lenet5")


def test_another_model_is_refused(bundle_folder: Path, lenet: Model, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(lenet.read() + b"\x0a\x01x")  # one more producer field: the same network, another file
    with pytest.raises(EdgecutError, match=r"another model than this|not an ONNX|not a consistent"):
        measure(bundle_folder, model=str(path), output=tmp_path / "m.json")
    assert [p.name for p in tmp_path.iterdir()] == ["other.onnx"]


def test_what_cannot_be_measured(bundle_folder: Path, tmp_path: Path) -> None:
    before = {one.pid for one in psutil.Process().children()}
    output = tmp_path / "m.json"
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(EdgecutError, match="leaves no time to measure"):
            measure(bundle_folder, model="lenet5", max_seconds=seconds, output=output)
    for threads in (0, 1_000_000):
        with pytest.raises(EdgecutError, match="threads cannot be used"):
            measure(bundle_folder, model="lenet5", threads=threads, output=output)
    for factor in (0.5, float("nan"), float("inf")):
        with pytest.raises(EdgecutError, match="is no slow-down"):
            measure(bundle_folder, model="lenet5", edge_slowdown=factor, output=output)
    with pytest.raises(LinkError, match="unknown link 'wify', did you mean 'wifi'; known: 3g, lte, wifi"):
        measure(bundle_folder, model="lenet5", link="wify", output=output)
    with pytest.raises(DataError, match="unknown data set"):
        measure(bundle_folder, model="lenet5", data="nothing", output=output)
    with pytest.raises(ArtefactError, match="cannot be written"):
        measure(bundle_folder, model="lenet5", link=FAST, max_seconds=0.3, output="/proc/m.json")
    assert not list(tmp_path.iterdir())
    assert {one.pid for one in psutil.Process().children()} <= before
