"""Making noise takes the same steps whichever distribution was chosen, so that its time does not tell which.

Everything but the distribution is held fixed. Either one key and nonce, and collections that differ in nothing but
which of their distributions stands where the nonce points; or one collection, and nonces that choose each of its
distributions (in C, with as many negative samples each). What is counted are steps, never time: in NumPy each line and
the random words drawn, in C each arc between two pieces of code, by the compiler's own counters.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecut.noise_kernels import chacha, native, sampler
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.element_noise import LAWS, ElementNoise

ROOT = Path(sampler.__file__).parent
KEY, NONCE = bytes(range(32)), bytes(12)
COUNT = 5
SIZES = (120, 1000, 70_000)  # narrow tables, several tiles, wide tables


def turned(n: int, by: int) -> NoiseCollection:
    """The same distributions, each `by` places further on."""
    generator = np.random.default_rng(n)
    orders = [generator.permutation(n) for _ in range(COUNT)]
    loc, scale = [0.0, -3.0, 1e-20, 50.0, 2.0], [1.0, 1e-6, 300.0, 0.5, 2.0]
    places = [(i + by) % COUNT for i in range(COUNT)]
    pick = np.argsort(places)
    return NoiseCollection(
        [loc[i] for i in pick], [scale[i] for i in pick], [orders[i] for i in pick], [("x", (n,))],
        "sha256:" + "0" * 64, "x",
    )  # fmt: skip


def lines_run(function: Any, folder: Path = ROOT) -> tuple[Counter[tuple[str, int]], int]:
    """How often each line of the noise's modules ran, and how many random words were drawn."""
    lines: Counter[tuple[str, int]] = Counter()
    words = 0
    keystreams = chacha.keystreams

    def counting(seeds: Any, blocks: int) -> Any:
        nonlocal words
        words += 16 * blocks * len(seeds)
        return keystreams(seeds, blocks)

    def trace(frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(str(folder)):
            return None
        if event == "line":
            lines[frame.f_code.co_filename, frame.f_lineno] += 1
        return trace

    sampler.keystreams = counting  # type: ignore[attr-defined]
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
        sampler.keystreams = keystreams  # type: ignore[attr-defined]
    return lines, words


def nonce(number: int) -> bytes:
    return number.to_bytes(12, "little")


def chosen(number: int) -> int:
    return sampler.distribution_index(chacha.chacha20_words(KEY, nonce(number), 0, 1)[0], COUNT)


@pytest.mark.parametrize("n", SIZES)
def test_numpy_takes_the_same_steps(n: int) -> None:
    noise: list[np.ndarray] = []
    collections = [turned(n, by) for by in range(COUNT)]
    jobs = [(collection, NONCE) for collection in collections]
    jobs += [(collections[0], nonce(next(i for i in range(1000) if chosen(i) == d))) for d in range(COUNT)]
    for collection in collections:
        sampler.sample(collection, KEY, NONCE, "numpy")  # what is worked out once
    found = [lines_run(lambda job=job: noise.append(sampler.sample(job[0], KEY, job[1], "numpy"))) for job in jobs]
    assert len({array.tobytes() for array in noise[:COUNT]}) == COUNT, "not every distribution was chosen"
    assert all(steps == found[0] for steps in found)
    assert found[0][1] >= n and sum(found[0][0].values()) > 20


@pytest.mark.parametrize("law", LAWS)
def test_independent_noise_takes_the_same_steps_in_numpy(law: str) -> None:
    """Whatever its words: signs and signs' number are not looked at one by one."""
    noise = ElementNoise("laplace", law, np.zeros(120), np.ones(120), [("x", (120,))], "sha256:" + "0" * 64, "x")
    drawn: list[np.ndarray] = []
    found = [lines_run(lambda i=i: drawn.append(sampler.sample(noise, KEY, nonce(i), "numpy"))) for i in range(6)]
    assert len({row.tobytes() for row in drawn}) == 6 and all(steps[0] == found[0][0] for steps in found)
    assert sum(found[0][0].values()) > 15


def test_steps_that_depend_on_the_distribution_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    index = sampler.distribution_index

    def leaky(block: Any, distributions: int) -> int:
        found = index(block, distributions)
        for d in range(distributions):  # stops where it has found it
            if d == found:
                return d
        raise AssertionError

    monkeypatch.setattr(sampler, "distribution_index", leaky)
    collection = turned(120, 0)
    numbers = [next(i for i in range(1000) if chosen(i) == d) for d in (0, 3)]
    one, other = (
        lines_run(lambda number=number: sampler.sample(collection, KEY, nonce(number), "numpy"), Path(__file__).parent)
        for number in numbers
    )
    assert one[1] == other[1] and one[0] != other[0]


COUNTERS = """
extern void __gcov_dump(void), __gcov_reset(void);
EXPORT void counters_dump(void) { __gcov_dump(); }
EXPORT void counters_reset(void) { __gcov_reset(); }
"""
PROGRAM = """
import glob, json, os, shutil, sys
import numpy as np
sys.path.insert(0, sys.argv[2])
from test_one_path import COUNT, KEY, NONCE, SIZES, nonce, turned
from edgecut.noise_kernels.native import Native
library = Native("./noise.so")

def fill(collection, nonce, way):
    out, trace = np.zeros((1, collection.n), np.float32), np.zeros((1, 2), np.uint64)
    library.fill(collection, KEY, nonce, np.ones((1, collection.n), np.float32), out, 0.0, trace, way)
    return int(trace[0, 0]), int(trace[0, 1]), float(out.sum(dtype=np.float64))

def counted(collection, nonce, way, name):
    for old in glob.glob("*.gcda"):
        os.remove(old)
    library.library.counters_reset()
    d, negatives, total = fill(collection, nonce, way)
    library.library.counters_dump()
    (made,) = glob.glob("*.gcda")
    shutil.copy(made, name)
    return d, negatives, total

counted(turned(120, 0), NONCE, 0, "first")  # a process's first report has a field that later ones leave 0

def as_many_negatives(collection):
    kinds = {}
    for number in range(100_000):
        d, negatives, _ = fill(collection, nonce(number), 2)
        kinds.setdefault(negatives, {}).setdefault(d, number)
        if len(kinds[negatives]) == COUNT:
            return [kinds[negatives][d] for d in range(COUNT)]

for n in json.loads(sys.argv[1]):
    for way in (0, 2):
        said = [counted(turned(n, by), NONCE, way, f"turned-{n}-{way}-{by}") for by in range(COUNT)]
        print(json.dumps(["turned", n, way, said]))
        if n <= 1000:
            first = turned(n, 0)
            said = [counted(first, nonce(number), way, f"nonces-{n}-{way}-{i}")
                    for i, number in enumerate(as_many_negatives(first))]
            print(json.dumps(["nonces", n, way, said]))
"""


def counts(folder: Path, source: str, sizes: tuple[int, ...]) -> list[tuple[str, list[Any], list[bytes]]]:
    """For each round of jobs what it is, what was said of each, and the compiler's counters after each."""
    if shutil.which("gcc") is None:
        if os.environ.get("EDGECUT_REQUIRE_ALL") == "1":
            pytest.fail("gcc is not installed")
        pytest.skip("gcc is not installed")
    (folder / "noise.c").write_text(source.replace("#else /* LANES:", COUNTERS + "#else /* LANES:"))
    flags = ["-std=c99", "-O0", "--coverage", "-fPIC", "-shared", "-w"]
    subprocess.run(["gcc", *flags, "-o", "noise.so", "noise.c"], cwd=folder, check=True, capture_output=True)
    command = [sys.executable, "-P", "-c", PROGRAM, json.dumps(sizes), str(Path(__file__).parent)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rounds = []
    for what, n, way, said in map(json.loads, done.stdout.splitlines()):
        files = [(folder / f"{what}-{n}-{way}-{i}").read_bytes() for i in range(COUNT)]
        rounds.append((what, said, files))
    return rounds


@pytest.mark.deep
def test_c_takes_the_same_steps(tmp_path: Path) -> None:
    """The portable way through it, and the widest that this processor has."""
    rounds = counts(tmp_path, (ROOT / "noise.c").read_text(), SIZES)
    assert [what for what, _, _ in rounds].count("nonces") == 4 and len(rounds) == 10
    for what, said, files in rounds:
        distributions, negatives, sums = (set(values) for values in zip(*said, strict=True))
        assert len(negatives) == 1 and len(sums) == COUNT
        assert len(distributions) == (1 if what == "turned" else COUNT)
        assert set(files) == {files[0]}
    assert len({files[0] for _, _, files in rounds}) >= len(SIZES)  # other sizes take other steps


@pytest.mark.deep
@pytest.mark.parametrize(
    ("leak", "where"),
    [
        ("    for (float s = scale; s > 1; s /= 2)\n        tiles[0] += 0;\n", {"turned", "nonces"}),
        ("    for (uint32_t d = 0; d < distribution; d++)\n        tiles[0] += 0;\n", {"nonces"}),
    ],
    ids=["by its scale", "by its number"],
)
def test_a_step_in_c_that_depends_on_the_distribution_would_be_seen(leak: str, where: set[str], tmp_path: Path) -> None:
    source = (ROOT / "noise.c").read_text()
    place = "    double sum = 0;\n    for (uint64_t past = negatives;"
    assert source.count(place) == 1
    for what, _, files in counts(tmp_path, source.replace(place, leak + place), (120,)):
        assert (len(set(files)) > 1) == (what in where)


def test_the_source_that_was_looked_at_is_the_one_that_runs() -> None:
    assert native._source() == (ROOT / "noise.c").read_bytes()
