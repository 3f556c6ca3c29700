"""Equations 3, 4 and 5 and the order's learning, each step's gradient against float64 finite differences."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")
from edgecut.errors import EdgecutError  # noqa: E402
from edgecut.privacy import optimise  # noqa: E402
from edgecut.privacy.optimise import Descent, descend, one_cycle  # noqa: E402
from edgecut.privacy.order import sorted_laplace  # noqa: E402
from edgecut.privacy.settings import RECIPES, settings_for  # noqa: E402

DEVIATION = 0.7  # the fixture's
PAPER = dataclasses.replace(RECIPES["paper"], distributions=3, steps=4, batch=6, alpha=0.05, scale=1.5, gamma=0.3)
SAMPLED = dataclasses.replace(RECIPES["sampled"], distributions=3, steps=4, batch=6, scale=1.5, gamma=0.3)


def cross_entropy(noisy: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> float:
    logits = noisy @ weights.astype(np.float64)
    right = logits[np.arange(len(labels)), labels]
    return float((np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1) - right).mean())


def loss(linear: Any, noise: np.ndarray, rows: np.ndarray, settings: Any, private: bool, alpha: float) -> float:
    """One tensor's loss in float64, by the paper's equations."""
    noisy = linear.activations.astype(np.float64)[rows] + noise
    total = cross_entropy(noisy, linear.weights[0], linear.labels[0][rows])
    if settings.equation == 4:
        total -= alpha * np.abs(noise).sum()
    if settings.equation == 3:
        total += alpha / noise.var()
    if private:
        total -= settings.gamma * cross_entropy(noisy, linear.weights[1], linear.labels[1][rows])
    return total


def watched(descent: Descent) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """Values before a step, its gradient, its rows [D, batch], and a generator as it was behind the rows."""
    before = descent.values.detach().double().numpy().copy()
    generator = torch.Generator()
    generator.set_state(descent.generator.get_state())
    count, batch = descent.count, descent.aim.settings.batch
    rows = torch.randint(descent.aim.public.rows.count, (count * batch,), generator=generator)
    descent.advance()
    return before, descent.values.grad.double().numpy().copy(), rows.numpy().reshape(count, batch), generator


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("equation", [3, 4])
@pytest.mark.parametrize("hoisted", [False, True])
def test_the_papers_gradient(linear: Any, equation: int, private: bool, hoisted: bool) -> None:
    settings = dataclasses.replace(PAPER, equation=equation)
    descent, seen = linear.descent(settings, private, hoisted=hoisted), []
    for _ in range(2):
        values, gradient, rows, _ = watched(descent)
        for d in range(3):
            for i in range(7):
                step = np.zeros(7)
                step[i] = 1e-6
                slope = [loss(linear, values[d] + s, rows[d], settings, private, 0.05) for s in (step, -step)]
                assert gradient[d, i] == pytest.approx((slope[0] - slope[1]) / 2e-6, abs=3e-5)
        seen += [row.tobytes() for row in rows]
    assert len(set(seen)) == 6  # every tensor has batches of its own


@pytest.mark.parametrize("private", [False, True])
def test_the_orders_gradient_is_the_placed_noises(linear: Any, private: bool) -> None:
    descent = linear.descent(SAMPLED, private)
    for _ in range(3):
        values, gradient, rows, generator = watched(descent)
        samples = sorted_laplace(3, 7, generator).double().numpy()
        factor = 1.5 * DEVIATION
        for d in range(3):
            noise = np.empty(7)
            noise[np.argsort(values[d])] = factor * samples[d]
            for i in range(7):
                step = np.zeros(7)
                step[i] = 1e-6
                slope = [loss(linear, noise + s, rows[d], SAMPLED, private, 0.0) for s in (step, -step)]
                assert gradient[d, i] == pytest.approx(factor * (slope[0] - slope[1]) / 2e-6, abs=3e-5)


def test_alpha_falls_tenfold_and_pushes_outward(linear: Any) -> None:
    # With a blind cloud half only the second term is left: its gradient is -alpha * sign.
    descent = linear.descent(dataclasses.replace(PAPER, steps=7, alpha=0.5, decay_steps=3), factor=0.0)
    alphas = []
    for _ in range(7):
        values, gradient, _, _ = watched(descent)
        np.testing.assert_array_equal(np.sign(gradient), -np.sign(values))
        alphas.append(np.abs(gradient).mean())
    assert alphas == pytest.approx([0.5] * 3 + [0.05] * 3 + [0.005])


@pytest.mark.deep
def test_the_private_term_works_against_the_private_task(linear: Any) -> None:
    """With nothing else in the loss, what is learned makes the private labels worse, where chance leaves them."""

    def after(gamma: float) -> float:
        settings = dataclasses.replace(PAPER, alpha=0.0, gamma=gamma, steps=200, scale=0.1, learning_rate=0.05)
        descent = linear.descent(settings, private=True)
        for _ in range(200):
            descent.advance()
        noisy = [linear.activations + value for value in descent.values.detach().numpy()]
        return float(np.mean([cross_entropy(one, linear.weights[1], linear.labels[1]) for one in noisy]))

    assert after(2.0) > after(0.0) + 0.5


def test_the_initial_law(linear: Any) -> None:
    wide = dataclasses.replace(linear, activations=np.zeros((2, 4000), np.float32))
    wide.weights = tuple(np.zeros((4000, 2), np.float32) for _ in range(2))
    for settings, scale in ((PAPER, 1.5 * DEVIATION), (SAMPLED, 1.0)):
        values = wide.descent(settings).values.detach().numpy()
        assert values.shape == (3, 4000) and len(np.unique(values)) > 11_900
        assert stats.kstest(values.ravel(), stats.laplace(0, scale).cdf).pvalue > 1e-4
        assert stats.kstest(values.ravel(), stats.laplace(0, 1.2 * scale).cdf).pvalue < 1e-4


def test_no_tensor_depends_on_its_neighbours_loss(linear: Any) -> None:
    """The sum over tensors: the first tensor's gradient does not know how many there are."""
    alone, three = (dataclasses.replace(PAPER, distributions=d) for d in (1, 3))
    for settings in (alone, three):
        descent = linear.descent(settings)
        values, gradient, rows, _ = watched(descent)
        step = np.full(7, 1e-6)
        slope = [loss(linear, values[0] + s, rows[0], settings, False, 0.05) for s in (step, -step)]
        assert gradient[0].sum() == pytest.approx((slope[0] - slope[1]) / 2e-6, abs=1e-4)


def test_one_cycle_rises_and_falls() -> None:
    rates = [one_cycle(step, 100, 0.02) for step in range(100)]
    top = int(np.argmax(rates))
    assert 28 <= top <= 32 and max(rates) == pytest.approx(0.02, rel=1e-3)
    assert (np.diff(rates[:top]) > 0).all() and (np.diff(rates[top:]) < 0).all()
    assert rates[0] == pytest.approx(0.02 / 25) and rates[-1] < 0.02 / 500


@pytest.mark.deep
def test_the_scale_is_steered_to_the_wanted_accuracy(linear: Any) -> None:
    settings = dataclasses.replace(SAMPLED, scale=None, steps=600, batch=40)
    found = {}
    for wanted in (0.35, 0.6):
        clean = linear.activations @ linear.weights[0]
        easy = dataclasses.replace(linear, labels=(clean.argmax(1), linear.labels[1]))
        descent, accuracies = easy.descent(settings, wanted=wanted), []
        while descent.step < 600:
            descent.advance()
            accuracies.append(descent.accuracy)
        assert np.mean(accuracies[300:]) == pytest.approx(wanted, abs=0.05)
        found[wanted] = descent.scale
    assert found[0.35] > 1.3 * found[0.6]


@pytest.mark.parametrize(("settings", "wanted"), [(PAPER, None), (dataclasses.replace(SAMPLED, scale=None), 0.5)])
def test_a_restored_descent_goes_on_to_the_very_same_numbers(linear: Any, settings: Any, wanted: float | None) -> None:
    settings = dataclasses.replace(settings, steps=9)
    whole = linear.descent(settings, private=True, wanted=wanted)
    start = whole.state()["values"].copy()
    while whole.step < 9:
        whole.advance()
    for stop in (0, 1, 5):
        first = linear.descent(settings, private=True, wanted=wanted)
        for _ in range(stop):
            first.advance()
        kept = {name: np.array(value) for name, value in first.state().items()}
        first.advance()  # what came after the snapshot must not matter
        second = Descent(whole.aim, 7, 3, 1)
        second.restore(kept)
        while second.step < 9:
            second.advance()
        for name, value in whole.state().items():
            np.testing.assert_array_equal(second.state()[name], value, err_msg=name)
    assert not np.array_equal(start, whole.state()["values"])


def test_what_leaves_the_finite_numbers_is_said(linear: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimise, "TELL_EVERY", 1)
    descent = linear.descent(dataclasses.replace(PAPER, alpha=float("nan"), steps=5))
    with pytest.raises(EdgecutError, match="learning left the finite numbers; lower"):
        descend(descent.aim, 7, 3, 0, None, lambda *_: None)


def test_groups_are_even_and_bounded(linear: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = linear.task(hoisted=False)
    used = settings_for("sampled", distributions=20, batch=32)
    assert optimise.group_sizes([task], used) == [20]
    one = 2 * 32 * optimise.bytes_per_item(task.cloud)
    for budget, sizes in ((7 * one, [7, 7, 6]), (19 * one, [10, 10]), (one // 2, [1] * 20)):
        monkeypatch.setattr(optimise, "GROUP_BYTES", budget)
        assert optimise.group_sizes([task], used) == sizes
        both = optimise.group_sizes([task, task], used)
        assert sum(both) == 20 and (both[0] == 1 or 2 * both[0] * one <= budget)
