"""The Shredder paper's tables beside ours: writes results/reproduction.json and docs/reproduction.md from it.

Three kinds of figures stand side by side and are never mixed: published (paper_figures.py), modelled by edgecut's own
planner on the descriptions of the paper's devices (nothing here ran on a TX2 or a Titan), and measured on this machine
(results/regret.json, by regret.py; where that is not there, the page says so). No network is trained: times and sizes
do not depend on weights. Text has no uint8 and no JPEG form; its words as 16-bit numbers stand in as the smallest form.
`--data-folder` is where CIFAR-10's pictures are; without it their JPEG size is the last result's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from jpeg_sizes import jpeg_sizes
from machine import RESULTS, write_result
from paper_figures import DISTRIBUTIONS, FIGURE_6, SIX, TABLE_2, TABLE_3_KB, geometric_mean, lte_factors
from reproduction_rows import MAIN, MAIN_CPU
from reproduction_text import page

from edgecut.artefacts import write_bytes
from edgecut.models.load import load_model
from edgecut.noise_kernels.storage import packed_bytes
from edgecut.partitioner.choose import plan
from edgecut.partitioner.plan import CutCost, Plan
from edgecut.partitioner.ways import CLOUD_JPEG
from edgecut.profiler.profile import Profile
from edgecut.profiler.run import profile

EDGES = {
    "tx2-gpu": ("jetson-tx2:maxq", "tensorrt"),
    "tx2-gpu-pytorch": ("jetson-tx2:maxq", "pytorch"),
    "tx2-gpu-maxn": ("jetson-tx2:maxn", "tensorrt"),
    "tx2-cpu": ("jetson-tx2:maxq", "onnxruntime-cpu"),
}
"""The paper's Table 1 gives its TX2 7.5 W, which is Max-Q; it ran PyTorch, where we would deploy TensorRT."""
CLOUDS = ("titan-xp", "titan-x-pascal")
LINKS = ("wifi", "lte", "3g")
DETAILED = (MAIN, MAIN_CPU)
"""The pairs whose parts the page shows; of the others the totals are enough."""
WORD_BYTES = 2
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "reproduction.md"


def main() -> None:
    """Model every pair of devices over every preset, put the measured half beside it, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-folder", type=Path, help="the folder that holds cifar10_12k.npz")
    asked = parser.parse_args()
    sizes = _sizes(asked.data_folder)
    result = {
        "command": "python benchmarks/reproduction.py --data-folder FOLDER",
        "jpeg": sizes,
        "published": _published(),
        "table_3": {name: _footprint(name) for name in SIX},
        "modelled": _modelled(sizes),
        "measured": _measured(),
    }
    written = write_result("reproduction", result)
    write_bytes(DOCUMENT, page(json.loads(written.read_text())).encode())
    print(f"wrote {DOCUMENT}")


def _sizes(data_folder: Path | None) -> dict[str, dict[str, Any]]:
    """Measured anew, and from the last result what cannot be."""
    last = RESULTS / "reproduction.json"
    known = json.loads(last.read_text())["jpeg"] if last.is_file() else {}
    return {**known, **jpeg_sizes(data_folder)}


def _published() -> dict[str, Any]:
    speedups = {name: shares.speedup() for name, shares in FIGURE_6.items()}
    by_vgg, by_mean = lte_factors()
    return {
        "speedups": speedups,
        "geometric_mean": geometric_mean(speedups.values()),
        "geometric_mean_of_the_papers_five": geometric_mean(list(speedups.values())[:-1]),
        "lte_factor_by_vgg16": by_vgg,
        "lte_factor_by_mean": by_mean,
    }


def _footprint(name: str) -> dict[str, Any]:
    """At the cut after the last convolution, which is what the paper's own figures belong to."""
    spec = load_model(name).spec
    convolutions = sum(layer.kind == "Conv" for layer in spec.layers)
    cut = next(cut for cut in spec.cuts if cut.depth == convolutions)
    size_bytes = packed_bytes(DISTRIBUTIONS, cut.elements)
    return {"cut": cut.name, "elements": cut.elements, "bytes": size_bytes, "published_kb": TABLE_3_KB[name]}


def _modelled(sizes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`EDGE/CLOUD` to link to network."""
    made: dict[str, Any] = {}
    for name in SIX:
        clouds = {cloud: profile(name, device=cloud) for cloud in CLOUDS}
        for edge, (device, runtime) in EDGES.items():
            here = profile(name, device=device, backend=runtime)
            published = TABLE_2[name][0 if edge == "tx2-cpu" else 1]
            for cloud, there in clouds.items():
                for link in LINKS:
                    planned = plan(here, there, link=link, jpeg_bytes=_smallest(here, sizes.get(name)))
                    pair = f"{edge}/{cloud}"
                    row = _row(planned, published, pair in DETAILED)
                    made.setdefault(pair, {}).setdefault(link, {})[name] = row
        print(f"modelled {name}")
    return made


def _smallest(of: Profile, size: dict[str, Any] | None) -> int | None:
    if of.model.pixels is None:
        return WORD_BYTES * of.model.input.elements
    return None if size is None else int(size["mean_bytes"])


def _row(made: Plan, published: int, detailed: bool) -> dict[str, Any]:
    """One network on one pair of devices over one link; `published` is the depth of the paper's cut."""
    text = made.model.pixels is None
    baselines = {row.name.replace("JPEG", "16-bit words") if text else row.name: row for row in made.baselines}
    at_depth = {cut.depth: made.cost(cut.name) for cut in made.model.cuts if cut.layers is None}
    convolutions = sum(layer.kind == "Conv" for layer in made.model.layers)
    chosen = made.chosen
    row = {
        "cut": made.choice,
        "depth": made.cut.depth,
        **_parts(chosen, detailed),
        "speedups": {name: one.total_s / chosen.total_s for name, one in baselines.items() if one.role == "cloud-only"},
        "edge_only_speedup": baselines["edge-only"].total_s / chosen.total_s,
        "float32": _parts(baselines["cloud-only float32"], detailed),
        "paper_cut": {"name": at_depth[published].name, **_parts(at_depth[published], detailed)},
    }
    # Figure 6's own proportions belong to the last convolution, whatever Table 2 says.
    more = {"last_convolution": _parts(at_depth[convolutions], True), "jpeg_break_even_bytes": _break_even(made)}
    return {**row, **more} if detailed else row


def _break_even(made: Plan) -> float | None:
    """How many bytes of JPEG would take as long as the split; None without that baseline."""
    jpeg = next((row for row in made.baselines if row.name == CLOUD_JPEG), None)
    if jpeg is None:
        return None
    per_byte_s = made.link.uplink_s(1) + made.serving.per_byte_s
    return jpeg.payload_bytes + (made.chosen.total_s - jpeg.total_s) / per_byte_s


def _parts(row: CutCost, detailed: bool) -> dict[str, Any]:
    """Seconds and joules of one way; edge with adding the noise, sending both ways with the round trip."""
    if not detailed:
        return {"total_s": row.total_s}
    return {
        "total_s": row.total_s,
        "edge_s": row.edge_s + row.add_s,
        "sending_s": row.link_s,
        "rtt_s": row.rtt_s,
        "request_s": row.request_s,
        "cloud_s": row.cloud_s,
        "payload_bytes": row.payload_bytes,
        "energy_j": row.energy_j,
        "edge_j": row.edge_j,
        "radio_j": row.radio_j,
        "idle_j": row.idle_j,
    }


def _measured() -> dict[str, Any] | None:
    """Of regret.json what the tables show, for the paper's six; None where it is not there yet."""
    file = RESULTS / "regret.json"
    if not file.is_file():
        return None
    found = json.loads(file.read_text())
    networks = {name: rows for name, rows in found["networks"].items() if name in SIX}
    kept = ("planned", "best", "regret", "bound_s", "reached", "speedups")
    return {
        **{key: found.get(key) for key in ("command", "measured_at", "slowdown", "transport", "links")},
        "networks": {
            name: {
                link: {**{key: row.get(key) for key in kept}, "measured_s": row["again"][row["planned"]]}
                for link, row in rows.items()
            }
            for name, rows in networks.items()
        },
    }


if __name__ == "__main__":
    main()
