"""What halves with a mechanism's map are checked against: the model without it, with NumPy's mapping in between.

A map that drops or shrinks values makes the halves differ from the whole model by design. So first the halves without
it are checked against the whole, then what the mapped ones must give is computed through them and `LinearMap`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..models.load import Model
from ..models.spec import CutSpec
from ..models.split import Run, check_halves
from ..noise_kernels.linear_map import LinearMap
from ..noise_kernels.mechanism import Noise
from .halves import Arrays, Half

Floats = npt.NDArray[np.float32]


def mapped_runs(
    model: Model, cut: CutSpec, noise: Noise, unmapped: tuple[bytes, bytes], runs: Sequence[Run], name: str
) -> list[Run]:
    """The whole model's runs as they are with the noise's map, and without its noise. Raises ModelError as a check of
    the halves does."""
    assert noise.map is not None
    check_halves(runs, *unmapped, name)
    edge, cloud = (Half(half) for half in unmapped)
    made = []
    for feed, _ in runs:
        if noise.place == "input":
            (x,) = feed.values()
            activations = edge([there_and_back([x], noise.map)[0]])
        else:
            activations = there_and_back(edge(list(feed.values())), noise.map)
        made.append((feed, dict(zip((model.spec.output.name,), cloud(activations), strict=True))))
    return made


def check_sent(
    runs: Sequence[Run], unmapped_edge: bytes, mapped_edge: bytes, map: LinearMap, name: str, tolerance: float
) -> None:
    """Raise ModelError unless the mapped edge partition gives what the map makes of the other one's activations.

    The answers alone would not tell whether the noise meets the coordinates that it was fitted to.
    """
    plain, mapped = Half(unmapped_edge), Half(mapped_edge)
    for feed, _ in runs:
        expected = map.sent(flat(plain(list(feed.values()))))
        (got,) = mapped(list(feed.values()))
        difference = float(np.abs(got - expected).max()) if got.shape == expected.shape else np.inf
        if not difference <= tolerance * max(1.0, float(np.abs(expected).max())):
            raise ModelError(
                f"the edge half of {name} sends values that are off by {difference:.3g} from what the mechanism maps "
                "them to; do not deploy it"
            )


def there_and_back(tensors: Arrays, map: LinearMap) -> Arrays:
    """What the map leaves of tensors [batch, ...]."""
    return split(map.restored(map.sent(flat(tensors))), tensors)


def flat(tensors: Arrays) -> Floats:
    """Tensors [batch, ...] side by side, [batch, n]."""
    return np.concatenate([tensor.reshape(len(tensor), -1) for tensor in tensors], axis=1)


def split(rows: Floats, like: Arrays) -> Arrays:
    """[batch, n] as tensors of the shapes that `like` has."""
    ends = np.cumsum([tensor[0].size for tensor in like])
    parts = np.split(rows, ends[:-1], axis=1)
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
