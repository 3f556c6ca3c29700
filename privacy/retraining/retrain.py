"""`edgecut retrain`: a network of one's own with other weights, so that its activations at a cut say less.

scrunch (anonymous, ICLR 2023 submission): lambda * centre loss at the cut + (1 - lambda) * cross-entropy, so that
items of one public class become alike at the cut. The edge partition follows both losses, the cloud partition the
cross-entropy alone, as the centre loss does not reach it.
dpfe (Osia et al. 2018): an autoencoder at the cut, and in the centre loss's place a contrastive loss on private labels,
which the user has to name. All weights are trained.

The result is an ordinary ONNX file with the old names, which everything else takes as any model. Neither method adds
noise; `edgecut learn` can, on top. With one seed, on one machine and with the same versions, it is the same file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ...artefacts import check_output, digest, write_bytes
from ...errors import DataError, ModelError
from ...models.catalogue import CATALOGUE
from ...models.data import DataSet, load_data, to_input
from ...models.graph import ModelGraph
from ...models.load import Model, load_model
from ...models.session import open_session
from ...models.spec import CutSpec, ModelSpec
from ...models.split import halves
from ...models.training import one_thread
from ...runtime.accuracy import Accuracy, chunk_of, count_correct
from ..private import classes_of
from .bottleneck import CODE, inserted, principal
from .losses import Centres, class_means, contrastive
from .result import Epoch, Retrained, Spread
from .settings import RetrainSettings, check_method
from .trainable import Network, network, opened, retrained

Array = npt.NDArray[Any]
Progress = Callable[[str, float], None]
LOOKED_AT = 4000
"""Training items that the first centres and the autoencoder are taken from."""


def retrain(
    model: str | Model,
    *,
    cut: str,
    method: str,
    data: str | DataSet | None = None,
    private: str | None = None,
    settings: RetrainSettings | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Retrained:
    """Retrain a network for a cut, and write it to `output` (an .onnx file) where given.

    `private` names the labels that dpfe hides. Raises DataError without labelled data of two classes or more,
    ModelError for a network that torch cannot run, EdgecutError for settings that cannot be.
    """
    began = time.perf_counter()
    used, tell = settings or RetrainSettings(), progress or (lambda *_: None)
    used.check()
    check_method(method)
    if output is not None:
        check_output(output)
    loaded = _model(model, data if isinstance(data, str) else None, used, tell)
    labelled = _data(loaded, data, private, method)
    with one_thread():
        made, raw, difference, epochs = _trained(loaded, cut, labelled, method, used, tell)
    if output is not None:
        write_bytes(output, raw)
    before, watched = loaded.spec.cut(cut), _Task.of(labelled, loaded.spec, used).watched
    return Retrained(
        method=method,
        model_name=loaded.spec.name,
        digest_before=loaded.spec.digest,
        digest_after=digest(raw),
        cut_before=cut,
        cut=made.cut.name,
        values_before=before.elements,
        values_sent=made.cut.elements,
        data=labelled.name,
        private=labelled.private.name if labelled.private is not None else None,
        weight=used.weight,
        learning_rate=used.learning_rate,
        batch=used.batch,
        seed=used.seed,
        before=_accuracy(loaded.read(), loaded.spec, labelled.x_test, labelled.y_test),
        after=_accuracy(raw, loaded.spec, labelled.x_test, labelled.y_test),
        watched_before=_accuracy(loaded.read(), loaded.spec, labelled.x_train[watched], labelled.y_train[watched])
        if len(watched)
        else None,
        spread_before=_spread(loaded.graph, before, labelled),
        spread_after=_spread(opened(raw, loaded.spec.name), made.cut, labelled),
        epochs=epochs,
        changed=sum(value.numel() for value in made.weights.values()),
        added=made.parameters - sum(layer.parameters for layer in loaded.spec.layers),
        edge=made.edge,
        parameters=made.parameters,
        difference=difference,
        seconds=time.perf_counter() - began,
    )


def _model(model: str | Model, data: str | None, settings: RetrainSettings, tell: Progress) -> Model:
    if isinstance(model, Model):
        loaded = model
    else:
        loaded = load_model(model, data=data, progress=lambda i, n, text: tell(f"training the network, {text}", i / n))
    if loaded.spec.batch is not None:
        raise ModelError(
            f"{loaded.spec.name} was exported with a fixed batch of {loaded.spec.batch}, but training takes batches of "
            f"{settings.batch}; export it with a free batch dimension"
        )
    return loaded


def _data(model: Model, source: str | DataSet | None, private: str | None, method: str) -> DataSet:
    if isinstance(source, DataSet):
        data = source
    else:
        known = CATALOGUE[model.spec.name].data if model.spec.name in CATALOGUE else None
        if source is None and known is None:
            raise DataError(f"retraining {model.spec.name} needs labelled data; give --data FILE.npz")
        data = load_data(source or known or "", private)
    if method == "dpfe":
        if data.private is None:
            raise DataError("dpfe hides labels that it is told; name them with --private NAME (NAME_train, NAME_test)")
        classes_of(data.private)
    if len(np.unique(data.y_train)) < 2:
        raise DataError(f"all labels of {data.name} are the same, so there is nothing to train; give other data")
    largest, classes = max(int(data.y_train.max()), int(data.y_test.max())), model.spec.output.elements
    if largest >= classes:
        raise DataError(f"{data.name} has a label {largest}, but {model.spec.name} has {classes} classes")
    if len(data.x_train) < 4:
        raise DataError(f"{data.name} has {len(data.x_train)} items to train with; give more")
    return data


def _trained(
    model: Model, cut: str, data: DataSet, method: str, settings: RetrainSettings, tell: Progress
) -> tuple[Network, bytes, float, tuple[Epoch, ...]]:
    chosen = model.spec.cut(cut)
    task = _Task.of(data, model.spec, settings)
    made = network(model.graph, chosen)
    if method == "dpfe":
        start = principal(_activations(made, task), settings.bottleneck)
        raw = inserted(model.graph, chosen, start).SerializeToString()
        graph = opened(raw, model.spec.name)
        made = network(graph, graph.spec().cut(CODE))
    epochs = tuple(_epochs(made, task, method, settings, tell))
    raw, difference = retrained(made)
    return made, raw, difference, epochs


@dataclass(frozen=True)
class _Task:
    """Items by number: those that are trained on, and those that are only watched."""

    data: DataSet
    spec: ModelSpec
    train: npt.NDArray[np.int64]
    watched: npt.NDArray[np.int64]

    @classmethod
    def of(cls, data: DataSet, spec: ModelSpec, settings: RetrainSettings) -> _Task:
        order = np.random.default_rng(settings.seed).permutation(len(data.x_train))
        watched = min(int(settings.hold_out * len(order)), len(order) - 2)
        return cls(data, spec, order[watched:], order[:watched])

    def inputs(self, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """What the network takes, for some training items."""
        return torch.from_numpy(to_input(self.data.x_train[rows], self.spec))

    def labels(self, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Their public labels."""
        return torch.from_numpy(self.data.y_train[rows].astype(np.int64))


def _activations(made: Network, task: _Task) -> npt.NDArray[np.float32]:
    rows, chunk = task.train[:LOOKED_AT], chunk_of(task.spec)
    with torch.no_grad():
        parts = [made(task.inputs(rows[i : i + chunk]))[1] for i in range(0, len(rows), chunk)]
    return torch.cat(parts).numpy()


Loss = Callable[[torch.Tensor, npt.NDArray[np.int64]], torch.Tensor]


def _privacy_loss(made: Network, task: _Task, method: str, settings: RetrainSettings) -> Loss:
    """The loss of a batch's flat activations and its items' numbers."""
    if method == "dpfe":
        assert task.data.private is not None
        hidden = torch.from_numpy(task.data.private.train)
        return lambda flat, rows: contrastive(flat, hidden[torch.from_numpy(rows)], settings.margin)
    looked_at = torch.from_numpy(_activations(made, task))
    start = class_means(looked_at, task.labels(task.train[:LOOKED_AT]), task.spec.output.elements)
    centres = Centres(start, settings.centre_rate)

    def centre_loss(flat: torch.Tensor, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        labels = task.labels(rows)
        centres.follow(flat.detach(), labels)  # before the loss, as the paper has it
        return centres.loss(flat, labels)

    return centre_loss


def _epochs(made: Network, task: _Task, method: str, settings: RetrainSettings, tell: Progress) -> Iterator[Epoch]:
    """Train epoch by epoch; each is told of as soon as it is done."""
    privacy = _privacy_loss(made, task, method, settings)
    optimiser = torch.optim.Adam(list(made.weights.values()), lr=settings.learning_rate, foreach=False)
    order = np.random.default_rng((settings.seed, 1))
    # A last batch of one has no pairs.
    starts = [start for start in range(0, len(task.train), settings.batch) if start + 1 < len(task.train)]
    for epoch in range(settings.epochs):
        shuffled, sums = order.permutation(task.train), np.zeros(2)
        for step, start in enumerate(starts):
            rows = shuffled[start : start + settings.batch]
            logits, flat = made(task.inputs(rows))
            losses = functional.cross_entropy(logits, task.labels(rows)), privacy(flat, rows)
            total = (1 - settings.weight) * losses[0] + settings.weight * losses[1]
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            found = np.array([loss.item() for loss in losses])
            sums += found
            if step % 20 == 0:
                done = (epoch + step / len(starts)) / settings.epochs
                tell(f"epoch {epoch + 1}, cross-entropy {found[0]:.3f}, {method} {found[1]:.3f}", done)
        if not np.isfinite(sums).all():
            raise ModelError("the training diverged; give a smaller --learning-rate or --lambda")
        yield Epoch(
            cross_entropy=float(sums[0]) / len(starts),
            privacy_loss=float(sums[1]) / len(starts),
            held_out=_watched(made, task),
        )


def _watched(made: Network, task: _Task) -> Accuracy | None:
    if not len(task.watched):
        return None
    chunk, right = chunk_of(task.spec), 0
    with torch.no_grad():
        for start in range(0, len(task.watched), chunk):
            rows = task.watched[start : start + chunk]
            right += count_correct(made(task.inputs(rows))[0].numpy(), task.data.y_train[rows])
    return Accuracy.of(right, len(task.watched))


def _accuracy(raw: bytes, spec: ModelSpec, items: Array, labels: Array) -> Accuracy:
    logits = _run(raw, spec, items, [spec.output.name])[0]
    return Accuracy.of(count_correct(logits, labels), len(items))


def _spread(graph: ModelGraph, cut: CutSpec, data: DataSet) -> Spread:
    """Over unseen items; see `Spread`."""
    items, labels = data.x_test[:LOOKED_AT], data.y_test[:LOOKED_AT]
    raw = halves(graph, cut)[0].SerializeToString()
    parts = _run(raw, graph.spec(), items, [tensor.name for tensor in cut.tensors])
    return spread_of(np.concatenate([part.reshape(len(items), -1) for part in parts], axis=1), labels)


def spread_of(activations: Array, labels: Array) -> Spread:
    """How far flat activations [items, n] lie from the mean of their class, and from the mean of all."""
    values = activations.astype(np.float64)
    own = np.zeros_like(values)
    for label in np.unique(labels):
        own[labels == label] = values[labels == label].mean(0)
    within = float(((values - own) ** 2).sum(1).mean())
    total = float(((values - values.mean(0)) ** 2).sum(1).mean())
    return Spread(within=within, share=within / total if total > 0 else 1.0)


def _run(raw: bytes, spec: ModelSpec, items: Array, names: list[str]) -> list[Array]:
    session, chunk = open_session(raw), chunk_of(spec)
    found = [
        session.run(names, {spec.input.name: to_input(items[i : i + chunk], spec)}) for i in range(0, len(items), chunk)
    ]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]
