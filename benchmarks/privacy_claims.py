"""What the papers say of themselves, as printed, for docs/privacy.md to set beside our own figures. Published."""

from __future__ import annotations

SHREDDER: tuple[tuple[str, str | None, str, str, str, str], ...] = (
    ("LeNet", "digit", "301.84", "18.9", "93.74 %", "1.34 ± 0.39"),
    ("CIFAR-10", "cifar10", "236.34", "90.2", "61.83 %", "1.42 ± 0.87"),
    ("SVHN", None, "19.2", "7.1", "64.58 %", "1.12 ± 0.22"),
    ("AlexNet", None, "12661.51", "4439.0", "64.94 %", "1.95 ± 0.12"),
    ("VGG-16", None, "28732.21", "7268.7", "74.70 %", "1.68 ± 0.11"),
    ("20 Newsgroups", "news", "27.8", "7.8", "72.95 %", "1.99 ± 0.41"),
    ("average", None, "-", "-", "74.70 %", "1.58 ± 0.35"),
)
"""Table 3: network, our task for it, bits before and after, share lost, and points of accuracy lost."""
SCRUNCH: tuple[tuple[str, ...], ...] = (
    ("MNIST", "no privacy", "100.0", "0.36", "-", "10.19"),
    ("MNIST", "Shredder", "98.93", "23.98 (1.17)", "66.97", "91.34 (75.57)"),
    ("MNIST", "Scrunch", "99.34", "60.56", "79.66", "81.75"),
    ("CelebA", "no privacy", "100.0", "29.86", "-", "39.94"),
    ("CelebA", "Scrunch", "99.73", "40.02", "29.84", "70.8"),
)
"""Table 1, in percent: data, algorithm, and its four columns; in brackets with a retrained adversary."""
SCRUNCH_SETTINGS = (
    "Scrunch (anonymous submission), Table 1, published, in percent: public accuracy over that without privacy, and "
    "what the private task, the mutual information and the 95th percentile of SSIM lose. LeNet-5 after its third "
    "convolution and VGG-16 after block5_pool, lambda 0.9, learning rate 1e-5, data split 40/40/20; in brackets with "
    "an adversary retrained on a held-out pool. The private task of MNIST is not said in its text; that of CelebA is "
    "smiling, with gender public. Drops of accuracy are against a classifier of the raw input."
)
