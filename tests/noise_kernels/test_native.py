"""The compiled sampler: the words, d and M bit for bit; the same bits whichever way; found, built and refused."""

import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.noise_kernels import building, native
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.reference import reference_int8

Make = Callable[..., NoiseCollection]
ROOT = Path(__file__).resolve().parents[2]
KEY = bytes(range(32))


def nonces(count: int, first: int = 0) -> bytes:
    return b"".join((first + i).to_bytes(12, "little") for i in range(count))


def openssl(key: bytes, nonce: bytes, counter: int, blocks: int) -> np.ndarray:
    cipher = Cipher(algorithms.ChaCha20(key, counter.to_bytes(4, "little") + nonce), mode=None)
    return np.frombuffer(cipher.encryptor().update(bytes(64 * blocks)), dtype="<u4")


def words(sampler: native.Native, way: int, key: bytes, nonce: bytes, counter: int) -> np.ndarray:
    result = np.zeros(256, dtype=np.uint32)
    sampler.library.edgecut_noise_words(way, key, nonce, counter, result.ctypes.data_as(native.ctypes.c_void_p))
    return result


def ways(sampler: native.Native) -> range:
    """Those that this processor has."""
    return range(sampler.widest + 1)


def test_rfc_8439_block(native_sampler: native.Native) -> None:
    """Section 2.3.2: the block function's example, and the next 15 blocks by OpenSSL."""
    nonce = bytes.fromhex("000000090000004a00000000")
    block = (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )
    for way in ways(native_sampler):
        found = words(native_sampler, way, KEY, nonce, 1)
        assert found[:16].astype("<u4").tobytes().hex() == block
        assert (found == openssl(KEY, nonce, 1, 16)).all()


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=12, max_size=12), st.integers(0, 2**31 - 1))
def test_words_are_openssl_s(native_sampler: native.Native, key: bytes, nonce: bytes, counter: int) -> None:
    for way in ways(native_sampler):
        assert (words(native_sampler, way, key, nonce, counter) == openssl(key, nonce, counter, 16)).all()


@pytest.mark.parametrize("n", [2, 16, 17, 127, 128, 255, 256, 257, 4097, 25_088, 70_000])
def test_d_and_m_are_the_words(n: int, native_sampler: native.Native, make_collection: Make) -> None:
    collection, count = make_collection(n, 7), 5
    for way in ways(native_sampler):
        trace, out = np.zeros((count, 2), dtype=np.uint64), np.empty((count, n), dtype=np.float32)
        native_sampler.fill(collection, KEY, nonces(count), None, out, trace=trace, way=way)
        for i, (d, m) in enumerate(trace.tolist()):
            stream = openssl(KEY, nonces(1, i), 0, 1 + (n + 15) // 16)
            assert d == next(w % 7 for w in stream[:16].tolist() if w < 2**32 // 7 * 7)
            assert m == int((stream[16 : 16 + n] & 1).sum())


def test_the_choice_of_a_distribution_rejects(native_sampler: native.Native, make_collection: Make) -> None:
    """With D = 3 * 2^14 + 1 a word is rejected once in 87 000."""
    distributions = 3 * 2**14 + 1
    bound = 2**32 // distributions * distributions
    chosen = 324_118  # found by trying
    assert openssl(KEY, nonces(1, chosen), 0, 1)[0] >= bound
    loc = np.arange(distributions)
    collection = make_collection(2, distributions, loc=loc, scale=np.full(distributions, 1e-3))
    out, trace = np.empty((1, 2), dtype=np.float32), np.zeros((1, 2), dtype=np.uint64)
    native_sampler.fill(collection, KEY, nonces(1, chosen), None, out, trace=trace)
    expected = int(openssl(KEY, nonces(1, chosen), 0, 1)[1]) % distributions
    assert trace[0, 0] == expected and abs(out[0, 0] - expected) < 0.5


def test_exponentials(native_sampler: native.Native) -> None:
    """Of two samples, both positive, the smaller is E_1 / 2; both negative, the greater is -E_2 / 2: E is seen."""
    collection = NoiseCollection([0.0], [1.0], [[0, 1]], [("x", (2,))], "sha256:" + "0" * 64, "x")
    count = 8000
    noise = np.empty((count, 2), dtype=np.float32)
    for way in ways(native_sampler):
        native_sampler.fill(collection, KEY, nonces(count), None, noise, way=way)
        errors = []
        for i, (low, high) in enumerate(noise.tolist()):
            w = openssl(KEY, nonces(1, i), 1, 1)[:2].astype(np.int64)
            e = -np.log(((w >> 9) + 0.5) * 2.0**-23)
            if w[0] & w[1] & 1:
                errors.append(-2 * high / e[1] - 1)
            elif not (w[0] | w[1]) & 1:
                errors.append(2 * low / e[0] - 1)
        assert len(errors) > 3000 and np.abs(errors).max() < 2e-7


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 700), st.integers(1, 3), st.integers(0, 2**60))
def test_every_way_gives_the_same_bits(native_sampler: native.Native, n: int, batch: int, first: int) -> None:
    order = np.random.default_rng(n).permutation(n)
    collection = NoiseCollection([0.1, 1.0], [1.0, 2.0], [order, order[::-1]], [("x", (n,))], "sha256:" + "0" * 64, "x")
    same_bits(native_sampler, collection, batch, first)


@pytest.mark.parametrize("n", [4095, 4096, 4097, 9216, 25_088, 70_000, 100_352])
def test_every_way_gives_the_same_bits_for_large_n(
    n: int, native_sampler: native.Native, make_collection: Make
) -> None:
    same_bits(native_sampler, make_collection(n), 2, 0)


def same_bits(sampler: native.Native, collection: NoiseCollection, batch: int, first: int) -> None:
    shape = (batch, collection.n)
    activation = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    seen = set()
    for way in ways(sampler):
        noise, sums, levels = np.empty(shape, np.float32), activation.copy(), np.empty(shape, np.int8)
        sampler.fill(collection, KEY, nonces(batch, first), None, noise, way=way)
        sampler.fill(collection, KEY, nonces(batch, first), sums, sums, way=way)
        sampler.fill(collection, KEY, nonces(batch, first), activation, levels, 15.0, way=way)
        assert (sums == activation + noise).all() and (levels == reference_int8(sums, np.float32(15))).all()
        seen.add(noise.tobytes())
    assert len(seen) == 1


@pytest.mark.parametrize("n", [255, 9216, 100_352])
def test_no_two_neighbours_are_in_the_wrong_order(n: int, native_sampler: native.Native, make_collection: Make) -> None:
    """Not by one bit: rounding is monotone, and every lane ends where the next begins at the latest."""
    collection, batch = make_collection(n, 1), 2_000_000 // n + 1
    noise = np.empty((batch, n), dtype=np.float32)
    native_sampler.fill(collection, KEY, nonces(batch), None, noise)
    assert np.diff(noise[:, collection.orders[0]]).min() >= 0


def test_nothing_is_left_in_the_working_memory(native_sampler: native.Native, make_collection: Make) -> None:
    out = np.empty((2, 5000), dtype=np.float32)
    native_sampler.fill(make_collection(5000), KEY, nonces(2), None, out)
    memory = native_sampler._scratch.memory
    assert memory.size >= 4 * 5000 and not memory.any()


def test_refuses_what_does_not_fit(native_sampler: native.Native, make_collection: Make) -> None:
    collection, out = make_collection(10), np.empty((2, 10), dtype=np.float32)
    for key, given_nonces in ((KEY[1:], nonces(2)), (KEY, nonces(2)[1:])):
        with pytest.raises(ValueError, match="give it 32 and 12"):
            native_sampler.fill(collection, key, given_nonces, None, out)
    for count, activation in ((1, None), (3, None), (2, out[:1])):
        with pytest.raises(ValueError, match="do not fill 20"):
            native_sampler.fill(collection, KEY, nonces(count), activation, out)


@pytest.mark.parametrize(
    ("given", "kind", "inverse"),
    [(True, np.int8, 0.0), (True, np.float32, 2.0), (False, np.int8, 2.0), (True, np.int8, -1.0)],
)
def test_refuses_a_wrong_output(
    given: bool, kind: type, inverse: float, native_sampler: native.Native, make_collection: Make
) -> None:
    activation = np.zeros((1, 10), np.float32) if given else None
    with pytest.raises(ValueError, match="int8 goes with"):
        native_sampler.fill(make_collection(10), KEY, nonces(1), activation, np.zeros((1, 10), kind), inverse)


def test_threads_have_working_memory_of_their_own(native_sampler: native.Native, make_collection: Make) -> None:
    collections = [make_collection(n) for n in (9216, 300, 25_088, 17)]
    expected = [np.empty((1, c.n), dtype=np.float32) for c in collections]
    for collection, noise in zip(collections, expected, strict=True):
        native_sampler.fill(collection, KEY, nonces(1), None, noise)
    wrong = []

    def work(collection: NoiseCollection, noise: np.ndarray) -> None:
        for _ in range(100):
            out = np.empty_like(noise)
            native_sampler.fill(collection, KEY, nonces(1), None, out)
            if (out != noise).any():
                wrong.append(collection.n)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(collections, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Finding, building and refusing. These stand a shell script in for the compiler, for speed and to have it fail.


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As in a new process without a built extension, an empty cache, and an empty PATH; returns PATH's folder."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setattr(native, "_outcomes", [])
    monkeypatch.setattr(native.glob, "glob", lambda pattern: [])
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("EDGECUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGECUT_NATIVE", raising=False)
    return programs


def script(path: Path, body: str) -> None:
    """A compiler: answers --version, logs each other call beside itself, then does `body` (in $out: what to write)."""
    lines = ["#!/bin/sh", 'if [ "$1" = --version ]; then echo fake 1; exit; fi', f"echo called >> {path}.log"]
    lines += ['while [ "$1" != -o ]; do shift; done', "out=$2", body]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)


def calls(path: Path) -> int:
    log = path.with_name(path.name + ".log")
    return len(log.read_text().splitlines()) if log.exists() else 0


def copying(sampler: native.Native) -> str:
    return f'/bin/cp {sampler.path} "$out"'


def test_built_once_and_kept(fresh: Path, native_sampler: native.Native, tmp_path: Path) -> None:
    script(fresh / "gcc", copying(native_sampler))
    first = native.load()
    assert first is not None and native.why_not() is None and native.load() is first
    (library,) = (tmp_path / "cache" / "native").iterdir()
    assert first.path == str(library) and library.stat().st_mode & 0o777 == 0o600
    assert library.parent.stat().st_mode & 0o777 == 0o700
    native._outcomes.clear()
    again = native.load()
    assert again is not None and again.path == first.path and calls(fresh / "gcc") == 1
    (fresh / "gcc").write_text((fresh / "gcc").read_text().replace("fake 1", "fake 2"))
    native._outcomes.clear()
    newer = native.load()
    assert newer is not None and newer.path != first.path and calls(fresh / "gcc") == 2


def test_the_name_depends_on_the_source(fresh: Path) -> None:
    script(fresh / "cc", 'echo > "$out"')
    assert len({building.build(source) for source in (b"one", b"two", b"one")}) == 2


def test_switched_off(fresh: Path, native_sampler: native.Native, monkeypatch: pytest.MonkeyPatch) -> None:
    script(fresh / "cc", copying(native_sampler))
    monkeypatch.setenv("EDGECUT_NATIVE", "0")
    assert native.load() is None and calls(fresh / "cc") == 0
    assert native.why_not() == "EDGECUT_NATIVE=0 switches the compiled noise sampler off."


def test_no_compiler(fresh: Path) -> None:
    assert native.load() is None
    message = "The noise is made by NumPy, because there is no C compiler (cc, gcc, clang) on the path."
    assert native.why_not() == message


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo a warning >&2; echo noise.c:1: error: no stdint.h >&2; exit 1", "noise.c:1: error: no stdint.h"),
        ("exit 1", "it says nothing"),
        ("true", "No such file"),
        ('echo no library > "$out"', "file too short|invalid ELF header"),
        ("kill -9 $$", "it says nothing"),
    ],
)
def test_a_compiler_that_fails(body: str, reason: str, fresh: Path, tmp_path: Path) -> None:
    script(fresh / "clang", body)
    assert native.load() is None
    said = native.why_not() or ""
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(said)
    assert said.startswith("The noise is made by NumPy, because ") and said.endswith(".")
    assert not [path for path in (tmp_path / "cache" / "native").iterdir() if path.is_dir()]


def test_the_next_compiler_is_tried(fresh: Path, native_sampler: native.Native) -> None:
    script(fresh / "cc", "exit 1")
    script(fresh / "gcc", copying(native_sampler))
    assert native.load() is not None


@pytest.mark.parametrize(
    ("open_up", "named"),
    [
        (lambda cache: (cache / "native").chmod(0o770), "native"),
        (lambda cache: (cache / "native").chmod(0o707), "native"),
        (lambda cache: cache.chmod(0o777), "cache"),
    ],
)
def test_a_folder_that_others_can_write_is_not_used(
    open_up: Callable[[Path], None], named: str, fresh: Path, native_sampler: native.Native, tmp_path: Path
) -> None:
    script(fresh / "cc", copying(native_sampler))
    folder = tmp_path / "cache" / "native"
    folder.mkdir(parents=True, mode=0o700)
    open_up(folder.parent)
    assert native.load() is None and calls(fresh / "cc") == 0
    path = folder if named == "native" else folder.parent
    assert native.why_not() == f"The noise is made by NumPy, because others than the user can write to {path}."


def test_a_library_that_is_not_the_user_s_own_is_not_loaded(
    fresh: Path, native_sampler: native.Native, tmp_path: Path
) -> None:
    script(fresh / "cc", copying(native_sampler))
    assert native.load() is not None
    (library,) = (tmp_path / "cache" / "native").iterdir()
    library.chmod(0o666)
    native._outcomes.clear()
    assert native.load() is None and "is not the user's own file" in (native.why_not() or "")
    elsewhere = shutil.move(library, tmp_path / "elsewhere.so")
    elsewhere.chmod(0o600)
    library.symlink_to(elsewhere)
    native._outcomes.clear()
    assert native.load() is None and "is not the user's own file" in (native.why_not() or "")


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/dev/null/cache"])
def test_no_cache_folder(folder: str, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECUT_CACHE", folder)
    script(fresh / "cc", "exit 1")
    assert native.load() is None and f"the cache folder {folder}/native cannot be used" in (native.why_not() or "")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECUT_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    monkeypatch.setenv("HOME", "/c")
    assert building.cache_folder() == "/a"
    monkeypatch.delenv("EDGECUT_CACHE")
    assert building.cache_folder() == "/b/edgecut"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert building.cache_folder() == "/c/.cache/edgecut"


def python(code: str, path: Path, **environment: str) -> str:
    """What a new process prints that has the package from `path` alone."""
    libraries = [part for part in sys.path if part.endswith("site-packages")]
    start = f"import sys; sys.path[:] = [{str(path)!r}, *sys.path, *{libraries!r}]; "
    variables = {**os.environ, **environment}
    command = [sys.executable, "-S", "-c", start + code]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=250, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder packed as a device gets it, with the source beside the modules."""
    path = tmp_path_factory.mktemp("archive") / "packed.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("edgecut/__init__.py", "")
        for source in (ROOT / "noise_kernels").iterdir():
            if source.suffix in (".py", ".c"):
                file.write(source, f"edgecut/noise_kernels/{source.name}")
    return path


def test_from_an_archive_and_not_at_import(archive: Path, native_sampler: native.Native, tmp_path: Path) -> None:
    script(tmp_path / "cc", copying(native_sampler))
    load = "import os; from edgecut.noise_kernels import native, sampler; assert not native._outcomes; "
    load += "print(os.path.exists(os.environ['EDGECUT_CACHE'])); print(native.load() is not None, native.why_not())"
    said = python(load, archive, PATH=str(tmp_path), EDGECUT_CACHE=str(tmp_path / "cache"), EDGECUT_NATIVE="1")
    assert said.splitlines() == ["False", "True None"] and calls(tmp_path / "cc") == 1


# With a real compiler.

COMPILER = shutil.which("gcc") or shutil.which("cc") or "cc"


def compiled(source: bytes, folder: Path, *flags: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "noise.c").write_bytes(source)
    command = [COMPILER, *building.FLAGS, "-fPIC", "-shared", *flags, "-o", "noise.so", "noise.c"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return folder / "noise.so"


SOURCE = (ROOT / "noise_kernels" / "noise.c").read_bytes()


@pytest.mark.deep
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (b"a += b, d ^= a, d = ROTATE8(d)", b"a += b, d ^= a, d = ROTATE16(d)"),
        (b"(uint32_t)(first / BLOCK) + 1", b"(uint32_t)(first / BLOCK)"),
        (b"odd += x[j] & 1;", b"odd += x[j] >> 31;"),
        (b"(start + 1 + j)", b"(start + 2 + j)"),
        (b"(int64_t)(n - start) - j)", b"(int64_t)(n - start) + 1 - j)"),
        (
            b"negatives = NAME(draw)(request->state, tiles, n)",
            b"negatives = (NAME(draw)(request->state, tiles, n), n / 2)",
        ),
        (b"sum += sums[BLOCK * farthest + lane];", b"sum += sums[BLOCK * nearest + lane];"),
        (b"q = q * f + 0x1.5556f4p-2f;", b"q = q * f + 0x1.5756f4p-2f;"),
        (b"x = activation[i] + x;", b"x = activation[i] - x;"),
        (b"+ 12582912.0f - 12582912.0f", b""),
        (b"^ x[j] << 31;", b"^ (x[j] >> 31) << 31;"),
        (b"(start / BLOCK + lane) + 1, x)", b"(start / BLOCK + lane), x)"),
        (b"NAME(circle)(x[2 * p + 1], &cosine, &sine);", b"NAME(circle)(x[2 * p + 1], &sine, &cosine);"),
        (b"swap = -(quarters & 1);", b"swap = -(quarters >> 1 & 1);"),
        (b"((quarters + 1) & 2) << 30", b"(quarters & 2) << 30"),
        (b"c * square + 0x1.03c1dep-6f;", b"c * square + 0x1.04c1dep-6f;"),
        (b"radius[i] = __builtin_sqrtf(radius[i]);", b""),
        (b"PICK(c, d, 2, 6, 3, 7);", b"PICK(c, d, 2, 6, 7, 3);"),
        (
            b"sums[r * vectors + v] += column * values[r * padded(n) + k];",
            b"sums[r * vectors + v] += column * values[k];",
        ),
        (b"values, n, 1, PANEL, mixed);", b"values, n - 1, 1, PANEL, mixed);"),
        (b"scaled[i] *= table->scale[start + i];", b";"),
        (b"PANEL = 16, GROUP = 4, VERSION = 2 };", b"PANEL = 16, GROUP = 4, VERSION = 3 };"),
    ],
)
def test_a_wrong_library_is_refused(right: bytes, wrong: bytes, tmp_path: Path) -> None:
    """What a miscompiling compiler, or a library from another version, would give."""
    assert SOURCE.count(right) >= 1
    library = compiled(SOURCE.replace(right, wrong), tmp_path / "wrong", "-w", "-O1", "-DEDGECUT_NOISE_PORTABLE")
    with pytest.raises(ValueError, match=r"does not give the noise it should|is version 3"):
        native._checked(str(library))


@pytest.mark.deep
def test_compiles_without_a_warning_and_without_vectors_beyond_the_portable(
    tmp_path: Path, native_sampler: native.Native, make_collection: Make
) -> None:
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Wno-psabi"]
    compiled(SOURCE, tmp_path / "strict", *strict)
    portable = native._checked(str(compiled(SOURCE, tmp_path / "portable", *strict, "-DEDGECUT_NOISE_PORTABLE")))
    assert portable.widest == 0
    collection = make_collection(9216)
    one, other = (np.empty((1, 9216), dtype=np.float32) for _ in range(2))
    portable.fill(collection, KEY, nonces(1), None, one)
    native_sampler.fill(collection, KEY, nonces(1), None, other)
    assert (one == other).all()


SANITIZED = """
import sys
import numpy as np
from edgecut.noise_kernels import native
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.element_noise import ElementNoise
sampler = native._checked(sys.argv[1])
for n in [*range(2, 40), 127, 128, 129, 240, 241, 255, 256, 257, 300, 511, 512, 513, 4095, 4096, 4097, 70000]:
    orders = [np.random.RandomState(n).permutation(n) for _ in range(3)]
    collection = NoiseCollection([0, 1, 2], [1, 2, 3], orders, [("x", (n,))], "sha256:" + "0" * 64, "x")
    nonces = b"".join(i.to_bytes(12, "little") for i in range(3))
    for way in range(sampler.widest + 1):
        sampler._scratch.bytes = 0  # new memory of just the right size
        held = np.zeros(3 * n + 1, np.float32)
        rows, levels = held[1:].reshape(3, n), np.zeros((3, n), np.int8)
        sampler.fill(collection, bytes(32), nonces, None, rows, way=way)
        sampler.fill(collection, bytes(32), nonces, rows, rows, way=way)
        rows[0, 0], rows[0, 1] = np.nan, np.inf
        sampler.fill(collection, bytes(32), nonces, rows, levels, 30.0, way=way)
digest = "sha256:" + "0" * 64
for n in [1, *range(2, 40), 127, 129, 255, 256, 257, 300, 513, 70000]:
    for law, mixed, scale in [("laplace", 0, 1), ("normal", 0, 1), ("normal", 1, 1), ("laplace", 1, 0)]:
        if n > 600 and mixed:
            continue
        mixing = np.random.RandomState(n).uniform(-1, 1, (n, n)) if mixed else None
        noise = ElementNoise("cloak", law, np.ones(n), np.full(n, scale), [("x", (n,))], digest, "x", mixing)
        for batch in (1, 6):
            nonces = b"".join(i.to_bytes(12, "little") for i in range(batch))
            for way in range(sampler.widest + 1):
                sampler._scratch.bytes = 0
                held = np.zeros(batch * n + 1, np.float32)
                rows, levels = held[1:].reshape(batch, n), np.zeros((batch, n), np.int8)
                sampler.fill(noise, bytes(32), nonces, None, rows, way=way)
                sampler.fill(noise, bytes(32), nonces, rows, rows, way=way)
                rows[0, 0], rows[-1, -1] = np.nan, np.inf
                sampler.fill(noise, bytes(32), nonces, rows, levels, 30.0, way=way)
print("done", sampler.widest)
"""


@pytest.mark.deep
def test_address_and_undefined_behaviour_sanitizers(tmp_path: Path, native_sampler: native.Native) -> None:
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    library = compiled(SOURCE, tmp_path / "sanitized", *flags)
    runtime = [
        subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {**os.environ, "LD_PRELOAD": " ".join(runtime), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-c", SANITIZED, str(library)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.stdout.strip() == f"done {native_sampler.widest}", done.stderr
    assert not done.stderr


@pytest.mark.deep
def test_two_threads_and_two_processes_compile_at_once(archive: Path, tmp_path: Path) -> None:
    code = """
import os, threading
from edgecut.noise_kernels import native
found = []
threads = [threading.Thread(target=lambda: found.append(native.load())) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len({f.path for f in found}), native.why_not(), os.path.basename(found[0].path))
"""
    said: list[str] = []
    environment = {"EDGECUT_CACHE": str(tmp_path / "cache"), "EDGECUT_NATIVE": "1"}
    both = [threading.Thread(target=lambda: said.append(python(code, archive, **environment))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    (library,) = (tmp_path / "cache" / "native").iterdir()
    assert said == [f"1 None {library.name}"] * 2
