"""The leakage sweep: its points, what an interrupted one keeps, and the figures that planning reads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from edgecut.errors import EdgecutError, ModelError
from edgecut.models.data import PrivateLabels, load_data
from edgecut.partitioner.limits import read_leakage
from edgecut.privacy import sweep as sweeping
from edgecut.privacy.audit_settings import quick
from edgecut.privacy.audited import Bound, LeakageSweep, SweepPoint
from edgecut.privacy.mechanisms import fitting
from edgecut.privacy.sweep import sweep

CHEAP = dataclasses.replace(quick(), attacks="none", gallery=100)


def bound(bits: float) -> Bound:
    return Bound(kind="upper", bits=bits, low=bits - 0.1, high=bits + 0.1, items=9, method="a test")


def test_a_sweep_goes_on_where_it_was_interrupted(
    residual: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[tuple[str, float]] = []
    real = fitting.fit

    def counted(model: Any, cut: Any, data: Any, mechanism: str, settings: Any, **how: Any) -> Any:
        if "scratch" not in how:  # with one it calls itself
            fitted.append((mechanism, settings.max_accuracy_loss))
            if len(fitted) == 3:
                raise KeyboardInterrupt
        return real(model, cut, data, mechanism, settings, **how)

    monkeypatch.setattr(fitting, "fit", counted)
    asked: dict[str, Any] = {
        "model": str(residual.model.path),
        "data": str(residual.data),
        "mechanisms": ("none", "laplace"),
        "losses": (10.0, 30.0),
        "settings": CHEAP,
        "output": tmp_path / "s.json",
    }
    with pytest.raises(KeyboardInterrupt):
        sweep(residual.planned, **asked)
    assert [path.name for path in tmp_path.iterdir()] == ["s.json.partial"]
    assert len(LeakageSweep.load(tmp_path / "s.json.partial").points) == 2
    made = sweep(residual.planned, **asked)
    # Without noise there is nothing to lose: one point stands for all losses. Nothing was fitted twice.
    assert fitted == [("none", 10.0), ("laplace", 10.0), ("laplace", 30.0), ("laplace", 30.0)]
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"] and LeakageSweep.load(
        tmp_path / "s.json"
    ) == made.model_copy(update={"kind": "leakage-sweep", "version": 1})
    none, less, more = made.points
    assert none.upper is None and none.accuracy is not None and none.accuracy.loss_points == 0
    assert less.upper is not None and more.upper is not None and more.upper.bits < less.upper.bits
    assert made.leakage() == {residual.planned.choice: less.upper.high}
    (tmp_path / "l.json").write_text(json.dumps(made.leakage()))
    assert read_leakage(tmp_path / "l.json") == made.leakage()


def test_unfinished_work_of_other_settings_is_not_taken(residual: Any, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"model": str(residual.model.path), "data": str(residual.data), "losses": (10.0,)}
    first = sweep(residual.planned, mechanisms=("none",), settings=CHEAP, output=tmp_path / "s.json", **asked)
    first.save(tmp_path / "s.json.partial")
    other = dataclasses.replace(CHEAP, seed=1)
    again = sweep(residual.planned, mechanisms=("none",), settings=other, output=tmp_path / "s.json", **asked)
    assert again.key != first.key and again.seed == 1 and not (tmp_path / "s.json.partial").exists()
    assert again.points[0].audit_s != first.points[0].audit_s


def test_private_labels_are_not_known_where_noise_is_learned(residual: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    real = fitting.fit

    def watched(model: Any, cut: Any, data: Any, *rest: Any, **how: Any) -> Any:
        shown.append(data.private)
        return real(model, cut, data, *rest, **how)

    monkeypatch.setattr(fitting, "fit", watched)
    data = load_data(str(residual.data))
    hidden = PrivateLabels("odd", data.y_train % 2, data.y_test % 2)
    monkeypatch.setattr(sweeping, "load_data", lambda *_: dataclasses.replace(data, private=hidden))
    asked: dict[str, Any] = {"model": str(residual.model.path), "data": str(residual.data), "private": "odd"}
    made = sweep(residual.planned, mechanisms=("none",), losses=(10.0,), settings=CHEAP, **asked)
    assert set(shown) == {None} and made.private == "odd" and made.floors is not None
    assert made.floors.chance is not None


def test_a_point_that_failed_is_tried_again(residual: Any, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"model": str(residual.model.path), "data": str(residual.data), "losses": (10.0,)}
    asked |= {"mechanisms": ("none",), "settings": CHEAP, "output": tmp_path / "s.json"}
    first = sweep(residual.planned, **asked)
    failed = first.points[0].model_copy(update={"failed": "no space left", "accuracy": None})
    first.model_copy(update={"points": (failed,)}).save(tmp_path / "s.json.partial")
    assert sweep(residual.planned, **asked).points[0].failed is None


def test_what_cannot_be_fitted_says_why_and_the_rest_goes_on(residual: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise ModelError("it is too wide")

    monkeypatch.setattr(fitting, "fit", refused)
    cuts = tuple(cut.name for cut in residual.planned.model.cuts)
    made = sweep(
        residual.planned,
        model=str(residual.model.path),
        data=str(residual.data),
        mechanisms=("laplace", "gaussian"),
        losses=(1.0, 2.0),
        cuts=("all",),
        settings=CHEAP,
    )
    assert {point.failed for point in made.points} == {"it is too wide"} and made.leakage() == {}
    assert set(made.cuts) == set(cuts) and len(made.points) == 2 * 2 + 2 * (len(cuts) - 1)
    assert [point.depth for point in made.points[4:]] == sorted(point.depth for point in made.points[4:])


def test_the_least_bound_of_a_cut_at_the_one_loss_is_its_leakage() -> None:
    def point(mechanism: str, cut: str, loss: float, bits: float | None) -> SweepPoint:
        upper = None if bits is None else bound(bits)
        return SweepPoint(mechanism=mechanism, cut_name=cut, depth=1, allowed_loss_points=loss, upper=upper)

    points = (
        point("laplace", "a", 1.0, 30.0),
        point("gaussian", "a", 1.0, 11.0),
        point("gaussian", "a", 4.0, 5.0),
        point("none", "b", 1.0, None),
        point("laplace", "c", 1.0, -3.0),
    )
    fields: dict[str, Any] = {"key": "k", "model_name": "m", "model_digest": "d", "cut_name": "a", "data": "x"}
    made = LeakageSweep(
        **fields,
        private=None,
        mechanisms=("laplace", "gaussian", "none"),
        losses_points=(1.0, 4.0),
        cuts=("a", "b", "c"),
        depth_loss_points=1.0,
        seed=0,
        floors=None,
        points=points,
        seconds=1.0,
        versions={},
        created_at="2026-11-22T00:00:00+00:00",
    )
    assert made.leakage() == {"a": 11.1, "c": 0.0}


def test_refusals(residual: Any) -> None:
    model = str(residual.model.path)
    with pytest.raises(EdgecutError, match="did you mean 'laplace'"):
        sweep(residual.planned, model=model, mechanisms=("laplas",))
    with pytest.raises(EdgecutError, match="at least one mechanism"):
        sweep(residual.planned, model=model, losses=())
    for loss in (0.0, np.nan, np.inf):
        with pytest.raises(EdgecutError, match="none to fit to"):
            sweep(residual.planned, model=model, losses=(loss,))
    with pytest.raises(ModelError, match="unknown cut"):
        sweep(residual.planned, model=model, cuts=("nowhere",))
    with pytest.raises(EdgecutError, match="needs labelled data"):
        sweep(residual.planned, model=model)


def test_the_module_fits_through_the_function_that_is_counted() -> None:
    # `_point` takes `fit` from its module when it runs, so that the tests above count the real thing.
    assert "fit" not in vars(sweeping)
