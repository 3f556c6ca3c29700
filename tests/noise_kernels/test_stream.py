"""What a stream's requests get, end to end: never the same noise twice, a fair and fresh choice of a distribution, and
a key that stays in the process. (`test_randomness` is about the stream alone.)"""

import base64
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from edgecut.noise_kernels import building, native
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.randomness import NoiseStream
from edgecut.noise_kernels.sampler import add_noise, add_noise_int8, sample_batch

Make = Callable[..., NoiseCollection]
N = 64
ORDER = np.random.default_rng(3).permutation(N)
COLLECTION = NoiseCollection([0.0], [1.0], [ORDER], [("x", (N,))], "sha256:" + "0" * 64, "x")
STREAM = NoiseStream()


def all_differ(rows: list[np.ndarray] | np.ndarray) -> bool:
    """No two rows have two samples in common: of equal words, every sample would be equal.

    One alone is equal by chance once in a dozen times among 900 rows, as a float32 has 24 bits.
    """
    flat = np.concatenate([np.reshape(row, (-1, N)) for row in rows])
    return len({(row[0], row[N // 2]) for row in flat}) == len(flat)


def draw(implementation: str, count: int = 20) -> np.ndarray:
    """At module level, for other processes; there `c` is whatever is loaded."""
    return sample_batch(COLLECTION, STREAM, count, implementation)


def draw_into(queue: Any, implementation: str) -> None:
    queue.put(draw(implementation))


def test_no_two_requests_of_any_thread_share_noise(implementation: str) -> None:
    drawn: list[np.ndarray] = []

    def work() -> None:
        for _ in range(30):
            drawn.append(draw(implementation, 3))
            drawn.append(add_noise(COLLECTION, STREAM, np.zeros((2, N), np.float32), implementation=implementation))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(len, drawn)) == 6 * 30 * 5 and all_differ(drawn)
    assert not all_differ([*drawn, drawn[7]])


def test_no_two_rows_of_a_batch_share_noise_in_int8(implementation: str) -> None:
    levels = add_noise_int8(COLLECTION, STREAM, np.zeros((500, N), np.float32), 0.01, implementation)
    assert len({row.tobytes() for row in levels}) == 500


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_no_two_processes_share_noise(method: str, implementation: str) -> None:
    """Of one stream, which a forked process inherits, and a spawned one makes when it imports this module."""
    name = implementation if method == "fork" else "numpy"
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=draw_into, args=(queue, name)) for _ in range(2)]
    draw(name)
    for child in children:
        child.start()
    rows = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert all_differ([*rows, draw(name)])


def test_a_stream_is_not_sent_to_another_process() -> None:
    context = multiprocessing.get_context("spawn")
    with pytest.raises(TypeError, match="copied nor pickled"):
        context.Process(target=print, args=(STREAM,)).start()


def test_noise_beyond_the_last_nonce_of_a_key(implementation: str) -> None:
    """A batch over the end: its rows are served under two keys, and no nonce comes under one key again."""
    stream = NoiseStream()
    first_key = stream._secret.key
    stream._secret.count = 2**32 - 3
    seen = [(key, run[i : i + 12]) for key, run in stream.next_runs(8) for i in range(0, len(run), 12)]
    assert [key == first_key for key, _ in seen] == [True] * 3 + [False] * 5
    counters = [int.from_bytes(nonce[:4], "little") for _, nonce in seen]
    assert counters == [2**32 - 3, 2**32 - 2, 2**32 - 1, 0, 1, 2, 3, 4]
    stream = NoiseStream()
    stream._secret.count = 2**32 - 3
    activation = np.random.default_rng(0).normal(size=(8, N)).astype(np.float32)
    noise = add_noise(COLLECTION, stream, activation, implementation=implementation) - activation
    assert stream._secret.count == 5 and all_differ(noise) and np.abs(noise).max() < 50


def restored(stream: NoiseStream) -> NoiseStream:
    """The stream as a second machine has it that was started from the same snapshot: key, counter, process id."""
    copy = NoiseStream()
    copy._secret.key, copy._secret.count = stream._secret.key, stream._secret.count
    return copy


def test_a_snapshot_restored_twice_gives_other_noise(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 8 bytes after the counter are what is fresh. Were they not, the noise would repeat, and this would show."""
    stream = NoiseStream()
    sample_batch(COLLECTION, stream, 5, implementation)
    copies = [restored(stream) for _ in range(3)]
    assert len({copy._secret.key for copy in copies}) == 1
    assert all_differ([sample_batch(COLLECTION, copy, 4, implementation) for copy in copies])
    seeds = [copy.next() for copy in copies]
    assert len({nonce[:4] for _, nonce in seeds}) == 1 and len({nonce[4:] for _, nonce in seeds}) == 3
    monkeypatch.setattr(os, "urandom", lambda size: bytes(size))
    copies = [restored(stream) for _ in range(3)]
    assert not all_differ([sample_batch(COLLECTION, copy, 4, implementation) for copy in copies])


class Foretold(NoiseStream):
    """Always the same nonces, so that a test passes for good or never; `repeats`: each request's comes so often."""

    __slots__ = ("repeats",)

    def __init__(self, repeats: int = 1) -> None:
        super().__init__()
        self.repeats = repeats

    def next_runs(self, count: int) -> list[tuple[bytes, bytes]]:
        return [(bytes(32), b"".join((i // self.repeats).to_bytes(12, "little") for i in range(count)))]


CHOICES, REQUESTS = 5, 20_000


def chosen(stream: NoiseStream, implementation: str) -> np.ndarray:
    """Which distribution each of many requests got, told by their noise."""
    loc = 1000 * np.arange(CHOICES)
    orders = [[0, 1]] * CHOICES
    collection = NoiseCollection(loc, [1e-3] * CHOICES, orders, [("x", (2,))], "sha256:" + "0" * 64, "x")
    noise = sample_batch(collection, stream, REQUESTS, implementation)
    return np.rint(noise[:, 0] / 1000).astype(int)


def p_uniform(d: np.ndarray) -> float:
    return float(stats.chisquare(np.bincount(d, minlength=CHOICES)).pvalue)


def p_independent(d: np.ndarray, lag: int) -> float:
    """Of each request's choice and that of the one `lag` later: chi-square of the table of pairs."""
    table = np.zeros((CHOICES, CHOICES))
    np.add.at(table, (d[:-lag], d[lag:]), 1)
    return float(stats.chi2_contingency(table).pvalue)


def test_every_distribution_is_as_likely_whatever_came_before(implementation: str) -> None:
    d = chosen(Foretold(), implementation)
    assert set(d) == set(range(CHOICES)) and p_uniform(d) > 1e-4
    assert min(p_independent(d, lag) for lag in (1, 2, 3, 16)) > 1e-4
    assert p_uniform(np.where(np.arange(REQUESTS) % 50 == 0, 0, d)) < 1e-6
    assert p_independent(chosen(Foretold(repeats=2), implementation), 1) < 1e-6


def forms(key: bytes) -> list[bytes]:
    """How a key could be written: as it is, either half, hexadecimal, base 64, as a Python literal, escaped."""
    literal = repr(key)[2:-1].encode()
    shown = [
        key,
        key[:16],
        key[16:],
        key.hex().encode(),
        base64.b64encode(key),
        literal,
        json.dumps(list(key)).encode(),
    ]
    return [*shown, key.hex().upper().encode(), str(list(key)).encode()[1:-1]]


def found_in(folder: Path, key: bytes) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(form in path.read_bytes() for form in forms(key))]


PROGRAM = """
import gc, json, os, pickle, sys, warnings
import numpy as np
from edgecut.noise_kernels import native, sampler
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.randomness import NoiseStream
orders = [np.random.default_rng(i).permutation(300) for i in range(3)]
collection = NoiseCollection([0, 1, 2], [1, 2, 3], orders, [("x", (300,))], "sha256:" + "0" * 64, "x")
stream = NoiseStream()
out = [sampler.add_noise(collection, stream, np.zeros((4, 300), np.float32), implementation=i) for i in sys.argv[1:]]
out.append(sampler.add_noise_int8(collection, stream, np.zeros((4, 300), np.float32), 0.1))
np.save("noisy.npy", np.concatenate(out))
open("collection.npz", "wb").write(collection.to_bytes())
open("collection.pickle", "wb").write(pickle.dumps(collection))
shown = []
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for thing in gc.get_objects():
        if str(type(thing).__module__).startswith(("edgecut", "ctypes")):
            shown.append(repr(thing))
open("shown.txt", "w").write("\\n".join([*shown, *map(repr, [stream, stream._secret, native._outcomes, collection])]))
for name in ("cmdline", "environ", "maps"):
    open(name, "wb").write(open("/proc/self/" + name, "rb").read())
try:
    sampler.sample(collection, stream._secret.key, b"")
except ValueError as error:
    open("error.txt", "w").write(repr(error))
sys.stdout.write(stream._secret.key.hex())
"""


def test_the_key_is_never_written(tmp_path: Path, native_sampler: native.Native, make_collection: Make) -> None:
    """By a process that draws with every implementation, to any file, argument, variable, message or pickle of its."""
    work, cache, temporary = (tmp_path / name for name in ("work", "cache", "tmp"))
    for folder in (work, temporary):
        folder.mkdir()
    kept = cache / "native" / Path(native_sampler.path).name
    kept.parent.mkdir(parents=True, mode=0o700)
    kept.write_bytes(Path(native_sampler.path).read_bytes())
    kept.chmod(0o600)
    environment = {**os.environ, "EDGECUT_CACHE": str(cache), "TMPDIR": str(temporary), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM, "numpy", "c"]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0 and not done.stderr, done.stderr
    key = bytes.fromhex(done.stdout)
    assert len(key) == 32 and len(list(work.iterdir())) == 8
    assert found_in(tmp_path, key) == []
    assert "NoiseStream()" in (work / "shown.txt").read_text()
    for i, form in enumerate(forms(key)):  # and the search would find each of them
        (work / f"leak{i}").write_bytes(b"text" + form + b"text")
    assert len(found_in(tmp_path, key)) == len(forms(key))


STACK = """
import sys
import numpy as np
from edgecut.noise_kernels import native
from edgecut.noise_kernels.collection import NoiseCollection
sampler = native.Native(sys.argv[1])
collection = NoiseCollection([0], [1], [np.arange(300)], [("x", (300,))], "sha256:" + "0" * 64, "x")
key, out = bytes(range(100, 132)), np.zeros((1, 300), np.float32)
(line,) = [line for line in open("/proc/self/maps") if "[stack]" in line]
start, end = (int(part, 16) for part in line.split()[0].split("-"))
memory = open("/proc/self/mem", "rb", buffering=0)
def there():
    memory.seek(start)
    return memory.read(end - start).count(key[:16])
before = there()
for way in range(sampler.widest + 1):
    sampler.fill(collection, key, bytes(12), None, out, way=way)
print(before, there())
"""


def left_on_the_stack(library: str) -> list[int]:
    command = [sys.executable, "-c", STACK, library]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return [int(part) for part in done.stdout.split()]


def test_the_compiled_sampler_leaves_no_key_on_the_stack(native_sampler: native.Native) -> None:
    assert left_on_the_stack(native_sampler.path) == [0, 0]


@pytest.mark.deep
def test_a_key_left_on_the_stack_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native_sampler: native.Native
) -> None:
    monkeypatch.setenv("EDGECUT_CACHE", str(tmp_path))
    source = native._source().replace(b"memset(memory, 0, bytes);", b"(void)bytes;")
    before, after = left_on_the_stack(building.build(source))
    assert before == 0 and after > 0


def test_what_is_prepared_of_a_collection_goes_with_it(implementation: str, make_collection: Make) -> None:
    """And is no part of its copies."""
    collection = make_collection(300)
    before = pickle.dumps(collection)
    sample_batch(collection, STREAM, 1, implementation)
    assert pickle.dumps(collection) == before and pickle.loads(before)._prepared is None
