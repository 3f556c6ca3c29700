"""The map before the noise, against the one dense matrix that it stands for, in float64."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.noise_kernels.linear_map import LinearMap, MapError


def rotation(n: int, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(np.linalg.qr(rng.normal(size=(n, n)))[0], np.float32)


@st.composite
def maps(draw: st.DrawFn) -> LinearMap:
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    n = int(np.prod(shape))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    axes = [rotation(size, rng) if draw(st.booleans()) else None for size in shape]
    index = sorted(draw(st.sets(st.integers(0, n - 1), min_size=1)))
    size: Any = len(index)
    if draw(st.booleans()):
        size = (draw(st.integers(1, 6)), len(index))
    forward, backward = rng.normal(size=size), rng.normal(size=size).T
    return LinearMap(shape, rng.normal(size=n), axes, index, forward, backward)


def dense(change: LinearMap) -> tuple[np.ndarray, np.ndarray]:
    """forward @ selection @ basis [r, n], and the way back [n, r], float64."""
    basis = np.ones((1, 1))
    for size, axis in zip(change.shape, change.axes, strict=True):
        basis = np.kron(basis, np.eye(size) if axis is None else axis.astype(np.float64))
    chosen = np.eye(change.n)[change.index] @ basis
    forward, backward = change.forward.astype(np.float64), change.backward.astype(np.float64)
    if forward.ndim == 1:
        forward, backward = np.diag(forward), np.diag(backward)
    return forward @ chosen, chosen.T @ backward


@settings(max_examples=100, deadline=None)
@given(maps(), st.integers(1, 5))
def test_is_its_dense_matrices(change: LinearMap, items: int) -> None:
    rng = np.random.default_rng(items)
    there, back = dense(change)
    given_, sent = rng.normal(size=(items, change.n)), rng.normal(size=(items, change.values))
    expected = (given_ - change.centre) @ there.T
    found = change.sent(given_)
    assert found.dtype == np.float32 and found.flags.c_contiguous and found.shape == (items, change.values)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    found = change.restored(sent)
    assert found.dtype == np.float32 and found.flags.c_contiguous and found.shape == (items, change.n)
    np.testing.assert_allclose(found, sent @ back.T + change.centre, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(maps())
def test_there_and_back_through_a_file(change: LinearMap) -> None:
    again = LinearMap.of(change.described(), change.members())
    given_ = np.random.default_rng(0).normal(size=(2, change.n)).astype(np.float32)
    assert again.described() == change.described() and again.sent(given_).tobytes() == change.sent(given_).tobytes()
    assert all((again.members()[name] == array).all() for name, array in change.members().items())
    assert json.loads(json.dumps(change.described())) == change.described()  # it goes into a header


def test_keeping_everything_gives_everything_back() -> None:
    """An orthonormal basis without a shrink is undone; a dropped coordinate comes back at the centre."""
    rng = np.random.default_rng(1)
    axes, centre = [rotation(3, rng), rotation(4, rng)], rng.normal(size=12)
    given_ = rng.normal(size=(5, 12)).astype(np.float32)
    whole = LinearMap((3, 4), centre, axes, np.arange(12), np.ones(12), np.ones(12))
    np.testing.assert_allclose(whole.restored(whole.sent(given_)), given_, atol=1e-5)
    part = LinearMap((3, 4), centre, axes, np.arange(6), np.ones(6), np.ones(6))
    back = part.restored(part.sent(given_))
    # A projection: doing it again changes nothing, and what it took away is orthogonal to what it left.
    np.testing.assert_allclose(part.restored(part.sent(back)), back, atol=1e-5)
    left = back - part.centre
    np.testing.assert_allclose(np.sum((given_ - back) * left, axis=1), 0, atol=1e-4)
    assert np.abs(given_ - back).max() > 0.1


ROTATION = rotation(2, np.random.default_rng(2))
GOOD: dict[str, Any] = {
    "shape": (2, 3),
    "centre": np.zeros(6),
    "axes": [ROTATION, None],
    "index": [0, 4],
    "forward": np.ones(2),
    "backward": np.ones(2),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": ()}, "centre"),
        ({"shape": (2, 0)}, "centre"),
        ({"shape": (2, 4)}, "centre"),
        ({"centre": np.zeros((2, 3))}, "centre"),
        ({"centre": np.full(6, np.nan)}, "centre of the map holds a value that is not finite"),
        ({"centre": np.full(6, 1e300)}, "not finite"),
        ({"axes": [ROTATION]}, "one basis, or none, for each axis"),
        ({"axes": [None, ROTATION]}, "axis's size"),
        ({"axes": [2 * ROTATION, None]}, "not orthonormal"),
        ({"axes": [np.full((2, 2), 3e38), None]}, "not orthonormal"),
        ({"axes": [ROTATION[:, :1], None]}, "axis's size"),
        ({"index": []}, "index"),
        ({"index": [0.0, 4.0]}, "no list of whole numbers"),
        ({"index": [0.5, 4]}, "no list of whole numbers"),
        ({"index": [[0, 4]]}, "no list of whole numbers"),
        ({"index": [0, 2**32 + 4]}, "no list of whole numbers"),
        ({"index": [4, 0]}, "does not ascend"),
        ({"index": [4, 4]}, "does not ascend"),
        ({"index": [0, 2**31 - 1, -2, 5], "forward": np.ones(4), "backward": np.ones(4)}, "does not ascend"),
        ({"index": [-1, 4]}, "beyond its elements"),
        ({"index": [0, 6]}, "beyond its elements"),
        ({"forward": np.ones(3)}, "do not fit"),
        ({"backward": np.ones(1)}, "do not fit"),
        ({"forward": np.ones((3, 2))}, "do not fit"),
        ({"forward": np.ones((3, 2)), "backward": np.ones((3, 2))}, "do not fit"),
        ({"forward": np.full(2, np.inf)}, "forward of the map holds"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    LinearMap(**GOOD)
    with pytest.raises(MapError, match=message):
        LinearMap(**{**GOOD, **changes})


def test_cannot_be_changed() -> None:
    change = LinearMap(**GOOD)
    with pytest.raises(AttributeError, match="make a new one"):
        change.index = np.zeros(2)
    with pytest.raises(ValueError, match="read-only"):
        change.forward[0] = 5
