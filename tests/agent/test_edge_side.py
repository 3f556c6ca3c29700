"""Reading an edge side: everything but what was written is refused, in one sentence and before it is used."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgecut.agent import edge_side
from edgecut.agent.edge_manifest import SideError, parse
from edgecut.agent.edge_side import EDGE_MODEL, NOISE, read_edge_side
from edgecut.errors import BundleError
from edgecut.runtime.manifest import EdgeManifest
from edgecut.runtime.verify import verify


def refused(folder: Path, words: str, **options: Any) -> None:
    with pytest.raises(SideError, match=words) as raised:
        read_edge_side(str(folder), **options)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000


def test_what_is_read(side: Any) -> None:
    text = (side.folder / "manifest.json").read_bytes()
    read = read_edge_side(str(side.folder))
    assert read.id == "sha256:" + hashlib.sha256(text).hexdigest() == verify(side.folder).id
    assert dict(read.files) == {name: (side.folder / name).read_bytes() for name in (EDGE_MODEL, NOISE)}
    description = read.description
    assert (description.model_name, description.mechanism, description.fallback) == (
        "small",
        "shredder",
        "fallback.onnx",
    )
    assert description.input == ("x", "float32", (6,), None) and description.cut == (("a", "float32", (40,), None),)
    assert description.target == ("cpu", "onnxruntime-cpu", "float32", None) and description.pixels is None
    assert [stored.path for stored in description.files] == ["edge.onnx", "fallback.onnx", "noise.npz"]
    assert set(read_edge_side(str(side.folder), lambda _: ["fallback.onnx"]).files) == {"fallback.onnx"}
    read_edge_side(str(side.folder), expect_id=read.id)
    refused(side.folder, "was expected", expect_id="sha256:" + "0" * 64)
    refused(side.folder, "there is no file .*engine in its manifest", wanted=lambda _: ["engine"])


def test_our_own_manifests_are_read(side: Any) -> None:
    """Written by the other implementation, with everything that it can hold."""
    (side.folder / "a.engine").write_bytes(b"engine")
    side.write()
    values = json.loads((side.folder / "manifest.json").read_text())
    values["pixels"] = {"scale": [1, 0.5, 0.25], "offset": [0, -1, 2.5], "photograph": True}
    values["input"] = {"name": "ids", "dtype": "int64", "shape": [3, 4, 5], "below": 30522}
    values["engines"] = [
        {"file": "a.engine", "runtime": "tensorrt-rtx", "compute_capabilities": ["8.6", "8.9"], "version": "1.7.0"}
    ]
    values["target"] |= {"batch": 1, "name": "tx2", "precision": "float16", "runtime": "tensorrt"}
    EdgeManifest.from_json(json.dumps(values), "here").save(side.folder / "manifest.json")
    description = read_edge_side(str(side.folder)).description
    assert description.input == ("ids", "int64", (3, 4, 5), 30522)
    assert description.pixels == ((1.0, 0.5, 0.25), (0.0, -1.0, 2.5))
    assert description.engines == (("a.engine", "tensorrt-rtx", ("8.6", "8.9"), "1.7.0"),)
    assert description.target == ("tx2", "tensorrt", "float16", 1)


def test_every_changed_byte_is_found(side: Any) -> None:
    """One in every file, each byte of the manifest: refused, or, where only JSON's spaces change, another id."""
    sound = read_edge_side(str(side.folder)).id
    generator = random.Random(0)
    for name in ("edge.onnx", "noise.npz", "fallback.onnx"):
        path, data = side.folder / name, (side.folder / name).read_bytes()
        for place in range(generator.randrange(211), len(data), 211):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << generator.randrange(8)]) + data[place + 1 :])
            refused(side.folder, f"{name} was altered, its digest is not the manifest's")
        path.write_bytes(data)
    path, data = side.folder / "manifest.json", (side.folder / "manifest.json").read_bytes()
    for place in range(len(data)):
        flipped = data[:place] + bytes([data[place] ^ 1 << generator.randrange(8)]) + data[place + 1 :]
        try:
            parse(flipped, "here")
        except SideError as error:
            assert "\n" not in str(error)
        if place % 23 == 0:
            path.write_bytes(flipped)
            refused(side.folder, ".", expect_id=sound)


def swap(side: Any) -> None:
    one, two = side.folder / "edge.onnx", side.folder / "fallback.onnx"
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def link(side: Any, name: str = "noise.npz") -> None:
    (side.folder.parent / name).write_bytes((side.folder / name).read_bytes())
    (side.folder / name).unlink()
    (side.folder / name).symlink_to(side.folder.parent / name)


def link_folder(side: Any) -> None:
    (side.folder / "deep").mkdir()
    (side.folder / "deep" / "more.bin").write_bytes(b"more")
    side.write()
    (side.folder / "deep").rename(side.folder.parent / "deep")
    (side.folder / "deep").symlink_to(side.folder.parent / "deep")


def pipe(side: Any) -> None:
    (side.folder / "noise.npz").unlink()
    os.mkfifo(side.folder / "noise.npz")


FAULTS: dict[str, tuple[Any, str]] = {
    "swapped": (swap, "edge.onnx has|edge.onnx was altered"),
    "link": (link, "noise.npz is or lies behind a link"),
    "linked manifest": (lambda side: link(side, "manifest.json"), "manifest.json is or lies behind a link"),
    "linked folder": (link_folder, "more.bin is or lies behind a link"),
    "pipe": (pipe, "noise.npz is no plain file"),
    "folder": (lambda s: ((s.folder / NOISE).unlink(), (s.folder / NOISE).mkdir()), "noise.npz is no plain file"),
    "missing": (lambda s: (s.folder / NOISE).unlink(), "noise.npz is missing"),
    "short": (lambda s: os.truncate(s.folder / NOISE, 10), "noise.npz has 10 bytes where its manifest says"),
    "huge": (lambda s: os.truncate(s.folder / NOISE, 1 << 40), "noise.npz has 1099511627776 bytes"),
    "additional": (lambda s: (s.folder / "x.so").write_bytes(b""), "x.so is not in the manifest"),
    "hidden": (lambda s: (s.folder / ".x").write_bytes(b""), r"\.x is not in the manifest"),
    "additional link": (lambda s: (s.folder / "x").symlink_to("/etc"), "x is not in the manifest"),
    "no manifest": (lambda s: (s.folder / "manifest.json").unlink(), "manifest.json is missing"),
    "large manifest": (lambda s: os.truncate(s.folder / "manifest.json", 5 << 20), "has more than 4194304 bytes"),
    "no folder": (lambda s: shutil.rmtree(s.folder), "there is no bundle folder"),
    "deep folders": (lambda s: deep(s.folder), "holds folders in folders without end"),
}


def deep(folder: Path) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


@pytest.mark.parametrize("what", FAULTS)
def test_a_folder_that_is_not_what_was_written(what: str, side: Any) -> None:
    damage, words = FAULTS[what]
    damage(side)
    try:
        refused(side.folder, words)
    finally:
        subprocess.run(["rm", "-rf", str(side.folder)], check=True)  # shutil's own is stopped by the deep folders


def changed(values: Any, path: tuple[Any, ...], to: Any) -> Any:
    """A copy with one place changed, or (`del`) left out."""
    copy = json.loads(json.dumps(values))
    here = copy
    for step in path[:-1]:
        here = here[step]
    if to is del_:
        del here[path[-1]]
    else:
        here[path[-1]] = to
    return copy


del_ = object()
FILE = ("files", 0)
WRONG: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "kind": (("kind",), "cloud-side", "is not an edge side's manifest"),
    "old version": (("version",), 1, "has format version 1, and this reads 2"),
    "no version": (("version",), del_, "has format version None"),
    "odd version": (("version",), ["x" * 999], "has format version"),
    "unknown field": (("more",), 1, "the manifest has the unknown field 'more'"),
    "no cut": (("cut",), [], "the cut has no tensor"),
    "cut twice": (("cut",), [{"name": "a", "dtype": "float32", "shape": [2]}] * 2, "two of one name"),
    "whole cut": (("cut", 0, "dtype"), "int64", "is not float32"),
    "cut is text": (("cut",), "a", "cut is no list"),
    "objects": (("input", "dtype"), "object", "input.dtype is none of"),
    "dtype is a list": (("input", "dtype"), ["float32"], "input.dtype is none of"),
    "negative size": (("input", "shape"), [-1], "input.shape is no whole number"),
    "truth as size": (("input", "shape"), [True], "input.shape is no whole number"),
    "fraction as size": (("input", "shape"), [1.5], "input.shape is no whole number"),
    "2^62 values": (("input", "shape"), [1 << 31, 1 << 31], "input has more than 2147483648 bytes"),
    "rank": (("input", "shape"), [1] * 17, "input is no list of at most 16"),
    "name": (("answer", "name"), "", "answer.name is no name"),
    "line in a name": (("model_name",), "a\nb", "model_name is no name"),
    "number as name": (("model_name",), 7, "model_name is no name"),
    "absolute path": ((*FILE, "path"), "/etc/passwd", "unsafe path '/etc/passwd'"),
    "parent path": ((*FILE, "path"), "../../x", "unsafe path"),
    "inner parent path": ((*FILE, "path"), "a/../../x", "unsafe path"),
    "home path": ((*FILE, "path"), "~/x", "unsafe path"),
    "backslash path": ((*FILE, "path"), "..\\x", "unsafe path"),
    "nul path": ((*FILE, "path"), "x\0", "unsafe path"),
    "list as path": ((*FILE, "path"), ["x"], "unsafe path"),
    "twice": (("files", 1, "path"), "edge.onnx", "a file is listed twice"),
    "huge file": ((*FILE, "size_bytes"), 1 << 40, "no whole number from 0 to 2147483648"),
    "digest": ((*FILE, "digest"), "md5:0", "has no digest"),
    "file is text": (FILE, "edge.onnx", "a file is no object"),
    "many files": (("files",), [{}] * 1001, "files is no list of at most 1000"),
    "fallback elsewhere": (("fallback",), "cloud.onnx", "'cloud.onnx' is not among its files"),
    "engine elsewhere": (
        ("engines",),
        [{"file": "e", "runtime": "tensorrt", "compute_capabilities": ["8.6"], "version": "1"}],
        "'e' is not among its files",
    ),
    "static batch of 4": (("target", "batch"), 4, "target.batch is 4"),
    "batch true": (("target", "batch"), True, "target.batch is True"),
    "pixels": (("pixels",), {"scale": [1], "offset": []}, "1 scales and 0 offsets"),
    "infinite pixels": (("pixels",), {"scale": [1e31], "offset": [0]}, "something else than numbers"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_manifest_with_one_thing_wrong(what: str, side: Any) -> None:
    path, to, words = WRONG[what]
    values = json.loads((side.folder / "manifest.json").read_text())
    with pytest.raises(SideError, match=words) as raised:
        parse(json.dumps(changed(values, path, to)).encode(), "here/manifest.json")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"7", b"{", b"\xff\xfe", b"nul", b'{"kind": "edge-side", "version": NaN}',
        b"[" * 100_000, b'{"a":' * 100_000, b'{"version": ' + b"9" * 1_000_000 + b"}",
        b'{"kind": "edge-side", "version": 2}',
    ],
    ids=lambda text: str(text[:12]),
)  # fmt: skip
def test_what_is_no_manifest(text: bytes) -> None:
    with pytest.raises(SideError) as raised:
        parse(text, "here/manifest.json")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


def test_only_what_was_checked_is_used(side: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is opened once: what is put there later is not seen, what was put there before is refused."""
    opened: list[str] = []
    inner = edge_side._open

    def counting(where: str, root: int, path: str) -> int:
        opened.append(path)
        handle = inner(where, root, path)
        if path == "edge.onnx":  # replaced the moment it is open
            (side.folder / "new").write_bytes(b"another model")
            (side.folder / "new").replace(side.folder / "edge.onnx")
        return handle

    monkeypatch.setattr(edge_side, "_open", counting)
    data = (side.folder / "edge.onnx").read_bytes()
    assert read_edge_side(str(side.folder)).files["edge.onnx"] == data
    assert sorted(opened) == ["edge.onnx", "fallback.onnx", "manifest.json", "noise.npz"]
    refused(side.folder, "edge.onnx has 13 bytes")


def test_a_file_that_grows_while_it_is_read(side: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = os.fstat

    def growing(handle: int) -> os.stat_result:
        found = inner(handle)
        if Path(os.readlink(f"/proc/self/fd/{handle}")).name == "noise.npz":
            with (side.folder / "noise.npz").open("ab") as file:
                file.write(b"more")
        return found

    monkeypatch.setattr(edge_side.os, "fstat", growing)
    refused(side.folder, "noise.npz has .* bytes where its manifest says")


def test_both_readers_refuse_the_same_folders(side: Any) -> None:
    (side.folder / "additional").write_bytes(b"")
    refused(side.folder, "additional is not in the manifest")
    with pytest.raises(BundleError, match="additional is not in the manifest"):
        verify(side.folder)
