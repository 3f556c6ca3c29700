"""noise.cu's independent noise, run on the processor: against its law derived by hand, and seeded faults to be seen.

As in test_cuda_source.py threads take turns in random order, and shared memory starts as NaN.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.agent.gpu_noise import ELEMENT_THREADS, RANKS, source
from edgecut.noise_kernels.element_noise import ElementNoise
from edgecut.noise_kernels.elements import reference_elements
from edgecut.noise_kernels.reference import reference_int8
from edgecut.noise_kernels.sampler import sample

HERE = Path(__file__).parent
BLOCK = ELEMENT_THREADS * RANKS
LAWS = ["laplace", "normal"]


def load_building() -> Any:
    spec = importlib.util.spec_from_file_location("building", HERE / "building.py")
    assert spec is not None and spec.loader is not None
    building = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(building)
    return building


building = load_building()
pairs, KEY = building.pairs, building.KEY


def make(values: int, law: str, mixed: bool = False) -> ElementNoise:
    rng = np.random.default_rng([values, law == "normal", mixed])
    loc, scale = rng.normal(size=values), rng.uniform(0.5, 2, size=values)
    mixing = rng.normal(size=(values, values)) if mixed else None
    mechanism = "gaussian" if mixed else "cloak"
    return ElementNoise(mechanism, law, loc, scale, [("x", (values,))], "sha256:" + "0" * 64, "x", mixing)


def by_hand(noise: ElementNoise, key: bytes, nonce: bytes) -> np.ndarray:
    """From the layout's text, in float64, sharing no code with the package."""
    n = noise.values
    words = building.openssl_words(key, nonce, 3 + n // 16)[1:].ravel().astype(np.int64)
    uniforms = ((words >> 9) + 0.5) / 2**23
    if noise.law == "laplace":
        standard = np.where(words & 1, np.log(uniforms), -np.log(uniforms))[:n]
    else:
        wave = np.sqrt(-2 * np.log(uniforms[::2])) * np.exp(2j * np.pi * uniforms[1::2])
        standard = np.stack([wave.real, wave.imag], axis=1).ravel()[:n]
    scaled = noise.scale.astype(float) * standard
    return noise.loc.astype(float) + (scaled if noise.mixing is None else noise.mixing.astype(float) @ scaled)


def off(noise: ElementNoise, row: np.ndarray, expected: np.ndarray) -> float:
    """How far from what is expected, 1 being what is allowed: 1e-6 of a value's scale and 2e-7 of the value.

    Where values are mixed the scale is three times the noise's own spread, as roundings add up.
    """
    scale = noise.scale if noise.mixing is None else 3 * np.linalg.norm(noise.mixing * noise.scale, axis=1)
    return float((np.abs(row - expected) / (1e-6 * scale + 2e-7 * np.abs(expected))).max())


def check(kernels: Any, noise: ElementNoise, count: int) -> None:
    """Every request is what is derived by hand."""
    for row, pair in zip(kernels.elements(noise, pairs(count)), pairs(count), strict=True):
        assert off(noise, row, by_hand(noise, *pair)) <= 1


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = building.build(tmp_path_factory.mktemp("elements"), source().decode(), "-Werror")
    return path


@pytest.fixture
def kernels(library: Path) -> Any:
    return building.Kernels(library)


@pytest.mark.deep
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [1, 2, 3, 15, 16, 17, 31, 32, 33, 120, BLOCK - 1, BLOCK, BLOCK + 1, 9216, 70_001])
def test_independent_values(kernels: Any, n: int, law: str) -> None:
    check(kernels, make(n, law), 5 if n < 2000 else 1)


@pytest.mark.deep
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [1, 2, 16, 17, 31, 33, 63, 64, 65, 129, 600])
def test_mixed_values(kernels: Any, n: int, law: str) -> None:
    check(kernels, make(n, law, mixed=True), 3)


@pytest.mark.deep
def test_as_many_mixed_values_as_there_may_be(kernels: Any) -> None:
    """8192 would take a matrix of 256 MiB; 4225 need two rounds of drawing, as there are 4096 a round."""
    check(kernels, make(4225, "normal", mixed=True), 1)


@pytest.mark.deep
@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=12, max_size=12),
    st.integers(1, 150),
    st.sampled_from(LAWS),
    st.booleans(),
)
def test_any_key_and_size(library: Path, key: bytes, nonce: bytes, n: int, law: str, mixed: bool) -> None:
    noise = make(n, law, mixed)
    (row,) = building.Kernels(library, n).elements(noise, [(key, nonce)])
    assert off(noise, row, by_hand(noise, key, nonce)) <= 1


@pytest.mark.deep
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("law", LAWS)
def test_the_other_implementations_agree(kernels: Any, law: str, mixed: bool) -> None:
    noise = make(333, law, mixed)
    rows = kernels.elements(noise, pairs(3))
    for row, pair in zip(rows, pairs(3), strict=True):
        assert off(noise, row, reference_elements(noise, *pair)) <= 1
        assert off(noise, row, sample(noise, *pair)) <= 5


@pytest.mark.deep
@pytest.mark.parametrize(("n", "mixed"), [(2500, False), (200, True)])
@pytest.mark.parametrize("law", LAWS)
def test_the_order_of_threads_does_not_matter(library: Path, law: str, n: int, mixed: bool) -> None:
    results = [building.Kernels(library, seed).elements(make(n, law, mixed), pairs(2)) for seed in range(5)]
    assert all(np.array_equal(results[0], each) for each in results[1:])


@pytest.mark.deep
@pytest.mark.parametrize("flags", [["-O0"], ["-O3", "-march=native"]])
def test_compilers_do_not_change_the_bits(library: Path, flags: list[str], tmp_path: Path) -> None:
    other = building.build(tmp_path, source().decode(), *flags)
    for law in LAWS:
        for n, mixed in ((9216, False), (300, True)):
            results = [building.Kernels(path).elements(make(n, law, mixed), pairs(1)) for path in (library, other)]
            assert np.array_equal(*results)


@pytest.mark.deep
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("law", LAWS)
def test_sums_and_levels(kernels: Any, law: str, mixed: bool) -> None:
    """The noise on an activation is the noise alone, added in float32; int8 is what the reference makes of that."""
    noise = make(70, law, mixed)
    activation = 20 * np.random.default_rng(1).standard_normal((3, 70)).astype(np.float32)
    sums = kernels.elements(noise, pairs(3), activation)
    assert np.array_equal(sums, activation + kernels.elements(noise, pairs(3)))
    levels = kernels.elements(noise, pairs(3), activation, 5.0)
    assert np.array_equal(levels, reference_int8(sums, np.float32(5)))
    assert {-128, 127} <= set(levels.ravel().tolist())


@pytest.mark.deep
@pytest.mark.parametrize("mixing", [None, np.eye(40)])
def test_no_scale_gives_the_activation_back(kernels: Any, mixing: Any) -> None:
    tensors, loc = [("x", (40,))], np.zeros(40)
    noise = ElementNoise("none", "laplace", loc, loc, tensors, "sha256:" + "0" * 64, "x", mixing)
    activation = np.random.default_rng(1).standard_normal((2, 40)).astype(np.float32)
    assert np.array_equal(kernels.elements(noise, pairs(2), activation), activation)


DRAWN = "__syncthreads();\n    for (u32 i = threadIdx.x; i < left"
MIXED = "__syncthreads();\n    const u32 start = blockIdx.x * MIXED_ROWS"
# A fault, the text of noise.cu that it changes, and what to.
FAULTS = {
    "no barrier before the values": (DRAWN, DRAWN.replace("__syncthreads();", "")),
    "no barrier before the sums": (MIXED, MIXED.replace("__syncthreads();", "")),
    "block 0 for values": ("chacha20(seeds, row, 1 + block, words);", "chacha20(seeds, row, block, words);"),
    "another request's words": ("chacha20(seeds, row, 1 + block", "chacha20(seeds, 0, 1 + block"),
    "the same words in every block": ("variates(seeds, row, (start + mine)", "variates(seeds, row, (mine)"),
    "signs swapped": ("words[j] & 1u ? -e : e;", "words[j] & 1u ? e : -e;"),
    "signs of another bit": ("words[j] & 1u ? -e", "words[j] & 2u ? -e"),
    "the laws swapped": ("if (!normal) {", "if (normal) {"),
    "cosine and sine swapped": ("__fmul_rn(radius, cosine);\n", "__fmul_rn(radius, sine);\n"),
    "a radius too short": ("__fmul_rn(2.0f, exponential", "__fmul_rn(1.99999f, exponential"),
    "the angle without its half": ("(w >> 9) * 2 + 1;", "(w >> 9) * 2;"),
    "quarters cut off": ("(angle + 0x200000u) >> 22", "(angle + 0x1fff00u) >> 23"),
    "a sign of the cosine": ("(quarter + 1) & 2u", "(quarter + 1) & 4u"),
    "a sign of the sine": ("if (quarter & 2u)", "if (quarter & 4u)"),
    "a coarse sine": ("0.07968006f", "0.07964f"),
    "a coarse cosine": ("0.253669246f", "0.25364f"),
    "scale of another value": ("elements.scale[start + i]", "elements.scale[i]"),
    "loc left out": ("elements.loc[start + i])", "0.0f)"),
    "loc left out, mixed": ("__fadd_rn(elements.loc[i], sum)", "sum"),
    "scale left out, mixed": ("? elements.scale[first + j] : 0.0f", "? 1.0f : 0.0f"),
    "mixed from the other side": ("weights[j], drawn", "elements.mixing[(u64)j * n + i], drawn"),
    "a lane's share left out": ("for (u32 j = lane; j < n; j += 32)", "for (u32 j = lane; j < n; j += 33)"),
    "sums of one block": ("start = blockIdx.x * MIXED_ROWS, end", "start = 0, end"),
    "places that meet": ("return i + i / 32;", "return i / 32 * 32 + i % 31;"),
}


def survives(path: Path, seed: int) -> bool:
    """Whether a library passes what is asked of the right one above. A fault may end the process."""
    kernels = building.Kernels(path, seed)
    try:
        for law in LAWS:
            for n, mixed in ((17, False), (2500, False), (9, True), (100, True)):
                check(kernels, make(n, law, mixed), 2)
    except AssertionError:
        return False
    return True


@pytest.mark.deep
@pytest.mark.parametrize("fault", ["", *FAULTS])
def test_a_fault_shows(fault: str, tmp_path: Path) -> None:
    text = source().decode()
    if fault:
        before, after = FAULTS[fault]
        assert text.count(before) == 1, "the fault's line is no longer there"
        text = text.replace(before, after)
    path = building.build(tmp_path, text)
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os._exit(0 if all(survives(path, seed) for seed in range(2)) else 1)
    assert (os.waitpid(child, 0)[1] == 0) == (not fault)


def checked(n: int, law: str, mixed: bool) -> str:
    return f"test_cuda_elements.check(kernels, test_cuda_elements.make({n}, {law!r}, {mixed}), 1)"


def whole(pairs: list[tuple[int, bool]]) -> str:
    """Both laws of each (values, mixed)."""
    return "; ".join(checked(n, law, mixed) for n, mixed in pairs for law in LAWS)


@pytest.mark.deep
def test_no_access_is_out_of_bounds(tmp_path: Path) -> None:
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    path = building.build(tmp_path, source().decode(), *flags)
    cases = whole([(1, False), (17, False), (BLOCK + 1, False), (9216, False), (1, True), (65, True), (300, True)])
    ended = building.sanitized(path, "libasan.so", {"ASAN_OPTIONS": "detect_leaks=0"}, cases)
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.mark.deep
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("i < left && i < ELEMENT_THREADS", "i <= left && i < ELEMENT_THREADS"),
        ("end = n - start < MIXED_ROWS ? n : start", "end = start"),
        ("first + j < n ? elements.scale", "true ? elements.scale"),
    ],
)
def test_an_access_out_of_bounds_would_be_seen(before: str, after: str, tmp_path: Path) -> None:
    text = source().decode()
    assert before in text
    path = building.build(tmp_path, text.replace(before, after), "-fsanitize=address", "-fno-sanitize-recover=all")
    cases = whole([(497, False), (89, True)])
    ended = building.sanitized(path, "libasan.so", {"ASAN_OPTIONS": "detect_leaks=0"}, cases)
    assert ended.returncode != 0 and "AddressSanitizer" in ended.stderr


RACES = {name: FAULTS[name] for name in FAULTS if name.startswith("no barrier")}


@pytest.mark.deep
@pytest.mark.parametrize("fault", ["", *RACES])
def test_no_race(fault: str, tmp_path: Path) -> None:
    """On the system's threads, ThreadSanitizer sees accesses that no barrier orders, whatever order they came in."""
    text = source().decode().replace(*RACES[fault]) if fault else source().decode()
    path = building.build(tmp_path, text, "-fsanitize=thread", "-DTHREADS")
    options = {"TSAN_OPTIONS": "halt_on_error=1 exitcode=66 report_bugs=1"}
    ended = building.sanitized(path, "libtsan.so", options, whole([(1200, False), (90, True)]))
    raced = "data race" in ended.stderr
    assert raced == bool(fault) and (fault or ended.returncode == 0), ended.stderr[-3000:]
