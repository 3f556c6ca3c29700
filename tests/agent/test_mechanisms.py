"""Every mechanism through the edge part: what is sent is what it says, at the cut or at the input, mixed or not."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecut.agent.backends import BackendError
from edgecut.agent.edge_manifest import SideError, parse
from edgecut.agent.edge_part import EdgePart, files_for
from edgecut.agent.edge_side import read_edge_side
from edgecut.agent.inputs import InputError
from edgecut.agent.protect import NoiseError, Protector
from edgecut.agent.session import Session
from edgecut.agent.sticky_key import sticky_secret
from edgecut.noise_kernels.element_noise import ElementNoise
from edgecut.noise_kernels.mechanism import Noise
from edgecut.noise_kernels.randomness import NoiseStream
from edgecut.noise_kernels.reference import inverse_step, reference_int8
from edgecut.noise_kernels.sampler import sample

DIGEST = "sha256:" + "a" * 64
STEP = 0.25


def noise_of(mechanism: str, place: str = "cut", tensors: Any = None) -> ElementNoise:
    """Hand-made noise for a `Side`: of its cut, or of its input."""
    tensors = tensors or ([("x", (6,))] if place == "input" else [("a", (40,))])
    generator, n = np.random.default_rng(1), sum(int(np.prod(shape)) for _, shape in tensors)
    law = "laplace" if mechanism in ("laplace", "cloak") else "normal"
    loc = generator.normal(0, 1, n) if mechanism in ("cloak", "gaussian") else np.zeros(n)
    scale = np.zeros(n) if mechanism == "none" else generator.uniform(0.5, 2, n)
    mixing = generator.normal(0, 1, (n, n)) if mechanism == "gaussian" else None
    return ElementNoise(mechanism, law, loc, scale, tensors, DIGEST, "a", mixing, place)


MECHANISMS = [
    ("laplace", "cut"), ("cloak", "cut"), ("gaussian", "cut"), ("channel", "cut"), ("none", "cut"), ("cloak", "input"),
]  # fmt: skip


def give(side: Any, noise: Noise, **changes: Any) -> None:
    (side.folder / "noise.npz").write_bytes(noise.to_bytes())
    side.write(mechanism=noise.mechanism, **changes)


def open_part(side: Any, **given: Any) -> EdgePart:
    rest = bool(given.get("with_rest"))
    return EdgePart(read_edge_side(str(side.folder), files_for(None, rest)), **given)


class Recorded(NoiseStream):
    """A stream that keeps what it gave out; never for use."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[bytes, bytes]] = []

    def next_runs(self, count: int) -> list[tuple[bytes, bytes]]:
        runs = super().next_runs(count)
        self.pairs += [(key, nonces[i : i + 12]) for key, nonces in runs for i in range(0, len(nonces), 12)]
        return runs


X = np.random.default_rng(7).standard_normal((3, 6)).astype(np.float32)


@pytest.mark.parametrize(("mechanism", "place"), MECHANISMS)
@pytest.mark.parametrize("wire", ["float32", "int8"])
def test_what_is_sent_is_the_mechanisms(side: Any, mechanism: str, place: str, wire: str) -> None:
    noise = noise_of(mechanism, place)
    give(side, noise, **({} if wire == "float32" else {"wire": {"dtype": "int8", "steps": [STEP]}}))
    part = open_part(side, with_rest=True)
    part.protector._ahead.clear()
    part.protector._stream = recorded = Recorded()
    for ahead in (False, True):
        if ahead:
            part.protector.draw_ahead(len(X))
        made = part.run(X)
        drawn = np.stack([sample(noise, *pair) for pair in recorded.pairs[-len(X) :]])
        clean = side.activation(X if place == "cut" else X + drawn)
        expected = clean + drawn if place == "cut" else clean
        if wire == "int8":
            expected = reference_int8(expected, inverse_step(STEP))
            assert np.abs(made.noisy[0].astype(int) - expected).max() <= 1  # a sum on the edge of a step
        else:
            np.testing.assert_allclose(made.noisy[0], expected, rtol=1e-4, atol=1e-4)
        assert made.noisy[0].dtype == np.dtype(wire)
        # What the rest here takes is not rounded, and has no noise but that of the input.
        assert made.clean is not None
        np.testing.assert_allclose(made.clean[0], clean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(part.rest(made.clean), side.answer(clean), rtol=1e-3, atol=1e-3)
    assert len(recorded.pairs) == 2 * len(X) and (drawn.any() or mechanism == "none")
    part.close()


def test_noise_at_an_input_that_is_no_float_is_refused(side: Any) -> None:
    give(side, noise_of("laplace", "input"), input={**side.values["input"], "dtype": "int64", "below": 9})
    with pytest.raises(NoiseError, match=r"the model's input, which is int64; noise is added to float32") as raised:
        open_part(side)
    assert "\n" not in str(raised.value)


def test_noise_of_another_input_or_another_mechanism_than_the_manifests_is_refused(side: Any) -> None:
    give(side, noise_of("laplace", "input", [("x", (5,))]))
    with pytest.raises(NoiseError, match="another cut or mechanism"):
        open_part(side)
    give(side, noise_of("laplace"))
    side.write(mechanism="cloak")
    with pytest.raises(NoiseError, match="another cut or mechanism"):
        open_part(side)


def test_infinite_values_are_refused_with_noise_at_the_input_too(side: Any) -> None:
    give(side, noise_of("laplace", "input"))
    part = open_part(side)
    with pytest.raises(InputError):
        part.run(np.full((1, 6), 3e38, np.float32))
    part.close()


# Sticky noise.


def test_sticky_is_true_or_false_in_a_manifest(side: Any) -> None:
    side.write(sticky="yes")
    with pytest.raises(SideError, match="sticky is neither true nor false"):
        read_edge_side(str(side.folder))
    side.write(sticky=True)
    assert parse((side.folder / "manifest.json").read_bytes(), "here").sticky


@pytest.mark.parametrize(("mechanism", "place"), [("shredder", "cut"), ("gaussian", "cut"), ("cloak", "input")])
@pytest.mark.parametrize("wire", ["float32", "int8"])
def test_the_same_input_gets_the_same_noise(
    side: Any, mechanism: str, place: str, wire: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECUT_CACHE", str(tmp_path / "cache"))
    noise = side.collection if mechanism == "shredder" else noise_of(mechanism, place)
    give(side, noise, sticky=True, **({} if wire == "float32" else {"wire": {"dtype": "int8", "steps": [STEP]}}))
    part = open_part(side)
    (one,), (again,), (alone,) = part.protected(X), part.protected(X), part.protected(X[1:2])
    assert np.array_equal(one, again) and np.array_equal(one[1:2], alone)
    assert part.draw(1) is None and not part.protector.drawn(1)
    clean = side.activation(X)
    if wire == "float32":
        assert np.abs(one - clean).min(axis=1).max() > 0
        # Each item has its own, and another input its own.
        other = part.protected(np.nextafter(X, np.float32(9)))[0] - one
        assert (np.abs(other).max(axis=1) > 0.1).all()
        assert np.abs((one - clean)[0] - (one - clean)[1]).max() > 0.1
    part.close()
    later = open_part(side)  # the secret is kept
    assert np.array_equal(later.protected(X)[0], one)
    later.close()
    monkeypatch.setenv("EDGECUT_CACHE", str(tmp_path / "elsewhere"))
    another = open_part(side)
    assert not np.array_equal(another.protected(X)[0], one)
    another.close()


def test_sticky_noise_over_several_tensors_is_one_draw() -> None:
    shapes, secret = [(4,), (2, 3)], bytes(range(32))
    noise = noise_of("laplace", tensors=[("p", (4,)), ("q", (2, 3))])
    arrays = [np.random.default_rng(2).standard_normal((2, *shape)).astype(np.float32) for shape in shapes]
    both = Protector(noise, sticky=secret).add(arrays)
    again = Protector(noise, sticky=secret).add(arrays)
    drawn = np.concatenate([(b - a).reshape(2, -1) for a, b in zip(arrays, both, strict=True)], axis=1)
    assert all(np.array_equal(one, other) for one, other in zip(both, again, strict=True)) and np.abs(drawn).min() > 0
    changed = [arrays[0], arrays[1] + 1]  # the noise of the first tensor follows from the second, too
    assert not np.allclose(Protector(noise, sticky=secret).add(changed)[0], both[0])
    coarse = Protector(noise, [0.5, 0.25], sticky=secret).add(arrays)
    assert [made.tolist() for made in coarse] == [
        reference_int8(sums, inverse_step(step)).tolist() for sums, step in zip(both, [0.5, 0.25], strict=True)
    ]


def test_a_session_sends_the_same_bytes_for_the_same_input(
    side: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECUT_CACHE", str(tmp_path))
    give(side, noise_of("laplace"), sticky=True)
    sent: list[bytes] = []

    class Caller:
        def metadata(self, model: str) -> Any:
            return {"inputs": [("a", "FP32", [-1, 40])], "outputs": [("y", "FP32", [-1, 3])]}

        def infer(self, model: str, tensors: Any, timeout_s: float | None = None) -> Any:
            sent.append(tensors[0][1].tobytes())
            return {"y": side.answer(tensors[0][1])}

        def close(self) -> None: ...

    with Session(open_part(side), Caller()) as session:
        for _ in range(3):
            session.infer(X[:1])
        assert len(set(sent)) == 1 and session.trace.noise_s == 0.0
        session.infer(X[1:2])
    assert len(set(sent)) == 2


def _secret(folder: str) -> bytes:
    return sticky_secret(DIGEST, folder)


def test_a_secret_is_made_once_and_for_its_user_alone(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = set(pool.map(_secret, [str(tmp_path)] * 16))
    assert len(found) == 1 and len(next(iter(found))) == 32
    (path,) = (tmp_path / "sticky").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.name == "a" * 64 + ".key"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sticky_secret("sha256:" + "b" * 64, str(tmp_path)) not in found


@pytest.mark.parametrize(("damage", "words"), [
    ("open", "can be read by others"), ("short", "holds no secret of 32 bytes"), ("link", "cannot be kept"),
    ("folder", "others than the user can write"),
])  # fmt: skip
def test_a_secret_that_others_may_know_is_refused(tmp_path: Path, damage: str, words: str) -> None:
    _secret(str(tmp_path))
    (path,) = (tmp_path / "sticky").iterdir()
    if damage == "open":
        path.chmod(0o640)
    elif damage == "short":
        path.write_bytes(b"x" * 31)
    elif damage == "folder":
        path.parent.chmod(0o777)
    else:
        os.rename(path, tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
    with pytest.raises(BackendError, match=words) as raised:
        _secret(str(tmp_path))
    assert "\n" not in str(raised.value)
