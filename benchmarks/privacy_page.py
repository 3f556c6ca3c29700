"""docs/privacy.md, from the result of privacy_table.py: `python benchmarks/privacy_page.py` writes it anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import RESULTS
from markdown_page import document, table
from privacy_claims import claims
from privacy_rows import (
    NAMES,
    Entry,
    best_decoder,
    best_label,
    bits,
    mark,
    percent,
    plain,
    private_share,
    ssim_p95,
)
from privacy_targets import HEADERS, target_rows
from privacy_tasks import TASKS, Recipe

from edgecut.artefacts import write_bytes

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "privacy.md"
INTRODUCTION = """What a message tells of its input under each mechanism, at the same accuracy. Each mechanism is fitted
so that sampled noise costs at most the stated points on the hold-out, a part of the training data; private labels are
not known to it, but to dpfe. Then it is audited in full (`edgecut audit`): every attacker is trained on noisy messages
of the training part with fresh noise in each pass, and judged on unseen items. One network and one attacker seed a row:
take differences of a point for none. All figures are measured but those said to be published. A star marks the figure
of an attacker that had not converged when its work ended: more training could tell more."""
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
TARGETS_SAID = """Wanted before anything was built, from a study with attackers of its own; all on unseen items. A
target that is missed stays here until it is met. In brackets 95 % intervals, which do not decide. Where a limit on the
hold-out was lowered after a look at the unseen items (said under the task's table), the points lost on them are no
longer an independent measurement."""
STICKY = """With `--sticky` the noise is a keyed function of the values that it is added to: one input sent again has
the same noise, so that 16 messages tell what one tells, and the figure "from 16" above does not apply. An input that
differs in one bit has unrelated noise. Below, for LeNet-5 and the MNIST digit, the pixels of one image move by up to
{amplitude:.0%} of their range and the messages are averaged; error is the squared error of the activation as a share of
its variance, the noise's own mean taken off. Where it falls with the number of messages, sticky noise does not protect
frames of a film, only the same file sent again."""


def page(result: dict[str, Any]) -> str:
    """The whole document."""
    return document(_blocks(result))


def _blocks(result: dict[str, Any]) -> Iterator[str]:
    entries = result["entries"]
    machines = {(entry["processor"], entry["processors"]) for entry in entries.values()}
    named = [f"{count} processor{'s' if count > 1 else ''} ({name})" for name, count in sorted(machines)]
    yield "# What messages tell: mechanisms at equal accuracy"
    yield "*This page is written by `benchmarks/privacy_page.py`; edit that instead.*"
    yield INTRODUCTION.replace("\n", " ")
    yield (
        f"Measured on {' and on '.join(named)} by `{result['command']}` and other runs like it, the last "
        f"one on {max(entry['measured_at'] for entry in entries.values())[:10]}."
    )
    short = sorted(key for key, entry in entries.items() if entry["made_with"]["audit"]["attacks"] != "full")
    if short:
        yield f"**Not final**: short attacks on fewer items, with `--quick`, in {', '.join(short)}."
    yield _bullets(COLUMNS)
    for name, recipe in TASKS.items():
        found = {key.split("/")[1]: entry for key, entry in entries.items() if key.startswith(f"{name}/")}
        if found:
            yield from _task(recipe, found)
    yield "## Targets"
    yield TARGETS_SAID.replace("\n", " ")
    yield table(HEADERS, target_rows(entries))
    yield from claims(entries)
    yield from _sticky(entries)
    yield "## What the figures mean"
    yield _bullets(MEANING)


def _bullets(text: str) -> str:
    """A list with one line for each item."""
    return text.replace("\n", " ").replace(" * ", "\n* ")


def _task(recipe: Recipe, found: dict[str, Entry]) -> Iterator[str]:
    yield f"## {recipe.title}"
    one = next((entry["audit"] for entry in found.values() if "audit" in entry), None)
    if one is not None:
        yield (
            f"Cut after {one['cut_name']}, {one['elements']} values; private: {recipe.private}; at most "
            f"{recipe.loss_points:g} points on the hold-out; {one['train_items']} items for attackers, "
            f"{one['test_items']} unseen."
        )
    headers = ("mechanism", "loss", "values", "bits", "private", "knows", "from 16", "SSIM", "fit, s")
    yield table(headers, (_row(name, found[name]) for name in NAMES if name in found and "audit" in found[name]))
    if one is not None:
        yield _floors(one["floors"])
    if recipe.note:
        yield recipe.note
    refused = [f"* {NAMES[name]}: {found[name]['refused']}." for name in NAMES if "refused" in found.get(name, {})]
    if refused:
        yield "\n".join(["Not fitted here:", *refused])


def _row(name: str, entry: Entry) -> tuple[str, ...]:
    audit = entry["audit"]
    labels = [best_label(audit["labels"], knows, copies) for knows, copies in ((False, 1), (True, 1), (None, 16))]
    shares = [private_share(audit["labels"], knows, copies) for knows, copies in ((False, 1), (True, 1), (None, 16))]
    return (
        NAMES[name],
        f"{entry['loss_points']:.2f}",
        str(audit["values_sent"]),
        bits(audit),
        *(percent(share) + mark(one) for share, one in zip(shares, labels, strict=True)),
        plain(ssim_p95(audit)) + mark(best_decoder(audit)),
        f"{entry['fit_seconds']:.1f}",
    )


def _floors(floors: dict[str, Any]) -> str:
    if all(floors[name] is None for name in ("chance", "label_only", "mean_ssim_p95", "label_ssim_p95")):
        return "No labels are private here and texts are no images, so that only bits are measured."
    return (
        f"Floors: most frequent private label {percent(floors['chance'])}, public label alone "
        f"{percent(floors['label_only'])}; SSIM of the mean image {plain(floors['mean_ssim_p95'])}, of the public "
        f"label's mean image {plain(floors['label_ssim_p95'])}."
    )


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
