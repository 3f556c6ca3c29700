"""Jetson boards recreated as the files that their drivers show: each board's whole is the sum that is documented."""

from __future__ import annotations

import builtins
import os
import stat
from pathlib import Path

import pytest

from edgecut.agent import ina3221, meters, pmic
from edgecut.agent.meters import MeterError

Chips = dict[str, tuple[str, str, str]]

TX2: Chips = {
    "0-0040": ("VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI"),
    "0-0041": ("VDD_IN", "VDD_SYS_CPU", "VDD_SYS_DDR"),
    "0-0042": ("VDD_MUX", "VDD_5V0_IO_SYS", "VDD_3V3_SYS"),
    "0-0043": ("VDD_3V3_IO_SLP", "VDD_1V8_IO", "VDD_3V3_SYS_M2"),
}
TX2_NX: Chips = {"7-0040": ("VDD_IN", "VDD_CPU_GPU", "VDD_SOC")}
NANO: Chips = {"6-0040": ("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU")}
XAVIER_NX: Chips = {"7-0040": ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")}
AGX_XAVIER: Chips = {"1-0040": ("GPU", "CPU", "SOC"), "1-0041": ("CV", "VDDRQ", "SYS5V")}
AGX_ORIN: Chips = {"1-0040": ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), "1-0041": ("NC", "VDDQ_VDD2_1V8AO", "NC")}
ORIN_NANO: Chips = {"1-0040": ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")}

TX2_TREE = ("quill", "nvidia,quill", "nvidia,p2597-0000+p3310-1000", "nvidia,tegra186")
TX2_NX_TREE = ("NVIDIA Jetson TX2 NX Developer Kit", "nvidia,p3509-0000+p3636-0001", "nvidia,tegra186")
NANO_TREE = ("NVIDIA Jetson Nano Developer Kit", "nvidia,p3449-0000-b00+p3448-0000-b00", "nvidia,tegra210")
XAVIER_NX_TREE = ("NVIDIA Jetson Xavier NX Developer Kit", "nvidia,p3509-0000+p3668-0000", "nvidia,tegra194")
AGX_XAVIER_TREE = ("Jetson-AGX", "nvidia,p2972-0000", "nvidia,p2822-0000+p2888-0004", "nvidia,tegra194")
AGX_ORIN_TREE = ("NVIDIA Jetson AGX Orin Developer Kit", "nvidia,p3737-0000+p3701-0000", "nvidia,tegra234")
ORIN_NANO_TREE = ("NVIDIA Jetson Orin Nano Developer Kit", "nvidia,p3768-0000+p3767-0005", "nvidia,tegra234")
ORIN_NX_TREE = ("NVIDIA Jetson Orin NX Engineering Reference", "nvidia,p3509-0000+p3767-0000", "nvidia,tegra234")

# Watts are powers of two, so that a sum tells which rails are in it; in mV and mA they are still exact.
WATTS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def tree(root: Path, names: tuple[str, ...]) -> None:
    """Model and compatible as the device tree has them: strings that end in a zero byte."""
    write(root / "proc/device-tree/model", names[0] + "\0")
    write(root / "proc/device-tree/compatible", "".join(name + "\0" for name in names[1:]))


def channels(chips: Chips) -> list[tuple[str, int, str, int]]:
    """Chip, channel, rail and its watts."""
    flat = [(chip, channel, rail) for chip, rails in chips.items() for channel, rail in enumerate(rails)]
    return [(*place, watts) for place, watts in zip(flat, WATTS, strict=False)]


def l4t_28(root: Path, chips: Chips) -> None:
    for chip, channel, rail, watts in channels(chips):
        iio(root / f"sys/devices/3160000.i2c/i2c-{chip[0]}/{chip}/iio_device", channel, rail, watts)


def l4t_32(root: Path, chips: Chips) -> None:
    # The numbers of devices are not in the order of the chips.
    for chip, channel, rail, watts in channels(chips):
        number = 7 - int(chip[-1])
        iio(root / f"sys/bus/i2c/drivers/ina3221x/{chip}/iio:device{number}", channel, rail, watts)


def iio(folder: Path, channel: int, rail: str, watts: int) -> None:
    write(folder / f"rail_name_{channel}", rail + "\n")
    write(folder / f"in_voltage{channel}_input", "5000\n")
    write(folder / f"in_current{channel}_input", f"{watts * 200}\n")
    write(folder / f"in_power{channel}_input", f"{watts * 1000}\n")


def jetpack_5(root: Path, chips: Chips) -> None:
    for chip, channel, rail, watts in channels(chips):
        folder = root / f"sys/bus/i2c/drivers/ina3221/{chip}/hwmon/hwmon{3 + int(chip[-1])}"
        write(folder / "name", "ina3221\n")
        write(folder / f"in{channel + 1}_label", rail + "\n")
        write(folder / f"in{channel + 1}_input", "5000\n")
        write(folder / f"curr{channel + 1}_input", f"{watts * 200}\n")
        write(folder / f"in{channel + 4}_input", "9999\n")
        write(folder / "in7_label", "sum of shunt voltages\n")
        write(folder / "in7_input", "9999\n")


BOARDS = [
    pytest.param(l4t_28, TX2, TX2_TREE, "Jetson TX2", 8, id="TX2-L4T28"),
    pytest.param(l4t_32, TX2, TX2_TREE, "Jetson TX2", 8, id="TX2-L4T32"),
    pytest.param(l4t_32, TX2_NX, TX2_NX_TREE, "Jetson TX2 NX", 1, id="TX2NX-L4T32"),
    pytest.param(l4t_32, NANO, NANO_TREE, "Jetson Nano", 1, id="Nano-L4T32"),
    pytest.param(l4t_32, XAVIER_NX, XAVIER_NX_TREE, "Jetson Xavier NX", 1, id="XavierNX-L4T32"),
    pytest.param(jetpack_5, XAVIER_NX, XAVIER_NX_TREE, "Jetson Xavier NX", 1, id="XavierNX-JP5"),
    pytest.param(l4t_32, AGX_XAVIER, AGX_XAVIER_TREE, "Jetson AGX Xavier", 63, id="AGXXavier-L4T32"),
    pytest.param(jetpack_5, AGX_XAVIER, AGX_XAVIER_TREE, "Jetson AGX Xavier", 63, id="AGXXavier-JP5"),
    pytest.param(jetpack_5, AGX_ORIN, AGX_ORIN_TREE, "Jetson AGX Orin", 7, id="AGXOrin-JP6"),
    pytest.param(jetpack_5, ORIN_NANO, ORIN_NANO_TREE, "Jetson Orin Nano or NX", 1, id="OrinNano-JP6"),
    pytest.param(jetpack_5, ORIN_NANO, ORIN_NX_TREE, "Jetson Orin Nano or NX", 1, id="OrinNX-JP6"),
]


def total_w(meter: ina3221.Ina3221) -> float:
    watts = meter.read_w()
    return sum(watts[rail] for rail in meter.summed)


@pytest.mark.parametrize(("layout", "chips", "names", "board", "watts"), BOARDS)
def test_whole(layout, chips, names, board, watts, tmp_path: Path) -> None:
    layout(tmp_path, chips)
    tree(tmp_path, names)
    meter = ina3221.open_meter(str(tmp_path))
    assert total_w(meter) == pytest.approx(watts)
    assert f"INA3221 of {board}: {' + '.join(meter.summed)}, read every" in meter.source
    assert set(meter.summed) <= set(meter.read_w())
    assert "NC" not in meter.read_w()
    (found,) = meters.find_meters(str(tmp_path))
    assert found.source == meter.source
    assert meters.probe(str(tmp_path))[0] == ("ina3221", True, meter.source)


def test_parts_are_shown_and_not_added(tmp_path: Path) -> None:
    jetpack_5(tmp_path, AGX_ORIN)
    tree(tmp_path, AGX_ORIN_TREE)
    meter = ina3221.open_meter(str(tmp_path))
    assert meter.summed == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    assert meter.read_w()["VDDQ_VDD2_1V8AO"] == 16
    # The carrier board's rails of a TX2 are no part of the module.
    l4t_32(tmp_path / "tx2", TX2)
    tree(tmp_path / "tx2", TX2_TREE)
    assert set(ina3221.open_meter(str(tmp_path / "tx2")).read_w()) == {*TX2["0-0040"], *TX2["0-0041"]}


@pytest.mark.parametrize(("layout", "chips", "names", "board", "watts"), BOARDS)
def test_a_board_is_known_by_its_name_too(layout, chips, names, board, watts, tmp_path: Path) -> None:
    tree(tmp_path, names[:1])
    found = ina3221.find_board(str(tmp_path))
    assert found is not None and found.name == board


def test_the_module_decides_and_not_the_carrier_or_the_name(tmp_path: Path) -> None:
    # A carrier's maker may change the model's name; one carrier takes three modules.
    tree(tmp_path, ("Box for Jetson Nano class modules", "maker,box", "nvidia,p3509-0000+p3668-0001"))
    found = ina3221.find_board(str(tmp_path))
    assert found is not None and found.name == "Jetson Xavier NX"


def test_one_chip_under_two_drivers_counts_once(tmp_path: Path) -> None:
    l4t_28(tmp_path, TX2)
    l4t_32(tmp_path, TX2)
    tree(tmp_path, TX2_TREE)
    assert total_w(ina3221.open_meter(str(tmp_path))) == 8


def test_old_drivers_without_power_files(tmp_path: Path) -> None:
    l4t_32(tmp_path, TX2)
    tree(tmp_path, TX2_TREE)
    for path in tmp_path.rglob("in_power*"):
        path.unlink()
    assert total_w(ina3221.open_meter(str(tmp_path))) == 8


def test_an_unknown_board_with_an_obvious_whole(tmp_path: Path) -> None:
    jetpack_5(tmp_path, {"1-0040": ("VDD_OTHER", "VDD_IN", "VDD_SOC")})
    tree(tmp_path, ("NVIDIA Jetson Something", "nvidia,p9999-0000+p9998-0000"))
    meter = ina3221.open_meter(str(tmp_path))
    assert total_w(meter) == 2
    assert "unknown board: VDD_IN" in meter.source


def test_an_unknown_board_without_one_lists_its_rails(tmp_path: Path) -> None:
    jetpack_5(tmp_path, AGX_ORIN)
    # Neither channels that are not connected, nor the sum of shunts.
    with pytest.raises(MeterError, match=r"it has VDDQ_VDD2_1V8AO, VDD_CPU_CV, VDD_GPU_SOC, VIN_SYS_5V0$"):
        ina3221.open_meter(str(tmp_path))
    assert meters.find_meters(str(tmp_path)) == []


def test_a_renamed_rail_names_what_was_found(tmp_path: Path) -> None:
    jetpack_5(tmp_path, {**AGX_XAVIER, "1-0041": ("CV", "VDDRQ", "SYS_5V")})
    tree(tmp_path, AGX_XAVIER_TREE)
    with pytest.raises(
        MeterError, match=r"Jetson AGX Xavier .*SYS5V is missing; it has CPU, CV, GPU, SOC, SYS_5V, VDDRQ"
    ):
        ina3221.open_meter(str(tmp_path))


def test_no_sensor(tmp_path: Path) -> None:
    tree(tmp_path, NANO_TREE)
    with pytest.raises(MeterError, match="no INA3221 power sensor"):
        ina3221.open_meter(str(tmp_path))


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jetpack_5(tmp_path, ORIN_NANO)
    tree(tmp_path, ORIN_NANO_TREE)
    real = builtins.open

    def guarded(path, *rest, **named):
        if os.path.basename(path) == "curr1_input":
            raise PermissionError(13, "Permission denied", path)
        return real(path, *rest, **named)

    monkeypatch.setattr(builtins, "open", guarded)
    ((name, usable, reason), _) = meters.probe(str(tmp_path))
    assert (name, usable) == ("ina3221", False)
    assert "permission denied" in reason and "chmod a+r" in reason and "curr1_input" in reason


def opened(tmp_path: Path) -> tuple[ina3221.Ina3221, Path, list[float]]:
    """A TX2 on a clock of its own, the folder of its VDD_IN, and the clock's hands."""
    l4t_32(tmp_path, TX2)
    tree(tmp_path, TX2_TREE)
    meter, now = ina3221.open_meter(str(tmp_path)), [0.0]
    meter.period_s = 3600.0
    meter._clock = lambda: now[0]
    return meter, tmp_path / "sys/bus/i2c/drivers/ina3221x/0-0041/iio:device6", now


def test_a_file_rewritten_while_it_is_sampled(tmp_path: Path) -> None:
    meter, folder, now = opened(tmp_path)
    meter.begin()
    for step in range(1, 31):
        now[0] = step / 10
        # 8 W, then a ramp of 10 W a second from one second on, and 28 W at three.
        (folder / "in_power0_input").write_text(f"{8000 + max(0, step - 10) * 1000}\n")
        meter.sample() if step < 30 else None
    reading = meter.end()
    assert reading.energy_j == pytest.approx(8 * 3 + 10 * 2 * 2 / 2)
    assert reading.rails["VDD_SYS_GPU"] == pytest.approx(1 * 3)
    assert reading.rails["VDD_IN"] == reading.energy_j
    assert reading.readings == 31


@pytest.mark.parametrize("fault", ["garbage", "gone"])
def test_a_rail_at_fault_within_the_window(fault: str, tmp_path: Path) -> None:
    meter, folder, now = opened(tmp_path)
    meter.begin()
    for step in range(1, 30):
        now[0] = step / 10
        if step == 15:
            path = folder / "in_power0_input"
            path.write_text("EAGAIN") if fault == "garbage" else path.unlink()
        meter.sample()
    now[0] = 3.0
    reading = meter.end()
    assert reading.energy_j is None and reading.rails == {}
    assert "in_power0_input" in reading.note


def test_a_window_too_short(tmp_path: Path) -> None:
    meter, _, now = opened(tmp_path)
    meter.begin()
    for step in range(1, 10):
        now[0] = step / 10
        meter.sample()
    assert meter.end().energy_j is None
    assert meter.least_window_s > 0.9


# The form a Raspberry Pi 5 prints, with round figures: the 5 V input and the battery have volts and no amperes.
PI_5 = """ 3V7_WL_SW_A current(0)=0.00780744A
   3V3_SYS_A current(1)=0.10000000A
  VDD_CORE_A current(7)=2.00000000A
 3V7_WL_SW_V volt(8)=0.00000000V
   3V3_SYS_V volt(9)=3.30000000V
  VDD_CORE_V volt(15)=0.75000000V
     EXT5V_V volt(24)=5.14894000V
      BATT_V volt(25)=0.00000000V
"""


def vcgencmd(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "vcgencmd"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_raspberry_pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    (tmp_path / "said").write_text(PI_5)
    vcgencmd(tmp_path, f'[ "$1" = pmic_read_adc ] && cat {tmp_path}/said', monkeypatch)
    meter = pmic.open_meter(str(tmp_path))
    assert meter.read_w() == pytest.approx({"3V7_WL_SW": 0, "3V3_SYS": 0.33, "VDD_CORE": 1.5})
    assert meter.summed == ("3V3_SYS", "3V7_WL_SW", "VDD_CORE")
    assert "losses" in meter.source
    for garbage in ("nanA", "2.00000000V", "2.00000000A?", "2.0.0A"):
        (tmp_path / "said").write_text(PI_5.replace("2.00000000A", garbage))
        with pytest.raises(MeterError, match="VDD_CORE_A"):
            meter.read_w()


@pytest.mark.parametrize(
    ("script", "word"),
    [("echo VCHI initialization failed; exit 255", "group video"), ("echo", "amperes"), ("exit 3", "ended with 3")],
)
def test_raspberry_pi_refuses(script: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    vcgencmd(tmp_path, script, monkeypatch)
    with pytest.raises(MeterError, match=word):
        pmic.open_meter(str(tmp_path))


def test_raspberry_pi_without_the_command_or_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write(tmp_path / "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    with pytest.raises(MeterError, match="not installed"):
        pmic.open_meter(str(tmp_path))
    write(tmp_path / "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.5\0")
    with pytest.raises(MeterError, match="not a Raspberry Pi 5"):
        pmic.open_meter(str(tmp_path))


def test_volts_missing_for_a_rail() -> None:
    with pytest.raises(MeterError, match="volts of VDD_CORE"):
        pmic.parse(PI_5.replace("VDD_CORE_V", "VDD_OTHER_V"))
