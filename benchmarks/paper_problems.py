"""Where the Shredder paper disagrees with itself: a section of docs/reproduction.md."""

from __future__ import annotations

from typing import Any

from paper_figures import (
    FIGURE_6,
    SIX,
    TABLE_3_AVERAGE_LOSS_PERCENT,
    TABLE_3_KB,
    TABLE_3_LOSS_PERCENT,
    VGG_SLOWDOWN,
    WIFI_SPEEDUP,
)

Row = dict[str, Any]


def inconsistencies(found: Row) -> list[str]:
    """What bounds how closely anything can agree with the paper."""
    shares = FIGURE_6
    vgg, svhn = (shares[name].sending / shares[name].all_sending for name in ("vgg16", "svhn_cnn"))
    slower = 1 / found["published"]["speedups"]["vgg16"] - 1
    rows = found["table_3"]
    points = [
        "VGG-16's cut is after convolution 9 in Table 2 and after 13 in section 6.2.1. The bars say that it sends "
        f"{vgg:.4f} of the input, which is conv5_3 before its pooling; Table 3's memory is that of conv5_3 after it.",
        f"SVHN's cut is after convolution 4 or 5 in Table 2. The bars' {svhn:.4f} of the input is the last "
        "convolution's 256x2x2, and Table 3's 256 elements are those after its pooling.",
        f"Section 6.2.1 has VGG-16's execution time increased by {100 * VGG_SLOWDOWN:.0f} %; the bars give "
        f"{100 * slower:.1f} %.",
        f"Table 3 prints {TABLE_3_KB['cifar10_cnn']:.2f} KB for CIFAR-10, where 400 elements need "
        f"{rows['cifar10_cnn']['bytes'] / 1024:.2f}, and {TABLE_3_KB['text_cnn_20news']:.2f} KB for 20 Newsgroups, "
        f"where 128 need {rows['text_cnn_20news']['bytes'] / 1024:.2f}.",
        "Table 1 calls its cloud GPU a Titan Xp and lists the 3,584 cores and 1,531 MHz of a Titan X (Pascal); a "
        "Titan Xp has 3,840 cores. Hence both clouds above.",
        "Table 1's 875 MHz is not a clock step of the TX2's GPU; the nearest is 854.25 MHz.",
        f"The average of {WIFI_SPEEDUP} needs 20 Newsgroups, which Figure 6 does not show: the five that it shows "
        f"have a mean of {found['published']['geometric_mean_of_the_papers_five']:.2f}.",
        "VGG-16's bars are normalised to Shredder, all others to cloud-only.",
        "Averages mix kinds: speedup and memory are geometric means, the share of DPFE's parameters an arithmetic "
        f"one, and the average loss of mutual information, {TABLE_3_AVERAGE_LOSS_PERCENT:.2f} %, is VGG-16's own "
        f"value: the six have a mean of {sum(TABLE_3_LOSS_PERCENT) / len(SIX):.2f} %.",
        "No one bandwidth and round trip fits the communication of all six: SVHN, VGG-16 and 20 Newsgroups fit a "
        "round trip of zero exactly, the others do not.",
        "Some cloud times cannot be: at Wi-Fi's 12.8 Mbit/s the bars make LeNet's whole network 3.6 us on the cloud "
        "GPU, and AlexNet's fully connected layers 0.10 ms, less than the 0.43 ms that reading their weights takes.",
    ]
    return [
        "## Where the paper disagrees with itself",
        "These bound how closely anything can agree with it.",
        "\n".join(f"* {point}" for point in points),
    ]
