"""More of docs/reproduction.md: LTE, the slides' breakdown, where a baseline wins, what was measured, JPEG's sizes."""

from __future__ import annotations

from markdown_page import table
from paper_figures import (
    FIGURE_6,
    LTE_SPEEDUP,
    LTE_SPEEDUP_VGG,
    NEUROSURGEON_LTE_FACTOR,
    SIX,
    TITLES,
    WIFI_SPEEDUP,
    geometric_mean,
)
from reproduction_rows import EDGE_TITLES, FLOAT32, FORMS, MAIN, MAIN_CPU, Row, mean_text, speedup_text

LEVEL = 0.995
"""Below this a speedup says that the baseline wins; half a per cent of a modelled time says nothing."""


def lte(found: Row) -> list[str]:
    """The LTE figures: two published, six modelled."""
    published, modelled = found["published"], found["modelled"][MAIN]
    lines = []
    for name in SIX:
        slowed = FIGURE_6[name].speedup(NEUROSURGEON_LTE_FACTOR)
        rows = [modelled[link][name] for link in ("wifi", "lte", "3g")]
        lines.append([TITLES[name], f"{slowed:.2f}", *(speedup_text(row, FLOAT32) for row in rows), rows[1]["cut"]])
    mean = geometric_mean(shares.speedup(NEUROSURGEON_LTE_FACTOR) for shares in FIGURE_6.values())
    means = [mean_text(modelled[link], FLOAT32) for link in ("wifi", "lte", "3g")]
    lines.append(["geometric mean", f"{mean:.2f}", *means, ""])
    headers = ["network", "paper's shares, link slowed", "ours, wifi", "ours, lte", "ours, 3g", "our cut, lte"]
    return [
        "## LTE",
        f"The paper gives two numbers over LTE: {LTE_SPEEDUP} on average and {LTE_SPEEDUP_VGG} for VGG-16. Slowing "
        f"the communication in Figure 6's shares by {published['lte_factor_by_vgg16']:.2f} gives the second, by "
        f"{published['lte_factor_by_mean']:.2f} the first; Neurosurgeon's uploads over LTE and Wi-Fi are "
        f"{NEUROSURGEON_LTE_FACTOR:.3f} apart, and the second column takes that. Ours are modelled, against float32.",
        table(headers, lines),
    ]


def breakdown(found: Row) -> list[str]:
    """The slides' shares of time, and what energy there really is."""
    rows = found["modelled"][MAIN]["wifi"]
    times, joules = [], []
    for name in SIX:
        shares, row = FIGURE_6[name], rows[name]
        whole, last = row["float32"], row["last_convolution"]
        base = shares.all_sending + shares.all_cloud
        theirs = [f"{part / base:.3f}" for part in (shares.edge, shares.sending, shares.cloud)]
        cloud_s = last["cloud_s"]
        mine = (last["edge_s"], last["sending_s"] + last["request_s"], cloud_s)
        times.append([TITLES[name], *theirs, *(f"{part / whole['total_s']:.3f}" for part in mine)])
        joules.append(
            [
                TITLES[name],
                row["cut"],
                *(_mj(row[part]) for part in ("edge_j", "radio_j", "idle_j", "energy_j")),
                _mj(whole["energy_j"]),
                f"{whole['energy_j'] / row['energy_j']:.2f}",
            ]
        )
    ratio = geometric_mean(rows[name]["float32"]["energy_j"] / rows[name]["energy_j"] for name in SIX)
    joules.append(["geometric mean", *[""] * 6, f"{ratio:.2f}"])
    return [
        '## The slides\' "Energy Breakdown"',
        "The slide's numbers are Figure 6's times to the last digit, so they break down time, whatever its title "
        "says. As shares of the cloud-only execution, after the last convolution on both sides; ours (modelled, "
        "wifi) counts the request's overhead as communication:",
        table(
            ["network", "paper: edge", "link", "cloud", "ours: edge", "link", "cloud"],
            times,
        ),
        "And a real breakdown of the edge's energy in mJ per inference, modelled, at our cut; the radio is that of a "
        "phone of 2011 (Huang et al., MobiSys 2012), not of a TX2:",
        table(
            ["network", "our cut", "compute", "radio", "idle", "split", "cloud-only float32", "ratio"],
            joules,
        ),
    ]


def _mj(joules: float | None) -> str:
    return "unavailable" if joules is None else f"{joules * 1e3:.2f}"


def winners(found: Row) -> list[str]:
    """Modelled cases that a baseline wins, plainly."""
    lines = []
    for pair in (MAIN, MAIN_CPU):
        for link, rows in found["modelled"][pair].items():
            for name in SIX:
                beaten = {form: ratio for form, ratio in rows[name]["speedups"].items() if ratio < LEVEL}
                if beaten:
                    won = ", ".join(f"{form} {1 / ratio:.2f} times as fast" for form, ratio in beaten.items())
                    lines.append([EDGE_TITLES[pair.partition("/")[0]], link, TITLES[name], won])
    rows = [row for links in found["modelled"][MAIN].values() for row in links.values()]
    edge_only = sum(row["edge_only_speedup"] < 1 for row in rows)
    return [
        "## Where a cloud-only baseline wins",
        "Modelled, cloud a Titan Xp, by half a per cent or more. A split then costs time and buys that the raw input "
        "never leaves the device:",
        table(["edge", "link", "network", "faster than the split"], lines) if lines else "Nowhere.",
        f"Running everything on the edge is faster than the best split in {edge_only} of {len(rows)} cases on the "
        "TX2's GPU. It gives the model away to the device, so it is never chosen.",
    ]


def measured(found: Row | None) -> list[str]:
    """What regret.py measured, where it has."""
    title = "## Measured on this machine"
    if found is None:
        return [title, "Not measured yet: `python benchmarks/regret.py` writes `benchmarks/results/regret.json`."]
    blocks = [
        title,
        f"By `{found['command']}`: every part is real, but the edge is this machine slowed by a factor of "
        f"{found['slowdown']:g} and the link is made by the kernel between two network namespaces. JPEG is "
        "modelled where it stands: its bytes over the link's rate. More is in [regret.md](regret.md).",
    ]
    lost = []
    for link in found["links"]:
        rows = {name: links[link] for name, links in found["networks"].items() if link in links}
        lines = []
        for name in (name for name in SIX if name in rows):
            row = rows[name]
            speedups = [speedup_text(row, form) for form in FORMS]
            reached = f"{row['reached'] * 100:.1f} %"
            lines.append([TITLES[name], row["planned"], f"{row['measured_s'] * 1e3:.1f}", *speedups, reached])
            lost += [
                f"{TITLES[name]} over {link}: {form}, {1 / ratio:.2f} times as fast"
                for form, ratio in row["speedups"].items()
                if ratio is not None and ratio < LEVEL
            ]
        published = {"wifi": f" (the paper: {WIFI_SPEEDUP})", "lte": f" (the paper: {LTE_SPEEDUP})"}.get(link, "")
        lines.append([f"geometric mean{published}", "", "", *(mean_text(rows, form) for form in FORMS), ""])
        forms = [f"against {form}" for form in FORMS.values()]
        headers = ["network", "planned cut", "split, ms", *forms, "of the bound"]
        blocks += [f"Over {link}:", table(headers, lines)]
    won = "A cloud-only baseline wins here: " + "; ".join(lost) + "." if lost else "No cloud-only baseline wins here."
    return [*blocks, won]


def jpeg(found: Row) -> list[str]:
    """The sizes that the JPEG baseline takes, and where it would be level with the split."""
    sizes, rows = found["jpeg"], found["modelled"][MAIN]["wifi"]
    return [
        "## JPEG sizes",
        "Measured with Pillow. Three photographs are few, and ImageNet's own vary more; the range is that of the "
        "pictures. The last column is the size in bytes at which sending JPEG would take as long as the split, "
        "modelled as in the first table.",
        table(
            ["network", "mean bytes", "range", "quality", "of", "level with the split at"],
            [
                [
                    TITLES[name],
                    f"{sizes[name]['mean_bytes']:,}",
                    f"{sizes[name]['least_bytes']:,} to {sizes[name]['most_bytes']:,}",
                    str(sizes[name]["quality"]),
                    f"{sizes[name]['pictures']} {sizes[name]['of']}",
                    f"{rows[name]['jpeg_break_even_bytes']:,.0f}",
                ]
                for name in SIX
                if name in sizes
            ],
        ),
    ]
