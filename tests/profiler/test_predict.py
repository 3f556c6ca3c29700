"""Predictions: the formula by hand, what must hold for any work, and how well published latencies are met.

The calibration is fitted again here and figures left out again; nothing is taken from the committed results on trust.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.errors import DeviceError, ModelError
from edgecut.models.work import Kind, Operation
from edgecut.profiler import figures
from edgecut.profiler.constants import (
    Calibrated,
    Calibration,
    Constants,
    RuntimeConstants,
    load_calibration,
)
from edgecut.profiler.description import known_devices, load_device
from edgecut.profiler.predict import RUNTIMES, Prediction, layer_seconds, predict

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = figures.networks()
TX2_TENSORRT = ("jetson-tx2:maxn", "tensorrt", "")
# Multiply-adds in millions and parameters, as the papers or the model collections print them.
TOTALS = {
    "alexnet": (724, 60_965_224),
    "alexnet_one_tower": (714, 61_100_840),
    "vgg16": (15_470, 138_357_544),
    "vgg19": (19_632, 143_667_240),
    "squeezenet1_0": (819, 1_248_424),
    "squeezenet1_1": (349, 1_235_496),
    "squeezenet1_0_227": (833, 1_248_424),
    "squeezenet1_1_227": (388, 1_235_496),
    "googlenet": (1_582, 6_998_552),
    "inception_v1": (1_498, 6_624_904),
    "inception_v3": (5_713, 23_834_568),
    "inception_v4": (12_270, 42_679_816),
    "resnet18": (1_814, 11_689_512),
    "resnet34": (3_664, 21_797_672),
    "resnet50": (4_089, 25_557_032),
    "resnet50_paper": (3_860, 25_557_032),
    "resnet_v1_50": (3_485, 25_557_032),
    "resnet_v1_101": (7_200, 44_549_160),
    "resnet_v1_152": (10_900, 60_192_808),
    "mobilenet_v1_0.25_128": (14, 470_072),
    "mobilenet_v1_0.5_160": (76, 1_331_592),
    "mobilenet_v1_1.0_224": (569, 4_231_976),
    "mobilenet_v2": (301, 3_504_872),
}
SIMPLE = Constants(
    winograd=0.5,
    spatial=0.3,
    pointwise=0.25,
    depthwise=0.1,
    bandwidth=0.5,
    stream=0.8,
    fill=0.0,
    overhead=2.0,
    host=10.0,
    copy_share=0.01,
    gain=1.0,
    depthwise_gain=0.0,
)


@cache
def script(name: str) -> ModuleType:
    """A benchmark as a module. They import each other as scripts do, from their own folder."""
    if str(ROOT / "benchmarks") not in sys.path:
        sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def operation(kind: str = "conv", **changes: Any) -> Operation:
    """A 3x3 convolution of 64 to 64 channels at 56 x 56, or what `changes` make of it."""
    elements = 64 * 56 * 56
    values = {"flops": 2 * 9 * 64 * elements, "input_elements": elements, "output_elements": elements}
    shape = {"parameters": 9 * 64 * 64, "kernel": (3, 3), "stride": (1, 1), "in_channels": 64, "out_channels": 64}
    return Operation.model_validate({"kind": kind, "operator": "Conv", **values, **shape, **changes})


def simple(half_width: float = 0.3) -> Calibration:
    """The same simple constants for the TX2 and for any device under TensorRT."""
    own = Calibrated(
        device="jetson-tx2:maxn",
        runtime="tensorrt",
        benchmark="",
        constants=SIMPLE,
        half_width=half_width,
        precisions=("fp32", "fp16"),
        batches=(1,),
        figures=1,
        sources=("a test",),
    )
    every = RuntimeConstants(runtime="tensorrt", constants=SIMPLE, half_width=0.5, devices=("jetson-tx2",))
    odd = own.model_copy(update={"benchmark": "odd", "constants": SIMPLE.model_copy(update={"overhead": 99.0})})
    return Calibration(devices=(odd, own), runtimes=(every,))


def whole(network: str, device: str = "tx2", runtime: str = "tensorrt", **options: Any) -> Prediction:
    """The prediction of a published network."""
    return predict(list(NETWORKS[network].values()), device, runtime, **options)


# The formula


def test_a_compute_bound_layer_by_hand() -> None:
    conv = operation()
    made = predict([conv], "tx2", "tensorrt", copies="excluded", calibration=simple())
    assert made.work_s == pytest.approx(conv.flops / (0.5 * 256 * 2 * 1300.5e6), rel=1e-4)
    assert made.overhead_s == pytest.approx(2 * 40e-6)
    assert made.host_s == pytest.approx(10 * 40e-6)
    assert made.latency_s == pytest.approx(made.work_s + made.overhead_s + made.host_s)


def test_each_kind_of_convolution_has_its_efficiency() -> None:
    peak = 256 * 2 * 1300.5e6
    for efficiency, changes in (
        (0.5, {}),
        (0.3, {"stride": (2, 2)}),
        (0.3, {"kernel": (5, 5)}),
        (0.3, {"groups": 2}),
        (0.25, {"kernel": (1, 1)}),
    ):
        made = predict([operation(**changes)], "tx2", "tensorrt", copies="excluded", calibration=simple())
        assert made.work_s == pytest.approx(operation().flops / (efficiency * peak), rel=1e-4)


def test_half_precision_and_copies_by_hand() -> None:
    conv, depthwise = operation(), operation("depthwise_conv", flops=10**9)
    halves = predict([conv, depthwise], "tx2", "tensorrt", "fp16", calibration=simple())
    peak = 256 * 2 * 1300.5e6
    assert halves.work_s == pytest.approx(conv.flops / (0.5 * 2 * peak) + 1e9 / (0.1 * peak), rel=1e-4)
    moved = (conv.input_elements + depthwise.output_elements) * 4
    assert halves.host_s == pytest.approx(400e-6 + moved / (0.01 * 59.712e9), rel=1e-4)
    given_sizes = predict(
        [conv], "tx2", "tensorrt", input_elements=1000, output_elements=10, calibration=simple(), batch=2
    )
    assert given_sizes.host_s == pytest.approx(400e-6 + 2 * 1010 * 4 / (0.01 * 59.712e9), rel=1e-4)


def test_a_linear_layer_streams_its_weights() -> None:
    linear = operation("linear", operator="Gemm", flops=2 * 25088 * 4096, input_elements=25088, output_elements=4096,
                       parameters=25088 * 4096, kernel=None, stride=None)  # fmt: skip
    made = predict([linear], "tx2", "tensorrt", calibration=simple())
    assert made.work_s == pytest.approx((25088 * 4096 + 25088 + 4096) * 4 / (0.8 * 59.712e9), rel=1e-4)


def test_tx2_linear_layers_reach_the_published_share_of_the_bandwidth() -> None:
    weights = NETWORKS["vgg16"]["fc6"].parameters * 4
    (layer_s,) = layer_seconds([[NETWORKS["vgg16"]["fc6"]]], "tx2", "tensorrt")
    assert 0.90 < weights / layer_s / 59.7e9 < 0.98


def test_fused_operations_cost_nothing_only_where_they_are_fused() -> None:
    relu = operation("elementwise", operator="Relu", parameters=0)
    together, alone = layer_seconds([[operation(), relu], [operation()]], "tx2", "tensorrt")
    assert together == alone
    together, alone = layer_seconds([[operation(), relu], [operation()]], "tx2", "caffe")
    assert together > alone * 1.01
    flatten = operation("movement", operator="Flatten", flops=0, parameters=0)
    assert layer_seconds([[flatten]], "tx2", "caffe") == (0.0,)


def test_energy_lies_between_idle_and_busy() -> None:
    made = whole("resnet50", "tx2:maxq")
    assert made.energy_j == pytest.approx(made.latency_s * (1.88 + (7.5 - 1.88) * made.work_s / made.latency_s))
    assert 1.88 * made.latency_s < made.energy_low_j * 1.5 < made.energy_j < made.energy_high_j
    assert made.energy_high_j <= made.high_s * 7.5
    assert made.provenance == "modelled" and "1.88 W idle" in made.source


# What must hold for any work

SIZES = st.integers(1, 2**22)
KINDS = st.sampled_from(get_args(Kind))
OPERATIONS = st.builds(
    lambda kind, flops, inputs, outputs, parameters: operation(
        kind, flops=flops, input_elements=inputs, output_elements=outputs, parameters=parameters
    ),
    KINDS,
    st.integers(0, 10**11),
    SIZES,
    SIZES,
    st.integers(0, 10**8),
)
GPUS = [name for name in known_devices() if not name.startswith("raspberry")]
ANYWHERE = st.tuples(st.sampled_from(GPUS), st.sampled_from([n for n, r in RUNTIMES.items() if r.processor == "gpu"]))


@settings(max_examples=150, deadline=None)
@given(st.lists(OPERATIONS, min_size=1, max_size=6), ANYWHERE, st.sampled_from([1, 3, 16]))
def test_times_are_positive_and_add_up(operations: list[Operation], place: tuple[str, str], batch: int) -> None:
    made = predict(operations, *place, batch=batch)
    layers = layer_seconds([[each] for each in operations], *place, batch=batch)
    assert 0 < made.low_s < made.latency_s < made.high_s < math.inf
    assert made.high_s / made.latency_s >= 1.2 and made.latency_s / made.low_s >= 1.2
    assert all(value >= 0 for value in layers)
    assert made.latency_s >= max(layers)
    assert made.work_s + made.overhead_s == pytest.approx(sum(layers))
    assert 0 < made.energy_low_j < made.energy_j < made.energy_high_j
    assert 0 <= made.utilisation < 1


@settings(max_examples=150, deadline=None)
@given(OPERATIONS, ANYWHERE, st.sampled_from(["flops", "input_elements", "parameters"]), st.floats(1.01, 100))
def test_more_work_never_takes_less(one: Operation, place: tuple[str, str], what: str, factor: float) -> None:
    more = one.model_copy(update={what: math.ceil(getattr(one, what) * factor)})
    assert predict([more], *place).latency_s >= predict([one], *place).latency_s
    assert (
        predict([one, more], *place, copies="excluded").latency_s >= predict([one], *place, copies="excluded").latency_s
    )
    assert predict([one], *place, batch=3).latency_s > predict([one], *place, batch=2).latency_s


@settings(max_examples=150, deadline=None)
@given(st.lists(OPERATIONS, min_size=1, max_size=4), ANYWHERE)
def test_half_precision_is_never_slower(operations: list[Operation], place: tuple[str, str]) -> None:
    assert predict(operations, *place, "fp16").latency_s <= predict(operations, *place).latency_s * (1 + 1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_tx2_modes_differ_as_their_clocks_do(network: str) -> None:
    most, least = whole(network), whole(network, "tx2:maxq")
    between = whole(network, "tx2:maxp-core-arm")
    # Memory clocks differ by 1.40, processor clocks by 1.52.
    assert 1.39 < least.latency_s / most.latency_s < 1.54
    assert most.latency_s < between.latency_s < least.latency_s
    assert (most.basis, least.basis) == ("calibrated", "extrapolated")
    assert math.log(least.high_s / least.latency_s) > math.log(most.high_s / most.latency_s)


def test_intervals_widen_with_what_is_not_known() -> None:
    def width(made: Prediction) -> float:
        return made.high_s / made.low_s

    timed = whole("vgg16", "titan-xp", "pytorch", batch=12)
    assert width(timed) < width(whole("vgg16", "titan-xp", "pytorch")) < width(whole("vgg16", "t4", "pytorch"))
    assert width(timed) < width(whole("vgg16", "titan-xp", "pytorch", precision="fp16", batch=12))
    other = whole("resnet50", "t4", "tensorrt")
    assert other.basis == "other devices" and "no published latency of this device" in other.source
    standing_in = whole("resnet50", "pi4", "onnxruntime-cpu")
    assert standing_in.basis == "extrapolated" and "under ncnn-cpu" in standing_in.source
    assert width(standing_in) > width(whole("resnet50", "pi4", "ncnn-cpu"))
    # A network so small that launching is all: the interval says that little is known.
    tiny = predict([operation("linear", flops=1000, input_elements=100, output_elements=10)], "tx2", "tensorrt")
    assert width(tiny) > 3


def test_half_widths_by_hand() -> None:
    work = [operation("linear", flops=10**14)]  # minutes of work, so that launching is no share of it

    def half(calibration: Calibration, **options: Any) -> float:
        made = predict(work, "tx2", "tensorrt", calibration=calibration, **options)
        assert made.high_s / made.latency_s == pytest.approx(made.latency_s / made.low_s)
        return math.log(made.high_s / made.latency_s)

    assert half(simple()) == pytest.approx(0.3, abs=1e-4)
    assert half(simple(0.01)) == pytest.approx(math.log(1.2))
    assert half(simple(), batch=2) == pytest.approx(math.hypot(0.3, math.log(1.25)), abs=1e-4)


def test_an_embedding_reads_what_it_looks_up() -> None:
    table = operation("embedding", operator="Gather", flops=0, input_elements=10, output_elements=640, parameters=10**8)
    assert layer_seconds([[table]], "tx2", "tensorrt")[0] < 1e-4


def test_copies() -> None:
    times = [whole("resnet50", copies=copies).latency_s for copies in ("excluded", "not stated", "included")]
    assert times == sorted(times) and times[1] - times[0] == pytest.approx(times[2] - times[1])
    # Published: host and copies add 3.5 to 5 ms for images of 224 x 224.
    assert 3.0e-3 < whole("resnet50").host_s < 5e-3


def test_what_cannot_be_predicted_is_a_clear_error() -> None:
    with pytest.raises(DeviceError, match="unknown runtime to predict 'tensort', did you mean 'tensorrt'"):
        whole("vgg16", "tx2", "tensort")
    with pytest.raises(DeviceError, match="titan-xp:default has no tf32 figures"):
        whole("vgg16", "titan-xp", "pytorch", precision="tf32")
    with pytest.raises(DeviceError, match="raspberry-pi-4:default has no fp32 figures for the gpu"):
        whole("vgg16", "pi4", "tensorrt")
    with pytest.raises(DeviceError, match="unknown calibrated runtime 'caffe'"):
        predict([operation()], "tx2", "caffe", calibration=simple())
    with pytest.raises(ModelError, match="no operation"):
        predict([], "tx2", "tensorrt")


# The published data


def test_network_tables_are_what_the_script_makes() -> None:
    made = script("published_networks").tables()
    assert figures.parse_networks(figures.format_networks(made)) == NETWORKS
    assert {name: list(table) for name, table in made.items()} == {name: list(t) for name, t in NETWORKS.items()}


@pytest.mark.parametrize("network", NETWORKS)
def test_network_totals_are_the_published_ones(network: str) -> None:
    millions, parameters = TOTALS[network]
    operations = NETWORKS[network].values()
    dense = sum(each.flops for each in operations if each.kind in ("conv", "depthwise_conv", "linear")) / 2e6
    assert sum(each.parameters for each in operations) == parameters
    assert dense == pytest.approx(millions, rel=0.005, abs=0.6)


def test_published_figures_name_what_exists() -> None:
    for entry in figures.published_sets():
        assert entry.runtime in RUNTIMES and entry.source and entry.conditions
        load_device(entry.device)
        assert all(set(latencies) <= set(NETWORKS) for latencies in entry.latency_ms.values())
    layers = figures.published_layers()
    assert len(layers) > 500
    assert all(row.layer in NETWORKS[row.network] for row in layers)
    constants = {each.constant for each in figures.anchors()}
    assert constants <= set(Constants.model_fields)


# The calibration


@cache
def fitted() -> tuple[Any, Any]:
    """All groups, and their constants fitted here."""
    module = script("calibrate_published")
    groups = module.read_groups()
    return groups, module.fit_all(groups)


@cache
def left_out(label: str) -> Any:
    """The TX2's figures under TensorRT, each predicted without its network or architecture."""
    module = script("calibrate_published")
    return module.leave_networks_out(*fitted(), getattr(module, label), [TX2_TENSORRT])


def committed() -> dict[str, Any]:
    """The committed results."""
    return json.loads((ROOT / "benchmarks" / "results" / "prediction_errors.json").read_text())


def test_fitting_again_gives_the_constants_that_are_shipped() -> None:
    module = script("calibrate_published")
    shipped = {(each.device, each.runtime, each.benchmark): each.constants for each in load_calibration().devices}
    made = {key: module.to_constants(vector) for key, vector in fitted()[1].items()}
    assert made.keys() == shipped.keys()
    for key, constants in made.items():
        assert constants.model_dump() == pytest.approx(shipped[key].model_dump(), rel=0.02)
    for family in load_calibration().runtimes:
        gathered = module.to_constants(module.gather(fitted()[1], family.runtime))
        assert gathered.model_dump() == pytest.approx(family.constants.model_dump(), rel=0.02)


@pytest.mark.parametrize("label", ["itself", "family"])
def test_left_out_networks_on_the_tx2_are_predicted_within_the_target(label: str) -> None:
    for precision in ("fp32", "fp16"):
        errors = sorted(
            abs(row.predicted_s / row.point.latency_s - 1)
            for row in left_out(label)
            if row.point.precision == precision
        )
        assert len(errors) == 9
        assert errors[4] <= 0.20
        assert errors[-1] <= 0.45


def test_committed_errors_are_those_found_here() -> None:
    lines = {
        (row["network"], row["precision"]): row["predicted_ms"]
        for row in committed()["network left out"]["figures"]
        if (row["device"], row["runtime"], row["benchmark"]) == TX2_TENSORRT
    }
    found = {(row.point.network, row.point.precision): row.predicted_s * 1e3 for row in left_out("itself")}
    assert found == pytest.approx(lines, rel=0.03)


@pytest.mark.parametrize("split", ["network left out", "architecture left out", "device left out"])
def test_intervals_hold_nine_in_ten_of_the_left_out_figures(split: str) -> None:
    """Counted again from the predictions, each interval from the errors of the others."""
    module = script("calibrate_published")
    rows = [
        module.Row(
            key=(line["device"], line["runtime"], line["benchmark"]),
            point=module.Point(
                line["network"], line["precision"], line["batch"], "excluded", line["published_ms"] * 1e-3
            ),
            predicted_s=line["predicted_ms"] * 1e-3,
            work_share=line["work_share"],
        )
        for line in committed()[split]["figures"]
    ]
    inside = module.covered(rows, *module.SPLITS[split])
    assert len(rows) > 150
    assert sum(inside) / len(inside) >= 0.9
    assert sum(inside) / len(inside) == pytest.approx(committed()[split]["total"]["covered"], abs=0.02)


def test_shipped_intervals_follow_from_the_left_out_errors() -> None:
    module = script("calibrate_published")
    lines = committed()["network left out"]["figures"]
    errors = [math.log(line["predicted_ms"] / line["published_ms"]) for line in lines]
    pooled = module.root_mean_square(errors)
    for entry in load_calibration().devices:
        key = (entry.device, entry.runtime, entry.benchmark)
        own = [
            error
            for error, line in zip(errors, lines, strict=True)
            if (line["device"], line["runtime"], line["benchmark"]) == key
        ]
        assert len(own) == entry.figures
        assert entry.half_width == pytest.approx(module.half_width(own, pooled), abs=0.002)


@pytest.mark.deep
def test_everything_fitted_again_gives_the_committed_errors() -> None:
    module = script("calibrate_published")
    groups, full = fitted()
    runs = {
        "network left out": module.leave_networks_out(groups, full),
        "architecture left out": module.leave_networks_out(groups, full, module.family),
        "device left out": module.leave_devices_out(groups, full),
    }
    for name, rows in runs.items():
        lines = committed()[name]["figures"]
        published = [line["predicted_ms"] for line in lines]
        assert [row.predicted_s * 1e3 for row in rows] == pytest.approx(published, rel=0.03)


def test_the_documentation_shows_the_committed_tables() -> None:
    module = script("calibrate_published")
    text = (ROOT / "docs" / "prediction.md").read_text()
    for split in ("network left out", "device left out"):
        assert module.table(split, committed()[split]["sets"]) in text
