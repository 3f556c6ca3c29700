"""The edge partition with its noise: an input goes in, and only noisy activations come out.

    [edge partition .........][add noise]
    [draw noise, if none is there]

Noise is drawn in a thread of its own beside the partition, unless it was drawn ahead (`draw`). On a GPU it is drawn and
added where the activation lies, so that no activation without noise is ever copied back; but not where the rest of the
model may have to run here (`with_rest`), which takes the activation as it is.

A mechanism may have its place at the input instead: [add noise][edge partition], what comes out being sent as it is.
Nothing is then drawn beside the partition, and the rest of the model takes here what would have been sent. A map that
a mechanism has is part of the partition, and what it gives without noise is what the rest takes here.

Where the wire is int8, the noisy values are rounded last. int8 has neither NaN nor infinities, so that an activation
with any is refused before, whatever `allow_nonfinite` says.
"""

import contextlib
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

import numpy as np

from ..noise_kernels import native
from ..noise_kernels.building import BuildError, cache_folder, private_folder
from ..noise_kernels.mechanism import MECHANISMS
from . import cuda
from .backends import BackendError, Runner, Settings, load_backend
from .edge_manifest import Description, Engine, Tensor
from .edge_side import EDGE_MODEL, NOISE, EdgeSide, Wanted
from .gpu_runner import GpuRunner
from .inputs import not_finite
from .protect import NoiseError, Protector
from .sticky_key import sticky_secret

PROCESSOR = "onnxruntime-cpu"
MAX_THREADS = 1024
Arrays = List[Any]


class Made(NamedTuple):
    """What came of an input: `noisy` may be sent, `clean` is there for the rest of the model here alone.

    With noise at the input both hold the same values, but for an int8 wire's rounding.
    """

    noisy: Arrays
    clean: Optional[Arrays]
    model_s: float
    add_s: float
    edge_s: float


class EdgePart:
    """A side's edge partition, opened on a backend, and its noise. One thread at a time, but for `draw`.

    `backend` is by default the one that the bundle was made for, `cache` a folder for engines and compiled kernels,
    `slowdown` above 1 holds each computation back by that factor, to stand for a slower device. Raises BackendError.
    """

    def __init__(
        self,
        side: EdgeSide,
        backend: Optional[str] = None,
        threads: int = 1,
        cache: Optional[str] = None,
        with_rest: bool = False,
        allow_nonfinite: bool = False,
        slowdown: float = 1.0,
    ) -> None:
        if not 1 <= threads <= MAX_THREADS:
            raise BackendError("{} threads cannot be used; give a number from 1 to {}".format(threads, MAX_THREADS))
        self.description = side.description
        self.backend = backend or side.description.target.runtime
        if backend is None and self.backend != PROCESSOR:
            reason = load_backend(self.backend).usable()
            if reason:
                raise BackendError(
                    "{}; the bundle was made for {}, and with --backend {} it runs on the processor".format(
                        reason, self.backend, PROCESSOR
                    )
                )
        self.names = [tensor.name for tensor in side.description.cut]
        self.slowdown, self.allow_nonfinite, self.with_rest = slowdown, allow_nonfinite, with_rest
        self.noise_on = "the processor"
        self.protector = _protector(side, cache)
        self._steps = self.protector.steps
        self._at_input = self.protector.noise.place == "input"
        # In a batch, the same input gives another activation by its last bits, and with it other sticky noise.
        alone = self.protector.sticky and not self._at_input
        self._one_by_one = side.description.target.batch == 1 or self.backend != PROCESSOR or alone
        self._held = contextlib.ExitStack()
        cache = cache or _default_cache(self.backend)
        try:
            settings = _settings(side, self.backend, threads, cache)
            self.runner = self._open(side.files[EDGE_MODEL], [side.description.input], settings)
            self._rest = self._open_rest(side, settings) if with_rest else None
            self._noisy_on_gpu = not with_rest and self._put_noise_on_gpu(cache)
            if not self._noisy_on_gpu:
                native.load()  # or even compiles the sampler, which no request should wait for
                self.protector.draw_ahead(1)
        except BaseException:
            self._held.close()
            raise
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="edgecut-noise")

    def _open(self, model: bytes, inputs: Iterable[Tensor], settings: Settings) -> Runner:
        feed = {tensor.name: np.zeros((1, *tensor.shape), tensor.dtype) for tensor in inputs}
        runner = load_backend(self.backend).open_runner(model, feed, settings)  # type: Runner
        self._held.callback(runner.close)
        return runner

    def _open_rest(self, side: EdgeSide, settings: Settings) -> Runner:
        name = side.description.fallback
        if name is None or name not in side.files:
            raise BackendError(
                "{} has no cloud partition to run on the device; write the bundle with --with-local-fallback, or let "
                "requests fail where the cloud is away".format(side.folder)
            )
        return self._open(side.files[name], side.description.cut, settings._replace(engine=None))

    def _put_noise_on_gpu(self, cache: Optional[str]) -> bool:
        """Whether the noise is added on the GPU; `noise_on` says why not, where it could have been."""
        if not isinstance(self.runner, GpuRunner):
            return False
        try:
            self.runner.add_noise(self.protector.noise, cache, self._steps, self.protector.sticky)
        except BackendError as error:
            self.noise_on = "the processor, since {}".format(error)
            return False
        self.noise_on = "the GPU"
        return True

    def close(self) -> None:
        """Wait for a draw under way, and give back the models' memory."""
        self._drawing.shutdown()
        self._held.close()

    def protected(self, inputs: Any) -> Arrays:
        """The cut's tensors for checked inputs, each with fresh noise: all that may leave the device."""
        return self.run(inputs).noisy

    def run(self, inputs: Any) -> Made:
        """The edge partition and the noise for checked inputs [batch, ...]. Raises InputError and BackendError."""
        start = time.perf_counter()
        noisy, clean, model_s, add_s = (self._noise_first if self._at_input else self._noise_last)(inputs)
        if not self.allow_nonfinite and self._steps is None:
            _check_finite(noisy)
        edge_s = hold(start, self.slowdown)
        return Made(noisy, clean if self.with_rest else None, model_s * self.slowdown, add_s * self.slowdown, edge_s)

    def _noise_last(self, inputs: Any) -> Tuple[Arrays, Arrays, float, float]:
        """What is sent, what it is without noise, and the seconds of the model and of adding: noise at the cut."""
        batch = len(inputs)
        drawing = None if self._noisy_on_gpu or self.protector.drawn(batch) else self.draw(batch)
        activations, model_s = self._computed(inputs)
        if drawing is not None:
            drawing.result()
        if self._noisy_on_gpu:
            return activations, activations, model_s, 0.0
        if self._steps is not None:
            _check_finite(activations)
        start = time.perf_counter()
        with np.errstate(over="ignore", invalid="ignore"):  # found by `run`
            noisy = self.protector.add(activations)
        return noisy, activations, model_s, time.perf_counter() - start

    def _noise_first(self, inputs: Any) -> Tuple[Arrays, Arrays, float, float]:
        """As `_noise_last`, for noise at the input; the seconds of adding have those of drawing in them."""
        start = time.perf_counter()
        (noisy,) = self.protector.add([inputs])
        add_s = time.perf_counter() - start
        activations, model_s = self._computed(noisy)
        if self._steps is None:
            return activations, activations, model_s, add_s
        _check_finite(activations)
        rounding = time.perf_counter()
        sent = self.protector.rounded([array.copy() for array in activations])
        return sent, activations, model_s, add_s + time.perf_counter() - rounding

    def _computed(self, inputs: Any) -> Tuple[Arrays, float]:
        """The edge partition's tensors, and the seconds that it took."""
        start = time.perf_counter()
        found = self._found(self.runner, {self.description.input.name: inputs}, self.names)
        model_s = time.perf_counter() - start
        return self._activations(found, len(inputs)), model_s

    def rest(self, clean: Arrays) -> Any:
        """The answer of the cloud partition, run here on `Made.clean`. Raises BackendError."""
        if self._rest is None:
            raise BackendError("the cloud partition was not opened on this device")
        start = time.perf_counter()
        name = self.description.answer.name
        answer = self._found(self._rest, dict(zip(self.names, clean)), [name])[name]
        hold(start, self.slowdown)
        return answer

    def _found(self, runner: Runner, feed: Dict[str, Any], names: List[str]) -> Dict[str, Any]:
        """The outputs called `names`; item by item where the model takes one at a time."""
        batch = len(next(iter(feed.values())))
        if not self._one_by_one or batch == 1:
            return runner.call(feed)
        found = [runner.call({name: array[i : i + 1] for name, array in feed.items()}) for i in range(batch)]
        return {name: np.concatenate([each[name] for each in found]) for name in names}

    def _activations(self, found: Dict[str, Any], batch: int) -> Arrays:
        """In the cut's order. Raises BackendError where the model gives something else than the manifest says."""
        activations, dtype = [], np.int8 if self._noisy_on_gpu and self._steps is not None else np.float32
        for tensor in self.description.cut:
            array = found.get(tensor.name)
            if array is None or array.shape != (batch, *tensor.shape):
                raise BackendError(
                    "the edge partition does not give '{}' of shape {}; write the bundle again".format(
                        tensor.name, [batch, *tensor.shape]
                    )
                )
            activations.append(np.asarray(array, dtype))
        return activations

    def draw(self, batch: int) -> "Optional[Future[float]]":
        """Have the noise for the next request drawn, in a thread of its own; its result is how long that took.

        None where a GPU draws its own, and for sticky noise, which the request decides. Not in the caller's thread,
        because blocking calls wait best for an answer.
        """
        if self._noisy_on_gpu or self.protector.sticky:
            return None
        try:
            return self._drawing.submit(self._draw, batch)
        except RuntimeError:
            raise BackendError("the session was closed; open another one") from None

    def _draw(self, batch: int) -> float:
        start = time.perf_counter()
        self.protector.draw_ahead(batch)
        return hold(start, self.slowdown)


def _check_finite(arrays: Arrays) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise not_finite()


def hold(start: float, slowdown: float) -> float:
    """Wait until `slowdown` times the time since `start` has passed; returns the seconds passed in all.

    Sleeps for the most part and spins for the last 0.2 ms, since a sleep overshoots by about a tenth of one.
    """
    due = start + (time.perf_counter() - start) * slowdown
    if slowdown > 1:
        while True:
            left = due - time.perf_counter()
            if left <= 0:
                break
            if left > 4e-4:
                time.sleep(left - 2e-4)
    return time.perf_counter() - start


def files_for(backend: Optional[str], with_rest: bool) -> Wanted:
    """The files of a side that an `EdgePart` on that backend needs, for `read_edge_side`."""

    def wanted(description: Description) -> List[str]:
        engine = fitting_engine(description, backend or description.target.runtime)
        rest = [description.fallback] if with_rest and description.fallback else []
        return [EDGE_MODEL, NOISE] + rest + ([engine.file] if engine else [])

    return wanted


def fitting_engine(description: Description, backend: str) -> Optional[Engine]:
    """The engine in the bundle that the runtime and the GPU here take; None where there is none."""
    built = [engine for engine in description.engines if engine.runtime == backend]
    if not built:
        return None
    version = load_backend(backend).versions().get(backend, "")
    capability = "{}.{}".format(*_capability())
    for engine in built:
        same = version == engine.version or version.startswith(engine.version + ".")
        if same and capability in engine.compute_capabilities:
            return engine
    return None


def _default_cache(backend: str) -> Optional[str]:
    """Where a GPU's engines and kernels are kept: a folder into which nobody else can put any."""
    if backend == PROCESSOR:
        return None
    try:
        return private_folder(os.path.join(cache_folder(), "engines"))
    except BuildError as error:
        raise BackendError("engines cannot be kept, since {}; give a --cache folder".format(error)) from None


def _capability() -> Tuple[int, int]:
    device = cuda.Device()
    try:
        return device.compute_capability
    finally:
        device.close()


def _settings(side: EdgeSide, backend: str, threads: int, cache: Optional[str]) -> Settings:
    # The other runtimes compute in the types that the model has.
    precision = side.description.target.precision if backend.startswith("tensorrt") else "float32"
    engine = fitting_engine(side.description, backend)
    ready = side.files.get(engine.file) if engine else None
    return Settings(threads=threads, precision=precision, cache=cache, engine=ready)


def _protector(side: EdgeSide, cache: Optional[str]) -> Protector:
    """The noise of a side. Raises NoiseError where it is of another kind or another cut."""
    description, where = side.description, "{}/{}".format(side.folder, NOISE)
    if description.mechanism not in MECHANISMS:
        raise NoiseError(
            "{} needs the noise mechanism '{}', this edgecut has {}".format(
                side.folder, description.mechanism, ", ".join(MECHANISMS)
            )
        )
    steps = None if description.wire is None else description.wire.steps
    secret = sticky_secret(side.id, cache) if description.sticky else None
    protector = Protector.load(side.files[NOISE], where, steps, secret)
    noise = protector.noise
    at_input = noise.place == "input"
    if at_input and description.input.dtype != "float32":
        raise NoiseError(
            "{} is noise for the model's input, which is {}; noise is added to float32, so fit it at the cut".format(
                where, description.input.dtype
            )
        )
    expected = (description.input,) if at_input else description.cut
    if noise.mechanism != description.mechanism or noise.carriers != tuple((t.name, t.shape) for t in expected):
        raise NoiseError(
            "{} is noise of another cut or mechanism than its manifest's; write the bundle again".format(where)
        )
    return protector
