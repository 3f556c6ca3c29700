"""Verifying a bundle: every kind of damage is found, in one sentence, before any file of it is used."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgecut.artefacts import digest
from edgecut.errors import BundleError
from edgecut.runtime.manifest import CloudManifest, EdgeManifest, StoredFile, seal
from edgecut.runtime.verify import verified_files, verify

FILES = (
    "manifest.json",
    "edge/manifest.json",
    "edge/edge.onnx",
    "edge/noise.npz",
    "edge/noise.c",
    "edge/noise.cu",
    "edge/edgecut_edge.pyz",
    "cloud/manifest.json",
    "cloud/model_repository/lenet5/config.pbtxt",
    "cloud/model_repository/lenet5/1/model.onnx",
    "cloud/model_repository/lenet5/1/model.py",
    "cloud/model_repository/lenet5/configs/batching.pbtxt",
    "cloud/model_repository/lenet5/configs/python.pbtxt",
    "cloud/deploy/kserve.yaml",
    "cloud/deploy/ray_serve.yaml",
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
    path.write_bytes(seal(json.dumps(content).encode()))
    if side:
        top = json.loads((folder / "manifest.json").read_bytes())
        top[f"{side}_digest"] = digest(path.read_bytes())
        (folder / "manifest.json").write_bytes(seal(json.dumps(top).encode()))


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
    refused(copy, "is a cloud-side file, but an edge-side file is needed|not a usable edge-side")
    shutil.rmtree(copy)
    shutil.copytree(bundle_folder, copy)
    path = copy / "cloud" / "manifest.json"  # a cloud side that is whole, but of another bundle
    path.write_bytes(seal(path.read_bytes() + b"\n"))
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
    "twice": '{"kind": "plan", "kind": "bundle", "version": 2}',
    "not a number": '{"kind": "bundle", "version": NaN}',
    "infinite": '{"kind": "bundle", "version": 2, "largest_difference": Infinity}',
    "long number": '{"kind": "bundle", "version": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("what", MANIFESTS)
@pytest.mark.parametrize("side", ["", "edge", "cloud"])
def test_a_manifest_must_be_one(what: str, side: str, copy: Path) -> None:
    (copy / side / "manifest.json").write_bytes(MANIFESTS[what].encode(errors="surrogateescape"))
    refused(copy)
    refused(copy / side)


CHANGES: dict[str, Change] = {
    "the manifest itself": lambda content: content["files"][0].update(path="manifest.json"),
    "an enormous size": lambda content: content["files"][0].update(size_bytes=1 << 62),
    "a size beyond all numbers": lambda content: content["files"][0].update(size_bytes=10**4000),
    "a size that is no number": lambda content: content["files"][0].update(size_bytes=float("nan")),
    "a long path": lambda content: content["files"][0].update(path="x" * 5000),
    "too many files": lambda content: content.update(files=[content["files"][0]] * 20_000),
    "a field more": lambda content: content.update(extra=1),
    "a field less": lambda content: content.pop("files"),
    "another version": lambda content: content.update(version=3),
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


def test_a_size_is_checked_before_anything_is_read(copy: Path) -> None:
    path = copy / "edge" / "noise.npz"
    os.truncate(path, 1 << 40)  # a sparse file: reading it would take an hour
    refused(copy, f"has {1 << 40} bytes where its manifest says")
    os.truncate(copy / "manifest.json", 1 << 40)
    refused(copy, r"manifest\.json has more than \d+ bytes")


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_a_pipe_is_not_waited_for(side: str, copy: Path) -> None:
    for name in ("manifest.json", "noise.npz" if side == "edge" else "deploy/kserve.yaml"):
        good = (copy / side / name).read_bytes()
        (copy / side / name).unlink()
        os.mkfifo(copy / side / name)
        refused(copy, "has no manifest.json|is missing")
        (copy / side / name).unlink()
        (copy / side / name).write_bytes(good)


@pytest.mark.parametrize("side", ["", "edge", "cloud"])
def test_a_manifest_is_sealed(side: str, copy: Path) -> None:
    path = copy / side / "manifest.json"
    good = path.read_bytes()
    path.write_bytes(good.replace(b"lenet5", b"lenet6", 1))
    refused(copy / side, "was altered, it does not have the digest that it holds")
    path.write_bytes(good.replace(b'"seal"', b'"se\\u0061l"'))
    refused(copy / side, "was altered")
    path.write_bytes(seal(good.replace(b"lenet5", b"lenet6", 1)))
    assert verify(copy / side, **({} if side else {"expect_id": verify(copy).id})).manifest.model_name == "lenet6"
    without = json.loads(good)
    del without["seal"]
    path.write_text(json.dumps(without))
    assert verify(copy / side).manifest.seal is None


def twice(content: dict[str, Any]) -> None:
    content["files"].append(content["files"][0])


def in_another_case(content: dict[str, Any]) -> None:
    content["files"].append({**content["files"][0], "path": content["files"][0]["path"].upper()})


@pytest.mark.parametrize("side", ["", "edge", "cloud"])
def test_nothing_is_said_twice(side: str, copy: Path) -> None:
    """Readers of JSON differ in which of two they take, and file systems in whether case tells names apart."""
    path = copy / side / "manifest.json"
    good = path.read_bytes()
    path.write_bytes(seal(good.replace(b'"model_name"', b'"model_name": "other", "model_name"', 1)))
    refused(copy / side, "a key is there twice")
    path.write_bytes(good)
    for change in (twice, in_another_case):
        rewrite(copy, side, change)
        refused(copy / side, "twice; do not use this bundle")
        path.write_bytes(good)


@pytest.mark.parametrize(
    "change",
    [
        {"fallback": "fallback.onnx"},
        {"fallback": "../cloud/model_repository/lenet5/1/model.onnx"},
        {
            "engines": [
                {"file": "/etc/passwd", "runtime": "tensorrt-rtx", "compute_capabilities": ["8.6"], "version": ""}
            ]
        },
    ],
)
def test_what_an_edge_side_names_must_be_in_it(change: dict[str, Any], copy: Path) -> None:
    rewrite(copy, "edge", lambda content: content.update(change))
    refused(copy, "which is none of its files")


def put(folder: Path, side: str, name: str, data: bytes) -> None:
    """Another file in the place of one, with all the digests that a forger can put right."""
    (folder / side / name).write_bytes(data)

    def restate(content: dict[str, Any]) -> None:
        (stated,) = (stored for stored in content["files"] if stored["path"] == name)
        stated.update(size_bytes=len(data), digest=digest(data))

    rewrite(folder, side, restate)


def external(model: onnx.ModelProto, location: str) -> onnx.ModelProto:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model


def in_a_constant(model: onnx.ModelProto) -> onnx.ModelProto:
    tensor = TensorProto(dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "g", [], [])
    model.graph.node.add(op_type="If").attribute.append(helper.make_attribute("then_branch", inner))
    return model


def loading(model: onnx.ModelProto) -> onnx.ModelProto:
    node = helper.make_node("EPContext", [], ["e"], domain="com.microsoft", ep_cache_context="/tmp/x.so")
    model.graph.node.append(node)
    return model


REACHING: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "a file outside": lambda model: external(model, "../../etc/passwd"),
    "an absolute path": lambda model: external(model, "/etc/passwd"),
    "a file beside": lambda model: external(model, "noise.npz"),
    "memory of the process": lambda model: external(model, "*/_ORT_MEM_ADDR_/*"),
    "a branch's constant": in_a_constant,
    "a library": loading,
}


@pytest.mark.parametrize("what", REACHING)
@pytest.mark.parametrize(("side", "name"), [("edge", "edge.onnx"), ("cloud", "model_repository/lenet5/1/model.onnx")])
def test_no_model_reaches_out(what: str, side: str, name: str, copy: Path) -> None:
    model = REACHING[what](onnx.load(copy / side / name))
    put(copy, side, name, model.SerializeToString())
    refused(copy, "in another file; do not use|loads other files; do not use")


def test_a_tensor_may_be_called_location(copy: Path) -> None:
    """The word alone does not refuse a model; a file that has it and is none does."""
    model = onnx.load(copy / "edge" / "edge.onnx")
    model.graph.doc_string = "location EPContext"
    put(copy, "edge", "edge.onnx", model.SerializeToString())
    assert verify(copy).manifest
    put(copy, "edge", "edge.onnx", b"location" * 100)
    refused(copy, "edge.onnx is not an ONNX file")


def bomb(good: bytes, method: int) -> bytes:
    """The collection's file with a gigabyte of zeros in the place of its orders."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(buffer, "w", method) as archive:
        for info in source.infolist():
            with archive.open(info.filename, "w", force_zip64=True) as member:
                for _ in range(1000 if info.filename == "orders.npy" else 0):
                    member.write(bytes(1 << 16))
                member.write(source.read(info))
    return buffer.getvalue()


def test_noise_is_no_bomb(copy: Path) -> None:
    good = (copy / "edge" / "noise.npz").read_bytes()
    made = bomb(good, zipfile.ZIP_DEFLATED)
    assert len(made) < 1 << 20
    for data, words in ((made, "is compressed"), (good[:-5], "is no noise file"), (b"PK\x05\x06", "noise file")):
        put(copy, "edge", "noise.npz", data)
        assert "noise.npz" in refused(copy, words)


def test_verified_bytes_are_those_that_were_checked(copy: Path) -> None:
    _, found = verified_files(copy)
    assert set(found) == set(FILES)
    assert all(data == (copy / name).read_bytes() for name, data in found.items())
    _, cloud = verified_files(copy / "cloud")
    assert {f"cloud/{name}": data for name, data in cloud.items()}.items() <= found.items()
    with pytest.raises(BundleError, match="was expected"):
        verified_files(copy / "cloud", expect_id=verify(copy).id)
    os.truncate(copy / "edge" / "edge.onnx", 7)
    with pytest.raises(BundleError, match="has 7 bytes"):
        verified_files(copy)


def test_a_file_is_opened_once(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the check and the use nobody can put another file in the place."""
    opened: list[str] = []
    open_file = os.open

    def counted(path: Any, *given: Any, **named: Any) -> int:
        opened.append(os.fspath(path))
        return open_file(path, *given, **named)

    monkeypatch.setattr(os, "open", counted)
    _, found = verified_files(copy / "cloud")
    assert [opened.count(Path(name).name) for name in found] == [1] * len(found)


@pytest.mark.deep
def test_a_device_is_no_file(copy: Path) -> None:
    """Making one takes root."""
    if os.geteuid():
        pytest.skip("not root here")
    for name in ("edge/noise.npz", "cloud/deploy/kserve.yaml"):
        good = (copy / name).read_bytes()
        (copy / name).unlink()
        os.mknod(copy / name, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
        refused(copy, "what lies there is no file")
        (copy / name).unlink()
        (copy / name).write_bytes(good)
    assert verify(copy)


@pytest.mark.deep
@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_noticed(name: str, copy: Path) -> None:
    """Every byte of a manifest and one in each 4 KiB of another file, without knowing the id."""
    path = copy / name
    good = path.read_bytes()
    side = copy / (name.split("/")[0] if name.startswith(("edge/", "cloud/")) else "")
    step = 1 if name.endswith("manifest.json") else 4096
    places = sorted({*range(0, len(good), step), len(good) - 1})
    for number, place in enumerate(places):
        path.write_bytes(good[:place] + bytes([good[place] ^ (1 << number % 8)]) + good[place + 1 :])
        refused(side)
    path.write_bytes(good)
    assert verify(copy)


def test_a_folder_that_is_no_bundle_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "there is no bundle folder")
    (tmp_path / "b.tar.zst").write_bytes(b"")
    with pytest.raises(BundleError, match="is a file, where a bundle's folder is needed; unpack it"):
        verified_files(tmp_path / "b.tar.zst")
    refused(tmp_path, "has no manifest.json")
    (tmp_path / "file").write_text("{}")
    refused(tmp_path / "file", "is no archive of edgecut pack")


@pytest.fixture(scope="module")
def scratch(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path_factory.mktemp("flips") / "bundle"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
