"""What the Shredder paper (ASPLOS 2020) and its authors' talk publish of speed and size, and what follows from it.

Every number here is as printed. Figure 6 has no axis of seconds: its data, readable in the paper's text and in the
talk's slides ("Energy Breakdown"), are shares of a whole, which is the cloud-only execution, but for VGG-16 Shredder's.
The talk alone has 20 Newsgroups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

PAPER = "Mireshghallah et al., Shredder, ASPLOS 2020"
SIX = ("lenet5", "cifar10_cnn", "svhn_cnn", "alexnet", "vgg16", "text_cnn_20news")
TITLES = {
    "lenet5": "LeNet",
    "cifar10_cnn": "CIFAR-10",
    "svhn_cnn": "SVHN",
    "alexnet": "AlexNet",
    "vgg16": "VGG-16",
    "text_cnn_20news": "20 Newsgroups",
}
WIFI_SPEEDUP, LTE_SPEEDUP, LTE_SPEEDUP_VGG, VGG_SLOWDOWN = 1.79, 2.17, 1.03, 0.23
"""The abstract's averages, and section 6.2.1's VGG-16: 1.03 over LTE, and its time increased by 23 % over Wi-Fi."""
NEUROSURGEON_LTE_FACTOR = 180 / 95
"""What Neurosurgeon (ASPLOS 2017) gives for one upload of 152 KB: 180 ms over LTE, 95 ms over Wi-Fi."""


@dataclass(frozen=True)
class Shares:
    """One network's bars in Figure 6: Shredder's edge, communication and cloud, then the cloud-only baseline's."""

    edge: float
    sending: float
    cloud: float
    all_sending: float
    all_cloud: float

    def speedup(self, slower_link: float = 1.0) -> float:
        """Cloud-only over Shredder, where communication takes `slower_link` times as long."""
        shredder = self.edge + slower_link * self.sending + self.cloud
        return (slower_link * self.all_sending + self.all_cloud) / shredder


FIGURE_6 = {
    "lenet5": Shares(1.26e-01, 0.4440146644, 1.18e-03, 0.9981576972, 0.001842302781),
    "cifar10_cnn": Shares(0.1260988178, 0.4794279033, 7.59e-04, 0.9699909063, 0.03000909366),
    "svhn_cnn": Shares(0.3820499484, 0.3231351195, 5.51e-03, 0.9694053584, 0.03059464159),
    "alexnet": Shares(0.04672605325, 0.2438348066, 2.66e-04, 0.9989707937, 0.00102920631),
    "vgg16": Shares(0.4586719255, 0.5270137024, 0.01431437217, 0.7905205535, 0.01599299582),
    "text_cnn_20news": Shares(0.2314485040, 0.1070369916, 1.98e-04, 0.8362264972, 0.1637735028),
}
TABLE_2 = {
    "lenet5": (3, 3),
    "cifar10_cnn": (2, 2),
    "svhn_cnn": (4, 5),
    "alexnet": (2, 5),
    "vgg16": (2, 9),
    "text_cnn_20news": (3, 3),
}
"""Suggested cuts, after which convolution: where the edge is a processor, where it is a GPU."""
TABLE_3_KB = {
    "lenet5": 2.05,
    "cifar10_cnn": 8.70,
    "svhn_cnn": 5.00,
    "alexnet": 315.00,
    "vgg16": 918.75,
    "text_cnn_20news": 2.01,
}
TABLE_3_AVERAGE_KB = 19.35
TABLE_3_LOSS_PERCENT = (93.74, 61.83, 64.58, 64.94, 74.70, 72.95)
TABLE_3_AVERAGE_LOSS_PERCENT = 74.70
"""How much mutual information the noise takes, in the order of SIX, and what Table 3 gives as their average."""
DISTRIBUTIONS = 20


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive values; the mean for ratios."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def lte_factors() -> tuple[float, float]:
    """How much slower communication must be for the paper's LTE figures: by VGG-16's alone, by the mean's alone."""
    return (
        _solve(lambda factor: FIGURE_6["vgg16"].speedup(factor), LTE_SPEEDUP_VGG),
        _solve(lambda factor: geometric_mean(shares.speedup(factor) for shares in FIGURE_6.values()), LTE_SPEEDUP),
    )


def _solve(rising: Callable[[float], float], target: float) -> float:
    """Where a rising function meets `target`, between 1 and 10."""
    low, high = 1.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > target else (middle, high)
    return low
