"""Profiles of the paper's six networks on this machine's GPU, under torch and under ONNX Runtime, whole and cut.

Writes results/gpu_profiles.json with the device's name; where there is no GPU it says so and writes nothing.
"""

from __future__ import annotations

from typing import Any

from machine import write_result

from edgecut.agent.backends import load_backend
from edgecut.profiler.backends import BACKENDS
from edgecut.profiler.profile import Profile
from edgecut.profiler.run import profile

NETWORKS = ("lenet5", "cifar10_cnn", "svhn_cnn", "alexnet", "vgg16", "text_cnn_20news")
GPU = ("torch-cuda", "onnxruntime-cuda")


def summary(made: Profile) -> dict[str, Any]:
    """Medians and intervals in seconds, energies in joules with their provenance."""
    return {
        "whole_s": [made.whole.low_s, made.whole.median_s, made.whole.high_s],
        "whole_energy": made.whole_energy.model_dump(),
        "layer_sum_s": made.layer_sum_s,
        "cuts": {cut.name: {"prefix_s": cut.prefix.median_s, "suffix_s": cut.suffix.median_s} for cut in made.cuts},
        "converged": made.converged,
        "versions": made.environment.versions,
        "notes": made.notes,
    }


def main() -> None:
    """Every network under every backend that can be used here."""
    reasons = {name: load_backend(name, BACKENDS).usable() for name in GPU}
    usable = [name for name, reason in reasons.items() if not reason]
    if not usable:
        print("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
        return
    results: dict[str, Any] = {"unusable": {name: reason for name, reason in reasons.items() if reason}}
    for backend in usable:
        for network in NETWORKS:
            print(backend, network, flush=True)
            made = profile(network, device="cuda", backend=backend, max_seconds=15)
            results.setdefault(backend, {})[network] = summary(made)
    write_result("gpu_profiles", results)


if __name__ == "__main__":
    main()
