"""The backend that measures with ONNX Runtime on this machine's processor.

Makes the sub-models of every cut, opens a session for each, and hands them to the timing loop as tasks called
`whole`, `prefix:CUT`, `suffix:CUT`, `noise:CUT` and `add:CUT`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import psutil

from ..agent.timing import Task
from ..errors import DeviceError
from ..models.graph import ModelGraph
from ..models.load import Model
from ..models.session import open_session, random_feed
from ..models.spec import CutSpec
from ..models.split import check_split, halves
from ..noise_kernels.collection import NoiseCollection
from ..noise_kernels.randomness import NoiseStream
from ..noise_kernels.sampler import sample_batch

NAME = "onnxruntime-cpu"
SESSION_FACTOR = 2
"""Memory of a session over its file: the weights, and the copies the runtime rearranges."""


def tasks(model: Model, threads: int, progress: Callable[[str], None]) -> dict[str, Task]:
    """One task per quantity to be timed. Checks that both halves of every cut equal the whole model.

    Raises DeviceError where the halves of all cuts, which are open together to take turns, would not fit in memory.
    """
    whole = model.read()
    needed, free = SESSION_FACTOR * len(whole) * (len(model.spec.cuts) + 1), psutil.virtual_memory().available
    if needed > free:
        raise DeviceError(
            f"profiling {model.spec.name} keeps the halves of {len(model.spec.cuts)} cuts open, about "
            f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; profile a smaller model, or on a larger machine"
        )
    made = {"whole": _inference(whole, threads)}
    for cut in model.spec.cuts:
        progress(cut.name)
        made.update(_of_cut(model.graph, whole, cut, threads))
    return made


def _of_cut(graph: ModelGraph, whole: bytes, cut: CutSpec, threads: int) -> Iterator[tuple[str, Task]]:
    edge, cloud = (half.SerializeToString() for half in halves(graph, cut))
    check_split(whole, edge, cloud, f"{graph.name} at {cut.name}")
    yield f"prefix:{cut.name}", _inference(edge, threads)
    yield f"suffix:{cut.name}", _inference(cloud, threads)
    noise, add = _noise(cut, graph.digest)
    yield f"noise:{cut.name}", noise
    yield f"add:{cut.name}", add


def _inference(model: bytes, threads: int) -> Task:
    session = open_session(model, threads)
    feed = random_feed(session, 1)
    names = [value.name for value in session.get_outputs()]
    return lambda: session.run(names, feed)


def _noise(cut: CutSpec, model_digest: str) -> tuple[Task, Task]:
    """Making and adding noise of the cut's size; what was learned does not change how long either takes."""
    generator = np.random.default_rng(0)
    collection = NoiseCollection(
        loc=np.zeros(1, np.float32),
        scale=np.ones(1, np.float32),
        orders=generator.permutation(cut.elements)[None],
        tensors=tuple((tensor.name, tensor.shape) for tensor in cut.tensors),
        model_digest=model_digest,
        cut=cut.name,
    )
    stream = NoiseStream()
    activation = generator.standard_normal((1, cut.elements)).astype(np.float32)
    drawn = sample_batch(collection, stream, 1)
    return (lambda: sample_batch(collection, stream, 1)), (lambda: activation + drawn)
