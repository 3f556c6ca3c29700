"""How long making noise of a size takes on one thread: a fixed time and one per value, for predictions.

It is the compiled sampler's, by its portable way of four lanes, which is what an ARM processor has.
"""

from __future__ import annotations

import numpy as np
from machine import write_result

from edgecut.agent.tasks import noise_tasks
from edgecut.agent.timing import measure
from edgecut.noise_kernels import native

SIZES = (120, 400, 2048, 9216, 25088, 100352)


def main() -> None:
    """Measure each size with pauses, as a profile does, and fit a line through the relative errors."""
    sampler = native.load()
    if sampler is None:
        raise SystemExit(native.why_not())
    sampler.widest = native.PATHS.index("portable")
    tasks = {}
    for elements in SIZES:
        tasks[f"noise:{elements}"], tasks[f"add:{elements}"] = noise_tasks(elements)
    taken = measure(tasks, max_seconds=60, relative_width=0.02, pause_s=0.005)
    medians = {name: float(np.median([np.median(block) for block in s.rounds])) for name, s in taken.samples.items()}
    result: dict[str, object] = {"median_s": medians}
    for what in ("noise", "add"):
        times = np.asarray([medians[f"{what}:{elements}"] for elements in SIZES])
        design = np.stack([np.ones(len(SIZES)), np.asarray(SIZES, float)], 1) / times[:, None]
        (fixed_s, per_value_s), *_ = np.linalg.lstsq(design, np.ones(len(SIZES)), rcond=None)
        result[what] = {"fixed_s": fixed_s, "per_value_s": per_value_s}
    write_result("noise_time", result)


if __name__ == "__main__":
    main()
