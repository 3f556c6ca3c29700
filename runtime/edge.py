"""The edge session: the edge partition, the noise, and one open channel to the cloud partition.

    infer(x):  [edge partition][add noise][send] ........ wait ........ [answer]
               [draw noise]                      [draw next noise]

The next request's noise is drawn while the current answer is on its way, so that it costs no time unless it takes
longer than the wait; where none is there, as for a batch of another size, it is drawn beside the edge partition. What
leaves this process is the noisy activation and nothing else.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ..artefacts import read_bytes
from ..errors import BundleError, DataError, ServerError
from ..models.data import as_pixels, scale_pixels
from ..models.session import open_session
from .client import CloudClient
from .manifest import EDGE, EDGE_MODEL, MAX_NOISE_BYTES, MECHANISM, NOISE, EdgeManifest
from .protect import Activations, Protector
from .verify import verify, verify_edge

MAX_EDGE_BYTES = 2 * 1024**3


class Trace(NamedTuple):
    """Where one request's time went, in seconds: `add_s` is spent within `edge_s`, `noise_s` within `wait_s`."""

    edge_s: float
    add_s: float
    noise_s: float
    wait_s: float
    total_s: float


class EdgeSession:
    """A bundle's edge side, connected to a server. A context manager; one thread at a time.

    `bundle` is a bundle's folder or its edge side alone; every file is verified first. `slowdown` above 1 holds each
    computation back by that factor, to stand for a slower device. Raises BundleError, DeviceError and ServerError.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        server: str,
        *,
        threads: int = 1,
        timeout_s: float = 10.0,
        slowdown: float = 1.0,
        expect_id: str | None = None,
    ) -> None:
        folder = edge_folder(bundle, expect_id)
        manifest = verify_edge(folder).manifest
        assert isinstance(manifest, EdgeManifest)
        self.manifest = manifest
        self.slowdown = slowdown
        self._session = open_session(read_bytes(folder / EDGE_MODEL, limit=MAX_EDGE_BYTES), threads)
        self._protector = _protector(folder, manifest)
        self._protector.draw_ahead(1)  # looks for a compiled sampler first, or even compiles one
        self._names = [tensor.name for tensor in manifest.cut]
        self._client = CloudClient(server, timeout_s)
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="edgecut-noise")
        self.trace = Trace(0.0, 0.0, 0.0, 0.0, 0.0)
        try:
            self._client.check_model(manifest.model_name, manifest.cut, (manifest.answer,))
        except ServerError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel."""
        self._drawing.shutdown()
        self._client.close()

    def infer(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits float32 [batch, classes] for float32 [batch, ...] inputs, or for uint8 images [batch, H, W(, C)].

        `trace` then holds where the time went. Raises DataError for a wrong shape or dtype and for NaN or infinite
        values, ServerError when the cloud does not answer.
        """
        inputs = check_input(x, self.manifest)
        start = time.perf_counter()
        first = None if self._protector.drawn(len(inputs)) else self._draw(inputs)
        activations = self._activations(inputs)
        if first is not None:
            first.result()
        adding = time.perf_counter()
        noisy = self._protector.add(activations)
        add_s = (time.perf_counter() - adding) * self.slowdown
        edge_s = hold(start, self.slowdown)
        sent = time.perf_counter()
        drawing = self._draw(inputs)
        try:
            answer = self._client.infer(self.manifest.model_name, list(zip(self._names, noisy, strict=True)))
        finally:
            noise_s = drawing.result()
        end = time.perf_counter()
        self.trace = Trace(edge_s, add_s, noise_s, end - sent, end - start)
        return _logits(answer, self.manifest, len(inputs))

    def _draw(self, inputs: npt.NDArray[Any]) -> Future[float]:
        """In a thread of its own, because gRPC's blocking call is faster than its futures and waits without the GIL."""
        return self._drawing.submit(self._draw_ahead, len(inputs))

    def _draw_ahead(self, batch: int) -> float:
        start = time.perf_counter()
        self._protector.draw_ahead(batch)
        return hold(start, self.slowdown)

    def _activations(self, inputs: npt.NDArray[Any]) -> Activations:
        activations: Activations = self._session.run(self._names, {self.manifest.input.name: inputs})
        if not all(np.isfinite(activation).all() for activation in activations):
            raise DataError(
                "the activation at the cut is not finite, so nothing was sent; check the input and the model"
            )
        return activations


def _protector(folder: Path, manifest: EdgeManifest) -> Protector:
    """The noise of an edge side. Raises BundleError where it is of another kind or another cut."""
    path = folder / NOISE
    if manifest.mechanism != MECHANISM:
        raise BundleError(f"{folder} needs the noise mechanism '{manifest.mechanism}', this edgecut has '{MECHANISM}'")
    protector = Protector.load(read_bytes(path, limit=MAX_NOISE_BYTES), str(path))
    if protector.collection.tensors != tuple((tensor.name, tensor.shape) for tensor in manifest.cut):
        raise BundleError(f"{path} is noise of another cut than its manifest's; write the bundle again")
    return protector


def hold(start: float, slowdown: float) -> float:
    """Wait until `slowdown` times the time since `start` has passed; returns the seconds passed in all.

    Sleeps for the most part and spins for the last 0.2 ms, since a sleep overshoots by about a tenth of one.
    """
    due = start + (time.perf_counter() - start) * slowdown
    if slowdown > 1:
        while (left := due - time.perf_counter()) > 0:
            if left > 4e-4:
                time.sleep(left - 2e-4)
    return time.perf_counter() - start


def edge_folder(bundle: str | os.PathLike[str], expect_id: str | None) -> Path:
    """The edge side of a bundle, or the folder itself where it is one. Raises BundleError."""
    found = verify(bundle, expect_id=expect_id)
    if isinstance(found.manifest, EdgeManifest):
        return found.folder
    if not (found.folder / EDGE).is_dir():
        raise BundleError(f"{found.folder} is a cloud side; give the bundle, or its folder {EDGE}")
    return found.folder / EDGE


def check_input(x: npt.NDArray[Any], manifest: EdgeManifest) -> npt.NDArray[np.float32]:
    """What the edge partition takes, float32 [batch, ...], from a model input or images. Raises DataError."""
    wanted = manifest.input
    if x.dtype == np.uint8 and manifest.pixels is not None and x.ndim in (3, 4) and len(x):
        return scale_pixels(as_pixels(x, wanted.shape), manifest.pixels)
    if x.dtype != np.dtype(wanted.dtype) or x.shape[1:] != wanted.shape or not len(x):
        also = " or uint8 images [batch, height, width]" if manifest.pixels else ""
        raise DataError(
            f"the input is {x.dtype} {list(x.shape)}, but {wanted.dtype} [batch, "
            f"{', '.join(map(str, wanted.shape))}]{also} is needed"
        )
    if not np.isfinite(x).all():
        raise DataError("the input holds NaN or infinite values, so nothing was sent; give finite numbers")
    return np.ascontiguousarray(x)


def _logits(answer: dict[str, npt.NDArray[Any]], manifest: EdgeManifest, batch: int) -> npt.NDArray[np.float32]:
    logits = answer.get(manifest.answer.name)
    expected = (batch, *manifest.answer.shape)
    if logits is None or logits.shape != expected or logits.dtype != np.float32:
        raise ServerError(f"the cloud's answer is not float32 {list(expected)} called '{manifest.answer.name}'")
    if not np.isfinite(logits).all():
        raise ServerError("the cloud's answer holds NaN or infinite values; check the server and its model")
    return logits
