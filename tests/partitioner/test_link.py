"""Presets against the published figures, and link files good and bad."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecut.errors import LinkError
from edgecut.partitioner.link import PRESETS, RADIOS, Link, Transfers, load_link

# Up and down in Mbit/s, round trip in ms; alpha up and down in mW per Mbit/s and beta in mW of Huang et al., table 4.
PUBLISHED = {
    "wifi": (12.8, 54.97, 5, 283.17, 137.01, 132.86),
    "lte": (5.85, 13.76, 50, 438.39, 51.97, 1288.04),
    "3g": (1.1, 2.03, 100, 868.98, 122.12, 817.88),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets(name: str) -> None:
    up, down, rtt, alpha_up, alpha_down, beta = PUBLISHED[name]
    link = load_link(name)
    assert link is PRESETS[name]
    assert link.uplink_bps == pytest.approx(up * 1e6)
    assert link.downlink_bps == pytest.approx(down * 1e6)
    assert link.rtt_s == pytest.approx(rtt / 1000)
    assert link.radio_tx_w == pytest.approx((alpha_up * up + beta) / 1000)
    assert link.radio_rx_w == pytest.approx((alpha_down * down + beta) / 1000)
    assert link.provenance == "published"
    assert "assumed" in link.source
    assert link.uplink_s(1e6) == pytest.approx(8 / up)
    assert link.downlink_s(1e6) == pytest.approx(8 / down)


def test_neurosurgeons_wifi() -> None:
    """152 KB took 95 ms there; and no other preset than the three is known."""
    assert load_link("wifi").uplink_s(152e3) == pytest.approx(0.095, rel=1e-3)
    assert set(PRESETS) == set(PUBLISHED)


def test_round_trip(tmp_path: Path) -> None:
    mine = Link(name="mine", uplink_bps=1e6, downlink_bps=2e6, rtt_s=0, provenance="measured", source="probe")
    path = mine.save(tmp_path / "mine.link.json")
    for again in (load_link(path), load_link(str(path))):
        assert again == mine.model_copy(update={"kind": "link", "version": 1})
        assert again.radio_tx_w is None
    assert load_link(mine) is mine


@pytest.mark.parametrize("name", PUBLISHED)
def test_radio_power_follows_the_rate_but_never_beyond_the_presets(name: str) -> None:
    up, down, _, alpha_up, alpha_down, beta = PUBLISHED[name]
    assert RADIOS[name].power_w(up * 0.5e6, down * 0.25e6) == pytest.approx(
        ((alpha_up * up / 2 + beta) / 1000, (alpha_down * down / 4 + beta) / 1000)
    )
    assert RADIOS[name].power_w(1e9, 1e9) == (PRESETS[name].radio_tx_w, PRESETS[name].radio_rx_w)


def test_a_file_without_intervals_and_samples_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "old.link.json"
    path.write_text(
        '{"kind": "link", "version": 1, "name": "old", "uplink_bps": 1e6, "downlink_bps": 2e6, "rtt_s": 0.01, '
        '"radio_tx_w": null, "radio_rx_w": null, "radio_source": "", "provenance": "measured", "source": "by hand"}'
    )
    old = load_link(path)
    assert (old.uplink_interval_bps, old.downlink_interval_bps, old.rtt_interval_s, old.measured_at) == (None,) * 4
    assert old.samples == ()


def test_intervals_and_samples_survive_a_file(tmp_path: Path) -> None:
    mine = Link(
        name="mine",
        uplink_bps=1e6,
        downlink_bps=2e6,
        rtt_s=0.01,
        provenance="measured",
        source="probe",
        uplink_interval_bps=(0.9e6, 1.1e6),
        rtt_interval_s=(0.01, 0.01),
        measured_at="2026-11-22T10:00:00+00:00",
        samples=(Transfers(what="uplink", size_bytes=1000, elapsed_s=(0.02, 0.03)),),
    )
    again = load_link(mine.save(tmp_path / "mine.link.json"))
    assert again.model_dump(exclude={"kind", "version"}) == mine.model_dump(exclude={"kind", "version"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("uplink_interval_bps", "[2, 1]"),
        ("rtt_interval_s", "[-1, 1]"),
        ("downlink_interval_bps", "[1]"),
        ("samples", '[{"what": "guess", "elapsed_s": []}]'),
        ("uplink_bps", 0),
        ("uplink_bps", -5),
        ("downlink_bps", '"fast"'),
        ("rtt_s", -1),
        ("rtt_s", "NaN"),
        ("radio_tx_w", -1),
        ("uplink_bps", "Infinity"),
        ("provenance", '"guessed"'),
        ("speed", 3),
    ],
)
def test_bad_values(field: str, value: object, tmp_path: Path) -> None:
    mine = Link(name="mine", uplink_bps=1e6, downlink_bps=2e6, rtt_s=0, provenance="measured", source="probe")
    text = mine.to_json().rstrip("\n}")
    path = tmp_path / "bad.link.json"
    path.write_text(f'{text},\n "{field}": {value}\n}}\n')  # of two fields of a name the last counts
    with pytest.raises(LinkError, match=rf"bad\.link\.json is not a usable link file \(.*{field}"):
        load_link(path)


def test_bad_files_and_names(tmp_path: Path) -> None:
    with pytest.raises(
        LinkError, match=r"'wfi', did you mean 'wifi'; known: 3g, lte, wifi; or give the path of a .link"
    ):
        load_link("wfi")
    with pytest.raises(LinkError, match=r"there is no file .*gone\.link\.json"):
        load_link(tmp_path / "gone.link.json")
    path = tmp_path / "half.link.json"
    path.write_text(PRESETS["lte"].to_json()[:100])
    with pytest.raises(LinkError, match="not a usable link file") as caught:
        load_link(path)
    assert "\n" not in str(caught.value)
