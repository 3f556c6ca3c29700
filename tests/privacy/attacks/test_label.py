"""Classifiers of private labels, where the best that any could do is known."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from scipy import stats

torch = pytest.importorskip("torch")
from edgecut.errors import DataError  # noqa: E402
from edgecut.models.from_onnx import convert  # noqa: E402
from edgecut.noise_kernels.linear_map import LinearMap  # noqa: E402
from edgecut.privacy.attacks.effort import EFFORTS  # noqa: E402
from edgecut.privacy.attacks.label import attack, judged, kinds_of, label_attacks  # noqa: E402
from edgecut.privacy.attacks.messages import Messages  # noqa: E402
from edgecut.privacy.attacks.networks import cloud_shaped  # noqa: E402
from edgecut.privacy.attacks.training import _converged  # noqa: E402

N, SPREAD = 8, 0.5  # as in conftest


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tasks are learned in far fewer steps than a digit's slant."""
    monkeypatch.setitem(EFFORTS, "quick", dataclasses.replace(EFFORTS["quick"], steps=150, held_out=500, batch=128))


def cloud(inputs: int = N, wide: int = 64, classes: int = 3) -> torch.fx.GraphModule:
    """A partition as it is read from a bundle: product, ReLU, product, softmax."""
    generator = np.random.default_rng(0)

    def stored(name: str, *shape: int) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Gemm", ["a", "w1", "b1"], ["x"], "first"),
        helper.make_node("Relu", ["x"], ["y"], "relu"),
        helper.make_node("Gemm", ["y", "w2", "b2"], ["z"], "last"),
        helper.make_node("Softmax", ["z"], ["out"], "softmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "cloud",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", inputs])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", classes])],
        [stored("w1", inputs, wide), stored("b1", wide), stored("w2", wide, classes), stored("b2", classes)],
    )
    return convert(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), "test")


def best(noise: float, copies: int = 1) -> float:
    """The Bayes accuracy: two normal laws two apart."""
    return float(stats.norm.cdf(1 / np.sqrt(SPREAD**2 + noise**2 / copies)))


def one(seen: Any, which: int = 0, steps: int = 150) -> Any:
    """A single generic attacker on one message: the unaware one, or (1) the aware one."""
    used = dataclasses.replace(EFFORTS["quick"], steps=steps)
    return attack(seen, kinds_of(seen, None)[which], 1, used).result


def test_nobody_is_better_than_bayes_and_all_come_near(tasks: Any) -> None:
    told: list[tuple[str, float]] = []
    found = label_attacks(
        tasks.seen(tasks.gaussian(1.0)), cloud(), (1, 4), "quick", lambda text, share: told.append((text, share))
    )
    assert {(one.attacker, one.knows_noise) for one in found if one.copies == 1} == {
        (name, knows) for name in ("the cloud partition's shape", "perceptron") for knows in (False, True)
    }
    for one in found:
        limit = best(1.0, one.copies)
        assert limit - 0.04 < one.accuracy.value and one.accuracy.low < limit + 0.01, one
        assert one.curve is not None and one.curve.held_out[-1] > 0.7 and one.parameters > 50
        assert one.accuracy.total == 2000
    (several,) = (one for one in found if one.copies == 4)
    assert several.accuracy.value > best(1.0) + 0.04
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_without_noise_and_with_nothing_but_noise(tasks: Any) -> None:
    assert best(0.0) - 0.015 < one(tasks.seen(tasks.silent())).accuracy.value
    for which in (0, 1):
        hidden = one(tasks.seen(tasks.gaussian(1000.0)), which, steps=60)
        assert abs(hidden.accuracy.value - 0.5) < 0.045


def test_who_knows_an_order_does_better_and_who_never_saw_noise_far_worse(tasks: Any) -> None:
    seen, used = tasks.seen(tasks.collection(6.0, n=24, distributions=6)), EFFORTS["quick"]
    unaware, aware = (attack(seen, kind, 1, used) for kind in kinds_of(seen, None))
    assert aware.result.accuracy.low > unaware.result.accuracy.high
    clean = attack(tasks.seen(tasks.silent(24)), unaware.kind, 1, used)
    assert clean.result.accuracy.value > 0.95
    not_retrained = judged(Messages(seen), clean.network, np.arange(2000))
    assert not_retrained.high < unaware.result.accuracy.low


def test_equal_copies_tell_nothing_new(tasks: Any) -> None:
    found = label_attacks(tasks.seen(tasks.gaussian(1.0)), None, (1, 4, 16), "quick", sticky=True)
    top = max(one.accuracy.value for one in found if one.copies == 1)
    assert [one.copies for one in found] == [1, 1, 4, 16]
    # A mean of equal floats may differ in the last bit, and so a tie in the logits.
    assert all(abs(one.accuracy.value - top) <= 0.001 for one in found if one.copies > 1)


def test_noise_at_the_input_is_seen_through_the_edge(tasks: Any) -> None:
    def edge(flat: np.ndarray) -> np.ndarray:
        return np.concatenate([flat, -flat], axis=1)[:, :12]

    seen = tasks.seen(tasks.gaussian(1.0, place="input"), edge=edge, shapes=((12,),))
    assert len(kinds_of(seen, None)) == 1
    found = one(seen)
    assert not found.knows_noise and best(1.0) - 0.04 < found.accuracy.value < best(1.0) + 0.04


def test_a_map_that_drops_what_tells_leaves_chance(tasks: Any) -> None:
    def at(index: list[int]) -> float:
        turned = LinearMap((N,), np.zeros(N), [None], index, np.ones(2), np.ones(2))
        plain = tasks.gaussian(0.5)
        noise = type(plain)(
            "channel", "normal", np.zeros(2), np.full(2, 0.5), plain.tensors, plain.model_digest, "c", map=turned
        )
        seen = tasks.seen(noise)
        assert len(kinds_of(seen, cloud(2))) == 4
        return float(one(seen, 1, steps=80).accuracy.value)

    assert at([0, 3]) > best(0.5) - 0.03 and abs(at([2, 3]) - 0.5) < 0.05


def test_feature_maps_are_attacked_by_convolutions(tasks: Any) -> None:
    seen = tasks.seen(tasks.gaussian(1.0, n=32), shapes=((2, 4, 4),))
    seen = dataclasses.replace(seen, train=tasks.part(6000, 0, 32), test=tasks.part(2000, 1, 32))
    unaware = one(seen, steps=60)
    assert unaware.attacker == "convolutional" and best(1.0) - 0.06 < unaware.accuracy.value


def test_nothing_private_is_nothing_to_attack(tasks: Any) -> None:
    seen = tasks.seen(tasks.silent())
    without = dataclasses.replace(seen, test=dataclasses.replace(seen.test, private=None))
    assert label_attacks(without, None) == ()
    with pytest.raises(DataError, match="unknown effort of attacks 'quack', did you mean 'quick'"):
        label_attacks(seen, None, effort="quack")


def test_the_clouds_shape_has_its_weights_free_and_a_fresh_last_layer() -> None:
    partition = cloud(wide=6)
    before = {name: value.clone() for name, value in partition.named_buffers()}
    made = cloud_shaped(partition, [(N,)], 5)
    assert made is not None and made(torch.zeros(2, N)).shape == (2, 5)
    # 8 x 6 + 6 of the first product, 6 x 5 + 5 of the new one.
    assert sum(value.numel() for value in made.parameters() if value.requires_grad) == 54 + 35
    made(torch.ones(2, N)).sum().backward()
    with torch.no_grad():
        for value in made.parameters():
            value.add_(1)
    for name, value in partition.named_buffers():
        assert torch.equal(value, before[name])
    only_relu = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["out"], "relu")],
        "cloud",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", N])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", N])],
    )
    model = helper.make_model(only_relu, opset_imports=[helper.make_opsetid("", 18)])
    assert cloud_shaped(convert(model, "test"), [(N,)], 5) is None


def test_the_same_seed_gives_the_same_attacker(tasks: Any) -> None:
    seen = tasks.seen(tasks.gaussian(1.0))
    first, again = (one(seen, 1, steps=30) for _ in range(2))
    assert first.accuracy == again.accuracy and first.curve == again.curve


def test_an_effort_bounds_the_work(tasks: Any) -> None:
    small = dataclasses.replace(EFFORTS["quick"], most_flops=1.0, least=24)
    seen = tasks.seen(tasks.gaussian(1.0))
    found = attack(seen, kinds_of(seen, None)[0], 1, small).result
    assert found.curve is not None and found.curve.steps[-1] == 24 and len(found.curve.steps) == 12
    assert not found.curve.converged  # however flat the curve


@pytest.mark.parametrize(
    ("curve", "better", "expected"),
    [
        ([0.5, 0.6, 0.7, 0.75, 0.8, 0.85], "more", False),
        ([0.5, 0.7, 0.79, 0.8, 0.81, 0.8], "more", True),
        ([0.9, 0.5, 0.4, 0.3, 0.2, 0.1], "less", False),
        ([0.9, 0.5, 0.41, 0.4, 0.39, 0.385], "less", True),
    ],
)
def test_what_has_converged(curve: list[float], better: Any, expected: bool) -> None:
    assert _converged(curve, better) == expected


def test_a_cut_of_several_tensors() -> None:
    nodes = [
        helper.make_node("Concat", ["a", "b"], ["x"], "join", axis=1),
        helper.make_node("Gemm", ["x", "w"], ["out"], "last"),
    ]
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("a", 3), ("b", 5))
    ]
    made = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 2])]
    weight = onnx.numpy_helper.from_array(np.ones((8, 2), np.float32), "w")
    model = helper.make_model(
        helper.make_graph(nodes, "cloud", given, made, [weight]), opset_imports=[helper.make_opsetid("", 18)]
    )
    shaped = cloud_shaped(convert(model, "test"), [(3,), (5,)], 4)
    assert shaped is not None
    weight, bias = shaped.parameters()  # nothing but the fresh layer is left
    assert weight.shape == (4, 8) and weight.requires_grad
    flat = torch.arange(16.0).reshape(2, 8)
    torch.testing.assert_close(shaped(flat), flat @ weight.T + bias)
