"""docs/reproduction.md from results/reproduction.json: every figure on the page is computed from that file here."""

from __future__ import annotations

from markdown_page import document, table
from paper_figures import (
    FIGURE_6,
    PAPER,
    SIX,
    TABLE_2,
    TABLE_3_AVERAGE_KB,
    TABLE_3_KB,
    TITLES,
    WIFI_SPEEDUP,
    geometric_mean,
)
from paper_problems import inconsistencies
from reproduction_costs import breakdown, jpeg, lte, measured, winners
from reproduction_rows import CLOUD_TITLES, EDGE_TITLES, FORMS, MAIN, MAIN_CPU, WORDS, Row, mean_text, speedup_text

SENT_BY_ALEXNET = FIGURE_6["alexnet"].sending / FIGURE_6["alexnet"].all_sending
LARGER = "; more than the raw input"
TITLE = "# The Shredder paper's tables, beside ours"
HEAD = (
    "This page is written by `{command}` and typed by nobody. **Published** figures are those of {paper}, and of its "
    "authors' talk. **Modelled** ones come from edgecut's planner on descriptions of a Jetson TX2, a Titan Xp and a "
    "Titan X (Pascal): none of these devices was at hand, and no figure here was measured on one. The times of their "
    "parts have 90 % intervals of at least 20 % to either side ([prediction.md](prediction.md)). **Measured** ones "
    "are of this machine, its edge slowed by a stated factor.",
    "A speedup is the time of a cloud-only execution over the time of the split. The paper's baseline sends the "
    "input as float32. Careful clients send bytes (a quarter of that) or JPEG, so those stand beside it, and where "
    "they win it says so. Means are geometric, over the networks that have the form (how many in brackets): text has "
    "no uint8 and no JPEG, but its words fit into 16 bits.",
)


def page(found: Row) -> str:
    """The whole document."""
    blocks = [
        TITLE,
        HEAD[0].format(command=found["command"], paper=PAPER),
        HEAD[1],
        *_figure_6(found),
        *_table_2(found),
        *_table_3(found),
        *lte(found),
        *breakdown(found),
        *winners(found),
        *measured(found["measured"]),
        *jpeg(found),
        *inconsistencies(found),
    ]
    return document(blocks)


def _figure_6(found: Row) -> list[str]:
    published, rows = found["published"], found["modelled"][MAIN]["wifi"]
    lines = [
        [
            TITLES[name],
            f"{published['speedups'][name]:.2f}",
            rows[name]["cut"],
            *(speedup_text(rows[name], form) for form in FORMS),
            f"{_at_paper_cut(rows[name]):.2f}",
            f"{rows[name]['total_s'] * 1e3:.1f}",
        ]
        for name in SIX
    ]
    means = [mean_text(rows, form) for form in FORMS]
    lines.append(
        ["geometric mean", f"{published['geometric_mean']:.2f}", "", *means, f"{_mean_at_paper_cuts(rows):.2f}", ""]
    )
    forms = [f"against {form}" for form in FORMS.values()]
    headers = ["network", "paper, wifi", "our cut", *forms, "at the paper's cut, float32", "split, ms"]
    words = rows["text_cnn_20news"]["speedups"][WORDS]
    return [
        "## Figure 6: the speedup over wifi",
        f"Published: the bars' own shares give {published['geometric_mean']:.3f} over the six, which is the paper's "
        f"{WIFI_SPEEDUP}; the five networks that its figure shows give "
        f"{published['geometric_mean_of_the_papers_five']:.2f}. Ours, modelled: {EDGE_TITLES['tx2-gpu']}, cloud "
        f"{CLOUD_TITLES['titan-xp']}, preset wifi.",
        table(headers, lines),
        "20 Newsgroups: the words cross as int64, 8 bytes each, in the cloud-only execution as edgecut runs it; "
        f"against words of 16 bits the speedup is {words:.2f}. The paper's ratio of 128 to 1000 fits 4 bytes a word.",
        f"Of LeNet's {rows['lenet5']['total_s'] * 1e3:.1f} ms, {_fixed_s(rows['lenet5']) * 1e3:.1f} are the round "
        "trip and the serving of a request, which every way pays but edge-only; three of the paper's six bars fit a "
        "round trip of zero exactly, so its small networks gain more. AlexNet gains more here even at the paper's "
        f"cut: after its pooling conv5 sends {_sent(rows['alexnet']):.3f} of the input, where the bars say "
        f"{SENT_BY_ALEXNET:.3f}, which is no cut of AlexNet.",
        "The means for every pair of devices and every preset:",
        table(
            ["edge", "cloud", "link", *(f"against {form}" for form in FORMS.values()), "at the paper's cuts, float32"],
            [
                [
                    EDGE_TITLES[pair.partition("/")[0]],
                    CLOUD_TITLES[pair.partition("/")[2]],
                    link,
                    *(mean_text(rows, form) for form in FORMS),
                    f"{_mean_at_paper_cuts(rows):.2f}",
                ]
                for pair, links in found["modelled"].items()
                for link, rows in links.items()
            ],
        ),
    ]


def _fixed_s(row: Row) -> float:
    return float(row["rtt_s"] + row["request_s"])


def _sent(row: Row) -> float:
    return float(row["paper_cut"]["payload_bytes"] / row["float32"]["payload_bytes"])


def _at_paper_cut(row: Row) -> float:
    """Against float32, at Table 2's cut for that kind of edge."""
    return float(row["float32"]["total_s"] / row["paper_cut"]["total_s"])


def _mean_at_paper_cuts(rows: Row) -> float:
    return geometric_mean(_at_paper_cut(row) for row in rows.values())


def _table_2(found: Row) -> list[str]:
    lines = []
    for name in SIX:
        for side, pair, place in (("processor", MAIN_CPU, 0), ("GPU", MAIN, 1)):
            row = found["modelled"][pair]["wifi"][name]
            lines.append(
                [
                    TITLES[name],
                    side,
                    str(TABLE_2[name][place]),
                    f"{row['depth']} ({row['cut']})",
                    f"{row['paper_cut']['total_s'] / row['total_s']:.2f}",
                    _reason(row),
                ]
            )
    same = sum(line[5] == "the same cut" for line in lines)
    larger = [line[0] + ", " + line[1] for line in lines if line[-1].endswith(LARGER)]
    return [
        "## Table 2: the suggested cuts",
        "Published: after how many convolutions. Ours: after how many compute layers (fully connected ones count on "
        f"after the convolutions), modelled as above over wifi. {same} of {len(lines)} are the same. The fifth column "
        "is the modelled time at the paper's cut over that at ours; the last one says what the paper's cut would "
        "cost more or less, in ms. For CIFAR-10, SVHN and 20 Newsgroups the paper gives no widths, so theirs and "
        "ours can differ.",
        table(["network", "edge", "paper", "ours, modelled", "paper's cut / ours", "why not the paper's"], lines),
        f"At {len(larger)} of the paper's cuts more crosses than the raw input has as float32 ({'; '.join(larger)}), "
        "so that sending the input would be faster. And the paper's are all after convolutions; ours may lie in the "
        "fully connected layers, where less crosses, which a slow link rewards.",
    ]


def _reason(row: Row) -> str:
    theirs = row["paper_cut"]
    if theirs["name"] == row["cut"]:
        return "the same cut"
    parts = (("edge", "edge_s"), ("link", "sending_s"), ("cloud", "cloud_s"))
    changes = [f"{what} {(theirs[key] - row[key]) * 1e3:+.2f}" for what, key in parts]
    sends = f"it sends {theirs['payload_bytes']:,} bytes, ours {row['payload_bytes']:,}"
    more = LARGER if theirs["payload_bytes"] > row["float32"]["payload_bytes"] else ""
    return f"{', '.join(changes)}; {sends}".replace("-", "\N{MINUS SIGN}") + more


def _table_3(found: Row) -> list[str]:
    rows = found["table_3"]
    lines = [
        [
            TITLES[name],
            rows[name]["cut"],
            str(rows[name]["elements"]),
            f"{rows[name]['bytes']:,}",
            f"{rows[name]['bytes'] / 1024:.2f}",
            f"{TABLE_3_KB[name]:.2f}",
            _footprint_note(rows[name]),
        ]
        for name in SIX
    ]
    ours = geometric_mean(rows[name]["bytes"] / 1024 for name in SIX)
    lines.append(["geometric mean", "", "", "", f"{ours:.2f}", f"{TABLE_3_AVERAGE_KB:.2f}", ""])
    return [
        "## Table 3: memory of a noise collection",
        "20 orders of n elements, ceil(log2 n) bits an element, at the cut after the last convolution. Counted, not "
        "measured: ours is exact, and what a bundle holds.",
        table(["network", "cut", "n", "bytes", "ours, KB", "paper, KB", ""], lines),
    ]


def _footprint_note(row: Row) -> str:
    return "as printed" if f"{row['bytes'] / 1024:.2f}" == f"{row['published_kb']:.2f}" else "differs, see below"
