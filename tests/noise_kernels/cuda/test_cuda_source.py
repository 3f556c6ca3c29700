"""noise.cu itself, run on the processor: against the word layout derived by hand, and seeded faults that must show.

The kernels' threads take turns in random order and their shared memory starts as NaN, so a missing barrier shows.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.agent.gpu_noise import BLOCK_ELEMENTS, source
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.reference import reference_int8
from edgecut.noise_kernels.sampler import sample

HERE = Path(__file__).parent


def load_building() -> Any:
    spec = importlib.util.spec_from_file_location("building", HERE / "building.py")
    assert spec is not None and spec.loader is not None
    building = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(building)
    return building


building = load_building()


nonce, pairs, openssl_words, KEY = building.nonce, building.pairs, building.openssl_words, building.KEY


def make(n: int, distributions: int = 3) -> NoiseCollection:
    rng = np.random.default_rng([n, distributions])
    orders = np.argsort(rng.random((distributions, n)), axis=1)
    loc, scale = rng.normal(size=distributions), rng.uniform(0.5, 2, size=distributions)
    return NoiseCollection(loc, scale, orders, [("x", (n,))], "sha256:" + "0" * 64, "x")


def by_hand(collection: NoiseCollection, key: bytes, nonce: bytes) -> tuple[np.ndarray, int, int]:
    """(noise, distribution, M) from the layout's text, in float64, sharing no code with the package."""
    n, size = collection.n, collection.distributions
    words = openssl_words(key, nonce, 2 + n // 16).ravel().astype(np.int64)
    d = next(int(w) % size for w in words[:16] if w < 2**32 // size * size)
    words = words[16 : 16 + n]
    m = int((words & 1).sum())
    e = -np.log(((words >> 9) + 0.5) / 2**23)
    i = np.arange(1, n + 1)
    x = np.empty(n)
    x[:m] = -np.cumsum((e / i)[:m][::-1])[::-1]
    x[m:] = np.cumsum((e / (n + 1 - i))[m:])
    noise = np.empty(n)
    noise[collection.orders[d]] = float(collection.loc[d]) + float(collection.scale[d]) * x
    return noise, d, m


def check(kernels: Any, collection: NoiseCollection, count: int, tiled: bool) -> None:
    """Noise within 4e-6 scale of what is derived by hand, in order; d and M exact."""
    rows, chosen, negatives = kernels.noise(collection, pairs(count), tiled=tiled)
    for row, (key, each) in enumerate(pairs(count)):
        expected, d, m = by_hand(collection, key, each)
        assert not tiled or (int(chosen[row]), int(negatives[row])) == (d, m)
        assert np.abs(rows[row] - expected).max() <= 4e-6 * collection.scale[d]
        assert np.diff(rows[row][collection.orders[d]]).min() >= -1e-6 * collection.scale[d]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = building.build(tmp_path_factory.mktemp("noise"), source().decode(), "-Werror")
    return path


@pytest.fixture
def kernels(library: Path) -> Any:
    return building.Kernels(library)


def test_nothing_is_included() -> None:
    assert b"#include" not in source() and b"atomic" not in source()


@pytest.mark.deep
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize(
    "n", [2, 3, 15, 16, 17, 120, 480, 495, 496, 497, 511, 512, 513, 4095, 4096, 4097, 9216, BLOCK_ELEMENTS]
)
def test_one_block_and_tiles(kernels: Any, n: int, tiled: bool) -> None:
    check(kernels, make(n), 2 if n > 1000 else 10, tiled)


@pytest.mark.deep
@pytest.mark.parametrize(("n", "count"), [(25088, 2), (65536, 1), (65537, 1), (100352, 1)])
def test_large(kernels: Any, n: int, count: int) -> None:
    check(kernels, make(n), count, True)


@pytest.mark.deep
@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=12, max_size=12), st.integers(2, 300), st.booleans())
def test_any_key_and_size(library: Path, key: bytes, nonce: bytes, n: int, tiled: bool) -> None:
    collection = make(n, 5)
    result = building.Kernels(library, n).noise(collection, [(key, nonce)], tiled=tiled)[0][0]
    expected, d, _ = by_hand(collection, key, nonce)
    assert np.abs(result - expected).max() <= 4e-6 * collection.scale[d]


@pytest.mark.deep
def test_words_choice_and_variates(kernels: Any) -> None:
    for i, distributions in enumerate((1, 2, 3, 20, 97, 65536, 3 << 30)):
        words, chosen, steps = kernels.debug(KEY, nonce(i), distributions, 640)
        expected = openssl_words(KEY, nonce(i), 640)
        assert np.array_equal(words, expected)
        good = expected < 2**32 // distributions * distributions
        first = np.where(good.any(axis=1), good.argmax(axis=1), 15)
        assert np.array_equal(chosen, expected[np.arange(640), first] % distributions)
        e = -np.log(((expected >> 9) + 0.5) / 2**23)
        assert (np.abs(steps - e) <= 1e-7 * e).all()


@pytest.mark.deep
@pytest.mark.parametrize(("n", "tiled"), [(480, False), (BLOCK_ELEMENTS, False), (20000, True)])
def test_the_order_of_threads_does_not_matter(library: Path, n: int, tiled: bool) -> None:
    collection = make(n)
    results = [building.Kernels(library, seed).noise(collection, pairs(2), tiled=tiled)[0] for seed in range(5)]
    assert all(np.array_equal(results[0], each) for each in results[1:])


@pytest.mark.deep
@pytest.mark.parametrize("n", [2, 17, 480, 4097, BLOCK_ELEMENTS])
def test_tiles_give_the_block_s_bits(kernels: Any, n: int) -> None:
    collection = make(n)
    block, tiles = (kernels.noise(collection, pairs(3), tiled=tiled)[0] for tiled in (False, True))
    assert np.array_equal(block, tiles)


@pytest.mark.deep
@pytest.mark.parametrize("flags", [["-O0"], ["-O3", "-march=native"]])
def test_compilers_do_not_change_the_bits(library: Path, flags: list[str], tmp_path: Path) -> None:
    other = building.build(tmp_path, source().decode(), *flags)
    collection = make(9216)
    results = [building.Kernels(path).noise(collection, pairs(1))[0] for path in (library, other)]
    assert np.array_equal(*results)


@pytest.mark.deep
@pytest.mark.parametrize(("n", "tiled"), [(120, False), (9216, False), (20000, True)])
def test_numpy_agrees(kernels: Any, n: int, tiled: bool) -> None:
    collection = make(n)
    result = kernels.noise(collection, pairs(3), tiled=tiled)[0]
    expected = np.stack([sample(collection, *pair) for pair in pairs(3)])
    assert np.abs(result - expected).max() <= 4e-6 * collection.scale.max()


@pytest.mark.deep
@pytest.mark.parametrize(("n", "tiled"), [(2, False), (120, True), (9216, False), (9216, True), (70_000, True)])
def test_the_c_sampler_agrees(kernels: Any, n: int, tiled: bool) -> None:
    """The distribution and M are the same; the noise to within both their roundings."""
    from edgecut.noise_kernels import native

    sampler = native.load()
    if sampler is None:
        pytest.skip(f"the C sampler is not there: {native.why_not()}")
    collection, out, trace = make(n), np.empty((3, n), np.float32), np.empty((3, 2), np.uint64)
    sampler.fill(collection, KEY, b"".join(each for _, each in pairs(3)), None, out, trace=trace)
    result, chosen, negatives = kernels.noise(collection, pairs(3), tiled=tiled)
    if tiled:
        assert np.array_equal(trace, np.stack([chosen, negatives], axis=1).astype(np.uint64))
    assert (np.abs(result - out).max(axis=1) <= 4e-6 * collection.scale[trace[:, 0].astype(int)]).all()


@pytest.mark.deep
def test_int8_saturates_and_rounds_to_even(kernels: Any) -> None:
    collection = make(9, 1)
    noise = kernels.noise(collection, pairs(1))[0][0]
    wanted = np.array([0.5, 1.5, -2.5, 200.0, -200.0, 126.7, np.inf, -np.inf, np.nan], np.float32)
    activation = (wanted - noise).astype(np.float32)[None]
    sums = (activation[0] + noise).astype(np.float32)
    result = kernels.noise(collection, pairs(1), activation, 1.0)[0][0]
    assert np.array_equal(result[:6], np.clip(np.rint(sums[:6]), -128, 127).astype(np.int8))
    assert result[[3, 4, 6, 7, 8]].tolist() == [127, -128, 127, -128, -128]
    assert np.array_equal(result, reference_int8(sums, np.float32(1)))


LOOP = "end = (float)(n + 1);\n    for (u32 j = 0; j < RANKS; j++) {\n        float "
WEIGHT = "? __frcp_rn(__fadd_rn(start, (float)(j + 1))) : 0.0f;\n        below"
# A fault, the text of noise.cu that it changes, and what to.
FAULTS = {
    "no barrier before M": ("__syncthreads();\n    return warp_sum(lane", "return warp_sum(lane"),
    "no barrier before the edges": ("__syncthreads();\n    i64 share", "i64 share"),
    "no barrier before the gather": ("__syncthreads();\n    const unsigned short", "const unsigned short"),
    "n instead of n + 1": (LOOP + "i ", (LOOP + "i ").replace("(n + 1)", "n")),
    "n instead of n + 1, tiles": (LOOP + "weight", (LOOP + "weight").replace("(n + 1)", "n")),
    "wrong weight below": ("negative ? i : ", "negative ? i + 1.0f : "),
    "wrong weight of whole tiles": (WEIGHT, WEIGHT.replace("(j + 1)", "j + 0.5f")),
    "M fixed": ("negatives += first + j < n ? w[j] & 1u : 0u;", "negatives += first + j < n ? j & 1u : 0u;"),
    "M of the padding, too": ("negatives += first + j < n ? w[j] & 1u : 0u;", "negatives += w[j] & 1u;"),
    "M of another bit": ("? w[j] & 1u :", "? w[j] >> 1 & 1u :"),
    "mirrored": ("e[j] = negative ? -below", "e[j] = negative ? below"),
    "order swapped": ("samples[rank + rank / RANKS], inverse", "samples[i + i / RANKS], inverse"),
    "order swapped, tiles": ("rank % RANKS * TILE_THREADS + rank % TILE / RANKS", "rank % TILE"),
    "one lane short": ("distance < 32; distance", "distance < 16; distance"),
    "the edge of the next thread": ("return warp_sum(share) + sum - step;", "return warp_sum(share) + sum;"),
    "the middle tile left out": ("start = tile < centre ? -sides.below : sides.above;", "start = 0;"),
    "a tile counted twice": ("i = centre + 1 + threadIdx.x; i < tile;", "i = centre + 1 + threadIdx.x; i <= tile;"),
    "18 rounds": ("for (int i = 0; i < 10; i++) {", "for (int i = 0; i < 9; i++) {"),
    "a rotation": ("__funnelshift_l(b, b, 7)", "__funnelshift_l(b, b, 9)"),
    "block 0 reused": ("w[12] = counter;", "w[12] = counter ? counter - 1 : 0;"),
    "nonce of another request": ("w[13 + j] = seeds.nonces[row][j];", "w[13 + j] = seeds.nonces[0][j];"),
    "d not from block 0": ("if (threadIdx.x == 0) shared->chosen", "if (threadIdx.x == 1) shared->chosen"),
    "d of the first word alone": ("word = w[j] <= last ? w[j] : word;", "word = w[j];"),
    "scale left out": ("return __fmaf_rn(scale, ", "return __fmaf_rn(1.0f, "),
    "a coarse logarithm": ("p = __fmaf_rn(p, f, -0.250078201f);", "p = __fmaf_rn(p, f, -0.2505f);"),
    "the edge's rest twice": ("__fmul_rn(low, unit)", "__fmul_rn(high, unit)"),
}


def survives(path: Path, seed: int) -> bool:
    """Whether a library passes what is asked of the right one above. A fault may end the process."""
    kernels = building.Kernels(path, seed)
    try:
        for n, tiled in ((17, False), (480, False), (4100, False), (40, True), (13000, True)):
            check(kernels, make(n), 4 if n < 5000 else 2, tiled)
        words, chosen, _ = kernels.debug(KEY, nonce(0), 3 << 30, 640)
        good = words < 3 << 30
        first = np.where(good.any(axis=1), good.argmax(axis=1), 15)
        assert np.array_equal(chosen, words[np.arange(640), first] % (3 << 30))
    except AssertionError:
        return False
    return True


@pytest.mark.deep
@pytest.mark.parametrize("fault", ["", *FAULTS])
def test_a_fault_shows(fault: str, tmp_path: Path) -> None:
    text = source().decode()
    if fault:
        before, after = FAULTS[fault]
        assert text.count(before) >= 1, "the fault's line is no longer there"
        text = text.replace(before, after)
    path = building.build(tmp_path, text)
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os._exit(0 if all(survives(path, seed) for seed in range(2)) else 1)
    assert (os.waitpid(child, 0)[1] == 0) == (not fault)


def sanitized(
    path: Path, runtime: str, options: dict[str, str], n: int, tiled: bool
) -> subprocess.CompletedProcess[str]:
    check = f"test_cuda_source.check(kernels, test_cuda_source.make({n}), 1, {tiled})"
    ended: subprocess.CompletedProcess[str] = building.sanitized(path, runtime, options, check)
    return ended


@pytest.mark.deep
@pytest.mark.parametrize(("n", "tiled"), [(2, False), (497, False), (BLOCK_ELEMENTS, False), (15, True), (9000, True)])
def test_no_access_is_out_of_bounds(address_library: Path, n: int, tiled: bool) -> None:
    ended = sanitized(address_library, "libasan.so", {"ASAN_OPTIONS": "detect_leaks=0"}, n, tiled)
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.fixture(scope="module")
def address_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    path: Path = building.build(tmp_path_factory.mktemp("address"), source().decode(), *flags)
    return path


@pytest.mark.deep
@pytest.mark.parametrize(
    ("before", "after"),
    [("if (i >= n) return;", ""), ("i < n; i += blockDim.x", "i <= n; i += blockDim.x")],
)
def test_an_access_out_of_bounds_would_be_seen(before: str, after: str, tmp_path: Path) -> None:
    text = source().decode()
    assert before in text
    path = building.build(tmp_path, text.replace(before, after), "-fsanitize=address", "-fno-sanitize-recover=all")
    ended = sanitized(path, "libasan.so", {"ASAN_OPTIONS": "detect_leaks=0"}, 497, "i >=" in before)
    assert ended.returncode != 0 and "AddressSanitizer" in ended.stderr


RACES = {name: FAULTS[name] for name in FAULTS if name.startswith("no barrier")}


@pytest.mark.deep
@pytest.mark.parametrize("fault", ["", *RACES])
def test_no_race(fault: str, tmp_path: Path) -> None:
    """On the system's threads, ThreadSanitizer sees accesses that no barrier orders, whatever order they came in."""
    text = source().decode().replace(*RACES[fault]) if fault else source().decode()
    path = building.build(tmp_path, text, "-fsanitize=thread", "-DTHREADS")
    options = {"TSAN_OPTIONS": "halt_on_error=1 exitcode=66 report_bugs=1"}
    for n, tiled in ((700, False), (5000, True)):
        ended = sanitized(path, "libtsan.so", options, n, tiled)
        raced = "data race" in ended.stderr
        if fault and raced:
            return
        assert not raced and (fault or ended.returncode == 0), ended.stderr[-3000:]
    assert not fault, "the race was not seen"
