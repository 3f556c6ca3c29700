"""Value objects of a LeNet-5 split over Wi-Fi, with numbers of the size that real runs gave, and a browser to look."""

from __future__ import annotations

import base64
import json
import math
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecut.models.spec import CutSpec, LayerSpec, ModelSpec, PixelFormat, TensorSpec
from edgecut.models.work import Operation
from edgecut.partitioner.choose import plan
from edgecut.partitioner.link import PRESETS
from edgecut.partitioner.plan import CutCost, Plan, Serving
from edgecut.profiler.profile import CutProfile, Energy, Environment, LayerProfile, PowerModel, Profile, Timing
from edgecut.runtime.accuracy import NoiseAccuracy
from edgecut.runtime.measurement import Measurement, Variant

SLOWDOWN = 12.0
PAUSE_S = 0.005
POWER = PowerModel(idle_w=1.9, max_w=7.5, source="a data sheet")
NO_ENERGY = Energy(energy_j=None, provenance="unavailable", source="no meter here, and no power figures given")
SERVING = Serving(
    fixed_s=0.6e-3,
    per_byte_s=1e-9,
    request_framing_bytes=150,
    answer_framing_bytes=120,
    source="benchmarks/results/request_overhead.json",
)
LAYERS = (  # name, kind, output shape, parameters, flops, seconds
    ("conv1", "Conv", (6, 14, 14), 156, 235_200, 24e-6),
    ("conv2", "Conv", (16, 5, 5), 2_416, 480_000, 15e-6),
    ("conv3", "Conv", (120,), 48_120, 96_000, 15e-6),
    ("fc1", "Gemm", (84,), 10_164, 20_160, 5e-6),
    ("fc2", "Gemm", (10,), 850, 1_680, None),
)
HALVES = {  # seconds: prefix, suffix, noise, add
    "conv1": (19.7e-6, 20.4e-6, 318e-6, 0.86e-6),
    "conv2": (28.8e-6, 13.4e-6, 223e-6, 0.71e-6),
    "conv3": (32.1e-6, 8.76e-6, 127e-6, 0.62e-6),
    "fc1": (34.6e-6, 7.1e-6, 112e-6, 0.62e-6),
}
MEASURED = {"split": 6.32e-3, "edge-only": 0.412e-3, "cloud-only float32": 8.61e-3, "cloud-only uint8": 6.41e-3}


def timing(median_s: float, spread: float = 0.008) -> Timing:
    return Timing(
        median_s=median_s,
        low_s=median_s * (1 - spread),
        high_s=median_s * (1 + spread),
        p95_s=median_s * 1.6,
        rounds=203,
        count=8729,
        utilisation=0.5,
        samples_s=(median_s, median_s * 1.1),
    )


def energy_of(seconds: float, power: PowerModel | None) -> Energy:
    if power is None:
        return NO_ENERGY
    joules = seconds * power.power_w(0.5)
    return Energy(energy_j=joules, provenance="modelled", source=f"time measured x 4.7 W ({power.source})")


def make_operation(kind: str, shape: tuple[int, ...], parameters: int, flops: int) -> Operation:
    return Operation(
        kind="conv" if kind == "Conv" else "linear",
        operator=kind,
        flops=flops,
        input_elements=100,
        output_elements=math.prod(shape),
        parameters=parameters,
    )


def make_model(name: str = "lenet5", suffix: str = "") -> ModelSpec:
    """`suffix` ends every layer's name, and with it every cut's."""

    def tensor(layer: str, shape: tuple[int, ...]) -> TensorSpec:
        return TensorSpec(name=layer + "_out", dtype="float32", shape=shape)

    return ModelSpec(
        name=name,
        digest="sha256:" + "8c" * 32,
        inputs=(TensorSpec(name="input", dtype="float32", shape=(1, 32, 32)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(10,)),),
        layers=tuple(
            LayerSpec(
                name=n + suffix,
                kind=k,
                operators=(k, "Relu"),
                output=tensor(n, s),
                parameters=p,
                work=(make_operation(k, s, p, f),),
            )
            for n, k, s, p, f, _ in LAYERS
        ),
        cuts=tuple(
            CutSpec(name=n + suffix, depth=i + 1, tensors=(tensor(n, s),), aligned=True)
            for i, (n, _, s, *_) in enumerate(LAYERS[:-1])
        ),
        pixels=PixelFormat(scale=(1 / 255,), offset=(0.0,)),
    )


def make_environment() -> Environment:
    return Environment(
        processor="Intel(R) Xeon(R) Processor",
        processors=2,
        frequency_hz=2.0e9,
        governor=None,
        temperature_c=None,
        memory_bytes=25_276_502_016,
        load_1min=0.42,
        virtualised=True,
        system="Linux 6.1.0 x86_64",
        python="3.11.7",
        versions={"edgecut": "0.1.0", "numpy": "2.4.6", "onnxruntime": "1.31.1"},
    )


def make_profile(model: ModelSpec, power: PowerModel | None = POWER, layer_times: bool = True) -> Profile:
    return Profile(
        model=model,
        device="cpu",
        backend="onnxruntime-cpu",
        threads=1,
        pause_s=PAUSE_S,
        environment=make_environment(),
        power=power,
        whole=timing(33.3e-6),
        whole_energy=energy_of(33.3e-6, power),
        layers=tuple(
            LayerProfile(
                name=layer.name,
                kind=k,
                output_shape=s,
                parameters=p,
                flops=f,
                latency_s=seconds if layer_times else None,
            )
            for layer, (_, k, s, p, f, seconds) in zip(model.layers, LAYERS, strict=True)
        ),
        cuts=tuple(
            CutProfile(
                name=spec.name,
                prefix=timing(prefix),
                suffix=timing(suffix),
                noise=timing(noise),
                add=timing(add),
                prefix_energy=energy_of(prefix, power),
                suffix_energy=energy_of(suffix, power),
                noise_energy=energy_of(noise, power),
            )
            for spec, (prefix, suffix, noise, add) in zip(model.cuts, HALVES.values(), strict=True)
        ),
        converged=True,
        elapsed_s=21.4,
        measured_at="2026-11-21T22:13:55+00:00",
    )


def make_variant(row: CutCost, median_s: float) -> Variant:
    if row.energy_j is None:
        energy = NO_ENERGY
    else:
        source = f"measured times and bytes x powers: edge {POWER.source}; radio Huang et al., MobiSys 2012"
        energy = Energy(energy_j=row.energy_j * 1.03, provenance="modelled", source=source)
    return Variant(
        name=f"split after {row.name}" if row.role == "split" else row.name,
        role=row.role,
        latency=timing(median_s),
        edge_s=row.edge_s + row.add_s,
        add_s=row.add_s,
        noise_s=row.noise_s,
        wait_s=max(0.0, median_s - row.edge_s - row.add_s),
        uplink_bytes=float(row.uplink_bytes),
        downlink_bytes=float(row.downlink_bytes),
        energy=energy,
        predicted=row,
        wrong_answers=0,
    )


def make_measurement(
    edge: Profile, cloud: Profile, slowdown: float = SLOWDOWN, medians_s: dict[str, float] | None = None, **changes: Any
) -> Measurement:
    made: Plan = plan(edge, cloud, link=PRESETS["wifi"], edge_slowdown=slowdown, serving=SERVING)
    rows = [made.chosen, *made.baselines]
    fields: dict[str, Any] = {
        "bundle_id": "sha256:" + "b1" * 32,
        "plan": made,
        "link": made.link,
        "edge_slowdown": slowdown,
        "emulated_link": True,
        "pause_s": PAUSE_S,
        "environment": make_environment(),
        "variants": tuple(
            make_variant(row, (medians_s or MEASURED)["split" if row.role == "split" else row.name]) for row in rows
        ),
        "requests": 2400,
        "accuracy": NoiseAccuracy.of("mnist", clean=9_890, noisy=49_060, items=10_000, draws=5),
        "converged": True,
        "elapsed_s": 48.2,
        "measured_at": "2026-11-21T22:20:01+00:00",
    }
    return Measurement(**{**fields, **changes})


Case = tuple[Measurement, Profile, Profile]


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """`make_case(**of the model, of the profiles, changes to the measurement)`: a measurement and its two profiles."""

    def make(
        name: str = "lenet5",
        power: PowerModel | None = POWER,
        layer_times: bool = True,
        suffix: str = "",
        **changes: Any,
    ) -> Case:
        model = make_model(name, suffix)
        edge, cloud = make_profile(model, power, layer_times), make_profile(model, power, layer_times)
        return make_measurement(edge, cloud, **changes), edge, cloud

    return make


@pytest.fixture
def case(make_case: Callable[..., Case]) -> Case:
    """Everything known, on an emulated edge over an emulated link."""
    return make_case()


@pytest.fixture
def bare_case(make_case: Callable[..., Case]) -> Case:
    """No energy, no accuracy, no layer times, on a real edge and a real link."""
    return make_case(
        power=None,
        layer_times=False,
        slowdown=1.0,
        emulated_link=False,
        accuracy=None,
    )


FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Browser:
    """One headless chromium at one width. `call` is chromedriver's protocol: JSON over HTTP."""

    def __init__(self, port: int, width: int) -> None:
        self.base = f"http://127.0.0.1:{port}/session"
        options = {
            "args": [*FLAGS, f"--window-size={max(width, 600)},900"],
            "mobileEmulation": {"deviceMetrics": {"width": width, "height": 900, "pixelRatio": 1.0}},
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self.call("", {"capabilities": {"alwaysMatch": wanted}})
        self.base += "/" + made["sessionId"]

    def call(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with DIRECT.open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def run(self, script: str, *arguments: Any) -> Any:
        return self.call("/execute/sync", {"script": script, "args": list(arguments)})

    def media(self, kind: str = "", **features: str) -> None:
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        parameters = {"media": kind, "features": wanted}
        self.call("/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": parameters})

    def press(self, selector: str, keys: str) -> None:
        """Keys to an element, as from a keyboard."""
        found = self.call("/element", {"using": "css selector", "value": selector})
        self.call(f"/element/{next(iter(found.values()))}/value", {"text": keys})

    def open(self, page: Path) -> None:
        self.call("/url", {"url": page.as_uri()})
        give_up = time.monotonic() + 30
        while self.run("return document.documentElement.dataset.ready") != "true":
            assert time.monotonic() < give_up, f"the page is not ready: {self.console()}"
            time.sleep(0.1)

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.call("/se/log", {"type": "browser"})]

    def picture(self) -> bytes:
        """The whole page, as tall as it is."""
        height = self.run("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self.run("return innerWidth"), "height": height, "scale": 1}
        parameters = {"captureBeyondViewport": True, "clip": clip}
        made = self.call("/goog/cdp/execute", {"cmd": "Page.captureScreenshot", "params": parameters})
        return base64.b64decode(made["data"])


@pytest.fixture
def open_browser() -> Iterator[Callable[[int], Browser]]:
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        pytest.skip("chromium and chromedriver are needed: apt-get install chromium chromium-driver")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    opened: list[Browser] = []
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "successfully on port" in line)
        port = int(line.rsplit("on port", 1)[1].strip(" .\n"))

        def opener(width: int) -> Browser:
            opened.append(Browser(port, width))
            return opened[-1]

        yield opener
    finally:
        for browser in opened:
            browser.call("", method="DELETE")
        process.terminate()
        process.wait(10)
