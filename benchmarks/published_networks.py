"""The layer tables of the networks whose latencies others published: writes profiler/published/networks.csv.

Each network is shape arithmetic written down from its paper (or from the description of the variant that was timed,
see `NETWORKS`), no weights. Batch normalisation and activations are rows of their own; whether a runtime fuses them
is the predictor's business. The totals are checked against published ones in tests/profiler/test_predict.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgecut.artefacts import write_bytes
from edgecut.models.work import Operation
from edgecut.profiler.figures import format_networks

TARGET = Path(__file__).resolve().parents[1] / "profiler" / "published" / "networks.csv"
Padding = int | str
Pair = tuple[int, int]
Shape = tuple[int, int, int]


class Net:
    """A network while it is written down: `shape` (channels, height, width) is where the next operation starts."""

    def __init__(self, size: int) -> None:
        self.shape: Shape = (3, size, size)
        self.operations: dict[str, Operation] = {}

    def add(
        self, name: str, kind: str, operator: str, flops: int, before: Shape, parameters: int = 0, **more: Any
    ) -> None:
        """Record an operation from `before` to the present shape."""
        if name in self.operations:
            raise ValueError(f"two operations called {name}")
        self.operations[name] = Operation(
            kind=kind,
            operator=operator,
            flops=flops,
            input_elements=more.pop("inputs", math.prod(before)),
            output_elements=math.prod(self.shape),
            parameters=parameters,
            **more,
        )

    def conv(
        self,
        name: str,
        channels: int,
        kernel: int | Pair,
        stride: int = 1,
        padding: Padding = "same",
        groups: int = 1,
        norm: bool = False,
        relu: bool = True,
    ) -> None:
        """A convolution, with a bias where no normalisation follows."""
        before = self.shape
        window = (kernel, kernel) if isinstance(kernel, int) else kernel
        height, width = (_size(n, k, stride, padding) for n, k in zip(before[1:], window, strict=True))
        self.shape = (channels, height, width)
        weights = channels * before[0] // groups * math.prod(window)
        depthwise = groups == before[0] and groups > 1
        self.add(
            name,
            "depthwise_conv" if depthwise else "conv",
            "Conv",
            2 * weights * height * width,
            before,
            weights + (0 if norm else channels),
            input_hw=before[1:],
            in_channels=before[0],
            out_channels=channels,
            kernel=window,
            stride=(stride, stride),
            groups=groups,
        )
        if norm:
            self.add(
                f"{name}/bn", "batchnorm", "BatchNormalization", 2 * math.prod(self.shape), self.shape, 2 * channels
            )
        if relu:
            self.relu(f"{name}/relu")

    def relu(self, name: str) -> None:
        """An activation on what is there."""
        self.add(name, "elementwise", "Relu", math.prod(self.shape), self.shape)

    def pool(
        self, name: str, kernel: int, stride: int, padding: Padding = 0, ceil: bool = False, mean: bool = False
    ) -> None:
        """A pooling layer; `ceil` is Caffe's way to count windows."""
        before = self.shape
        height, width = (_size(n, kernel, stride, padding, ceil) for n in before[1:])
        self.shape = (before[0], height, width)
        self.add(
            name,
            "avgpool" if mean else "maxpool",
            "AveragePool" if mean else "MaxPool",
            math.prod(self.shape) * kernel * kernel,
            before,
            input_hw=before[1:],
            in_channels=before[0],
            out_channels=before[0],
            kernel=(kernel, kernel),
            stride=(stride, stride),
        )

    def mean(self, name: str) -> None:
        """Global average pooling."""
        self.pool(name, self.shape[1], 1, mean=True)

    def local_norm(self, name: str) -> None:
        """Local response normalisation over five channels."""
        self.add(name, "elementwise", "LRN", 12 * math.prod(self.shape), self.shape)

    def linear(self, name: str, features: int, relu: bool = False) -> None:
        """A fully connected layer."""
        before = self.shape
        inputs = math.prod(before)
        self.shape = (features, 1, 1)
        weights = inputs * features
        shape = {"in_channels": inputs, "out_channels": features}
        self.add(name, "linear", "Gemm", 2 * weights, before, weights + features, **shape)
        if relu:
            self.relu(f"{name}/relu")

    def softmax(self) -> None:
        """The last operation of a classifier."""
        self.add("prob", "softmax", "Softmax", 5 * math.prod(self.shape), self.shape)

    def branches(self, name: str, *paths: Callable[[], None]) -> None:
        """Several paths from the same tensor, concatenated."""
        start, ends = self.shape, []
        for path in paths:
            self.shape = start
            path()
            ends.append(self.shape)
        self.shape = (sum(end[0] for end in ends), *ends[0][1:])
        self.add(f"{name}/concat", "movement", "Concat", 0, self.shape)

    def join(self, name: str, relu: bool = True) -> None:
        """The sum of a residual block, of two tensors of the present shape."""
        self.add(name, "elementwise", "Add", math.prod(self.shape), self.shape, inputs=2 * math.prod(self.shape))
        if relu:
            self.relu(f"{name}/relu")


def _size(n: int, kernel: int, stride: int, padding: Padding, ceil: bool = False) -> int:
    if padding == "same":
        return math.ceil(n / stride)
    room = n + 2 * (0 if padding == "valid" else int(padding)) - kernel
    return (math.ceil(room / stride) if ceil else room // stride) + 1


def alexnet() -> Net:
    """Krizhevsky et al. 2012 as Caffe's reference model has it: 227 x 227, two groups."""
    net = Net(227)
    net.conv("conv1", 96, 11, 4, "valid")
    net.local_norm("norm1")
    net.pool("pool1", 3, 2)
    net.conv("conv2", 256, 5, groups=2)
    net.local_norm("norm2")
    net.pool("pool2", 3, 2)
    net.conv("conv3", 384, 3)
    net.conv("conv4", 384, 3, groups=2)
    net.conv("conv5", 256, 3, groups=2)
    net.pool("pool5", 3, 2)
    _classifier(net, (4096, 4096), "fc6", "fc7", "fc8")
    return net


def alexnet_one_tower() -> Net:
    """Krizhevsky 2014 (one weird trick): 224 x 224, one tower, no normalisation; torchvision's."""
    net = Net(224)
    net.conv("conv1", 64, 11, 4, 2)
    net.pool("pool1", 3, 2)
    net.conv("conv2", 192, 5)
    net.pool("pool2", 3, 2)
    for name, channels in (("conv3", 384), ("conv4", 256), ("conv5", 256)):
        net.conv(name, channels, 3)
    net.pool("pool5", 3, 2)
    _classifier(net, (4096, 4096), "fc6", "fc7", "fc8")
    return net


def _classifier(net: Net, hidden: tuple[int, ...], *names: str) -> None:
    for name, features in zip(names, hidden, strict=False):
        net.linear(name, features, relu=True)
    net.linear(names[-1], 1000)
    net.softmax()


def vgg(convolutions: tuple[int, ...]) -> Net:
    """Simonyan and Zisserman 2014."""
    net = Net(224)
    for stage, (channels, count) in enumerate(zip((64, 128, 256, 512, 512), convolutions, strict=True), 1):
        for index in range(count):
            net.conv(f"conv{stage}_{index + 1}", channels, 3)
        net.pool(f"pool{stage}", 2, 2)
    _classifier(net, (4096, 4096), "fc6", "fc7", "fc8")
    return net


def squeezenet(version: str, size: int) -> Net:
    """Iandola et al. 2016, 1.0 and 1.1."""
    net = Net(size)
    first = version == "1.0"
    net.conv("conv1", 96 if first else 64, 7 if first else 3, 2, "valid")
    pools = {1, 4, 8} if first else {1, 3, 5}
    net.pool("pool1", 3, 2, ceil=True)
    for index, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64), 2):
        name = f"fire{index}"
        net.conv(f"{name}/squeeze1x1", squeeze, 1)

        def expand(kernel: int, name: str = name, channels: int = 4 * squeeze) -> Callable[[], None]:
            return lambda: net.conv(f"{name}/expand{kernel}x{kernel}", channels, kernel)

        net.branches(name, expand(1), expand(3))
        if index in pools:
            net.pool(f"pool{index}", 3, 2, ceil=True)
    net.conv("conv10", 1000, 1)
    net.mean("pool10")
    net.softmax()
    return net


def googlenet(batch_norm: bool) -> Net:
    """Szegedy et al. 2014; with `batch_norm` TensorFlow-slim's inception_v1 (also torchvision's): 3x3 for 5x5."""
    net = Net(224)
    pads: dict[str, Any] = {"padding": "same"} if batch_norm else {"padding": 0, "ceil": True}
    net.conv("conv1", 64, 7, 2, norm=batch_norm)
    net.pool("pool1", 3, 2, **pads)
    if not batch_norm:
        net.local_norm("norm1")
    net.conv("conv2/reduce", 64, 1, norm=batch_norm)
    net.conv("conv2", 192, 3, norm=batch_norm)
    if not batch_norm:
        net.local_norm("norm2")
    net.pool("pool2", 3, 2, **pads)
    widths = {
        "3a": (64, 96, 128, 16, 32, 32),
        "3b": (128, 128, 192, 32, 96, 64),
        "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64),
        "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128),
        "5a": (256, 160, 320, 32, 128, 128),
        "5b": (384, 192, 384, 48, 128, 128),
    }
    for name, (one, reduce3, three, reduce5, five, after_pool) in widths.items():
        if name in ("4a", "5a"):
            net.pool(f"pool{int(name[0]) - 1}", 3 if name == "4a" or not batch_norm else 2, 2, **pads)
        wide = 3 if batch_norm else 5
        _chains(
            net,
            name,
            [("1x1", one, 1)],
            [("3x3_reduce", reduce3, 1), ("3x3", three, 3)],
            [("5x5_reduce", reduce5, 1), ("5x5", five, wide)],
            [("pool", 0, 3), ("pool_proj", after_pool, 1)],
            norm=batch_norm,
        )
    net.mean("pool5")
    _classifier(net, (), "fc")
    return net


Step = tuple[str, int, int | Pair] | tuple[str, int, int | Pair, int]


def _chains(net: Net, name: str, *chains: list[Step], norm: bool = True, pool_mean: bool = False) -> None:
    """Branches of convolutions `(name, channels, kernel[, stride])`; 0 channels is a pooling. A stride is VALID."""

    def run(chain: list[Step]) -> Callable[[], None]:
        def path() -> None:
            for label, channels, kernel, *rest in chain:
                stride = rest[0] if rest else 1
                padding = "valid" if stride > 1 or label.endswith("valid") else "same"
                if channels:
                    net.conv(f"{name}/{label}", channels, kernel, stride, padding, norm=norm)
                else:
                    assert isinstance(kernel, int)
                    net.pool(f"{name}/{label}", kernel, stride, padding, mean=pool_mean and stride == 1)

        return path

    net.branches(name, *(run(chain) for chain in chains))


def inception_v3() -> Net:
    """Szegedy et al. 2015 (Rethinking the Inception Architecture), 299 x 299, no auxiliary classifier."""
    net = Net(299)
    for name, channels, kernel, stride, padding in (
        ("1a", 32, 3, 2, "valid"),
        ("2a", 32, 3, 1, "valid"),
        ("2b", 64, 3, 1, "same"),
    ):
        net.conv(f"conv{name}", channels, kernel, stride, padding, norm=True)
    net.pool("pool1", 3, 2)
    net.conv("conv3b", 80, 1, norm=True)
    net.conv("conv4a", 192, 3, padding="valid", norm=True)
    net.pool("pool2", 3, 2)
    for name, proj in (("5b", 32), ("5c", 64), ("5d", 64)):
        _chains(
            net,
            name,
            [("1x1", 64, 1)],
            [("5x5_reduce", 48, 1), ("5x5", 64, 5)],
            [("3x3_reduce", 64, 1), ("3x3a", 96, 3), ("3x3b", 96, 3)],
            [("pool", 0, 3), ("pool_proj", proj, 1)],
            pool_mean=True,
        )
    _chains(
        net,
        "6a",
        [("3x3", 384, 3, 2)],
        [("double_reduce", 64, 1), ("double_a", 96, 3), ("double_b", 96, 3, 2)],
        [("pool", 0, 3, 2)],
    )
    for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        _chains(
            net,
            name,
            [("1x1", 192, 1)],
            [("7x7_reduce", width, 1), ("1x7", width, (1, 7)), ("7x1", 192, (7, 1))],
            [
                ("double_reduce", width, 1),
                ("double_7x1a", width, (7, 1)),
                ("double_1x7a", width, (1, 7)),
                ("double_7x1b", width, (7, 1)),
                ("double_1x7b", 192, (1, 7)),
            ],
            [("pool", 0, 3), ("pool_proj", 192, 1)],
            pool_mean=True,
        )
    _chains(
        net,
        "7a",
        [("3x3_reduce", 192, 1), ("3x3", 320, 3, 2)],
        [("7x7_reduce", 192, 1), ("1x7", 192, (1, 7)), ("7x1", 192, (7, 1)), ("7x7_3x3", 192, 3, 2)],
        [("pool", 0, 3, 2)],
    )
    for name in ("7b", "7c"):
        _wide_v3(net, name)
    net.mean("pool3")
    _classifier(net, (), "fc")
    return net


def _wide_v3(net: Net, name: str) -> None:
    def split(label: str, *before: tuple[str, int, int]) -> Callable[[], None]:
        def path() -> None:
            for step, channels, kernel in before:
                net.conv(f"{name}/{step}", channels, kernel, norm=True)
            _chains(net, f"{name}/{label}", [("1x3", 384, (1, 3))], [("3x1", 384, (3, 1))])

        return path

    def pooled() -> None:
        net.pool(f"{name}/pool", 3, 1, "same", mean=True)
        net.conv(f"{name}/pool_proj", 192, 1, norm=True)

    net.branches(
        name,
        lambda: net.conv(f"{name}/1x1", 320, 1, norm=True),
        split("3x3", ("3x3_reduce", 384, 1)),
        split("double", ("double_reduce", 448, 1), ("double_3x3", 384, 3)),
        pooled,
    )


def inception_v4() -> Net:
    """Szegedy et al. 2016 (Inception-v4), 299 x 299."""
    net = Net(299)
    net.conv("conv1a", 32, 3, 2, "valid", norm=True)
    net.conv("conv2a", 32, 3, 1, "valid", norm=True)
    net.conv("conv2b", 64, 3, norm=True)
    _chains(net, "3a", [("pool", 0, 3, 2)], [("3x3", 96, 3, 2)])
    _chains(
        net,
        "4a",
        [("reduce", 64, 1), ("3x3_valid", 96, 3)],
        [("7x7_reduce", 64, 1), ("1x7", 64, (1, 7)), ("7x1", 64, (7, 1)), ("7x7_valid", 96, 3)],
    )
    _chains(net, "5a", [("3x3", 192, 3, 2)], [("pool", 0, 3, 2)])
    for index in range(4):
        _chains(
            net,
            f"a{index}",
            [("1x1", 96, 1)],
            [("3x3_reduce", 64, 1), ("3x3", 96, 3)],
            [("double_reduce", 64, 1), ("double_a", 96, 3), ("double_b", 96, 3)],
            [("pool", 0, 3), ("pool_proj", 96, 1)],
            pool_mean=True,
        )
    _chains(
        net,
        "reduce_a",
        [("3x3", 384, 3, 2)],
        [("double_reduce", 192, 1), ("double_a", 224, 3), ("double_b", 256, 3, 2)],
        [("pool", 0, 3, 2)],
    )
    for index in range(7):
        _chains(
            net,
            f"b{index}",
            [("1x1", 384, 1)],
            [("7x7_reduce", 192, 1), ("1x7", 224, (1, 7)), ("7x1", 256, (7, 1))],
            [
                ("double_reduce", 192, 1),
                ("double_7x1a", 192, (7, 1)),
                ("double_1x7a", 224, (1, 7)),
                ("double_7x1b", 224, (7, 1)),
                ("double_1x7b", 256, (1, 7)),
            ],
            [("pool", 0, 3), ("pool_proj", 128, 1)],
            pool_mean=True,
        )
    _chains(
        net,
        "reduce_b",
        [("3x3_reduce", 192, 1), ("3x3", 192, 3, 2)],
        [("7x7_reduce", 256, 1), ("1x7", 256, (1, 7)), ("7x1", 320, (7, 1)), ("7x7_3x3", 320, 3, 2)],
        [("pool", 0, 3, 2)],
    )
    for index in range(3):
        _wide_v4(net, f"c{index}")
    net.mean("pool")
    _classifier(net, (), "fc")
    return net


def _wide_v4(net: Net, name: str) -> None:
    def split(label: str, *before: tuple[str, int, int | Pair]) -> Callable[[], None]:
        def path() -> None:
            for step, channels, kernel in before:
                net.conv(f"{name}/{step}", channels, kernel, norm=True)
            _chains(net, f"{name}/{label}", [("1x3", 256, (1, 3))], [("3x1", 256, (3, 1))])

        return path

    def pooled() -> None:
        net.pool(f"{name}/pool", 3, 1, "same", mean=True)
        net.conv(f"{name}/pool_proj", 256, 1, norm=True)

    double = (("double_reduce", 384, 1), ("double_3x1", 448, (3, 1)), ("double_1x3", 512, (1, 3)))
    net.branches(
        name,
        lambda: net.conv(f"{name}/1x1", 256, 1, norm=True),
        split("3x3", ("3x3_reduce", 384, 1)),
        split("double", *double),
        pooled,
    )


def resnet(blocks: tuple[int, ...], bottleneck: bool, stride_at: str = "3x3") -> Net:
    """He et al. 2015. `stride_at`: "1x1" as in the paper, "3x3" as torchvision and fb.resnet.torch, "last" as
    TensorFlow-slim, where the LAST unit of a stage halves the image."""
    net = Net(224)
    net.conv("conv1", 64, 7, 2, 3, norm=True)
    net.pool("pool1", 3, 2, 1)
    for stage, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), 2):
        for index in range(count):
            halved = index == count - 1 and stage < 5 if stride_at == "last" else index == 0 and stage > 2
            _unit(net, f"res{stage}_{index + 1}", width, 2 if halved else 1, bottleneck, stride_at)
    net.mean("pool5")
    _classifier(net, (), "fc")
    return net


def _unit(net: Net, name: str, width: int, stride: int, bottleneck: bool, stride_at: str) -> None:
    start = net.shape
    out = width * (4 if bottleneck else 1)
    if bottleneck:
        early = stride if stride_at == "1x1" else 1
        net.conv(f"{name}/a", width, 1, early, norm=True)
        net.conv(f"{name}/b", width, 3, stride // early, norm=True)
        net.conv(f"{name}/c", out, 1, norm=True, relu=False)
    else:
        net.conv(f"{name}/a", width, 3, stride, norm=True)
        net.conv(f"{name}/b", width, 3, norm=True, relu=False)
    end = net.shape
    if start[0] != out:
        net.shape = start
        net.conv(f"{name}/shortcut", out, 1, stride, norm=True, relu=False)
    elif stride > 1:
        net.shape = start
        net.pool(f"{name}/shortcut", 1, stride)
    assert net.shape == end, (name, net.shape, end)
    net.join(f"{name}/add")


def mobilenet_v1(width: float, size: int) -> Net:
    """Howard et al. 2017; `width` multiplies the channels."""
    net = Net(size)
    net.conv("conv1", int(32 * width), 3, 2, norm=True)
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for index, (channels, stride) in enumerate(plan, 2):
        net.conv(f"conv{index}/dw", net.shape[0], 3, stride, groups=net.shape[0], norm=True)
        net.conv(f"conv{index}/pw", int(channels * width), 1, norm=True)
    net.mean("pool")
    _classifier(net, (), "fc")
    return net


def mobilenet_v2() -> Net:
    """Sandler et al. 2018, width 1.0, 224 x 224."""
    net = Net(224)
    net.conv("conv1", 32, 3, 2, norm=True)
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for stage, (factor, channels, count, first) in enumerate(stages, 2):
        for index in range(count):
            name, before, stride = f"conv{stage}_{index + 1}", net.shape[0], first if index == 0 else 1
            if factor > 1:
                net.conv(f"{name}/expand", before * factor, 1, norm=True)
            net.conv(f"{name}/dw", net.shape[0], 3, stride, groups=net.shape[0], norm=True)
            net.conv(f"{name}/project", channels, 1, norm=True, relu=False)
            if stride == 1 and before == channels:
                net.join(f"{name}/add", relu=False)
    net.conv("conv9", 1280, 1, norm=True)
    net.mean("pool")
    _classifier(net, (), "fc")
    return net


R50, R101, R152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
NETWORKS: dict[str, Callable[[], Net]] = {
    "alexnet": alexnet,
    "alexnet_one_tower": alexnet_one_tower,
    "vgg16": lambda: vgg((2, 2, 3, 3, 3)),
    "vgg19": lambda: vgg((2, 2, 4, 4, 4)),
    "squeezenet1_0": lambda: squeezenet("1.0", 224),
    "squeezenet1_1": lambda: squeezenet("1.1", 224),
    "squeezenet1_0_227": lambda: squeezenet("1.0", 227),
    "squeezenet1_1_227": lambda: squeezenet("1.1", 227),
    "googlenet": lambda: googlenet(batch_norm=False),
    "inception_v1": lambda: googlenet(batch_norm=True),
    "inception_v3": inception_v3,
    "inception_v4": inception_v4,
    "resnet18": lambda: resnet((2, 2, 2, 2), bottleneck=False),
    "resnet34": lambda: resnet((3, 4, 6, 3), bottleneck=False),
    "resnet50": lambda: resnet(R50, bottleneck=True),
    "resnet50_paper": lambda: resnet(R50, bottleneck=True, stride_at="1x1"),
    "resnet_v1_50": lambda: resnet(R50, bottleneck=True, stride_at="last"),
    "resnet_v1_101": lambda: resnet(R101, bottleneck=True, stride_at="last"),
    "resnet_v1_152": lambda: resnet(R152, bottleneck=True, stride_at="last"),
    "mobilenet_v1_0.25_128": lambda: mobilenet_v1(0.25, 128),
    "mobilenet_v1_0.5_160": lambda: mobilenet_v1(0.5, 160),
    "mobilenet_v1_1.0_224": lambda: mobilenet_v1(1.0, 224),
    "mobilenet_v2": mobilenet_v2,
}


def tables() -> dict[str, dict[str, Operation]]:
    """Every network's operations by name, in order."""
    return {name: make().operations for name, make in NETWORKS.items()}


def main() -> None:
    """Write the table and print each network's totals."""
    made = tables()
    for name, operations in made.items():
        flops = sum(o.flops for o in operations.values() if o.kind in ("conv", "depthwise_conv", "linear"))
        print(
            f"{name}: {flops / 2e6:.0f} M multiply-adds, {sum(o.parameters for o in operations.values()):,} parameters"
        )
    print(f"wrote {write_bytes(TARGET, format_networks(made).encode())}")


if __name__ == "__main__":
    main()
