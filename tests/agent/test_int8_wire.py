"""The int8 wire on the edge: what is sent against an oracle in plain Python, what is refused, and what stays secret."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.agent import protect
from edgecut.agent.edge_manifest import SideError, parse
from edgecut.agent.edge_part import EdgePart, files_for
from edgecut.agent.edge_side import EdgeSide, read_edge_side
from edgecut.agent.inputs import InputError
from edgecut.agent.protect import Protector
from edgecut.agent.session import Session
from edgecut.agent.transport import TransportError
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.randomness import NoiseStream
from edgecut.noise_kernels.sampler import sample
from edgecut.runtime.verify import verify

STEP = 0.0625
WIRE = {"dtype": "int8", "steps": [STEP]}


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


def oracle(total: np.float32, step: float) -> int:
    """Exact but for the one product that is float32's; Python rounds half to even."""
    product = np.float32(Fraction(float(total)) * Fraction(float(np.float32(1 / step))))
    return max(-128, min(127, round(float(product))))


def collection(shapes: list[tuple[int, ...]]) -> NoiseCollection:
    n = sum(int(np.prod(shape)) for shape in shapes)
    orders = np.stack([np.random.default_rng(seed).permutation(n) for seed in range(3)])
    tensors = [(f"t{i}", shape) for i, shape in enumerate(shapes)]
    return NoiseCollection([0.0, 4.0, -9.0], [1.0, 3.0, 0.5], orders, tensors, "sha256:" + "a" * 64, "here")


SHAPES = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    SHAPES.filter(lambda shapes: sum(int(np.prod(s)) for s in shapes) > 1), st.integers(1, 4), st.booleans(), st.data()
)
def test_what_is_sent_is_the_rounded_sum(
    shapes: list[tuple[int, ...]], batch: int, ahead: bool, data: st.DataObject
) -> None:
    """For any tensors and batch, noise drawn ahead or not, in any steps: coarse, and so fine that most saturates."""
    steps = [data.draw(st.sampled_from([2.0**-9, 0.03, 0.5, 1.7])) for _ in shapes]
    protector = Protector(collection(shapes), steps)
    protector._stream = recorded = Recorded()
    generator = np.random.default_rng(batch)
    activations = [generator.normal(0, 2, (batch, *shape)).astype(np.float32) for shape in shapes]
    kept = [array.copy() for array in activations]
    if ahead:
        protector.draw_ahead(batch)
    made = protector.add(activations)
    noise = np.stack([sample(protector.noise, *pair) for pair in recorded.pairs])
    assert len(recorded.pairs) == batch and all(np.array_equal(a, b) for a, b in zip(activations, kept, strict=True))
    start = 0
    for sent, activation, step in zip(made, activations, steps, strict=True):
        assert sent.dtype == np.int8 and sent.shape == activation.shape
        width = activation[0].size
        sums = activation.reshape(batch, -1) + noise[:, start : start + width]
        expected = [[oracle(total, step) for total in row] for row in sums]
        assert sent.reshape(batch, -1).tolist() == expected
        start += width


def test_halves_go_to_even_and_large_values_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protect, "sample_batch", lambda *_: np.zeros((1, 8), np.float32))
    protector = Protector(collection([(8,)]), [2.0])
    protector.draw_ahead(1)
    with np.errstate(over="ignore"):
        (sent,) = protector.add([np.array([[1, 3, 5, -1, -3, 1e30, -1e30, 3e38]], np.float32)])
    assert sent.tolist() == [[0, 2, 2, 0, -2, 127, -128, 127]]


class Int8Caller:
    """Servers that take int8, as a bundle's cloud side does; keeps what it is sent."""

    def __init__(self, side: Any, datatype: str = "INT8") -> None:
        self.side, self.datatype, self.sent, self.fails = side, datatype, [], None  # type: Any, str, list[Any], Any

    def metadata(self, model: str) -> dict[str, Any]:
        return {"inputs": [("a", self.datatype, [-1, 40])], "outputs": [("y", "FP32", [-1, 3])]}

    def infer(self, model: str, tensors: Any, timeout_s: float | None = None) -> dict[str, np.ndarray]:
        ((name, array),) = tensors
        assert (name, array.dtype) == ("a", np.int8)
        if self.fails is not None:
            raise self.fails
        self.sent.append(array)
        return {"y": self.side.answer(array * np.float32(STEP))}

    def state(self) -> dict[str, str]:
        return {"cloud:1": "closed"}

    def close(self) -> None:
        pass


def read(side: Any) -> EdgeSide:
    return read_edge_side(str(side.folder), files_for("onnxruntime-cpu", True))


def inputs(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, 6)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_session_sends_int8_alone(side: Any, batch: int, one_by_one: bool) -> None:
    side.write(wire=WIRE, target={**side.values["target"], "batch": 1 if one_by_one else None})
    caller = Int8Caller(side)
    with Session(EdgePart(read(side)), caller, 5.0) as session:
        recorded = session.part.protector._stream = Recorded()
        session.part.protector._ahead.clear()
        x = inputs(batch)
        answer = session.ask(x)
    sent = np.concatenate(caller.sent)
    noise = np.stack([sample(side.collection, *pair) for pair in recorded.pairs[:batch]])
    # The activation is ONNX Runtime's in the session and NumPy's here: a level may be another where it is close.
    wanted = np.clip((side.activation(x) + noise) / STEP, -128, 127)
    assert np.abs(sent - wanted).max() <= 0.501 and np.ptp(wanted) > 50
    np.testing.assert_allclose(answer.logits, side.answer(sent * np.float32(STEP)), rtol=1e-5, atol=1e-4)
    assert sent.nbytes * 4 == (batch * 40) * 4 and answer.answered_by == "cloud"


def test_the_rest_on_the_device_gets_the_activation_as_it_is(side: Any) -> None:
    side.write(wire=WIRE)
    caller = Int8Caller(side)
    with Session(EdgePart(read(side), with_rest=True), caller, 5.0, "local") as session:
        caller.fails = TransportError("unavailable", "the cloud is away", False)
        x = inputs(2)
        answer = session.ask(x)
    assert answer.answered_by == "local" and not caller.sent
    np.testing.assert_allclose(answer.logits, side.answer(side.activation(x)), rtol=1e-4, atol=1e-4)


def test_a_server_of_the_other_wire_is_refused(side: Any) -> None:
    for wire, datatype, words in ((WIRE, "FP32", "a int8"), (None, "INT8", "a float32")):
        side.write(wire=wire)
        with pytest.raises(TransportError, match=f"serves another model as 'small'.*{words}"):
            Session(EdgePart(read(side)), Int8Caller(side, datatype), 5.0)


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_nothing_that_int8_cannot_show_is_sent(side: Any, allow: bool, value: float) -> None:
    """Rounded, NaN would be -128; so it is refused before, whatever the policy for float32 is."""
    side.write(wire=WIRE)
    part = EdgePart(read(side), allow_nonfinite=allow)
    try:
        with pytest.raises(InputError, match="the activation at the cut is not finite, so nothing was sent"):
            part.run(np.full((1, 6), value, np.float32))
        assert part.run(inputs(1)).noisy[0].dtype == np.int8
    finally:
        part.close()


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        ({"dtype": "int4", "steps": [1.0]}, "wire.dtype is 'int4'"),
        ({"dtype": None, "steps": [1.0]}, "wire.dtype is None"),
        ({"dtype": "int8"}, "wire lacks 'steps'"),
        ({"dtype": "int8", "steps": [1.0], "zero": 3}, "wire has the unknown field 'zero'"),
        ({"dtype": "int8", "steps": []}, "one positive number for each of 1 tensors"),
        ({"dtype": "int8", "steps": [1.0, 2.0]}, "one positive number"),
        ({"dtype": "int8", "steps": [0]}, "one positive number"),
        ({"dtype": "int8", "steps": [-0.5]}, "one positive number"),
        ({"dtype": "int8", "steps": [1e38]}, "wire.steps hold something else|one positive number"),
        ({"dtype": "int8", "steps": [1e-40]}, "one positive number"),
        ({"dtype": "int8", "steps": [True]}, "something else than numbers"),
        ({"dtype": "int8", "steps": ["1"]}, "something else than numbers"),
        ({"dtype": "int8", "steps": 0.5}, "wire.steps is no list"),
        ("int8", "wire is no object"),
        ([], "wire is no object"),
    ],
)
def test_a_damaged_wire_is_one_sentence(side: Any, wire: Any, words: str) -> None:
    side.write(wire=wire)
    text = (side.folder / "manifest.json").read_bytes()
    with pytest.raises(SideError, match=words) as raised:
        parse(text, "here")
    assert "\n" not in str(raised.value)
    with pytest.raises(Exception, match=r"manifest\.json"):
        verify(side.folder)


def test_both_readers_take_the_same_wires(side: Any) -> None:
    for wire in (WIRE, {"dtype": "int8", "steps": [1]}, None):
        side.write(wire=wire)
        found = verify(side.folder).manifest
        described = read(side).description
        stated = None if found.wire is None else (found.wire.dtype, found.wire.steps)  # type: ignore[union-attr]
        assert described.wire == stated
        assert [tensor.dtype for tensor in described.sent] == ["float32" if wire is None else "int8"]
        assert [tensor.dtype for tensor in described.cut] == ["float32"]


def test_no_wire_is_not_in_the_text(side: Any, tmp_path: Path) -> None:
    """So that an agent from before the wire reads what is written for float32."""
    manifest = verify(side.folder).manifest
    assert "wire" not in json.loads(manifest.to_json())
    side.write(wire=WIRE)
    assert json.loads(verify(side.folder).manifest.to_json())["wire"] == WIRE
