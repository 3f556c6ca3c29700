"""Audits of a real bundle of a small network, end to end, and of noise at a cut without a bundle."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from edgecut.errors import ArtefactError, BundleError, DataError, EdgecutError  # noqa: E402 - needs torch
from edgecut.models.data import load_data  # noqa: E402
from edgecut.noise_kernels.element_noise import ElementNoise  # noqa: E402
from edgecut.privacy.attacks.effort import EFFORTS, Effort  # noqa: E402
from edgecut.privacy.audit import AuditSettings, audit, audit_noise, record  # noqa: E402
from edgecut.privacy.audit_halves import of_bundle  # noqa: E402
from edgecut.privacy.audited import Audit, LeakageLimits  # noqa: E402
from edgecut.runtime.bundle import bundle  # noqa: E402
from edgecut.runtime.manifest import Manifest  # noqa: E402
from edgecut.runtime.verify import verify  # noqa: E402

BOUNDS = AuditSettings(attacks="none", metric_samples=0, gallery=200)


class Deployed(NamedTuple):
    """A bundle, what it was made of, and data whose private label is the parity of the quadrant."""

    folder: Path
    model: Any
    cut: Any
    noise: ElementNoise
    data: str


def laplace(model: Any, cut: Any, scale: float, mechanism: str = "laplace") -> ElementNoise:
    tensors = [(tensor.name, tensor.shape) for tensor in cut.tensors]
    n = cut.elements
    return ElementNoise(mechanism, "laplace", np.zeros(n), np.full(n, scale), tensors, model.spec.digest, cut.name)


@pytest.fixture(scope="module")
def deployed(residual: Any, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    folder = tmp_path_factory.mktemp("audited")
    stored = dict(np.load(residual.data))
    labels = {f"odd_{part}": stored[f"y_{part}"] % 2 for part in ("train", "test")}
    np.savez(folder / "d.npz", **stored, **labels)
    noise = laplace(residual.model, residual.planned.cut, 0.5)
    (folder / "n.npz").write_bytes(noise.to_bytes())
    bundle(
        residual.planned,
        model=str(residual.model.path),
        noise=folder / "n.npz",
        data=str(folder / "d.npz"),
        output=folder / "bundle",
    )
    return Deployed(folder / "bundle", residual.model, residual.planned.cut, noise, str(folder / "d.npz"))


@pytest.fixture(scope="module")
def audited(deployed: Deployed) -> tuple[Audit, list[Any], list[tuple[str, float]]]:
    """One audit with everything, what the page was given, and what progress was told."""
    pages: list[Any] = []
    told: list[tuple[str, float]] = []
    settings = AuditSettings(attacks="quick", copies=(1, 4), metric_samples=120, gallery=200)
    short = Effort(items=400, steps=60, least=20, most_flops=1e10, held_out=50, judged=200, batch=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EFFORTS, "quick", short)
        made = audit(
            deployed.folder,
            data=deployed.data,
            private="odd",
            settings=settings,
            limits=LeakageLimits(max_bits=1.0, max_ssim=1.0),
            progress=lambda text, share: told.append((text, share)),
            page=lambda found, samples: pages.append((found, samples)),
        )
    return made, pages, told


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_measured(deployed: Deployed, audited: Any) -> None:
    made, pages, told = audited
    whole = verify(deployed.folder)
    assert isinstance(whole.manifest, Manifest)
    assert made.bundle_id == whole.id and made.accuracy == whole.manifest.accuracy
    assert (made.mechanism, made.place, made.cut_name) == ("laplace", "cut", deployed.cut.name)
    assert made.elements == made.values_sent == deployed.cut.elements
    assert (made.train_items, made.test_items, made.private) == (400, 200, "odd")
    assert made.upper is not None and made.lower is not None and made.lower.bits <= made.upper.high
    assert {metric.scaling for metric in made.metrics} == {"as given", "standardised"}
    assert all(metric.samples == 120 for metric in made.metrics)
    entropy = deployed.cut.elements * np.log2(2 * np.e * 0.5)
    assert made.entropy_bits == pytest.approx(entropy, rel=1e-6)
    assert {attack.copies for attack in made.labels} == {1, 4}
    # The network's own task tells the private label apart, so an attacker who is retrained reads it.
    assert made.private_accuracy.value > made.floors.chance and made.floors.chance < 0.6
    assert made.floors.label_only == 1.0  # the parity follows from the quadrant
    assert made.reconstructions and made.ssim_p95 == max(r.ssim_p95 for r in made.reconstructions if r.copies == 1)
    assert made.clustering is None and not any("clustering" in reason for reason in made.missing)
    assert 0 < sum(made.timings.values()) <= made.seconds + 1e-6
    assert Audit.from_json(made.to_json(), "here").private_accuracy == made.private_accuracy
    [(found, samples)] = pages
    assert found is made and len(samples.truth) == len(samples.from_messages)
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1
    assert made.missing == ()


def test_averaging_almost_equal_inputs_undoes_sticky_noise(
    deployed: Deployed, audited: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The two halves of a sticky bundle are those of another, with one word in the edge's manifest.
    halves = dataclasses.replace(of_bundle(deployed.folder), sticky=True)
    monkeypatch.setattr("edgecut.privacy.audit.of_bundle", lambda folder: halves)
    monkeypatch.setitem(EFFORTS, "quick", dataclasses.replace(EFFORTS["quick"], steps=20, least=20, judged=200))
    settings = dataclasses.replace(BOUNDS, attacks="quick", copies=(1, 16), test_items=150)
    made = audit(deployed.folder, data=deployed.data, private="odd", settings=settings)
    clean = halves.flat(load_data(deployed.data).x_test)
    for one, copies in zip(made.near_duplicates, (1, 16), strict=True):
        # Laplace noise of scale 0.5 has a variance of 0.5.
        assert one.copies == copies and one.error == pytest.approx(0.5 / copies / clean.var(0).mean(), rel=0.1)
        assert one.accuracy is not None and one.accuracy.total == 150
    assert made.timings["near-duplicates"] > 0 and any("almost equal" in note for note in made.notes)
    assert {found.copies for found in made.reconstructions} == {1}
    assert audited[0].near_duplicates == () and "near-duplicates" not in audited[0].timings


def test_the_verdict_is_of_the_limits(audited: Any) -> None:
    verdict = audited[0].verdict
    assert not verdict.holds and len(verdict.broken) == 1 and "bits" in verdict.broken[0]


def test_without_a_bundle_the_bounds_are_the_same(deployed: Deployed, audited: Any) -> None:
    data = load_data(deployed.data, "odd")
    made = audit_noise(deployed.model, deployed.cut, deployed.noise, data, settings=BOUNDS)
    assert made.upper is not None and made.lower is not None
    assert made.upper.bits == pytest.approx(audited[0].upper.bits, rel=1e-3)
    assert made.lower.bits == pytest.approx(audited[0].lower.bits, rel=1e-3)
    assert made.bundle_id is None and made.accuracy is not None
    low, high = made.accuracy.loss_interval_points
    assert low <= audited[0].accuracy.loss_points <= high
    assert made.accuracy.without == audited[0].accuracy.without
    assert any("--attacks none" in reason for reason in made.missing) and made.labels == made.reconstructions == ()


def test_more_noise_tells_less_and_no_noise_is_not_bounded(deployed: Deployed) -> None:
    data, limits = load_data(deployed.data), LeakageLimits(max_bits=1000.0)
    bits = []
    for scale in (0.5, 5.0, 500.0):
        noise = laplace(deployed.model, deployed.cut, scale)
        made = audit_noise(deployed.model, deployed.cut, noise, data, settings=BOUNDS, limits=limits)
        assert made.upper is not None and made.verdict.holds
        bits.append(made.upper.bits)
    assert bits[0] > bits[1] > bits[2] and bits[2] < 1.0
    none = laplace(deployed.model, deployed.cut, 0.0, "none")
    bare = audit_noise(deployed.model, deployed.cut, none, data, settings=BOUNDS, limits=limits)
    assert bare.upper is None and bare.entropy_bits is None
    assert any("sent as they are" in reason for reason in bare.missing)
    assert "nothing bounds them" in bare.verdict.broken[0]
    assert bare.accuracy is not None and bare.accuracy.loss_points == 0


def test_a_bound_of_memory_takes_fewer_items_and_says_how_many(deployed: Deployed) -> None:
    data = load_data(deployed.data)
    each = 4 * deployed.cut.elements + data.x_train[0].nbytes
    settings = dataclasses.replace(BOUNDS, memory_bytes=200 * each)
    made = audit_noise(deployed.model, deployed.cut, deployed.noise, data, settings=settings)
    assert (made.train_items, made.test_items) == (150, 50)
    assert "150 of 400 training items" in made.notes[0] and "50 of 200 unseen items" in made.notes[1]


def test_the_seed_decides_everything(deployed: Deployed) -> None:
    data = load_data(deployed.data)
    run = lambda seed: audit_noise(  # noqa: E731 - the same call three times
        deployed.model, deployed.cut, deployed.noise, data, settings=dataclasses.replace(BOUNDS, seed=seed)
    )
    first, again, other = run(1), run(1), run(2)
    assert first.upper == again.upper and first.lower == again.lower and first.accuracy == again.accuracy
    assert first.upper != other.upper


def test_a_verdict_is_recorded_and_nothing_else_changes(deployed: Deployed, audited: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(deployed.folder, folder)
    before = contents(folder)
    new = record(audited[0], folder)
    after = contents(folder)
    assert {name for name in after if after[name] != before.get(name)} == {"manifest.json"} and len(after) == len(
        before
    )
    whole = verify(folder, expect_id=new)
    assert isinstance(whole.manifest, Manifest) and new != audited[0].bundle_id
    leakage = whole.manifest.leakage
    assert leakage is not None and leakage.holds is False and leakage.broken == audited[0].verdict.broken
    assert leakage.upper_bits == audited[0].upper.bits and leakage.private_accuracy == audited[0].private_accuracy.value
    assert leakage.limits == audited[0].verdict.limits and leakage.private == "odd"


def test_a_verdict_is_not_recorded_in_another_bundle(deployed: Deployed, audited: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(deployed.folder, folder)
    record(audited[0], folder)  # as an audit that ran beside this one does
    before = contents(folder)
    with pytest.raises(BundleError, match=f"{audited[0].bundle_id} was expected"):
        record(audited[0], folder)
    assert contents(folder) == before


def test_labels_that_the_network_has_no_class_for_are_refused(deployed: Deployed, tmp_path: Path) -> None:
    stored = dict(np.load(deployed.data))
    np.savez(tmp_path / "d.npz", **{**stored, "y_test": stored["y_test"] + 1000})
    with pytest.raises(DataError, match=r"d\.npz has a label 10\d\d, but .* classes"):
        audit(deployed.folder, data=str(tmp_path / "d.npz"), settings=AuditSettings(attacks="none"))


def test_auditing_only_reads_the_bundle(deployed: Deployed, audited: Any) -> None:
    assert verify(deployed.folder).id == audited[0].bundle_id


def test_an_int8_wire_is_audited_before_its_rounding(deployed: Deployed, residual: Any, tmp_path: Path) -> None:
    from edgecut.models.quantise import with_int8_inputs
    from edgecut.models.split import halves
    from edgecut.privacy.audit_halves import _without_steps
    from edgecut.runtime.halves import Half

    cloud = halves(deployed.model.graph, deployed.cut)[1].SerializeToString()
    steps = {tensor.name: 0.01 * (place + 1) for place, tensor in enumerate(deployed.cut.tensors)}
    bare = _without_steps(with_int8_inputs(cloud, steps, "a test"))
    generator = np.random.default_rng(0)
    given = [generator.standard_normal((3, *tensor.shape)).astype(np.float32) for tensor in deployed.cut.tensors]
    np.testing.assert_allclose(Half(bare)(given)[0], Half(cloud)(given)[0], rtol=1e-5, atol=1e-5)


def test_of_rounded_values_nothing_is_said_from_below(deployed: Deployed) -> None:
    from edgecut.privacy.audit import _bounds
    from edgecut.privacy.audit_items import observe
    from edgecut.privacy.audit_stages import Stages

    found = of_bundle(deployed.folder)
    for steps in ((), tuple(0.1 for _ in found.names)):
        halves, stages = dataclasses.replace(found, steps=steps), Stages(None)
        upper, lower = _bounds(halves, observe(halves, load_data(deployed.data), BOUNDS, stages), BOUNDS, stages)
        assert upper is not None and (lower is None) == bool(steps)
        assert any("rounded to int8" in line for line in stages.missing) == bool(steps)


def test_refusals(deployed: Deployed, residual: Any, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="one side of a bundle"):
        audit(deployed.folder / "edge", data=deployed.data)
    with pytest.raises(DataError, match="needs labelled data"):
        audit(deployed.folder)
    with pytest.raises(DataError, match="did you mean 'odd'"):
        audit(deployed.folder, data=deployed.data, private="od")
    with pytest.raises(EdgecutError, match="unknown effort of attacks 'fast'"):
        audit(deployed.folder, data=deployed.data, settings=AuditSettings(attacks="fast"))  # type: ignore[arg-type]
    other = next(cut for cut in residual.model.spec.cuts if cut.name != deployed.cut.name)
    with pytest.raises(ArtefactError, match="the noise is for cut"):
        audit_noise(deployed.model, other, deployed.noise, load_data(deployed.data))
