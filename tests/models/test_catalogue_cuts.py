"""The catalogue's networks at their cuts: both halves together are the whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgecut.models.catalogue import CATALOGUE
from edgecut.models.load import load_model

EveryCut = Callable[..., list[tuple[str, ...]]]
SMALL = ("lenet5", "svhn_cnn")
LARGE = ("alexnet", "resnet50", "googlenet", "mobilenet_v2")


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_at_every_cut(name: str, every_cut: EveryCut) -> None:
    model = load_model(name)
    assert len(every_cut(model.graph)) == len(model.spec.layers) - 1


def test_an_embedding_is_the_input_still(every_cut: EveryCut) -> None:
    """Token ids can be read off their rows, so nothing is cut before the first attention has mixed them."""
    graph = load_model("transformer_encoder").graph
    crossing = every_cut(graph, batches=(2,), only=(0, 1, -1))
    assert crossing
    embedded = {node.output[0] for node in graph.nodes if node.op_type == "Gather"}
    assert embedded and embedded <= graph.untouched
    assert not graph.untouched & {value for names in crossing for value in names}
    first = next(graph.cuts())
    assert first.name == "layers.0.attention.output"


@pytest.mark.deep
@pytest.mark.parametrize("name", ["cifar10_cnn", "text_cnn_20news", "vgg_faces", "squeezenet1_1"])
def test_other_networks_at_every_cut(name: str, every_cut: EveryCut) -> None:
    assert every_cut(load_model(name).graph, batches=(2,))


@pytest.mark.deep
@pytest.mark.parametrize("name", LARGE)
def test_large_networks_at_a_few_cuts(name: str, every_cut: EveryCut) -> None:
    model = load_model(name)
    assert model.spec.parameters >= 0.99 * (CATALOGUE[name].parameters or 0) - 60_000  # less normalisations, folded
    cuts = len(model.spec.cuts)
    every_cut(model.graph, batches=(2,), only=(0, cuts // 2, cuts - 1))
