"""Mechanisms fitted to a network whose optimum is known: what its answer does not look at is what must be hidden."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("torch")
from edgecut.errors import EdgecutError
from edgecut.models.data import DataSet, load_data
from edgecut.models.load import Model, load_model
from edgecut.models.spec import CutSpec
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.element_noise import MAPPED, ElementNoise
from edgecut.noise_kernels.elements import reference_elements
from edgecut.noise_kernels.mechanism import MECHANISMS, read_noise
from edgecut.privacy.bench import HELD_DRAWS
from edgecut.privacy.mechanisms import channel
from edgecut.privacy.mechanisms.coordinates import Coordinates
from edgecut.privacy.mechanisms.fitted import Fitted
from edgecut.privacy.mechanisms.fitting import MODULES, fit, largest
from edgecut.privacy.mechanisms.proposal import Proposal
from edgecut.privacy.settings import FitSettings, Settings

N, CLASSES = 10, 3
ALLOWED = 3.0
QUICK: dict[str, dict[str, Any]] = {"cloak": {"steps": 150}}


def known(folder: Path) -> tuple[Model, CutSpec, DataSet]:
    """x -> turned (the cut) -> logits, of which only the first three values count; the label is the largest of them."""
    generator = np.random.default_rng(1)
    turn = np.linalg.qr(generator.standard_normal((N, N)))[0].astype(np.float32)
    look = np.zeros((N, CLASSES), np.float32)
    look[:CLASSES] = 4 * np.eye(CLASSES)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "turn"], ["a"]), helper.make_node("Gemm", ["a", "look"], ["y"])],
        "known",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", N])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(turn, "turn"), numpy_helper.from_array(look, "look")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "k.onnx")
    x = generator.standard_normal((3000, N)).astype(np.float32)
    y = (x @ turn)[:, :CLASSES].argmax(1)
    model = load_model(str(folder / "k.onnx"))
    return model, model.spec.cuts[0], DataSet("known", "sha256:" + "1" * 64, x[:2000], y[:2000], x[2000:], y[2000:])


Known = tuple[Model, CutSpec, DataSet]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return known(tmp_path_factory.mktemp("known"))


@pytest.fixture(scope="module")
def fits(network: Known) -> dict[str, Fitted]:
    """Every mechanism but Shredder's, and Cloak's at the input too."""
    cases = {name: (name, QUICK.get(name, {})) for name in MODULES}
    cases["input"] = ("cloak", {"place": "input", "steps": 150})
    return {
        case: fit(*network, name, FitSettings(max_accuracy_loss=ALLOWED, **options))
        for case, (name, options) in cases.items()
    }


def halves(network: Known) -> tuple[np.ndarray, np.ndarray]:
    proto = onnx.load(network[0].path)
    turn, look = (numpy_helper.to_array(tensor) for tensor in proto.graph.initializer)
    return turn, look


def right(network: Known, noise: ElementNoise, x: np.ndarray, y: np.ndarray, purpose: str, draws: int) -> int:
    """Right answers, counted from the definition: item i of draw k has nonce k * items + i of the purpose's key."""
    turn, look = halves(network)
    key = hashlib.sha256(f"edgecut learn, {purpose}, seed 0".encode()).digest()
    map, count = noise.map, 0
    for draw in range(draws):
        drawn = np.stack(
            [reference_elements(noise, key, struct.pack("<Iq", 0, draw * len(x) + i)) for i in range(len(x))]
        )
        if noise.place == "input":
            given = x + drawn
            if map is not None:
                kept = np.isin(np.arange(N), map.index)
                given = np.where(kept, given, map.centre)
            activation = given @ turn
        elif map is None:
            activation = x @ turn + drawn
        else:
            activation = map.restored(map.sent(x @ turn) + drawn)
        count += int(((activation @ look).argmax(1) == y).sum())
    return count


def test_each_stays_just_within_what_is_allowed(network: Known, fits: dict[str, Fitted]) -> None:
    _, _, data = network
    held = np.sort(np.random.default_rng(0).permutation(2000)[:200])
    for case, made in fits.items():
        noise = made.noise
        assert isinstance(noise, ElementNoise)
        draws = 1 if case == "none" else HELD_DRAWS
        assert made.hold_out.loss_points <= ALLOWED and made.hold_out.without.correct == 200, case
        again = right(network, noise, data.x_train[held], data.y_train[held], "hold-out", draws)
        assert abs(made.hold_out.with_noise.correct - again) <= 1, case
        if case == "none":
            assert made.accuracy.loss_points == 0 and made.knob is None and noise.entropy_nats == -math.inf
        else:
            assert made.hold_out.loss_points > ALLOWED - 1 and made.tries > 2 and made.knob is not None, case
            assert 0 < made.accuracy.loss_points < ALLOWED + 3, case


def test_a_seed_gives_the_same_bytes(network: Known, fits: dict[str, Fitted]) -> None:
    for name in ("gaussian", "channel", "cloak"):
        options = {"max_accuracy_loss": ALLOWED, **QUICK.get(name, {})}
        assert fit(*network, name, FitSettings(**options)).noise == fits[name].noise, name
    other = fit(*network, "channel", FitSettings(max_accuracy_loss=ALLOWED, seed=1))
    assert other.noise != fits["channel"].noise


def test_the_file_is_ready_for_a_bundle(network: Known, fits: dict[str, Fitted]) -> None:
    model, cut, _ = network
    for case, made in fits.items():
        noise = made.noise
        assert isinstance(noise, ElementNoise)
        assert read_noise(noise.to_bytes(), "x") == noise and noise.model_digest == model.spec.digest
        given = model.spec.input if case == "input" else cut.tensors[0]
        assert noise.tensors == ((given.name, (N,)),) and noise.cut == cut.name
        assert noise.mechanism == ("cloak" if case == "input" else case)
        if noise.map is not None and noise.place == "cut":
            assert noise.carriers == ((MAPPED, (noise.values,)),) and noise.deployed().map is None


def test_gaussian_noise_fills_what_the_answer_does_not_look_at(fits: dict[str, Fitted]) -> None:
    mixing = fits["gaussian"].noise.mixing
    noise = (mixing @ mixing.T).astype(np.float64)
    # The answer looks at differences of the first three: what those have in common is as free as all the others.
    common, difference = np.zeros((2, N))
    common[:CLASSES], difference[:2] = 1 / np.sqrt(CLASSES), np.array([1, -1]) / np.sqrt(2)
    heard = difference @ noise @ difference
    assert heard < 1 and common @ noise @ common > 100 * heard
    assert np.diag(noise)[CLASSES:].min() > 100 * heard
    assert fits["gaussian"].closed_form_bits < 0.5 * plain_bits(fits["laplace"])


def plain_bits(made: Fitted) -> float:
    """The Gaussian bound on independent Laplace noise: 1/2 log2(1 + v) less what its entropy lacks of a normal's."""
    b = float(made.noise.scale[0])
    each = 0.5 * math.log(2 * math.pi * math.e * (1 + 2 * b * b)) - math.log(2 * math.e * b)
    return N * each / math.log(2)


def test_channel_sends_only_what_the_answer_looks_at(fits: dict[str, Fitted]) -> None:
    noise = fits["channel"].noise
    assert noise.map is not None and noise.map.forward.ndim == 2 and noise.values <= CLASSES
    seen = np.zeros((noise.values, N))
    seen[:, noise.map.index] = noise.map.forward
    weights = np.square(seen).sum(0)
    assert weights[CLASSES:].sum() < 0.02 * weights[:CLASSES].sum()
    # Of three classes two differences matter; what is common, if it is sent at all, is nearly all noise.
    quiet = np.sort(noise.scale)
    assert quiet[:2].max() < 0.5 and (noise.values == 2 or quiet[2] > 0.6)


def test_the_bits_of_a_channel_are_those_of_its_linear_form(network: Known, fits: dict[str, Fitted]) -> None:
    """1/2 logdet of what is sent over the noise, with the covariance of the data: nothing of the fit is used."""
    made, (_, _, data) = fits["channel"], network
    assert made.noise.map is not None and made.closed_form_bits is not None
    sent = made.noise.map.sent(data.x_train @ halves(network)[0])
    noise = np.diag(made.noise.scale.astype(np.float64) ** 2)
    bits = (np.linalg.slogdet(np.cov(sent.T) + noise)[1] - np.linalg.slogdet(noise)[1]) / 2 / math.log(2)
    assert made.closed_form_bits == pytest.approx(bits, abs=0.3)


def test_what_channel_sends_has_the_variance_of_an_int8_wire(network: Known, fits: dict[str, Fitted]) -> None:
    _, _, data = network
    noise = fits["channel"].noise
    assert noise.map is not None
    sent = noise.map.sent(data.x_train @ halves(network)[0])
    assert np.allclose(sent.var(0) + noise.scale**2, 1, atol=0.15)


@pytest.mark.parametrize(("few", "most", "weight", "index"), [(2, 9, 3.5, (1, 3, 4)), (4, 9, 3.5, (1, 3, 4, 8))])
def test_channel_turns_together_what_it_would_send(
    few: int, most: int, weight: float, index: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "FEW", few)
    monkeypatch.setattr(channel, "MOST", most)
    gains = np.array([4.0, 9.0, 5.0, 1.0, 2.0])
    plain = Coordinates((10,), (None,), np.zeros(10, np.float32))
    each = channel.Channel(plain, np.array([1, 3, 4, 7, 8]), gains, np.ones(5), np.ones(5))
    assert tuple(channel.mattering(each, weight)) == index
    monkeypatch.setattr(channel, "MOST", 2)
    monkeypatch.setattr(channel, "FEW", 1)
    assert tuple(channel.mattering(each, weight)) == (3, 4)


def test_cloak_is_loud_where_the_answer_does_not_look(network: Known, fits: dict[str, Fitted]) -> None:
    noise = fits["cloak"].noise
    assert noise.map is not None and set(range(CLASSES)) <= set(noise.map.index.tolist())
    loud = noise.scale[noise.map.index >= CLASSES]
    assert noise.values < N or loud.min() > 2 * noise.scale[:CLASSES].max()
    assert "replaced by constants" in fits["cloak"].notes[0]


def test_cloak_at_the_input_has_noise_on_every_element(fits: dict[str, Fitted]) -> None:
    noise = fits["input"].noise
    assert noise.place == "input" and noise.values == N and (noise.scale > 0).all()


def test_what_a_mechanism_does_not_have(network: Known) -> None:
    def refused(words: str, mechanism: str, settings: Any) -> None:
        with pytest.raises(EdgecutError, match=words) as raised:
            fit(*network, mechanism, settings)
        assert "\n" not in str(raised.value)

    refused("unknown mechanism 'laplas', did you mean 'laplace'", "laplas", FitSettings())
    refused("the mechanism none has no steps", "none", FitSettings(steps=3))
    refused("the mechanism laplace has no alpha", "laplace", dataclasses.replace(Settings(), alpha=1.0))
    refused("the mechanism shredder has no basis", "shredder", FitSettings(basis="eigen"))
    refused("unknown basis 'eigne', did you mean 'eigen'", "channel", FitSettings(basis="eigne"))
    strict = FitSettings(scale=30.0, max_accuracy_loss=0.1)
    refused(r"costs \d+\.\d\d points on the hold-out at scale 30, more than the 0.1 allowed", "laplace", strict)


def test_gaussian_refuses_what_it_cannot_hold(network: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecut.privacy.mechanisms import gaussian

    monkeypatch.setattr(gaussian, "MOST", N - 1)
    with pytest.raises(EdgecutError, match="at most 9; take the mechanism channel"):
        fit(*network, "gaussian")


def test_shredders_is_fitted_here_too(network: Known) -> None:
    made = fit(*network, "shredder", Settings(distributions=2, steps=5, scale=0.1, max_accuracy_loss=90.0))
    assert isinstance(made.noise, NoiseCollection) and made.epochs == pytest.approx(5 * 32 / 1800)
    assert set(MODULES) | {"shredder"} == set(MECHANISMS)


def test_two_tensors(residual: Any) -> None:
    cut = residual.model.spec.cut(residual.planned.choice)
    data = load_data(str(residual.data))
    made = fit(residual.model, cut, data, "channel", FitSettings(max_accuracy_loss=5.0))
    assert made.noise.n == 384 and made.noise.values < 100 and made.hold_out.loss_points <= 5.0
    assert made.noise.map is not None and made.noise.map.shape == (384,)


@pytest.mark.parametrize("limit", [3e-3, 0.7, 1.0, 40.0])
def test_the_search_ends_at_the_limit(limit: float) -> None:
    proposal = Proposal(lambda _: None, "scale", "of the noise", 1.0, 1.0, precision=1.01)  # type: ignore[arg-type,return-value]
    found = largest(lambda knob: knob <= limit, proposal, 1.0)
    assert found <= limit < found * 1.0101


def test_the_search_says_where_everything_or_nothing_is_good() -> None:
    proposal = Proposal(lambda _: None, "scale", "of it", 1.0, 1.0, least=0.1, most=7.0)  # type: ignore[arg-type,return-value]
    assert largest(lambda _: True, proposal, 1.0) == 7.0
    with pytest.raises(EdgecutError, match=r"even the scale 0.1 \(of it\) costs more than the 1.5 points allowed"):
        largest(lambda _: False, proposal, 1.5)
