"""Files that are written whole or not at all, and read only when they are what they should be."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgecut import artefacts
from edgecut.artefacts import (
    Artefact,
    Record,
    check_output,
    digest,
    file_digest,
    installed_versions,
    read_bytes,
    write_bytes,
    writing,
)
from edgecut.errors import ArtefactError
from edgecut.partitioner.link import load_link


class Inner(Record):
    size: int


class Sample(Artefact):
    KIND = "sample"
    VERSION = 3

    inner: Inner
    ratio: float


GOOD = Sample(inner=Inner(size=2), ratio=0.5)


def test_round_trip(tmp_path: Path) -> None:
    path = GOOD.save(tmp_path / "new" / "folder" / "a.sample.json")
    assert Sample.load(path) == Sample.load(str(path)) == GOOD.model_copy(update={"kind": "sample", "version": 3})
    assert json.loads(path.read_text()) == {"kind": "sample", "version": 3, "inner": {"size": 2}, "ratio": 0.5}
    assert [p.name for p in path.parent.iterdir()] == ["a.sample.json"]


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not a usable sample file"),
    "no JSON": (b"{", "is not a usable sample file"),
    "a list": (b"[]", "is not a usable sample file"),
    "not UTF-8": (b'{"kind": "\xff"}', "is not a usable sample file"),
    "extra": (b'{"kind":"sample","version":3,"inner":{"size":1},"ratio":1,"color":1}', r"\(color: Extra inputs"),
    "extra inside": (b'{"kind":"sample","version":3,"inner":{"size":1,"b":2},"ratio":1}', r"\(inner\.b: Extra inputs"),
    "missing": (b'{"kind":"sample","version":3,"inner":{"size":1}}', r"\(ratio: Field required\)"),
    "type": (b'{"kind":"sample","version":3,"inner":{"size":"x"},"ratio":1}', r"\(inner\.size: .*integer"),
    "infinite": (b'{"kind":"sample","version":3,"inner":{"size":1},"ratio":Infinity}', r"\(ratio: .*finite"),
    "kind": (b'{"kind":"plan","version":1,"model":{}}', "is a plan file, but a sample file is needed here"),
    "no kind": (b'{"inner":{"size":1},"ratio":1}', "is a nameless file, but a sample file is needed here"),
    "newer": (
        b'{"kind":"sample","version":4,"all":"new"}',
        "has format version 4, this edgecut reads 3; write it again",
    ),
    "older": (b'{"kind":"sample","inner":{"size":1},"ratio":1}', "has format version 0, this edgecut reads 3"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=message) as caught:
        Sample.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"there is no file .*gone"):
        read_bytes(tmp_path / "gone", limit=10)
    with pytest.raises(ArtefactError, match=r"cannot be read .Is a directory.; check the path"):
        read_bytes(tmp_path, limit=10**9)
    (tmp_path / "file").touch()
    with pytest.raises(ArtefactError, match=r"cannot be read .Not a directory."):
        read_bytes(tmp_path / "file" / "below", limit=10)


def test_huge_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(artefacts.MAX_JSON_BYTES + 1)
    with pytest.raises(ArtefactError, match=r"huge\.json has 268435457 bytes or more, .* at most 268435456"):
        Sample.load(path)
    path.write_bytes(b"12345")
    assert read_bytes(path, limit=5) == b"12345"
    with pytest.raises(ArtefactError, match="5 bytes or more"):
        read_bytes(path, limit=4)
    with pytest.raises(ArtefactError, match="/dev/zero has 1001 bytes or more"):
        read_bytes("/dev/zero", limit=1000)  # says that it is empty, and never ends


def test_records_are_values() -> None:
    with pytest.raises(ValidationError):
        Inner(size=1, colour=2)
    with pytest.raises(ValidationError):
        GOOD.ratio = 3.0
    with pytest.raises(TypeError, match="Nameless must set KIND"):
        type("Nameless", (Sample,), {})


def test_digests(tmp_path: Path) -> None:
    """FIPS 180-2's first example."""
    path = write_bytes(tmp_path / "abc", b"abc")
    known = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(b"abc") == file_digest(path) == known


def test_a_failing_block_leaves_what_was_there(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "kept", b"old")
    for error in (RuntimeError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), writing(path) as beside:
            beside.write_bytes(b"ne")
            raise error
    with pytest.raises(ArtefactError, match=r"kept cannot be written .*choose another output path"), writing(path):
        raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    for target, why in [
        (tmp_path / "file" / "below.json", "Not a directory|File exists"),
        (tmp_path / "folder", "Is a directory"),
        (Path("/proc/edgecut/new.json"), "No such file|Permission denied"),
        (tmp_path / ("n" * 300), "File name too long"),
    ]:
        with pytest.raises(ArtefactError, match=f"cannot be written .({why}).*choose another output path"):
            GOOD.save(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"old"
    assert not list((tmp_path / "folder").iterdir())


WRITER = """
import sys
from edgecut.artefacts import write_bytes, writing
write_bytes(sys.argv[1], b"o" * 5_000_000)
with writing(sys.argv[1]) as beside, open(beside, "wb") as file:
    while True:
        file.write(b"n" * 65536)
        file.flush()
        if file.tell() == 655360:
            print("half", flush=True)
            sys.stdin.read()
"""


def test_a_killed_writer_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half\n"
        assert len(list(tmp_path.iterdir())) == 2  # it was in the middle
        writer.kill()
    assert writer.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"o" * 5_000_000


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([letter]) * 1_000_000 for letter in b"ab"]
    write_bytes(path, contents[0])
    ended = threading.Event()

    def write() -> None:
        for turn in range(60):
            write_bytes(path, contents[turn % 2])
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not ended.is_set():
        seen.add(path.read_bytes())
    writer.join()
    assert seen <= set(contents)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.deep
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    with small_disk(tmp_path / "disk") as disk:
        path = write_bytes(disk / "kept", b"old")
        with pytest.raises(ArtefactError, match=r"kept cannot be written .No space left on device."):
            write_bytes(path, b"n" * 200_000)
        assert path.read_bytes() == b"old"
        assert [p.name for p in disk.iterdir()] == ["kept"]


def test_a_file_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    link, plan = load_link("wifi"), tmp_path / "plan.json"
    plan.write_text('{\n "kind": "plan",\n "version": 2\n}')
    before = plan.read_bytes()
    for write in (lambda: link.save(plan), lambda: check_output(plan, "link"), lambda: check_output(plan)):
        with pytest.raises(ArtefactError, match=r"is a plan file, which .* would replace; choose another output path"):
            write()
    assert plan.read_bytes() == before
    check_output(plan, "plan")
    assert link.save(link.save(tmp_path / "a.link.json")).exists()


def test_versions_are_of_what_is_installed() -> None:
    import pydantic

    assert installed_versions(["pydantic", "no-such-package"]) == {"pydantic": pydantic.VERSION}
