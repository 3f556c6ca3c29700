"""Training a named network on its data, seeded: the same machine and versions give the same weights.

A network without data gets seeded weights all the same (`untrained`), for profiles and plans.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..errors import DataError
from .catalogue import Entry
from .data import Array, DataSet, as_pixels, scale_pixels

if TYPE_CHECKING:
    Progress = Callable[[int, int, str], None]

BATCH = 64
IMAGES_SEEN = 160_000
"""Images or texts shown in all, however large the set, where the catalogue says nothing.

Well below a minute for LeNet-5 on one core.
"""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch to one thread, then give it back its own number.

    Layers as small as these gain little from a second one, and lose tenfold on a busy machine, where the threads wait
    for each other at every operator. It also makes sums, and so the weights, the same on every run.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def train(entry: Entry, data: DataSet, seed: int, progress: Progress) -> tuple[nn.Module, float]:
    """Train and return the network and its accuracy on the test part.

    Adam with a one-cycle rate on images shifted by up to two pixels, or on texts as they are; the catalogue says for
    how long. Raises DataError when the data does not fit the network or the accuracy stays below the catalogue's least,
    if it has one.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x, y = _tensors(entry, data.x_train, data.y_train)
    model = entry.build()
    _check_labels(model, x, y, data.name)
    steps = max(1, min(entry.items_seen or IMAGES_SEEN, 40 * len(x)) // BATCH)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=entry.rate, total_steps=steps)
    order = torch.empty(0, dtype=torch.long)
    model.train()
    for step in range(steps):
        if len(order) < BATCH:
            order = torch.randperm(len(x), generator=generator)
        rows, order = order[:BATCH], order[BATCH:]
        batch = _varied(entry, x[rows], generator)
        loss = functional.cross_entropy(model(batch), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            progress(step + 1, steps, f"loss {loss.item():.3f}")
    model.eval()
    accuracy = _accuracy(model, *_tensors(entry, data.x_test, data.y_test))
    if entry.least_accuracy is not None and accuracy < entry.least_accuracy:
        raise DataError(
            f"{entry.title} reached only {accuracy:.1%} on {data.name}'s test part, where {entry.least_accuracy:.0%} "
            "is expected; check the labels, or give more data"
        )
    return model, accuracy


@one_thread()
def untrained(entry: Entry, seed: int) -> nn.Module:
    """The network in evaluation mode with the weights it would start training from."""
    torch.manual_seed(seed)
    return entry.build().eval()


def _tensors(entry: Entry, inputs: Array, labels: Array) -> tuple[torch.Tensor, torch.Tensor]:
    if entry.pixels is None:
        values = _token_ids(entry, inputs)
    else:
        values = scale_pixels(as_pixels(inputs, entry.input_shape), entry.pixels)
    return torch.from_numpy(values), torch.from_numpy(labels.astype(np.int64))


def _token_ids(entry: Entry, texts: Array) -> Array:
    length, vocabulary = entry.input_shape[0], entry.vocabulary or 0
    if not np.issubdtype(texts.dtype, np.integer) or texts.shape[1:] != (length,):
        raise DataError(f"texts must be integer token ids [texts, {length}], not {texts.dtype} {list(texts.shape)}")
    least, most = int(texts.min()), int(texts.max())
    if least < 0 or most >= vocabulary:
        raise DataError(
            f"token ids must be from 0 to {vocabulary - 1}, not from {least} to {most}; map rare words to one"
        )
    return texts.astype(np.int64)


def _check_labels(model: nn.Module, x: torch.Tensor, y: torch.Tensor, name: str) -> None:
    model.eval()  # batch normalisation learns from one item nothing but noise
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    if int(y.max()) >= classes:
        raise DataError(f"{name} has a label {int(y.max())}, but the network has {classes} classes")


def _varied(entry: Entry, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The batch as it is shown: images each time a little different, so that little is learned by heart."""
    if entry.pixels is None:
        return batch
    down, right = (int(v) for v in torch.randint(-2, 3, (2,), generator=generator))
    batch = torch.roll(batch, (down, right), (2, 3))
    if entry.mirrored:
        chosen = torch.rand((len(batch), 1, 1, 1), generator=generator) < 0.5
        batch = torch.where(chosen, batch.flip(3), batch)
    return batch


def _accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
        right = sum(int((model(inputs).argmax(1) == labels).sum()) for inputs, labels in parts)
    return right / len(x)
