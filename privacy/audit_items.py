"""The items of an audit: their activations through the deployed edge half, and the cloud half's answers to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..models.data import DataSet, to_input
from ..models.quantise import rounded
from ..models.spec import ModelSpec
from ..runtime.accuracy import NoiseAccuracy, count_correct, items_at_once
from ..runtime.halves import Half, check_finite
from .audit_halves import THREADS, Halves
from .audit_settings import AuditSettings
from .audit_stages import Stages
from .observations import Observations, Part

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
TEST_SHARE = 0.25
"""The unseen items' share of the values kept, where not all can be."""


def observe(halves: Halves, data: DataSet, used: AuditSettings, stages: Stages) -> Observations:
    """The activations (for noise at the input, the inputs) of as many items as the memory bound allows.

    Raises DataError where the data does not fit the model, ModelError where an activation is not finite.
    """
    check_labels(data, halves.spec)
    at_input = halves.noise.place == "input"
    width = halves.spec.input.elements if at_input else halves.width
    each = 4 * width + data.x_train[0].nbytes
    most = max(2, used.memory_bytes // each)
    test = min(len(data.x_test), used.test_items or len(data.x_test), max(1, int(most * TEST_SHARE)))
    train = min(len(data.x_train), used.train_items or len(data.x_train), most - test)
    for name, count, whole in (("training", train, len(data.x_train)), ("unseen", test, len(data.x_test))):
        if count < whole:
            stages.notes.append(f"{count:,} of {whole:,} {name} items were used, drawn with the audit's seed")
    generator = np.random.default_rng(used.seed)
    private = data.private
    parts: list[Part] = []
    for x, y, told, count in (
        (data.x_train, data.y_train, None if private is None else private.train, train),
        (data.x_test, data.y_test, None if private is None else private.test, test),
    ):
        # In a drawn order: where less than all is looked at, no class that the data has last may be missed.
        rows = generator.permutation(len(x))[:count]
        images = x[rows]

        def shown(count: int, before: int = sum(part.count for part in parts)) -> None:
            stages.tell("activations", (before + count) / (train + test))

        values = _values(halves, images, width, shown)
        parts.append(Part(images, values, y[rows].astype(np.int64), None if told is None else told[rows]))
    return Observations(
        noise=halves.noise,
        train=parts[0],
        test=parts[1],
        names=halves.names,
        shapes=halves.shapes,
        seed=used.seed,
        edge=halves.of_flat if at_input else None,
        restore=None if halves.restore is None else halves.restored,
        restored_shapes=halves.restored_shapes,
    )


def check_labels(data: DataSet, spec: ModelSpec) -> None:
    """Raise DataError for a label that the model has no class for."""
    largest, classes = max(int(data.y_train.max()), int(data.y_test.max())), spec.output.elements
    if largest >= classes:
        raise DataError(f"{data.name} has a label {largest}, but {spec.name} has {classes} classes; give its data")


def _values(halves: Halves, images: Array, width: int, told: Callable[[int], None]) -> Floats:
    values, chunk = np.empty((len(images), width), np.float32), items_at_once(halves.spec)
    for start in range(0, len(images), chunk):
        inputs = to_input(images[start : start + chunk], halves.spec)
        if halves.noise.place == "input":
            if inputs.dtype != np.float32:
                raise DataError(
                    f"noise at the input needs a float32 input, and {halves.spec.name} takes {inputs.dtype}"
                )
            piece = inputs.reshape(len(inputs), -1)
        else:
            piece = halves.flat(inputs)
            check_finite([piece], halves.spec.name)
        values[start : start + len(piece)] = piece
        told(start + len(piece))
    return values


def accuracy_of(halves: Halves, seen: Observations, data: DataSet, used: AuditSettings) -> NoiseAccuracy:
    """The bundle's own figure where it was measured on the same unseen items, else through the halves here."""
    stated = halves.accuracy
    if stated is not None and stated.data == data.name and stated.without.total == len(data.x_test):
        return stated
    cloud, clean_cloud = Half(halves.cloud, THREADS), Half(halves.clean_cloud, THREADS)
    mapped = halves.clean_cloud is not halves.cloud
    clean = noisy = 0
    chunk = items_at_once(halves.spec)
    for start in range(0, seen.test.count, chunk):
        rows = np.arange(start, min(start + chunk, seen.test.count))
        labels = seen.test.labels[rows]
        whole = unprotected(halves, seen, rows)
        clean += count_correct(clean_cloud(_tensors(whole, halves.shapes if mapped else halves.sent_shapes))[0], labels)
        for draw in range(used.accuracy_draws):
            sent = _tensors(seen.sent("test", rows, "accuracy", draw), halves.sent_shapes)
            if halves.steps:
                sent = [rounded(part, step) for part, step in zip(sent, halves.steps, strict=True)]
            noisy += count_correct(cloud(sent)[0], labels)
    return NoiseAccuracy.of(data.name, clean, noisy, seen.test.count, used.accuracy_draws)


def unprotected(halves: Halves, seen: Observations, rows: npt.NDArray[np.int64]) -> Floats:
    """The cut's activations without noise."""
    values = seen.test.values[rows]
    return halves.of_flat(values) if halves.noise.place == "input" else values


def _tensors(flat: Floats, shapes: tuple[tuple[int, ...], ...]) -> list[Array]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    parts = np.split(flat, ends, axis=1)
    return [np.ascontiguousarray(part).reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
