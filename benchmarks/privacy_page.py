"""docs/privacy.md, from the result of privacy_table.py: `python benchmarks/privacy_page.py` writes it anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import RESULTS
from markdown_page import document, table
from privacy_claims import SCRUNCH, SCRUNCH_SETTINGS, SHREDDER
from privacy_tasks import TASKS

from edgecut.artefacts import write_bytes

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "privacy.md"
Entry = dict[str, Any]
Targets = tuple[tuple[str, str, float, float, int | None], ...]
TARGETS: Targets = (
    ("digit", "gaussian", 1.34, 12.0, None),
    ("resnet20_stage3", "channel", 1.8, 20.0, None),
    ("resnet20_stage2", "channel", 1.8, 610.0, 450),
    ("resnet20_stage1", "channel", 1.8, 3000.0, None),
)
"""Task, mechanism, the most points lost on unseen items, the most bits from above, and the most values sent."""
NAMES = {
    "none": "none",
    "shredder": "shredder, ordered Laplace",
    "laplace": "laplace, plain",
    "cloak": "cloak at the cut",
    "cloak_input": "cloak at the input",
    "gaussian": "gaussian, full covariance",
    "channel": "channel, Gaussian test channel",
    "scrunch": "scrunch, retrained without noise",
    "dpfe": "dpfe, retrained without noise",
}
INTRODUCTION = """What a message tells of its input under each mechanism, at the same accuracy. Each mechanism is fitted
so that sampled noise costs at most the stated points on the hold-out, a part of the training data; private labels are
not known to it, but to dpfe. Then it is audited in full (`edgecut audit`): every attacker is trained on noisy messages
of the training part with fresh noise in each pass, and judged on unseen items. One network and one attacker seed a row:
take differences of a point for none. All figures are measured but those under "The papers' own claims", which are
published."""
COLUMNS = """* **loss**: points of accuracy lost on unseen items, with fresh noise as it is deployed.
* **values**: float32 values sent for an input.
* **bits**: what one message tells of the input, from below (telling the right one of a gallery by the mechanism's own
likelihood; "all" at the gallery's cap) and from above (a bound with the noise's exact entropy). "no bound" is not 0:
what is sent without noise, or with some values without any, may tell everything.
* **private**: unseen private labels told by the best attacker from one message, by one who does not know the
mechanism's file and by one who does, and from 16 messages of one input with fresh noise.
* **SSIM**: structural similarity of reconstructions with the true images, 95th percentile, the best decoder."""
MEANING = """* A figure counts against its floor only: the line under each table says what the most frequent private
label, the public label alone, and the mean image of the public label give. An attacker at the floor has learned nothing
that the answer itself does not say.
* Equal accuracy is the measure, not equal noise: at one scale the ordered Laplace noise of Shredder costs far less
accuracy than plain Laplace, and hides less.
* Who has the collection's file finds out the distribution that was used and takes its mean off: the paper's mechanism
is to be judged by the column "knows".
* The upper bound holds for every attacker, but for Gaussian surrogates of the activation's distribution it is an
estimate from finitely many items, with the interval in the result file. The attackers are lower bounds of what is
possible: a better one may come.
* Retrained networks send no noise, so that nothing bounds what they tell. They are a comparison of attackers only.
* Attributes that no label names, such as brightness, are protected by nothing in particular: see the CIFAR-10 tables
before you promise it."""
STICKY = """With `--sticky` the noise is a keyed function of the values that it is added to: one input sent again has
the same noise, so that 16 messages tell what one tells, and the figure "from 16" above does not apply. An input that
differs in one bit has unrelated noise. Below, the pixels of one image move by up to {amplitude:.0%} of their range and
the messages are averaged; error is the squared error of the activation as a share of its variance. Where it falls with
the number of messages, sticky noise does not protect frames of a film, only the same file sent again."""


def page(result: dict[str, Any]) -> str:
    """The whole document."""
    return document(_blocks(result))


def _blocks(result: dict[str, Any]) -> Iterator[str]:
    entries, machine = result["entries"], result["environment"]
    yield "# What messages tell: mechanisms at equal accuracy"
    yield "*This page is written by `benchmarks/privacy_page.py`; edit that instead.*"
    yield INTRODUCTION.replace("\n", " ")
    yield (
        f"Measured on {machine['processor']} with {machine['processors']} processors by `{result['command']}` and runs "
        f"before it that it went on from, the last one on {result['measured_at'][:10]}."
    )
    short = sorted(key for key, entry in entries.items() if entry["made_with"]["audit"]["attacks"] != "full")
    if short:
        yield f"**Not final**: short attacks on fewer items, with `--quick`, in {', '.join(short)}."
    yield _bullets(COLUMNS)
    for name, recipe in TASKS.items():
        found = {key.split("/")[1]: entry for key, entry in entries.items() if key.startswith(f"{name}/")}
        if found:
            yield from _task(recipe.title, recipe.private, recipe.loss_points, found)
    yield "## Targets"
    yield "Bits are from above, both figures on unseen items. A target that is missed stays here until it is met."
    yield table(("task", "mechanism", "target", "measured", "met"), (_target(entries, *target) for target in TARGETS))
    yield from _claims(entries)
    yield from _sticky(entries)
    yield "## What the figures mean"
    yield _bullets(MEANING)


def _bullets(text: str) -> str:
    """A list with one line for each item."""
    return text.replace("\n", " ").replace(" * ", "\n* ")


def _task(title: str, private: str, loss: float, found: dict[str, Entry]) -> Iterator[str]:
    yield f"## {title}"
    one = next((entry["audit"] for entry in found.values() if "audit" in entry), None)
    if one is not None:
        yield (
            f"Cut after {one['cut_name']}, {one['elements']} values; private: {private}; at most {loss:g} points on "
            f"the hold-out; {one['train_items']} items for attackers, {one['test_items']} unseen."
        )
    headers = ("mechanism", "loss", "values", "bits", "private", "knows", "from 16", "SSIM", "fit, s")
    yield table(headers, (_row(name, found[name]) for name in NAMES if name in found and "audit" in found[name]))
    if one is not None:
        yield _floors(one["floors"])
    refused = [f"* {NAMES[name]}: {found[name]['refused']}." for name in NAMES if "refused" in found.get(name, {})]
    if refused:
        yield "\n".join(["Not fitted here:", *refused])


def _row(name: str, entry: Entry) -> tuple[str, ...]:
    audit = entry["audit"]
    best = [_best(audit["labels"], knows=knows, copies=1) for knows in (False, True)]
    return (
        NAMES[name],
        f"{entry['loss_points']:.2f}",
        str(audit["values_sent"]),
        bits(audit),
        *(_percent(value) for value in best),
        _percent(_best(audit["labels"], knows=None, copies=16)),
        _plain(max((r["ssim_p95"] for r in audit["reconstructions"] if r["copies"] == 1), default=None)),
        f"{entry['fit_seconds']:.1f}",
    )


def bits(audit: dict[str, Any]) -> str:
    """From below to above."""
    lower, upper = audit["lower"], audit["upper"]
    above = "no bound" if upper is None else f"{upper['bits']:,.1f}"
    if lower is None:
        return above
    at_cap = lower["cap_bits"] is not None and lower["high"] >= lower["cap_bits"] - 0.01
    return f"{'all' if at_cap else format(lower['bits'], '.1f')} to {above}"


def _best(labels: list[dict[str, Any]], knows: bool | None, copies: int) -> float | None:
    shares = [
        attack["accuracy"]["correct"] / attack["accuracy"]["total"]
        for attack in labels
        if attack["copies"] == copies and knows in (None, attack["knows_noise"])
    ]
    return max(shares, default=None)


def _floors(floors: dict[str, Any]) -> str:
    return (
        f"Floors: most frequent private label {_percent(floors['chance'])}, public label alone "
        f"{_percent(floors['label_only'])}; SSIM of the mean image {_plain(floors['mean_ssim_p95'])}, of the public "
        f"label's mean image {_plain(floors['label_ssim_p95'])}."
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _target(
    entries: dict[str, Entry], task: str, mechanism: str, loss: float, most: float, values: int | None
) -> tuple[str, ...]:
    wanted = f"at most {most:g} bits at {loss:g} points" + ("" if values is None else f", {values} values")
    entry = entries.get(f"{task}/{mechanism}", {})
    audit = entry.get("audit")
    if audit is None or audit["upper"] is None:
        return TASKS[task].title, mechanism, wanted, entry.get("refused", "not measured"), "-"
    got = f"{audit['upper']['bits']:,.1f} bits at {entry['loss_points']:.2f} points, {audit['values_sent']} values"
    met = (
        audit["upper"]["bits"] <= most
        and entry["loss_points"] <= loss
        and (values is None or audit["values_sent"] <= values)
    )
    return TASKS[task].title, mechanism, wanted, got, "yes" if met else "**no**"


def _claims(entries: dict[str, Entry]) -> Iterator[str]:
    yield "## The papers' own claims"
    yield (
        "Shredder (ASPLOS 2020), Table 3, published: mutual information of inputs with what is sent, before and after, "
        "as the paper estimates it; its average is 74.70 % of the information lost for 1.58 points of accuracy. The "
        "estimate is biased in many dimensions and no bound (docs/noise.md); beside it the same estimate of our "
        "ordered noise, over standardised values, and what a retrained attacker who knows the collection still reads."
    )
    yield table(
        ("network", "bits before", "after", "lost", "points lost", "here: bits", "lost", "points lost", "private read"),
        (_shredder_row(entries, *row) for row in SHREDDER),
    )
    yield SCRUNCH_SETTINGS
    yield table(("data", "method", "public accuracy", "private drop", "information drop", "SSIM drop"), SCRUNCH)
    yield from _our_scrunch(entries)


def _shredder_row(entries: dict[str, Entry], network: str, task: str | None, *published: str) -> tuple[str, ...]:
    entry = entries.get(f"{task}/shredder", {})
    audit = entry.get("audit")
    if audit is None:
        return network, *published, "-", "-", "-", "-"
    metric = next((m for m in audit["metrics"] if m["scaling"] == "standardised"), None)
    metric = metric or next(iter(audit["metrics"]), None)
    shown = ("-", "-")
    if metric is not None and metric["clean_bits"] > 0:
        lost = 1 - metric["noisy_bits"] / metric["clean_bits"]
        shown = f"{metric['clean_bits']:.1f} to {metric['noisy_bits']:.1f}", f"{lost:.1%}"
    read = _percent(_best(audit["labels"], knows=None, copies=1))
    return network, *published, *shown, f"{entry['loss_points']:.2f}", read


def _our_scrunch(entries: dict[str, Entry]) -> Iterator[str]:
    """What became of each retrained network."""
    rows = []
    for name, recipe in TASKS.items():
        for method in ("scrunch", "dpfe"):
            entry = entries.get(f"{name}/{method}", {})
            became = entry.get("retrained")
            if became is None:
                continue
            clean = entries.get(f"{name}/none", {}).get("audit")
            told = [None if audit is None else _best(audit["labels"], None, 1) for audit in (clean, entry["audit"])]
            rows.append(
                (
                    recipe.title,
                    method,
                    f"{became['weight']:g}",
                    f"{entry['loss_points']:.2f}",
                    f"{became['spread_before']['share']:.1%} to {became['spread_after']['share']:.1%}",
                    f"{_percent(told[0])} to {_percent(told[1])}",
                )
            )
    if rows:
        yield (
            "Here, with lambda the first of 0.9, 0.5 and 0.1 that costs no more than allowed on the hold-out "
            "(docs/retraining.md); spread is the share of the activations' variance that lies within public classes."
        )
        yield table(("task", "method", "lambda", "points lost", "spread", "private read, before and after"), rows)


def _sticky(entries: dict[str, Entry]) -> Iterator[str]:
    tried = {
        key: entry["near_duplicates"] for key, entry in entries.items() if entry.get("near_duplicates") is not None
    }
    if not tried:
        return
    yield "## Sticky noise and almost equal inputs"
    yield STICKY.format(amplitude=next(iter(tried.values()))[0]["amplitude"]).replace("\n", " ")
    copies = [found["copies"] for found in next(iter(tried.values()))]
    rows = [
        (NAMES[key.split("/")[1]], *(f"{found['error']:.3f}" for found in made)) for key, made in sorted(tried.items())
    ]
    yield table(("mechanism", *(f"error from {count}" for count in copies)), rows)


def write() -> None:
    """Write the document from the committed result."""
    write_bytes(DOCUMENT, page(json.loads((RESULTS / "privacy_table.json").read_text())).encode())
    print(f"wrote {DOCUMENT}")


if __name__ == "__main__":
    write()
