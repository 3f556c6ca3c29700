"""Device descriptions: every file loads, every figure has a source, and what is computed follows from the clocks."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from edgecut.errors import DeviceError
from edgecut.profiler.description import DeviceDescription, Figure, Figures, known_devices, load_device

ASKED = {
    *("jetson-tx2", "jetson-nano", "jetson-xavier-nx", "jetson-agx-xavier", "jetson-orin-nano", "jetson-orin-nx"),
    *("jetson-agx-orin", "raspberry-pi-4", "raspberry-pi-5"),
    *("titan-xp", "titan-x-pascal", "t4", "a10", "a100", "l4", "h100"),
}
EVERY = [f"{name}:{mode}" for name, modes in known_devices().items() for mode in modes]
# Data sheets, in TFLOP/s of single precision: not what the files are computed from.
DATA_SHEETS = {
    "titan-xp": 12.15,
    "titan-x-pascal": 10.97,
    "gtx-1080": 8.87,
    "gtx-1080-ti": 11.34,
    "t4": 8.14,
    "a10": 31.24,
    "a100": 19.49,
    "l4": 30.3,
    "h100:sxm": 66.9,
    "h100:pcie": 51.2,
    "jetson-nano": 0.236,
    "jetson-agx-xavier": 1.41,
    "jetson-xavier-nx": 0.845,
    "jetson-orin-nano": 1.28,
    "jetson-orin-nano:super": 2.09,
    "jetson-orin-nx": 1.88,
    "jetson-agx-orin": 5.3,
    "jetson-tx2": 0.666,
    "jetson-tx2:maxq": 0.437,
    "jetson-tx2:maxp-core-all": 0.574,
}


def given(device: DeviceDescription) -> dict[str, Figure]:
    """The figures a description has."""
    named = {name: getattr(device.figures, name) for name in Figures.model_fields}
    return {name: figure for name, figure in named.items() if figure is not None}


def test_the_devices_that_were_asked_for_are_there() -> None:
    assert set(known_devices()) >= ASKED
    assert set(known_devices()["jetson-tx2"]) == {
        *("maxn", "maxq", "maxp-core-all", "maxp-core-arm", "maxp-core-denver")
    }
    assert set(known_devices()["h100"]) == {"pcie", "sxm"}


@pytest.mark.parametrize("reference", EVERY)
def test_every_description_makes_sense(reference: str) -> None:
    device = load_device(reference)
    figures = given(device)
    assert device.reference == reference
    assert all(figure.value > 0 and len(figure.source) > 3 for figure in figures.values())
    assert figures["idle_w"].value < figures["max_w"].value
    assert figures.get("cap_w", figures["max_w"]).value >= figures["max_w"].value
    assert {"gpu_fp32_flops", "cpu_fp32_flops"} & set(figures)
    assert set(device.recalled()) == {name for name, figure in figures.items() if figure.provenance == "recalled"}
    if "gpu_fp32_flops" in figures:
        expected = figures["gpu_cores"].value * 2 * figures["gpu_clock_hz"].value
        assert figures["gpu_fp32_flops"].value == pytest.approx(expected, rel=1e-4)
        assert figures["gpu_fp32_flops"].provenance == "computed"


@pytest.mark.parametrize(("reference", "teraflops"), DATA_SHEETS.items())
def test_computed_rates_are_those_of_data_sheets(reference: str, teraflops: float) -> None:
    figure = load_device(reference).figures.gpu_fp32_flops
    assert figure is not None and figure.value * 1e-12 == pytest.approx(teraflops, rel=0.01)


@pytest.mark.parametrize(
    ("mode", "clock_mhz", "memory_mhz"),
    [("maxn", 1300.5, 1866), ("maxq", 854.25, 1331.2), ("maxp-core-arm", 1122, 1600)],
)
def test_tx2_modes_follow_from_their_clocks(mode: str, clock_mhz: float, memory_mhz: float) -> None:
    figures = given(load_device(f"tx2:{mode}"))
    assert figures["gpu_fp32_flops"].value == pytest.approx(256 * 2 * clock_mhz * 1e6, rel=1e-4)
    assert figures["gpu_fp16_flops"].value == pytest.approx(256 * 4 * clock_mhz * 1e6, rel=1e-4)
    assert figures["memory_bytes_per_s"].value == pytest.approx(128 / 8 * 2 * memory_mhz * 1e6, rel=1e-4)


def test_pascal_cards_compute_halves_slowly() -> None:
    for name in ("titan-xp", "titan-x-pascal"):
        figures = given(load_device(name))
        assert figures["gpu_fp16_flops"].value == pytest.approx(figures["gpu_fp32_flops"].value / 64, rel=1e-4)
    assert "Table 1" in given(load_device("titan-x-pascal"))["gpu_cores"].source


def test_what_nobody_verified_stays_visible() -> None:
    assert {"gpu_fp16_tensor_flops", "memory_bytes_per_s"} <= set(load_device("h100:pcie").recalled())
    assert "memory_bytes_per_s" not in load_device("h100:sxm").recalled()
    assert load_device("jetson-tx2:maxq").recalled() == ("cpu_fp32_flops", "cpu_layer_overhead_s")


def test_names_aliases_and_default_modes() -> None:
    assert load_device("tx2").reference == "jetson-tx2:maxn"
    assert load_device("nano:5w").reference == "jetson-nano:5w"
    device = load_device("a100")
    assert device.mode == known_devices()["a100"][0] == "sxm"
    assert load_device(device) is device
    aliases = ["tx1", "tx2", "nano", "xavier-nx", "agx-xavier", "orin-nano", "orin-nx", "agx-orin", "pi4", "pi5"]
    assert len({load_device(alias).name for alias in aliases}) == len(aliases)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(DeviceError, match=r"did you mean 'jetson-tx2'.*titan-xp"):
        load_device("jetson-tx3")
    with pytest.raises(DeviceError, match=r"mode of jetson-tx2 'maxx'.*maxp-core-arm.*maxq"):
        load_device("tx2:maxx")


def test_a_misspelt_or_sourceless_figure_is_refused() -> None:
    content = load_device("tx2").figures.model_dump(exclude_none=True)
    with pytest.raises(ValidationError, match="gpu_fp32_flop"):
        Figures.model_validate({**content, "gpu_fp32_flop": content["gpu_fp32_flops"]})
    with pytest.raises(ValidationError, match="source"):
        Figures.model_validate({**content, "idle_w": {"value": 1, "provenance": "measured", "source": ""}})
