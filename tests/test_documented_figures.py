"""Tables in the documentation are those of the committed results: nobody types a figure in and forgets it."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def result(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return values


def test_calibration() -> None:
    text, found = (ROOT / "docs" / "prediction.md").read_text(), result("calibration")
    assert found["command"].replace("benchmarks/", "") in text.replace("benchmarks/", "")
    assert f"{found['layers']} layers" in text
    for row in found["networks"]:
        times = [row[name] * 1e3 for name in ("measured_s", "predicted_s", "low_s", "high_s")]
        measured, predicted, low, high = (f"{value:#.3g}".rstrip(".") for value in times)
        errors = f"{row['error']:+.0%} | {row['linear_error']:+.0%}".replace("%", " %")
        assert f"| {row['network']} | {measured} ms | {predicted} ms, {low} to {high} | {errors} |" in text


def test_bias_of_the_information() -> None:
    text, found = (ROOT / "docs" / "audit.md").read_text(), result("information_bias")
    assert found["command"] in text.replace("\n", " ") and found["environment"]["processors"] == 2
    for row in found["rows"]:
        values = [row[name] for name in ("true_bits", "upper_bits", "lower_bits", "metric_bits")]
        assert f"| {row['values']:,} | {' | '.join(f'{value:.2f}' for value in values)} |" in text
    assert f"{found['rows'][0]['lower_cap_bits']:.2f} bits" in text
    for name in ("train_items", "test_items", "metric_samples", "gallery"):
        assert f"{found[name]:,}" in text


def test_repeatability() -> None:
    text, found = (ROOT / "docs" / "devices.md").read_text(), result("repeatability")
    assert found["command"] in text
    for name, row in found["networks"].items():
        same = "yes" if row["same_cut"] else "no"
        shares = [f"{row[f'{which}_difference'] * 100:#.2g}".rstrip(".") for which in ("median", "p90", "worst")]
        assert f"| {name} | {same} | {shares[0]} % | {shares[1]} % | {shares[2]} % |" in text


def test_noise_of_predicted_devices() -> None:
    from edgecut.profiler import predicted

    found = result("noise_time")
    for what in ("noise", "add"):
        for name in ("fixed_s", "per_value_s"):
            constant = getattr(predicted, f"{what}_{name}".upper())
            assert abs(constant / found[what][name] - 1) < 0.05


def test_learning() -> None:
    text, found = (ROOT / "docs" / "noise.md").read_text(), result("learning_table")
    assert found["command"].replace("python ", "") in text
    for key, row in found["rows"].items():
        learned, start = row["learned"], "| " + key.replace("/", " | ")
        footprint = f"{learned['footprint_bytes'] / 1024:.2f}"
        if row["trained"]:
            without, (low, high) = learned["accuracy"]["without"], row["loss_interval_points"]
            accuracy = f"{100 * without['correct'] / without['total']:.2f} %"
            start += f" | {learned['elements']} | {accuracy} | {row['loss_points']:.2f} [{low:.2f}, {high:.2f}] | "
            start += f"{learned['scale']:.2f} | "
        line = next(line for line in text.splitlines() if line.startswith(start))
        assert f"| {footprint} |" in line
        if not row["trained"]:
            assert line.count("unavailable") == 4


def test_fitting_at_large_cuts() -> None:
    text, found = (ROOT / "docs" / "noise.md").read_text(), result("fit_sizes")
    assert found["command"] in text and f"the {found['train_items']} images" in text
    for row in found["rows"]:
        sizes = f"{row['elements']:,} | {row['mechanism']} | {row['values_sent']:,}"
        spent = f"{row['seconds']:.0f} s | {row['peak_memory_bytes'] / 1e9:.2f} GB"
        assert f"| {row['network']} | {sizes} | {spent} |" in text


def test_drawing_noise() -> None:
    text, found = (ROOT / "docs" / "noise.md").read_text(), result("noise_cpu")
    other = result("noise_cpu_xeon")["sizes"]
    for n, row in found["sizes"].items():
        medians, ratios = medians_of(row), []
        for some in (medians, medians_of(other[n])):
            ratios += [f"{some[way] / some['c']:.1f}" for way in ("sort_laplace", "fastest")]
        times = [shown(medians[way]) for way in ("sort_laplace", "fastest", "numpy", "c", "floor")]
        over = f"{medians['c'] / medians['floor']:.1f}"
        assert f"| {int(n):,} | {' | '.join([*times, *ratios[:2], over, *ratios[2:]])} |" in text


def medians_of(row: dict[str, Any]) -> dict[str, float]:
    """Microseconds by way; `fastest` is the better of the two float32 sorts."""
    medians = {name: values[1] for name, values in row["us"].items()}
    return medians | {"fastest": min(medians.get("sort_numpy", 0), medians.get("sort_chacha", 0))}


def shown(time_us: float) -> str:
    return f"{time_us:,.0f}" if time_us >= 1000 else f"{time_us:#.3g}".rstrip(".")


def test_drawing_independent_noise() -> None:
    text, found = (ROOT / "docs" / "noise.md").read_text(), result("noise_cpu")["elements"]
    for name in found:
        law, n, *mixed = name.split()
        if law == "normal":
            continue
        both = [medians_of(found[name.replace("laplace", other)]) for other in ("laplace", "normal")]
        times = [shown(medians[way]) for medians in both for way in ("pcg64", "numpy", "c", "c_sticky")]
        size = f"{int(n):,}{' with a matrix' if mixed else ''}"
        assert f"| {size} | {' | '.join(times)} |" in text


def test_what_noise_adds_to_a_request() -> None:
    text, found = (ROOT / "docs" / "noise.md").read_text(), result("noise_share")
    assert found["command"] in text
    assert f"adding takes {found['add_s'] * 1e3:.3f} ms, {100 * found['added_share']:.1f} %" in text
    assert f"it is {100 * found['worked_share']:.1f} %" in text


def test_registers() -> None:
    text = (ROOT / "docs" / "noise.md").read_text()
    kernels = [row for row in result("noise_cubins")["kernels"] if row["compiler"].startswith("NVRTC")]
    assert not any(row["spilled_bytes"] or row["stack_bytes"] for row in kernels)
    names = ("block", "tiles", "values", "gather16", "gather32", "add", "elements", "mixed")
    for target, gpu in {(row["target"], row["gpu"]) for row in kernels}:
        found = {row["kernel"]: row["registers"] for row in kernels if row["target"] == target}
        registers = [str(found.pop(f"edgecut_noise_{name}")) for name in names]
        assert f"| {target} ({gpu}) | {' | '.join(registers)} | 0 |" in text and not found


def faults_lines() -> list[str]:
    lines, before = [], ""
    for row in result("faults")["rows"]:
        name = row["scenario"] if row["scenario"] != before else ""
        before = row["scenario"]
        counts = [row[key] for key in ("right_cloud", "right_local", "clear_errors", "wrong", "late", "retries")]
        cells = [name, f"{row['transport']}, {row['away']}", *counts]
        lines.append(f"| {' | '.join(map(str, cells))} | {row['median_s'] * 1e3:.1f} | {row['worst_s']:.2f} |")
    return lines


def test_faults() -> None:
    text, found = (ROOT / "docs" / "faults.md").read_text(), result("faults")
    assert found["command"] in text
    assert all(line in text for line in faults_lines())
    assert all(row["wrong"] == row["late"] == row["unclear"] == row["changed_retries"] == 0 for row in found["rows"])
    assert f"{sum(row['requests'] for row in found['rows']):,} requests" in text


def test_link_accuracy() -> None:
    text, found = (ROOT / "docs" / "faults.md").read_text(), result("link_accuracy")
    assert found["command"] in text
    for row in found["rows"]:
        trip = f"{row['round_trip_measured_s'] * 1e3:.1f} ({row['round_trip_s'] * 1e3:.1f})"
        rates = [f"{row[f'{way}link_ratio'] * 100:.1f} %" for way in ("up", "down")]
        cells = [row["link"], row["congestion_control"], *rates, trip, f"{row['connect_measured_s'] * 1e3:.1f}"]
        assert f"| {' | '.join(cells)} |" in text


def scaling_lines() -> list[str]:
    lines = []
    for row in result("scaling")["rows"]:
        light = row["model"] == "light"
        name = (
            row["server"][0].upper() + row["server"][1:] if "ray" in row["server"] else f"`{row['server']}`"
        ) * light
        start = f"{row['start_s']:.2g}" if light else ""
        cells = [name, row["model"], f"{row['median_s'] * 1e3:.1f}", f"{row['answers_per_s']:.0f}", start]
        line = f"| {' | '.join(cells)} | {row['memory_bytes'] / 1e6:.0f} |"
        lines.append(line.replace("|  |", "| |"))
    return lines


def test_scaling() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()
    assert result("scaling")["command"] in text and all(line in text for line in scaling_lines())


def serving_lines() -> list[str]:
    found = result("serving")
    lines = []
    for clients in ("one_client", "eight_clients"):
        for size in sorted({row["bytes"] for row in found[clients]}):
            rows = {row["server"]: row for row in found[clients] if row["bytes"] == size}
            names = ("ours gRPC", "ours REST", "triton gRPC", "triton REST", "mlserver gRPC", "kserve gRPC", "echo")
            cells = [f"{rows[name]['median_s'] * 1e3:.2f} / {rows[name]['p99_s'] * 1e3:.1f}" for name in names]
            lines.append(f"| {clients.partition('_')[0]} | {size:,} | {' | '.join(cells)} |")
    return lines


def test_serving() -> None:
    text, found = (ROOT / "docs" / "serving.md").read_text(), result("serving")
    assert found["command"] in text and all(line in text for line in serving_lines())
    for way, ratios in found["to_triton"].items():
        assert f"{way} {', '.join(f'{ratio:.2f}' for ratio in ratios.values())}" in text
    soak, edge = result("serving_soak"), result("serving_edge")
    assert soak["command"] in text and edge["command"] in text


SIX = {
    "lenet5": "LeNet",
    "cifar10_cnn": "CIFAR-10",
    "svhn_cnn": "SVHN",
    "alexnet": "AlexNet",
    "vgg16": "VGG-16",
    "text_cnn_20news": "20 Newsgroups",
}


def test_reproduction() -> None:
    text, found = (ROOT / "docs" / "reproduction.md").read_text(), result("reproduction")
    assert found["command"] in text
    rows, baselines = found["modelled"]["tx2-gpu/titan-xp"]["wifi"], ("float32", "uint8", "JPEG")
    for name, title in SIX.items():
        published, row = found["published"]["speedups"][name], rows[name]
        ratios = [row["speedups"].get(f"cloud-only {form}") for form in baselines]
        shown = ["\N{EN DASH}" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        theirs, total = row["float32"]["total_s"] / row["paper_cut"]["total_s"], f"{row['total_s'] * 1e3:.1f}"
        cells = [title, f"{published:.2f}", row["cut"], *shown, f"{theirs:.2f}", total]
        assert f"| {' | '.join(cells)} |" in text
        for ratio, form in zip(ratios, baselines, strict=True):
            if ratio is not None and ratio < 0.99:
                assert f"| wifi | {title} |" in text and f"cloud-only {form} {1 / ratio:.2f} times as fast" in text
        size = found["table_3"][name]
        kept = [title, size["cut"], str(size["elements"]), f"{size['bytes']:,}", f"{size['bytes'] / 1024:.2f}"]
        assert f"| {' | '.join(kept)} | {size['published_kb']:.2f} |" in text
    for links in found["modelled"].values():
        for link, those in links.items():
            means = []
            for form in baselines:
                having = [r["speedups"].get(f"cloud-only {form}") for r in those.values()]
                known = [ratio for ratio in having if ratio is not None]
                means.append(f"{statistics.geometric_mean(known):.2f} ({len(known)})")
            assert f"| {link} | {' | '.join(means)} |" in text


def test_measured_half_of_the_reproduction() -> None:
    text, found = (ROOT / "docs" / "reproduction.md").read_text(), result("reproduction")["measured"]
    if found is None:
        assert "Not measured yet" in text
        return
    for name, links in found["networks"].items():
        for row in links.values():
            assert f"| {SIX[name]} | {row['planned']} | {row['measured_s'] * 1e3:.1f} |" in text


def test_planning() -> None:
    text, found = (ROOT / "docs" / "planning.md").read_text(), result("planning")
    assert found["command"].replace("benchmarks/", "") in text
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    for name, row in found["networks"].items():
        times = [row["median_s"].get(way) for way in ("min_cut", "candidates", "plan", "exhaustive")]
        shown = " | ".join("-" if seconds is None else f"{seconds:.3f}" for seconds in times)
        cuts = f"more than {found['most_enumerated']:,}" if row["cuts"] is None else f"{row['cuts']:,}"
        assert f"| {name} | {row['layers']} | {cuts} | {shown} |" in rows
