"""What the timing loop runs: sub-models opened in groups that fit into memory, and noise of the cuts' sizes."""

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..noise_kernels.collection import NoiseCollection
from ..noise_kernels.randomness import NoiseStream
from ..noise_kernels.sampler import sample_batch
from .backends import BackendError, Runner, Settings
from .kit import Kit, Part, feed
from .timing import Task

SESSION_FACTOR = 2
"""Memory of an opened sub-model over its weights: they, and the copies that a runtime rearranges."""
SESSION_BYTES = 30 * 1024 * 1024
"""And what it takes beside them."""
SHARE = 0.8
"""Of the memory that is free, what a group may take."""
WHOLE = "whole"


def group(parts: Sequence[Part], free_bytes: Optional[int]) -> List[List[Part]]:
    """Parts in groups that fit into memory together; the whole model is in each, to tell drift between them.

    Raises BackendError where a part does not fit even alone.
    """
    if free_bytes is None:
        return [list(parts)]
    room = int(SHARE * free_bytes)
    whole = [part for part in parts if part.name == WHOLE]
    base = sum(_memory(part) for part in whole)
    groups, used = [list(whole)], base
    for part in parts:
        if part.name == WHOLE:
            continue
        needed = _memory(part)
        if base + needed > room:
            raise BackendError(
                "{} and the whole model need about {:.1f} GB together, and {:.1f} GB are free; close other programs, "
                "or profile a smaller model".format(part.name, (base + needed) / 1e9, free_bytes / 1e9)
            )
        if used + needed > room:
            groups.append(list(whole))
            used = base
        groups[-1].append(part)
        used += needed
    return groups


def _memory(part: Part) -> int:
    return SESSION_FACTOR * part.weight_bytes + SESSION_BYTES


def open_parts(
    kit: Kit, parts: Sequence[Part], backend: Any, settings: Settings, tell: Callable[[str], None]
) -> Dict[str, Runner]:
    """Open sub-models; where one fails, those before it are closed."""
    opened = {}  # type: Dict[str, Runner]
    try:
        for part in parts:
            tell(part.name)
            opened[part.name] = backend.open_runner(_path(kit, part), feed(part), settings)
    except BaseException:
        close_all(opened)
        raise
    return opened


def _path(kit: Kit, part: Part) -> str:
    return "{}/{}".format(kit.folder, part.file)


def close_all(runners: Dict[str, Runner]) -> None:
    """Close what is open."""
    for runner in runners.values():
        runner.close()


def noise_tasks(elements: int) -> Tuple[Task, Task]:
    """Making and adding noise of a size; what was learned does not change how long either takes."""
    generator = np.random.RandomState(0)
    collection = NoiseCollection(
        loc=np.zeros(1, np.float32),
        scale=np.ones(1, np.float32),
        orders=generator.permutation(elements)[None],
        tensors=(("noise", (elements,)),),
        model_digest="sha256:" + "0" * 64,
        cut="noise",
    )
    stream = NoiseStream()
    activation = generator.standard_normal((1, elements)).astype(np.float32)
    drawn = sample_batch(collection, stream, 1)
    return (lambda: sample_batch(collection, stream, 1)), (lambda: activation + drawn)
