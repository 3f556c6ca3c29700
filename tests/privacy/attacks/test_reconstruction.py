"""Decoders of messages, where the least possible error is known."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from edgecut.privacy.attacks.effort import EFFORTS
from edgecut.privacy.attacks.networks import Decoder, FlatDecoder
from edgecut.privacy.attacks.reconstruction import reconstruction_attacks
from edgecut.privacy.observations import Part

SIDE, N = 12, 3


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """These images are learned in far fewer steps."""
    monkeypatch.setitem(
        EFFORTS, "quick", dataclasses.replace(EFFORTS["quick"], steps=130, held_out=200, judged=400, batch=128)
    )


def part(items: int, seed: int, coloured: bool = False) -> Part:
    """Images that are a grey field and N fixed patterns, each as strong as one of N standard normal values."""
    patterns = np.random.default_rng(9).standard_normal((N, SIDE, SIDE)).astype(np.float32)
    values = np.random.default_rng(seed).standard_normal((items, N)).astype(np.float32)
    images = (127.5 + 12 * np.tensordot(values, patterns, 1)).clip(0, 255).astype(np.uint8)
    if coloured:
        images = np.repeat(images[..., None], 3, axis=3)
    return Part(images, values, np.zeros(items, np.int64), None)


def test_the_error_is_the_least_there_is(tasks: Any) -> None:
    seen = tasks.seen(tasks.gaussian(1.0, n=N), train=part(3000, 0), test=part(400, 1))
    found, samples = reconstruction_attacks(seen, "quick", (1, 4))
    variance = float((seen.test.images / 255).var(0).mean())
    assert [(one.knows_noise, one.copies) for one in found][:2] == [(False, 1), (True, 1)]
    for one in found:
        least = variance / (1 + one.copies)  # noise of variance 1 / copies on values of variance 1
        assert 0.9 * least < one.mse < 1.25 * least + 2e-4, one
        assert one.ssim_mean_low <= one.ssim_mean <= one.ssim_mean_high < one.ssim_p95 <= 1
        assert one.curve is not None and one.parameters > 1000
    assert found[2].copies == 4 and found[2].ssim_mean > found[0].ssim_mean + 0.05
    assert samples is not None and samples.truth.shape == (16, SIDE, SIDE) and samples.truth.dtype == np.uint8
    assert samples.clean_ssim_mean > found[0].ssim_mean + 0.1
    off = [np.abs(shown.astype(int) - samples.truth).mean() for shown in (samples.from_clean, samples.from_messages)]
    assert off[0] < 0.6 * off[1]


def test_nothing_but_noise_gives_the_mean_image(tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFORTS, "quick", dataclasses.replace(EFFORTS["quick"], steps=40, judged=400, batch=64))
    seen = tasks.seen(tasks.gaussian(1000.0, n=N), train=part(3000, 0), test=part(400, 1))
    found, _ = reconstruction_attacks(seen, "quick")
    variance = float((seen.test.images / 255).var(0).mean())
    for one in found:
        assert one.mse == pytest.approx(variance, rel=0.1) and one.ssim_mean < 0.3


def test_colour_and_feature_maps(tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        EFFORTS, "quick", dataclasses.replace(EFFORTS["quick"], steps=12, least=12, held_out=50, judged=50, batch=16)
    )
    train, test = part(200, 0, coloured=True), part(150, 1, coloured=True)

    def as_maps(given: Part) -> Part:
        return dataclasses.replace(given, values=np.repeat(given.values, 16, axis=1)[:, :32].copy())

    noise = tasks.gaussian(0.1, n=32)
    seen = tasks.seen(noise, train=as_maps(train), test=as_maps(test), shapes=((2, 4, 4),))
    found, samples = reconstruction_attacks(seen, "quick")
    assert {one.attacker for one in found} == {"convolutional decoder"}
    assert samples is not None and samples.from_messages.shape == (16, SIDE, SIDE, 3)


def test_noise_at_the_input(tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFORTS, "quick", dataclasses.replace(EFFORTS["quick"], steps=100, held_out=100, judged=200))
    noise = tasks.gaussian(0.5, n=N, place="input")
    seen = tasks.seen(
        noise, train=part(1500, 0), test=part(300, 1), edge=lambda flat: np.repeat(flat, 2, axis=1), shapes=((6,),)
    )
    found, samples = reconstruction_attacks(seen, "quick")
    assert len(found) == 1 and not found[0].knows_noise and samples is not None
    assert samples.clean_ssim_mean > found[0].ssim_mean


def test_texts_have_no_images(tasks: Any) -> None:
    assert reconstruction_attacks(tasks.seen(tasks.gaussian(1.0)), "quick") == ((), None)


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 64, 48), (3, 5, 20)])
def test_decoders_make_the_images_size(image: tuple[int, int, int]) -> None:
    import torch

    assert FlatDecoder(10, image)(torch.zeros(2, 10)).shape == (2, *image)
    for shape in ((4, 5, 7), (2, 80, 80)):
        assert Decoder(shape, image)(torch.zeros(2, int(np.prod(shape)))).shape == (2, *image)
