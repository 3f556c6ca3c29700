"""What every stage of learning shares: the frozen halves, the activations and labels, and how accuracy is counted."""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..models.data import DataSet, to_input
from ..models.load import Model
from ..models.spec import CutSpec
from ..models.split import halves
from ..models.twin import suffix_of
from ..noise_kernels.collection import NoiseCollection
from ..noise_kernels.mechanism import Noise as AnyNoise
from ..runtime.accuracy import NoiseAccuracy
from ..runtime.bundle import DRAWS
from .activations import CloudPart, EdgePart, Rows, deviation_of, keep_rows
from .cloud import Cloud, cloud_of
from .gates import Answer, Noise, after_noise, carried, count_right, gate_key, noise_from, replayed
from .optimise import Aim, Task
from .private import classes_of, train_private
from .result import PrivateTask
from .search import Trial
from .settings import FitSettings, Settings
from .stages import Stages

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
HELD_MOST = 5000
"""A loss of 1.5 points on so many items is known to about half a point; more items would only take longer."""
HELD_DRAWS = 4
HELD_BYTES = 512 << 20
TRAINING_SAMPLE = 5000


class Bench:
    """The frozen halves, the activations and the labels that every stage shares."""

    def __init__(
        self,
        model: Model,
        cut: CutSpec,
        data: DataSet,
        settings: Settings | FitSettings,
        stages: Stages,
        scratch: Path,
    ) -> None:
        self.model, self.cut, self.data, self.settings, self.stages = model, cut, data, settings, stages
        self.scratch = scratch
        # One after the other, and the cloud's session not before a gate needs it: of a large network each takes several
        # times the weights' size.
        self.suffix = suffix_of(model, cut)
        self.edge = EdgePart(model, halves(model.graph, cut)[0].SerializeToString(), cut)
        self.cloud = cloud_of(self.suffix, cut)
        self.private_cloud: Cloud | None = None
        order = np.random.default_rng(settings.seed).permutation(len(data.x_train))
        held = min(HELD_MOST, max(1, int(len(order) * settings.hold_out)))
        self.held_items, self.items = np.sort(order[:held]), np.sort(order[held:])
        stages.start("activations")
        self.held = self._activations("held", data.x_train, self.held_items, None, HELD_BYTES)
        self.deviation = deviation_of(self.held, cut, self.edge.chunk)

    def release(self) -> None:
        """Let go of what learning alone needs; of a large network it is as large as the session that judges."""
        del self.suffix, self.cloud
        gc.collect()  # torch's graphs refer to themselves

    @functools.cached_property
    def answer(self) -> CloudPart:
        """The cloud partition as it is deployed."""
        return CloudPart(halves(self.model.graph, self.cut)[1].SerializeToString(), self.cut)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Of the training items without the hold-out."""
        return self.data.y_train[self.items].astype(np.int64)

    def training(self, most: int | None = None, memory_bytes: int | None = None) -> Rows:
        """The activations of the training items without the hold-out, or of the first `most` of them in random order.

        The items in `most` are those of `self.sample(most)`.
        """
        if most is None:
            return self._activations("raw", self.data.x_train, self.items, None, memory_bytes)
        chosen = self.items[self.sample(most)]
        return self._activations(f"raw-{most}", self.data.x_train, chosen, None, memory_bytes)

    def sample(self, most: int) -> npt.NDArray[np.int64]:
        """Places of `most` of the training items at random, or of all where there are fewer."""
        chosen = np.random.default_rng([self.settings.seed, most]).permutation(len(self.items))[:most]
        return np.sort(chosen)

    def inputs(self, places: npt.NDArray[np.int64]) -> Floats:
        """The model's inputs, flat, of the training items without the hold-out at these places."""
        return _flat_inputs(self.data.x_train[self.items[places]], self.model)

    def aim(self, used: Settings) -> Aim:
        """What the descents need: the heads' results of the training items, and where the scale is steered."""
        private = self.data.private
        labels = torch.from_numpy(self.labels)
        task = None
        if private is None:
            rows = self._activations("training", self.data.x_train, self.items, self.cloud)
        else:
            classes = classes_of(private)
            raw = self._activations("raw", self.data.x_train, self.items, None)
            self.stages.start("private")
            told = private.train[self.items]
            classifier = train_private(
                self.suffix,
                self.cut,
                raw,
                told,
                classes,
                used.seed,
                lambda share, accuracy: self.stages.tell(
                    f"training a classifier of '{private.name}', accuracy {accuracy:.1%}", share
                ),
            )
            self.private_cloud = cloud_of(classifier, self.cut)
            rows = self._heads("training", raw, self.cloud)
            task = Task(self.private_cloud, self._heads("private", raw, self.private_cloud), torch.from_numpy(told))
        public = Task(self.cloud, rows, labels)
        wanted = None
        if used.scale is None:
            wanted = _clean_accuracy(public, self.edge.chunk) - used.max_accuracy_loss / 100
        return Aim(used, public, task, self.deviation, wanted)

    def _activations(
        self, name: str, items: Array, chosen: Array, cloud: Cloud | None, memory_bytes: int | None = None
    ) -> Rows:
        """Activations of some items, or what a head makes of them."""

        def make(rows: npt.NDArray[np.int64]) -> Floats:
            flat = self.edge(items[chosen[rows]])
            return flat if cloud is None or not cloud.hoisted else _head(cloud, torch.from_numpy(flat))

        width = self.cut.elements if cloud is None else cloud.width
        return self._keep(name, make, len(chosen), width, memory_bytes)

    def _heads(self, name: str, raw: Rows, cloud: Cloud) -> Rows:
        """What a head makes of activations that are there already."""
        if not cloud.hoisted:
            return raw
        return self._keep(name, lambda rows: _head(cloud, raw.take(torch.from_numpy(rows))), raw.count, cloud.width)

    def _keep(self, name: str, make: Any, count: int, width: int, memory_bytes: int | None = None) -> Rows:
        def told(done: int, of: int) -> None:
            self.stages.tell(f"activations of {of:,} items ({name})", done / of)

        file = self.scratch / f"{name}.f32"
        return keep_rows(make, count, width, file, self.edge.chunk, told, memory_bytes)

    def trial(self, unit: AnyNoise) -> Trial:
        """The hold-out under noise of any scale."""
        labels = self.data.y_train[self.held_items].astype(np.int64)
        heads = self._heads("held-heads", self.held, self.cloud)
        return Trial(self.cloud, heads, labels, unit, self._key("hold-out"), HELD_DRAWS, self.edge.chunk)

    @functools.cached_property
    def _held_clean(self) -> int:
        """Right answers on the hold-out without a mechanism."""
        return self._right(self.held, (self.data.y_train[self.held_items],), (self.answer,), None, 1)[0]

    def on_hold_out(self, noise: AnyNoise) -> NoiseAccuracy:
        """Accuracy of sampled noise on the hold-out, through the halves that are deployed."""
        self.stages.start("gates")
        return self.tried(noise)

    def tried(self, noise: AnyNoise) -> NoiseAccuracy:
        """`on_hold_out` within the stage that is on, as a search tries a mechanism."""
        labels = self.data.y_train[self.held_items]
        count = len(labels)
        rows = self.held if noise.place == "cut" else self._inputs(self.data.x_train, self.held_items)
        draws = HELD_DRAWS if np.isfinite(noise.entropy_nats) else 1
        noisy = self._noisy(rows, (labels,), (self.answer,), noise, "hold-out", draws)[0]
        return NoiseAccuracy.of("hold-out", self._held_clean, noisy, count, draws)

    def on_unseen(
        self, noise: AnyNoise, tensors: Floats | None = None
    ) -> tuple[NoiseAccuracy, NoiseAccuracy | None, PrivateTask | None]:
        """Accuracy on the test part: of sampled noise, of the learned tensors replayed, and of the private task."""
        self.stages.start("test")
        data, count, private = self.data, len(self.data.x_test), self.data.private
        rows = self._activations("unseen", data.x_test, np.arange(count), None, HELD_BYTES)
        labels: tuple[Array, ...] = (data.y_test,)
        answers: tuple[Answer, ...] = (self.answer,)
        if private is not None and self.private_cloud is not None:
            labels, answers = (data.y_test, private.test), (self.answer, _torch_answer(self.private_cloud))
        clean = self._right(rows, labels, answers, None, 1)
        noised = rows if noise.place == "cut" else self._inputs(data.x_test, np.arange(count))
        draws = DRAWS if np.isfinite(noise.entropy_nats) else 1
        noisy = self._noisy(noised, labels, answers, noise, "unseen", draws)
        made = [NoiseAccuracy.of(data.name, c, n, count, draws) for c, n in zip(clean, noisy, strict=True)]
        replay = None
        if tensors is not None:
            again = self._right(rows, labels[:1], answers[:1], replayed(tensors, self._key("replay")), DRAWS)
            replay = NoiseAccuracy.of(data.name, clean[0], again[0], count, DRAWS)
        task = None
        if private is not None and len(made) == 2:
            share = float(np.bincount(private.test).max() / count)
            task = PrivateTask(name=private.name, classes=classes_of(private), most_frequent=share, accuracy=made[1])
        return made[0], replay, task

    def _inputs(self, items: Array, chosen: Array) -> Rows:
        """The model's inputs, flat, made anew whenever they are needed."""
        width = self.model.spec.input.elements
        return Rows(len(chosen), width, "nowhere", lambda rows: _flat_inputs(items[chosen[rows]], self.model))

    def _noisy(
        self,
        rows: Rows,
        labels: tuple[Array, ...],
        answers: tuple[Answer, ...],
        noise: AnyNoise,
        purpose: str,
        draws: int,
    ) -> list[int]:
        """Right answers under a mechanism; `rows` are what it was fitted to, the cut's values or the model's inputs."""
        chained = tuple(after_noise(noise, self._edge_of_flat, answer) for answer in answers)
        drawn = noise_from(noise, self._key(purpose), rows.count)
        sent = Rows(
            rows.count, noise.values, "nowhere", lambda at: carried(noise, rows.take(torch.from_numpy(at)).numpy())
        )
        return self._right(sent, labels, chained, drawn, draws)

    def _edge_of_flat(self, inputs: Floats) -> Floats:
        return self.edge(inputs.reshape(-1, *self.model.spec.input.shape))

    def _right(
        self, rows: Rows, labels: tuple[Array, ...], answers: tuple[Answer, ...], noise: Noise | None, draws: int
    ) -> list[int]:
        def batches() -> Iterator[tuple[Floats, tuple[Array, ...]]]:
            for first, flat in rows.chunks(self.edge.chunk):
                self.stages.tell(f"accuracy on {rows.count:,} items", first / rows.count)
                yield flat.numpy(), tuple(part[first : first + len(flat)] for part in labels)

        return count_right(batches(), answers, noise, draws)

    def _key(self, purpose: str) -> bytes:
        return gate_key(self.settings.seed, purpose)

    def collection(self, loc: Array, scale: Array, orders: Array) -> NoiseCollection:
        """What is kept of what was learned."""
        return NoiseCollection(
            loc=loc.astype(np.float32),
            scale=scale.astype(np.float32),
            orders=orders,
            tensors=[(tensor.name, tensor.shape) for tensor in self.cut.tensors],
            model_digest=self.model.spec.digest,
            cut=self.cut.name,
        )


def _flat_inputs(items: Array, model: Model) -> Floats:
    made: Floats = np.ascontiguousarray(to_input(items, model.spec).reshape(len(items), -1), np.float32)
    return made


def _head(cloud: Cloud, flat: torch.Tensor) -> Floats:
    with torch.no_grad():
        made: Floats = cloud.head(flat).numpy()
    return made


def _torch_answer(cloud: Cloud) -> Answer:
    def answer(flat: Floats) -> Array:
        with torch.no_grad():
            logits: Array = cloud.logits(torch.from_numpy(flat)).numpy()
        return logits

    return answer


def _clean_accuracy(task: Task, chunk: int) -> float:
    """Without noise, on so many of the training items that it is known to a tenth of a point or two."""
    count, right = min(TRAINING_SAMPLE, task.rows.count), 0
    with torch.no_grad():
        for start in range(0, count, chunk):
            rows = torch.arange(start, min(start + chunk, count))
            right += int((task.cloud.rest(task.rows.take(rows)).argmax(1) == task.labels[rows]).sum())
    return right / count
