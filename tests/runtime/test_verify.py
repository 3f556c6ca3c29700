"""Verifying a bundle: every kind of damage is found, in one sentence, before any file of it is used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecut.artefacts import digest
from edgecut.errors import BundleError
from edgecut.runtime.manifest import CloudManifest, EdgeManifest, StoredFile
from edgecut.runtime.verify import verify

FILES = (
    "manifest.json",
    "edge/manifest.json",
    "edge/edge.onnx",
    "edge/noise.npz",
    "cloud/manifest.json",
    "cloud/model_repository/lenet5/config.pbtxt",
    "cloud/model_repository/lenet5/1/model.onnx",
    "profile/plan.json",
    "profile/edge.profile.json",
    "profile/cloud.profile.json",
)
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def copy(bundle_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))


def refused(folder: Path, words: str | None = None, **given: str) -> str:
    with pytest.raises(BundleError, match=words) as raised:
        verify(folder, **given)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 600 and str(folder) in message
    return message


def rewrite(folder: Path, side: str, change: Change) -> None:
    """Change a manifest and put the digests above it right, as somebody who forges a bundle would."""
    path = folder / side / "manifest.json"
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    if side:
        top = json.loads((folder / "manifest.json").read_bytes())
        top[f"{side}_digest"] = digest(path.read_bytes())
        (folder / "manifest.json").write_text(json.dumps(top))


def test_the_list_of_files_here_is_complete(bundle_folder: Path) -> None:
    found = {path.relative_to(bundle_folder).as_posix() for path in bundle_folder.rglob("*") if path.is_file()}
    assert found == set(FILES)
    ids = {verify(bundle_folder).id, verify(bundle_folder / "edge").id, verify(bundle_folder / "cloud").id}
    assert len(ids) == 3


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_guarded(name: str, copy: Path) -> None:
    path = copy / name
    good = path.read_bytes()
    if name != "manifest.json":  # the id guards that one
        path.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
        assert name in refused(copy).replace("is not the side that", name)
    for damaged in (good[: len(good) // 2], b"", good + b"{}"):
        path.write_bytes(damaged)
        refused(copy)
    path.unlink()
    refused(copy, "missing|has no manifest.json")
    elsewhere = copy.parent / "elsewhere"
    elsewhere.write_bytes(good)
    path.symlink_to(elsewhere)
    refused(copy, "link|has no manifest.json")
    path.unlink()
    path.mkdir()
    refused(copy)
    path.rmdir()
    os.mkfifo(path)
    refused(copy)
    path.unlink()
    path.write_bytes(good)
    assert verify(copy).files == len(FILES)


def test_an_altered_top_manifest_has_another_id(copy: Path) -> None:
    pinned = verify(copy).id
    assert verify(copy, expect_id=pinned).id == pinned
    rewrite(copy, "", lambda content: content.update(accuracy=None))
    assert verify(copy).id != pinned
    refused(copy, f"has the id .*{pinned} was expected", expect_id=pinned)


@pytest.mark.parametrize("side", ["", "edge", "cloud"])
def test_an_id_pins_each_side(side: str, copy: Path) -> None:
    right = verify(copy / side).id
    assert right == digest((copy / side / "manifest.json").read_bytes())
    assert verify(copy / side, expect_id=right).id == right
    for wrong in ("sha256:" + "0" * 64, right[:-1], right.upper(), "", right.removeprefix("sha256:")):
        refused(copy / side, "was expected", expect_id=wrong)


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_a_side_is_checked_alone(side: str, copy: Path, tmp_path: Path) -> None:
    alone = Path(shutil.move(copy / side, tmp_path / "shipped"))
    kind = EdgeManifest if side == "edge" else CloudManifest
    assert isinstance(verify(alone).manifest, kind)
    refused(copy, "there is no bundle folder")
    (alone / "extra").write_text("")
    refused(alone, "extra is not in the manifest")


@pytest.mark.parametrize(
    "where", ["extra.py", "edge/.hidden", "cloud/model_repository/lenet5/2/model.onnx", "profile/x"]
)
@pytest.mark.parametrize("kind", ["file", "link to a file", "link to a folder", "dangling link", "fifo"])
def test_nothing_may_be_added(where: str, kind: str, copy: Path, tmp_path: Path) -> None:
    path = copy / where
    path.parent.mkdir(exist_ok=True)
    targets = {"link to a file": copy / "manifest.json", "link to a folder": tmp_path, "dangling link": Path("nowhere")}
    if kind == "file":
        path.write_text("")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(targets[kind])
    assert str(path) in refused(copy, "is not in the manifest")


@pytest.mark.parametrize("folder", ["edge", "cloud", "cloud/model_repository", "profile"])
def test_no_folder_may_be_a_link(folder: str, copy: Path, tmp_path: Path) -> None:
    (copy / folder).rename(tmp_path / "real")
    (copy / folder).symlink_to(tmp_path / "real")
    refused(copy, "link|not in the manifest")


UNSAFE = ["../edge/edge.onnx", "/etc/passwd", "a/../../x", ".", "..", "", "a//b", "./x", "a/", "a\\b", "a\x00b", "~/x"]


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("side", ["", "edge", "cloud"])
def test_no_path_leaves_the_folder(name: str, side: str, copy: Path) -> None:
    assert not StoredFile(path=name, size_bytes=0, digest="sha256:" + "0" * 64).safe
    rewrite(copy, side, lambda content: content["files"][0].update(path=name))
    refused(copy, "unsafe path.*do not use this bundle")


def test_sides_cannot_be_swapped_or_mixed(copy: Path, bundle_folder: Path) -> None:
    (copy / "edge").rename(copy / "x")
    (copy / "cloud").rename(copy / "edge")
    (copy / "x").rename(copy / "cloud")
    refused(copy, "is a cloud-side file, but a edge-side file is needed|not a usable edge-side")
    shutil.rmtree(copy)
    shutil.copytree(bundle_folder, copy)
    path = copy / "cloud" / "manifest.json"  # a cloud side that is whole, but of another bundle
    path.write_text(path.read_text() + "\n")
    verify(copy / "cloud")
    refused(copy, "is not the side that .*manifest.json names")


DEEP = "[" * 200_000 + "]" * 200_000
MANIFESTS = {
    "empty": "",
    "not JSON": "hello",
    "not text": "\udcff\udcfe",
    "deeply nested": DEEP,
    "nested field": '{"kind": "bundle", "version": 1, "files": ' + DEEP + "}",
    "a list": "[]",
    "null": "null",
    "no kind": "{}",
    "odd kind": '{"kind": ["bundle"]}',
    "another artefact": '{"kind": "plan", "version": 1}',
    "kind alone": '{"kind": "bundle"}',
    "long number": '{"kind": "bundle", "version": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("what", MANIFESTS)
@pytest.mark.parametrize("side", ["", "edge", "cloud"])
def test_a_manifest_must_be_one(what: str, side: str, copy: Path) -> None:
    (copy / side / "manifest.json").write_bytes(MANIFESTS[what].encode(errors="surrogateescape"))
    refused(copy)
    refused(copy / side)


CHANGES: dict[str, Change] = {
    "a field more": lambda content: content.update(extra=1),
    "a field less": lambda content: content.pop("files"),
    "another version": lambda content: content.update(version=2),
    "an odd digest": lambda content: content["files"][0].update(digest="sha256:0"),
    "a negative size": lambda content: content["files"][0].update(size_bytes=-1),
    "another size": lambda content: content["files"][0].update(size_bytes=content["files"][0]["size_bytes"] + 1),
    "a file less": lambda content: content["files"].pop(),
    "a number for a name": lambda content: content.update(model_name=7),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("side", ["", "edge", "cloud"])
def test_a_manifest_with_right_digests_must_still_be_right(what: str, side: str, copy: Path) -> None:
    rewrite(copy, side, CHANGES[what])
    refused(copy)


def test_a_folder_that_is_no_bundle_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "there is no bundle folder")
    refused(tmp_path, "has no manifest.json")
    (tmp_path / "file").write_text("{}")
    refused(tmp_path / "file", "there is no bundle folder")


@pytest.fixture(scope="module")
def scratch(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path_factory.mktemp("flips") / "bundle"))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_any_flipped_bytes_are_noticed(scratch: Path, name: str, flips: list[tuple[float, int]]) -> None:
    path = scratch / name
    good, pinned = path.read_bytes(), verify(scratch).id
    data = bytearray(good)
    for place, mask in flips:
        data[int(place * (len(data) - 1))] ^= mask
    path.write_bytes(data)
    try:
        if data == good:
            assert verify(scratch, expect_id=pinned).id == pinned
        else:
            refused(scratch, expect_id=pinned)
    finally:
        path.write_bytes(good)
