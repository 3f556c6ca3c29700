"""How far are the bounds in bits, and the paper's nearest-neighbour metric, from the truth where it is known?

x is standard normal, a = A x with a random A, and the message a + normal noise of scale 0.5, in d = 1 to 1000 values:
I(x; message) = 1/2 log2 det(I + A A^T / 0.25), which is exact. The metric gets 1,000 of the unseen pairs (x, message),
the bounds what an audit gives them. Everything is repeated with fresh A, x and noise.

    python benchmarks/information_bias.py [--repeats 2] [--dimensions 1 3 10 100 1000]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from typing import Any

import numpy as np
from machine import write_result

from edgecut.noise_kernels.element_noise import ElementNoise
from edgecut.privacy.bounds import lower_bound, upper_bound
from edgecut.privacy.information import paper_metric
from edgecut.privacy.observations import Observations, Part

SCALE = 0.5
TRAIN, TEST, SAMPLES, GALLERY = 10_000, 2_000, 1_000, 2_048


def main() -> None:
    """A row for each number of values: the truth, and medians over the repeats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--dimensions", nargs="+", type=int, default=[1, 3, 10, 100, 1000])
    asked = parser.parse_args()
    rows = []
    for values in asked.dimensions:
        found = [_measured(values, seed) for seed in range(asked.repeats)]
        row = {"values": values} | {name: statistics.median(each[name] for each in found) for name in found[0]}
        rows.append(row | {"repeats": found})
        print(
            f"d = {values}: {row['true_bits']:.2f} bits; above {row['upper_bits']:.2f}, below {row['lower_bits']:.2f}, "
            f"the paper's metric {row['metric_bits']:.2f}"
        )
    write_result(
        "information_bias",
        {
            "scale": SCALE,
            "train_items": TRAIN,
            "test_items": TEST,
            "metric_samples": SAMPLES,
            "gallery": min(GALLERY, TEST),
            "rows": rows,
        },
    )


def _measured(values: int, seed: int) -> dict[str, float]:
    seen, inputs, truth = _channel(values, seed)
    start = time.perf_counter()
    upper = upper_bound(seen)
    between = time.perf_counter()
    lower = lower_bound(seen, GALLERY)
    end = time.perf_counter()
    assert upper is not None and lower is not None
    assert lower.cap_bits is not None
    rows = np.arange(SAMPLES)
    metric = paper_metric(inputs[rows], seen.sent("test", rows, "metric"), seed=seed)
    return {
        "true_bits": truth,
        "upper_bits": upper.bits,
        "upper_low": upper.low,
        "upper_high": upper.high,
        "upper_s": between - start,
        "lower_bits": lower.bits,
        "lower_low": lower.low,
        "lower_high": lower.high,
        "lower_cap_bits": lower.cap_bits,
        "lower_s": end - between,
        "metric_bits": metric.bits,
        "metric_null_bits": metric.null_bits,
        "metric_null_sd": metric.null_sd,
    }


def _channel(values: int, seed: int) -> tuple[Observations, Any, float]:
    """What is observed, the unseen part's x, and the bits of it in a message."""
    generator = np.random.default_rng([values, seed])
    matrix = generator.standard_normal((values, values)) / math.sqrt(values)
    inputs = generator.standard_normal((TRAIN + TEST, values))
    carried = (inputs @ matrix.T).astype(np.float32)
    tensors = [("values", (values,))]
    spread, digest = np.full(values, SCALE), "sha256:" + "0" * 64
    noise = ElementNoise("gaussian", "normal", np.zeros(values), spread, tensors, digest, "cut")
    labels = np.zeros(TRAIN + TEST, np.int64)
    train, test = (
        Part(inputs[rows], carried[rows], labels[rows], None) for rows in (slice(TRAIN), slice(TRAIN, TRAIN + TEST))
    )
    truth = float(np.linalg.slogdet(np.eye(values) + matrix @ matrix.T / SCALE**2)[1]) / math.log(4)
    return Observations(noise, train, test, ("values",), ((values,),), seed), inputs[TRAIN:], truth


if __name__ == "__main__":
    main()
