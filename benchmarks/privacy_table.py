"""What messages tell under each mechanism at equal accuracy: bounds in bits, retrained attackers, reconstructions.

For each task (privacy_tasks.py) every mechanism is fitted so that sampled noise costs at most the task's loss on the
hold-out, and is then audited in full on unseen items; retrained networks are audited without noise at their own cut.
One network, one attacker seed. An entry is kept as soon as it is there, so that a run can be interrupted; one made with
the same settings and data files is not made again, unless with --again.

    python benchmarks/privacy_table.py --data-folder FOLDER [--only digit gt4] [--mechanisms gaussian] [--again]
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

from machine import RESULTS, write_result
from privacy_claims import EPOCHS
from privacy_sticky import near_duplicates_of
from privacy_tasks import TASKS, Recipe, Task, task

from edgecut.artefacts import file_digest
from edgecut.errors import EdgecutError
from edgecut.models.data import DataSet
from edgecut.models.load import load_model
from edgecut.privacy.audit import audit_noise
from edgecut.privacy.audit_settings import AuditSettings, quick
from edgecut.privacy.audited import Audit
from edgecut.privacy.mechanisms.fitting import fit
from edgecut.privacy.retraining.result import Retrained
from edgecut.privacy.retraining.retrain import retrain
from edgecut.privacy.retraining.settings import RetrainSettings
from edgecut.privacy.settings import FitSettings, Settings
from edgecut.profiler.environment import read_environment

NAME = "privacy_table"
WORK = Path(__file__).resolve().parents[1] / ".cache" / "privacy"
MECHANISMS = ("none", "shredder", "laplace", "cloak", "cloak_input", "gaussian", "channel", "scrunch", "dpfe")
RETRAINING = ("scrunch", "dpfe")
WEIGHTS = (0.9, 0.5, 0.1)
"""Lambdas of retraining, the first that costs no more than allowed on the hold-out is taken; the paper has 0.9."""
RETRAIN = RetrainSettings(epochs=EPOCHS, learning_rate=1e-3)
STICKY = ("digit", ("shredder", "laplace", "gaussian"))
"""The task and the mechanisms that near-duplicates are tried on."""


def main() -> None:
    """Make the entries asked for, one at a time, and keep each as soon as it is there."""
    asked = _arguments()
    entries = _kept()
    for name in asked.only:
        made: Task | None = None
        for mechanism in asked.mechanisms:
            recipe, key = TASKS[name], f"{name}/{mechanism}"
            if mechanism == "cloak_input" and not recipe.at_input:
                continue
            made_with = _made_with(name, mechanism, asked)
            if not asked.again and entries.get(key, {}).get("made_with") == made_with:
                print(f"{key}: kept", flush=True)
                continue
            began = time.perf_counter()
            made = made or task(name, asked.data_folder, asked.work_folder)
            print(f"{key}: started", flush=True)
            entry = _entry(name, recipe, made, mechanism, asked)
            machine = read_environment()
            entries[key] = {
                "made_with": made_with,
                "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "processor": machine.processor,
                "processors": machine.processors,
                "load_1min": machine.load_1min,
                "seconds": time.perf_counter() - began,
                **entry,
            }
            write_result(NAME, {"entries": entries})
            print(f"{key}: {_short(entries[key])}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", type=Path, required=True)
    parser.add_argument("--work-folder", type=Path, default=WORK, help="where networks trained here are kept")
    parser.add_argument("--only", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--mechanisms", nargs="+", choices=MECHANISMS, default=list(MECHANISMS))
    parser.add_argument("--quick", action="store_true", help="short attacks on fewer items, for a look")
    parser.add_argument("--again", action="store_true", help="make entries anew that are there already")
    asked = parser.parse_args()
    # The command is kept with the result, where this machine's folders mean nothing.
    named = {str(asked.data_folder): "FOLDER", str(asked.work_folder): "WORK"}
    sys.argv[1:] = [named.get(word, word) for word in sys.argv[1:]]
    return asked


def _kept() -> dict[str, Any]:
    path = RESULTS / f"{NAME}.json"
    return dict(json.loads(path.read_text())["entries"]) if path.is_file() else {}


def _audit_settings(asked: argparse.Namespace) -> AuditSettings:
    return quick() if asked.quick else AuditSettings()


def _fit_settings(recipe: Recipe, mechanism: str) -> Settings | FitSettings:
    if mechanism == "shredder":
        return Settings(max_accuracy_loss=recipe.loss_points)
    place = "input" if mechanism == "cloak_input" else None
    images = recipe.images if mechanism == "channel" else None
    return FitSettings(max_accuracy_loss=recipe.loss_points, place=place, images=images)


def _made_with(name: str, mechanism: str, asked: argparse.Namespace) -> dict[str, Any]:
    """What an entry depends on and a user can change, as JSON would give it back; not the code, for which: --again."""
    recipe = TASKS[name]
    how: Any = (
        {**dataclasses.asdict(RETRAIN), "weights": WEIGHTS}
        if mechanism in RETRAINING
        else dataclasses.asdict(_fit_settings(recipe, mechanism))
    )
    made = {
        "files": {file: file_digest(asked.data_folder / file) for file in recipe.files},
        "loss_points": recipe.loss_points,
        "settings": how,
        "audit": dataclasses.asdict(_audit_settings(asked)),
    }
    return dict(json.loads(json.dumps(made)))


def _entry(name: str, recipe: Recipe, made: Task, mechanism: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The figures, or why there are none: a mechanism may not fit a cut."""
    try:
        if mechanism in RETRAINING:
            return _retrained(name, recipe, made, mechanism, asked)
        began = time.perf_counter()
        fitted = fit(made.model, made.cut, _public(made), mechanism.split("_")[0], _fit_settings(recipe, mechanism))
        fit_s = time.perf_counter() - began
        found = audit_noise(made.model, made.cut, fitted.noise, made.data, settings=_audit_settings(asked))
        tried = name == STICKY[0] and mechanism in STICKY[1]
        return {
            "fit_seconds": fit_s,
            "knob": None if fitted.knob is None else fitted.knob.model_dump(),
            "closed_form_bits": fitted.closed_form_bits,
            "hold_out_loss_points": fitted.hold_out.loss_points,
            "loss_points": fitted.accuracy.loss_points,
            "loss_interval_points": fitted.accuracy.loss_interval_points,
            "retrained": None,
            "near_duplicates": near_duplicates_of(made, fitted.noise, _audit_settings(asked)) if tried else None,
            **_audited(found),
        }
    except EdgecutError as error:
        return {"refused": str(error)}


def _public(made: Task) -> DataSet:
    """The data without private labels: what is to be hidden is not known when noise is learned."""
    return dataclasses.replace(made.data, private=None)


def _retrained(name: str, recipe: Recipe, made: Task, method: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The first weight that costs no more than is allowed on the hold-out, or the last one whatever it costs."""
    began = time.perf_counter()
    path = asked.work_folder / f"{name}_{method}.onnx"
    for weight in WEIGHTS:
        settings = dataclasses.replace(RETRAIN, weight=weight)
        became = retrain(made.model, cut=made.cut.name, method=method, data=made.data, settings=settings, output=path)
        if _held_out_loss(became) <= recipe.loss_points:
            break
    fit_s = time.perf_counter() - began
    model = load_model(str(path), any_cut=True)
    cut = model.spec.cut(became.cut)
    nothing = fit(model, cut, _public(made), "none", FitSettings())
    found = audit_noise(model, cut, nothing.noise, made.data, settings=_audit_settings(asked))
    return {
        "fit_seconds": fit_s,
        "knob": {"name": "lambda", "value": became.weight, "meaning": "weight of the privacy loss"},
        "closed_form_bits": None,
        "hold_out_loss_points": _held_out_loss(became),
        "loss_points": became.loss_points,
        "loss_interval_points": None,
        "retrained": became.model_dump(mode="json"),
        "near_duplicates": None,
        **_audited(found),
    }


def _held_out_loss(became: Retrained) -> float:
    """Points lost on the items that were only watched, against the network before on them."""
    watched = became.epochs[-1].held_out
    assert watched is not None and became.watched_before is not None
    return 100 * (became.watched_before.value - watched.value)


def _audited(found: Audit) -> dict[str, Any]:
    """The audit without its learning curves, which would be most of the file."""
    made = found.model_dump(mode="json")
    for attack in [*made["labels"], *made["reconstructions"]]:
        curve = attack.pop("curve")
        attack["converged"] = None if curve is None else curve["converged"]
    return {"audit": made}


def _short(entry: dict[str, Any]) -> str:
    if "refused" in entry:
        return f"refused: {entry['refused']}"
    audit = entry["audit"]
    upper = "-" if audit["upper"] is None else f"{audit['upper']['bits']:.1f}"
    return f"{entry['loss_points']:.2f} points, at most {upper} bits, {entry['seconds']:.0f} s"


if __name__ == "__main__":
    main()
