"""`edgecut learn`: the noise collection at a plan's cut, all distributions at once on cached activations.

    loss = cross-entropy(cloud(a + n), label) - alpha * sum |n|          Shredder, equation 4

The network is frozen and the edge activations a never change, so they are computed once; the D noise tensors are
learned side by side, each on its own batches, as one tensor [D, n]. A tenth of the training data is held out: it
decides whether SAMPLED noise, which is what is deployed, is accurate enough, and how large the noise may be.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..artefacts import check_output, write_bytes
from ..errors import DataError, DeviceError, EdgecutError
from ..models.catalogue import CATALOGUE
from ..models.data import DataSet, load_data, to_input
from ..models.load import Model, load_model
from ..models.session import open_session
from ..models.spec import CutSpec
from ..models.split import halves
from ..noise_kernels.collection import NoiseCollection
from ..partitioner.plan import Plan
from ..runtime.accuracy import NoiseAccuracy, count_correct
from ..runtime.bundle import DRAWS, check_same_model
from ..runtime.protect import Protector, noisy_answer
from .fit import Fit, fit
from .settings import Settings

Array = npt.NDArray[Any]
Progress = Callable[[str, float], None]
HOLD_OUT = 0.1
SHRINK = 0.8
"""Factor on the noise scale when the hold-out says the noise costs too much."""
TRIES = 12
MAX_DEVIATION = 1e15


@dataclass(frozen=True)
class Learned:
    """A noise collection, how it was reached, and what it costs on unseen data."""

    collection: NoiseCollection
    accuracy: NoiseAccuracy
    hold_out: NoiseAccuracy
    scale: float
    tries: int
    sse: tuple[float, ...]
    elapsed_s: float


def learn(
    plan: Plan | str | os.PathLike[str],
    *,
    model: str,
    data: str | None = None,
    settings: Settings | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Learned:
    """Learn the noise at the plan's cut and return it, the collection also written to `output` where given.

    The noise scale starts at `settings.scale` and shrinks until sampled noise costs at most
    `settings.max_accuracy_loss` points on the hold-out. Raises DataError without labelled data, ModelError for a
    model without a torch twin, EdgecutError where no scale is accurate enough.
    """
    start = time.perf_counter()
    tell = progress or (lambda *_: None)
    if output is not None:
        check_output(output)
    chosen = plan if isinstance(plan, Plan) else Plan.load(plan)
    cut, used = chosen.cut, settings or Settings()
    used.check()
    loaded = load_model(
        model, data=data, any_cut=not cut.aligned, progress=lambda i, n, text: tell(f"training, {text}", i / n)
    )
    check_same_model(loaded, chosen)
    cut = loaded.spec.cut(cut.name)
    labelled = _data(loaded, data)
    bench = _Bench(loaded, cut, labelled, used.seed)
    collection, hold_out, scale, tries, fits = _search(bench, used, tell)
    accuracy = bench.accuracy(collection, to_input(labelled.x_test, loaded.spec), labelled.y_test, labelled.name)
    if output is not None:
        write_bytes(output, collection.to_bytes())
    return Learned(
        collection=collection,
        accuracy=accuracy,
        hold_out=hold_out,
        scale=scale,
        tries=tries,
        sse=tuple(one.sse for one in fits),
        elapsed_s=time.perf_counter() - start,
    )


def _data(model: Model, source: str | None) -> DataSet:
    named = source or (CATALOGUE[model.spec.name].data if model.spec.name in CATALOGUE else None)
    if named is None:
        raise DataError(f"learning noise for {model.spec.name} needs labelled data; give --data FILE.npz")
    data = load_data(named)
    largest, classes = max(int(data.y_train.max()), int(data.y_test.max())), model.spec.output.elements
    if largest >= classes:
        raise DataError(f"{named} has a label {largest}, but {model.spec.name} has {classes} classes; give its data")
    if len(data.x_train) < 2:
        raise DataError(f"{named} has 1 image to learn from, but some must be held out; give more")
    return data


class _Bench:
    """The frozen halves and the cached activations that every attempt shares."""

    def __init__(self, model: Model, cut: CutSpec, data: DataSet, seed: int) -> None:
        self.model, self.cut = model, cut
        edge, cloud = (half.SerializeToString() for half in halves(model.graph, cut))
        self.edge, self.cloud = open_session(edge, threads=2), open_session(cloud, threads=2)
        order = np.random.default_rng(seed).permutation(len(data.x_train))
        held = max(1, int(len(order) * HOLD_OUT))
        inputs = to_input(data.x_train, model.spec)
        self.held = (inputs[order[:held]], data.y_train[order[:held]])
        self.labels = data.y_train[order[held:]]
        self.activations = self._activations(inputs[order[held:]])
        self.deviation = float(self.activations.std(dtype=np.float64))
        if not 0 < self.deviation < MAX_DEVIATION:
            raise DataError(
                f"the activation after {cut.name} is the same for every input, or too large to add noise to (standard "
                f"deviation {self.deviation:g}); check the data and the model"
            )

    def _activations(self, inputs: Array) -> npt.NDArray[np.float32]:
        names = [tensor.name for tensor in self.cut.tensors]
        source = self.model.spec.input.name
        pieces = []
        for start in range(0, len(inputs), 500):
            parts = self.edge.run(names, {source: inputs[start : start + 500]})
            pieces.append(np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1))
        return np.concatenate(pieces)

    def accuracy(self, collection: NoiseCollection, inputs: Array, labels: Array, name: str) -> NoiseAccuracy:
        """Accuracy without and with freshly sampled noise, `DRAWS` times over."""
        protector = Protector(collection)
        clean = count_correct(lambda x: noisy_answer(self.edge, self.cloud, None, x), inputs, labels)
        noisy = sum(
            count_correct(lambda x: noisy_answer(self.edge, self.cloud, protector, x), inputs, labels)
            for _ in range(DRAWS)
        )
        return NoiseAccuracy.of(name, clean, noisy, len(inputs), DRAWS)

    def collect(self, fits: list[Fit]) -> NoiseCollection:
        """What is kept of the learned tensors."""
        return NoiseCollection(
            loc=np.array([one.loc for one in fits], np.float32),
            scale=np.array([one.scale for one in fits], np.float32),
            orders=np.stack([one.order for one in fits]),
            tensors=[(tensor.name, tensor.shape) for tensor in self.cut.tensors],
            model_digest=self.model.spec.digest,
            cut=self.cut.name,
        )


def _tell(tell: Progress, what: str, share: float, accuracy: float) -> None:
    tell(f"{what}, accuracy {accuracy:.1%}", share)


def _search(
    bench: _Bench, settings: Settings, tell: Progress
) -> tuple[NoiseCollection, NoiseAccuracy, float, int, list[Fit]]:
    """The largest scale of a falling series whose sampled noise stays within the accuracy loss on the hold-out."""
    try:
        from ..models.twin import suffix_of
        from .optimise import learn_tensors
    except ImportError:
        raise DeviceError("learning noise needs torch; install edgecut[torch]") from None
    suffix = suffix_of(bench.model, bench.cut)
    loss = math.inf
    for attempt in range(TRIES):
        scale = settings.scale * SHRINK**attempt
        tensors = learn_tensors(
            suffix,
            bench.cut,
            bench.activations,
            bench.labels,
            settings,
            scale,
            bench.deviation,
            functools.partial(_tell, tell, f"learning {settings.distributions} tensors at scale {scale:.2f}"),
        )
        if not np.isfinite(tensors).all():
            raise EdgecutError("learning left the finite numbers; lower --alpha, or check the data and the model")
        fits = [fit(tensor) for tensor in tensors]
        collection = bench.collect(fits)
        held = bench.accuracy(collection, *bench.held, "hold-out")
        loss = held.loss_points
        if loss <= settings.max_accuracy_loss:
            return collection, held, scale, attempt + 1, fits
    raise EdgecutError(
        f"sampled noise still costs {loss:.2f} points on the hold-out at scale {scale:.2f}, more than the "
        f"{settings.max_accuracy_loss:g} allowed; allow more, start lower (--scale), or choose a deeper cut"
    )
