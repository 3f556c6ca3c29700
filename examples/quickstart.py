"""The whole way in Python: profile, plan, learn, bundle, measure, report. Run it with `python examples/quickstart.py`.

Takes about two minutes on two cores after LeNet-5 was trained once; `--quick` takes fewer samples.
"""

import sys
from pathlib import Path

import edgecut


def main(folder: Path, quick: bool) -> None:
    """Write every artefact below `folder`."""
    seconds = 1.0 if quick else 20.0

    # Measure LeNet-5 on this machine, which stands for both sides here. On a pair of devices, profile on each.
    power = edgecut.PowerModel(idle_w=1.88, max_w=7.35, source="published for a Jetson TX2 module")
    edge = edgecut.profile("lenet5", threads=1, power=power, max_seconds=seconds, output=folder / "edge.profile.json")
    cloud = edgecut.profile("lenet5", threads=1, max_seconds=seconds, output=folder / "cloud.profile.json")

    # Choose the cheapest split over Wi-Fi for an edge half as fast as this machine.
    plan = edgecut.plan(edge, cloud, link="wifi", edge_slowdown=2, output=folder / "lenet5.plan.json")
    print(plan.reason)

    # Learn the noise at that cut, and see what it costs on unseen digits.
    learned = edgecut.learn(plan, model="lenet5", output=folder / "lenet5.noise.npz")
    low, high = learned.accuracy.loss_interval_points
    print(f"accuracy lost to the noise: {learned.accuracy.loss_points:.2f} points [{low:.2f}, {high:.2f}]")

    # Write what is deployed, and measure it end to end against its baselines.
    bundle = edgecut.bundle(
        plan,
        model="lenet5",
        noise=folder / "lenet5.noise.npz",
        output=folder / "bundle",
        profiles=[folder / "edge.profile.json", folder / "cloud.profile.json"],
        overwrite=True,
    )
    measurement = edgecut.measure(bundle.folder, model="lenet5", max_seconds=3 * seconds)
    for baseline in measurement.variants[1:]:
        print(f"speedup against {baseline.name}: {measurement.speedup(baseline):.2f}")
    print(edgecut.report(measurement, edge, cloud, folder))


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--quick"]
    main(Path(arguments[0] if arguments else "quickstart"), "--quick" in sys.argv)
