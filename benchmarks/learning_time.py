"""How long does `edgecut learn` take, and how much less than learning one tensor after the other?

The baseline is the plain way, on the same thread count, with the same steps, batch and recipe: for each of the
distributions alone, every step draws its batch of images, runs the edge partition on them, adds the noise, runs the
cloud partition forward and back, and takes Adam's step. Nothing of it is cached. Only a part of its steps is run and
timed (`--baseline-steps`, spread over fresh tensors), and its whole is that time scaled up: the result says so. It
leaves out what `learn` has besides, the search and the gates, which `learn`'s own time includes; loading the network
is in neither.

    python benchmarks/learning_time.py --data mnist.npz [--runs 3] [--baseline-steps 1500] [--recipes sampled paper]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch
from machine import write_result
from torch.nn import functional

from edgecut.models.data import DataSet, load_data, to_input
from edgecut.models.load import Model, load_model
from edgecut.models.spec import CutSpec
from edgecut.models.training import one_thread
from edgecut.models.twin import load_twin, partition, suffix_of
from edgecut.partitioner.choose import plan
from edgecut.privacy.learn import learn
from edgecut.privacy.settings import Settings, settings_for
from edgecut.profiler.run import profile

MODEL, CUT = "lenet5", "conv3"


def main() -> None:
    """Both ways in turn, `--runs` times, medians and spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--baseline-steps", type=int, default=1500)
    parser.add_argument("--recipes", nargs="+", default=["sampled", "paper"])
    asked = parser.parse_args()
    model, data = load_model(MODEL, data=asked.data), load_data(asked.data)
    measured = profile(MODEL, threads=1, data=asked.data, max_seconds=1)
    planned = plan(measured, measured).model_copy(update={"choice": CUT})
    rows: dict[str, Any] = {}
    for recipe in asked.recipes:
        settings, runs, baseline_s = settings_for(recipe), [], []
        # The first run of a process also imports torch's exporter, which takes seconds.
        learn(planned, model=MODEL, data=asked.data, settings=settings_for(recipe, steps=1, max_accuracy_loss=100.0))
        for _ in range(asked.runs):
            runs.append(learn(planned, model=MODEL, data=asked.data, settings=settings))
            baseline_s.append(_baseline_s(model, model.spec.cut(CUT), data, settings, asked.baseline_steps))
        rows[recipe] = row = _row(runs, baseline_s, settings, asked.baseline_steps)
        print(
            f"{recipe}: {row['learn_s']['median']:.1f} s in all, {row['without_test_s']['median']:.1f} s without the "
            f"unseen items; one at a time {row['baseline_s']['median']:.0f} s, {row['ratio']:.1f} times as long "
            f"({row['ratio_learning_alone']:.0f} times the steps alone)"
        )
    write_result("learning_time", {"model": MODEL, "cut": CUT, "data": data.name, "recipes": rows})


def _row(runs: list[Any], baseline_s: list[float], settings: Settings, steps: int) -> dict[str, Any]:
    whole = [run.elapsed_s - run.timings.model_s for run in runs]
    without_test = [seconds - run.timings.test_s for seconds, run in zip(whole, runs, strict=True)]
    last = runs[-1]
    return {
        "distributions": settings.distributions,
        "steps": settings.steps,
        "batch": settings.batch,
        "learn_s": _spread(whole),
        "without_test_s": _spread(without_test),
        "stages_s": {
            name: _spread([getattr(run.timings, name) for run in runs]) for name in type(last.timings).model_fields
        },
        "baseline_s": _spread(baseline_s),
        "baseline_is": f"{steps} of {settings.distributions * settings.steps} steps timed, and scaled up",
        "ratio": statistics.median(baseline_s) / statistics.median(without_test),
        "ratio_learning_alone": statistics.median(baseline_s)
        / statistics.median([run.timings.learning_s for run in runs]),
        "scale_deviations": last.scale,
        "hold_out_loss_points": last.hold_out.loss_points,
        "unseen_loss_points": last.accuracy.loss_points,
        "unseen_loss_interval_points": last.accuracy.loss_interval_points,
        "replay_loss_points": last.replay.loss_points if last.replay is not None else None,
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


@one_thread()
def _baseline_s(model: Model, cut: CutSpec, data: DataSet, settings: Settings, steps: int) -> float:
    """Seconds for all tensors one after the other, from `steps` steps of the first few."""
    names = [tensor.name for tensor in cut.tensors]
    assert model.twin is not None
    edge, cloud = partition(load_twin(model.twin), None, names, MODEL), suffix_of(model, cut)
    generator = np.random.default_rng(0)
    images, labels = data.x_train, torch.from_numpy(data.y_train.astype(np.int64))
    each = min(steps, settings.steps)
    start = time.perf_counter()
    for tensor in range(max(1, steps // each)):
        torch.manual_seed(tensor)
        values = torch.distributions.Laplace(0.0, 1.0).sample((cut.elements,)).requires_grad_(True)
        optimiser = torch.optim.Adam([values], lr=settings.learning_rate)
        for _ in range(each):
            rows = generator.integers(0, len(images), settings.batch)
            with torch.no_grad():
                activations = edge(torch.from_numpy(to_input(images[rows], model.spec)))
            noise = _noise(values, settings)
            logits = cloud(activations + noise.view(cut.tensors[0].shape))
            loss = functional.cross_entropy(logits, labels[rows])
            if settings.alpha is not None:
                loss = loss - settings.alpha * noise.abs().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    timed = max(1, steps // each) * each
    return (time.perf_counter() - start) * settings.distributions * settings.steps / timed


def _noise(values: torch.Tensor, settings: Settings) -> torch.Tensor:
    if settings.alpha is not None:
        return values
    samples = torch.distributions.Laplace(0.0, 1.0).sample(values.shape).sort().values
    placed = torch.empty_like(samples).scatter_(0, values.detach().argsort(), samples)
    return placed + (values - values.detach())


if __name__ == "__main__":
    main()
