"""Attacks on the private labels: classifiers of what is sent, and what averaging repeated queries adds to them.

Each is trained anew on noisy messages, with and without knowledge of the noise, and with one seed (another moves a
figure by about a point). The best on a single message is tried again on the mean of several messages of one item.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx
from torch.nn import functional

from ...models.training import one_thread
from ...runtime.accuracy import Accuracy
from ..audited import LabelAttack
from ..observations import Integers, Observations
from .aware import Cleaner
from .effort import Effort, EffortName, effort_called
from .messages import Messages
from .networks import Shape, Standardised, cloud_shaped, convolutions, is_map, layers
from .training import Goal, Tell, answers, parameters_of, trained

SCALED_BY = 2000
"""Messages that inputs are scaled by."""


@dataclass(frozen=True)
class Kind:
    """One kind of attacker: how to make its network from some of its messages, and which messages it takes."""

    name: str
    make: Callable[[torch.Tensor], torch.nn.Module]
    restored: bool
    knows_noise: bool

    def messages(self, seen: Observations, copies: int, sticky: bool = False) -> Messages:
        """What it has before it of each item."""
        cleaner = Cleaner(seen, copies) if self.knows_noise else None
        return Messages(seen, copies, cleaner, sticky, self.restored)


@dataclass(frozen=True)
class Attacker:
    """A trained attacker, and what it reached."""

    kind: Kind
    network: torch.nn.Module
    result: LabelAttack


@one_thread()
def label_attacks(
    seen: Observations,
    cloud: fx.GraphModule | None,
    copies: Sequence[int] = (1, 4, 16),
    effort: EffortName = "full",
    tell: Tell | None = None,
    sticky: bool = False,
) -> tuple[LabelAttack, ...]:
    """All attackers on a single message, then the best one on the mean of several; none without private labels.

    `cloud` takes what is sent and gives logits. `sticky` noise follows from the input, so that all copies are equal:
    the attacker on one message is then judged on several as it is.
    """
    if seen.train.private is None or seen.test.private is None:
        return ()
    used, kinds = effort_called(effort), kinds_of(seen, cloud)
    more = sorted(set(copies) - {1})
    runs = len(kinds) + (0 if sticky else len(more))

    def told(done: int) -> Tell:
        return lambda text, share: None if tell is None else tell(text, (done + share) / runs)

    single = [attack(seen, kind, 1, used, told(done)) for done, kind in enumerate(kinds)]
    best = max(single, key=lambda one: one.result.accuracy.value)
    if sticky:
        several = [_on_equal_copies(seen, best, count, used) for count in more]
    else:
        several = [
            attack(seen, best.kind, count, used, told(len(kinds) + done)).result for done, count in enumerate(more)
        ]
    return (*(one.result for one in single), *several)


def kinds_of(seen: Observations, cloud: fx.GraphModule | None) -> list[Kind]:
    """The attackers that fit this cut: the cloud's shape and a generic one, each unaware and aware of the noise."""
    classes = classes_of(seen)
    sent: list[Shape] = [shape for _, shape in seen.noise.carriers]
    if seen.noise.place == "input":
        sent = list(seen.shapes)
    makers: list[tuple[str, Callable[[torch.Tensor], torch.nn.Module], bool]] = []
    shaped = None if cloud is None else cloud_shaped(cloud, sent, classes)
    if cloud is not None and shaped is not None:
        # Made anew each time, as training changes it; it starts from the cloud's own weights, which know the scale.
        makers.append(("the cloud partition's shape", lambda _: _shaped(cloud, sent, classes), False))
    features = seen.feature_shapes
    if is_map(features):
        makers.append(("convolutional", lambda few: Standardised(convolutions(features[0], classes), few), True))
    else:
        makers.append(("perceptron", lambda few: Standardised(layers(few.shape[1], classes), few), False))
    aware = [False, True] if Cleaner.useful(seen) else [False]
    return [Kind(name, make, restored, knows) for knows in aware for name, make, restored in makers]


def classes_of(seen: Observations) -> int:
    """How many private labels there are."""
    assert seen.train.private is not None and seen.test.private is not None
    return int(max(seen.train.private.max(), seen.test.private.max())) + 1


def attack(seen: Observations, kind: Kind, copies: int, effort: Effort, tell: Tell | None = None) -> Attacker:
    """Train one attacker on the mean of `copies` messages, and judge it on unseen items."""
    began_s = time.perf_counter()
    assert seen.train.private is not None
    torch.manual_seed(seen.seed)
    messages = kind.messages(seen, copies)
    few = messages.take("train", np.arange(min(seen.train.count, SCALED_BY)), "scaling")
    network = kind.make(torch.from_numpy(few))
    goal = Goal(torch.from_numpy(seen.train.private), functional.cross_entropy, share_right, "more")
    name = f"private labels, {kind.name}{', aware' if kind.knows_noise else ''}, {copies} at once"
    curve = trained(network, messages, goal, effort, name, tell)
    result = LabelAttack(
        attacker=kind.name,
        knows_noise=kind.knows_noise,
        copies=copies,
        accuracy=judged(messages, network, judged_rows(seen, effort)),
        curve=curve,
        parameters=parameters_of(network),
        seconds=time.perf_counter() - began_s,
    )
    return Attacker(kind, network, result)


def judged(messages: Messages, network: torch.nn.Module, rows: Integers) -> Accuracy:
    """Right answers on unseen items."""
    assert messages.seen.test.private is not None
    right = 0
    # By pieces, as messages of large activations do not all fit into the memory.
    for piece in messages.pieces(rows):
        given = answers(network, messages.take("test", piece, "judged")).argmax(1).numpy()
        right += int((given == messages.seen.test.private[piece]).sum())
    return Accuracy.of(right, len(rows))


def judged_rows(seen: Observations, effort: Effort) -> Integers:
    """The unseen items that attackers are judged on."""
    order = np.random.default_rng(seen.seed).permutation(seen.test.count)
    rows: Integers = np.sort(order[: effort.judged])
    return rows


def share_right(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of the largest logits."""
    return (logits.argmax(1) == labels).float().mean()


def _shaped(cloud: fx.GraphModule, sent: Sequence[Shape], classes: int) -> torch.nn.Module:
    made = cloud_shaped(cloud, sent, classes)
    assert made is not None
    return made


def _on_equal_copies(seen: Observations, best: Attacker, copies: int, effort: Effort) -> LabelAttack:
    began_s = time.perf_counter()
    # The cleaner is the single message's, as the mean of equal messages is no less noisy than each.
    messages = best.kind.messages(seen, 1)
    messages.copies, messages.sticky = copies, True
    accuracy = judged(messages, best.network, judged_rows(seen, effort))
    return best.result.model_copy(
        update={"copies": copies, "accuracy": accuracy, "seconds": time.perf_counter() - began_s}
    )
