"""Archives of bundles: the same bytes each time, the same folder again, and nothing else ever comes out of one."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecut.artefacts import digest
from edgecut.errors import BundleError
from edgecut.runtime.archive import write_archive
from edgecut.runtime.manifest import seal
from edgecut.runtime.packing import pack, unpack
from edgecut.runtime.verify import verified_files, verify

zstandard = pytest.importorskip("zstandard")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def packed(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "bundle.tar.zst"
    pack(bundle_folder, path)
    return path


@pytest.fixture(scope="module")
def plain(packed: Path) -> bytes:
    """The tar in that archive."""
    with packed.open("rb") as file:
        return bytes(zstandard.ZstdDecompressor().stream_reader(file).read())


def compressed(tar: bytes) -> bytes:
    return bytes(zstandard.ZstdCompressor(level=1, write_checksum=True).compress(tar))


def refused(path: Path, words: str | None = None) -> str:
    """Refused by both readers, in one sentence, and nothing is left of it."""
    target = path.parent / "out" / "bundle"
    with pytest.raises(BundleError, match=words) as raised:
        unpack(path, target)
    assert list(target.parent.iterdir()) == []
    with pytest.raises(BundleError, match=words):
        verify(path)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 600 and str(path) in message
    return message


@pytest.mark.parametrize("side", ["", "edge", "cloud"])
def test_a_folder_comes_back_as_it_was(side: str, bundle_folder: Path, tmp_path: Path) -> None:
    folder, path = bundle_folder / side, tmp_path / "x.tar.zst"
    packed = pack(folder, path)
    whole = verify(folder)
    for found in (packed, verify(path), verify(path, expect_id=whole.id)):
        assert (found.id, found.files, found.size_bytes) == (whole.id, whole.files, whole.size_bytes)
        assert found.manifest == whole.manifest and found.folder == path
    again = unpack(path, tmp_path / "new" / "again", expect_id=whole.id)
    assert again.folder == tmp_path / "new" / "again" and again.id == whole.id
    assert files(again.folder) == files(folder) and verify(again.folder).id == whole.id
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["again"]


def test_the_same_folder_gives_the_same_archive(bundle_folder: Path, packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "under another name"
    copy.parent.mkdir()
    for path in sorted(files(bundle_folder), reverse=True):  # made in another order, at another time
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle_folder / path, copy / path)
        os.utime(copy / path, (1e9, 1e9))
        (copy / path).chmod(0o600)
    assert pack(copy, tmp_path / "again.tar.zst").id == verify(packed).id
    assert (tmp_path / "again.tar.zst").read_bytes() == packed.read_bytes()


def test_any_tar_reads_it(plain: bytes, bundle_folder: Path) -> None:
    """Python's own reader as the oracle: plain files alone, of one date, owner and mode."""
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        members = archive.getmembers()
        contents = {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    assert contents == files(bundle_folder)
    names = [member.name for member in members]
    assert names[:3] == ["manifest.json", "cloud/manifest.json", "edge/manifest.json"] and names[3:] == sorted(
        names[3:]
    )
    for member in members:
        assert member.isreg() and (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
        assert not member.uname and not member.gname


@pytest.mark.deep
def test_gnu_tar_and_zstd_read_it(packed: Path, bundle_folder: Path, tmp_path: Path) -> None:
    if shutil.which("tar") is None or shutil.which("zstd") is None:
        pytest.skip("no tar or zstd here")
    subprocess.run(["tar", "--zstd", "-xf", packed, "-C", tmp_path], check=True)
    assert files(tmp_path) == files(bundle_folder)


def test_another_id_than_expected_is_refused(packed: Path, tmp_path: Path) -> None:
    wrong = "sha256:" + "0" * 64
    for run in (
        lambda: unpack(packed, tmp_path / "out", expect_id=wrong),
        lambda: verify(packed, expect_id=wrong),
    ):
        with pytest.raises(BundleError, match=f"but {wrong} was expected"):
            run()
    assert not list(tmp_path.iterdir())


def test_a_damaged_folder_is_not_packed(bundle_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle_folder, tmp_path / "copy"))
    os.truncate(copy / "edge" / "edge.onnx", 10)
    with pytest.raises(BundleError, match="has 10 bytes"):
        pack(copy, tmp_path / "x.tar.zst")
    with pytest.raises(BundleError, match=r"lies in .* itself"):
        pack(bundle_folder, bundle_folder / "edge" / "x.tar.zst")
    with pytest.raises(BundleError, match="cannot be written"):
        pack(bundle_folder, tmp_path / "copy" / "manifest.json" / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_place_that_is_taken_is_kept(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("years")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("mine", "link"):
        with pytest.raises(BundleError, match="exists already"):
            unpack(packed, tmp_path / name)
    with pytest.raises(BundleError, match="cannot be written"):
        unpack(packed, tmp_path / "mine" / "below")
    assert (tmp_path / "mine").read_text() == "years" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("what", ["nothing", "folder", "pipe", "empty", "text", "a plain tar", "another tar"])
def test_what_is_no_archive_is_said(what: str, plain: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tar.zst"
    other = io.BytesIO()
    with tarfile.open(fileobj=other, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("hello"))
    contents = {
        "empty": b"",
        "text": b"hello" * 500,
        "a plain tar": plain,
        "another tar": compressed(other.getvalue()),
    }
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what != "nothing":
        path.write_bytes(contents[what])
    with pytest.raises(BundleError) as raised:
        unpack(path, tmp_path / "out")
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists() and len(list(tmp_path.iterdir())) == (what != "nothing")
    with pytest.raises(BundleError):
        verify(path)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode = size, kind, 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT if len(name) > 100 else tarfile.USTAR_FORMAT)


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE, **fields: object) -> bytes:
    return header(name, len(data), kind, **fields) + data + bytes(-len(data) % 512)


Change = Callable[[bytes], bytes]
EVIL = member("edge/edge.onnx", b"evil")
CHANGES: dict[str, Change] = {
    "a file outside": lambda tar: member("../outside", b"evil") + tar,
    "an absolute path": lambda tar: member("/tmp/edgecut-evil", b"evil") + tar,
    "a link first": lambda tar: header("manifest.json", 0, tarfile.SYMTYPE, linkname="/etc/passwd") + tar,
    "a folder that is a link": lambda tar: header("edge", 0, tarfile.SYMTYPE, linkname="/tmp") + tar,
    "a hard link": lambda tar: header("x", 0, tarfile.LNKTYPE, linkname="manifest.json") + tar,
    "a device": lambda tar: header("x", 0, tarfile.CHRTYPE, devmajor=1, devminor=5) + tar,
    "a folder": lambda tar: header("edge", 0, tarfile.DIRTYPE) + tar,
    "a long name": lambda tar: member("././@LongLink", b"a" * 5000, tarfile.GNUTYPE_LONGNAME) + tar,
    "an extended header": lambda tar: member("pax", b"22 path=../../outside\n", tarfile.XHDTYPE) + tar,
    "a file more": lambda tar: tar[:-1024] + EVIL + bytes(1024),
    "a file more after the end": lambda tar: tar + EVIL,
    "zeros after the end": lambda tar: tar + bytes(512),
    "a file twice": lambda tar: tar[:1024] + tar[:1024] + tar[1024:],
    "a manifest less": lambda tar: tar[tar.index(b"cloud/manifest.json\0") :],
    "no end": lambda tar: tar[:-1024],
    "half": lambda tar: tar[: len(tar) // 1024 * 512],
    "another mode": lambda tar: tar.replace(b"0000644\0", b"0004755\0", 1),
    "a checksum": lambda tar: tar[:148] + b"000000\0 " + tar[156:],
    "an owner": lambda tar: tar[:265] + b"root" + tar[269:],
    "padding": lambda tar: tar.replace(b"}\n\0\0", b"}\n\0x", 1),
    "a byte of a file": lambda tar: tar[: len(tar) // 2] + bytes([tar[len(tar) // 2] ^ 1]) + tar[len(tar) // 2 + 1 :],
    "an enormous manifest": lambda tar: header("manifest.json", 1 << 30) + tar[512:],
    "a size in base 256": lambda tar: tar[:124] + b"\x80" + bytes(9) + b"\x01\x00" + tar[136:],
    "only a manifest": lambda tar: member("manifest.json", b"{}") + bytes(1024),
}


@pytest.mark.parametrize("what", CHANGES)
def test_only_what_the_manifests_list_comes_out(what: str, plain: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tar.zst"
    changed = CHANGES[what](plain)
    assert changed != plain
    path.write_bytes(compressed(changed))
    refused(path)
    assert not Path("/tmp/edgecut-evil").exists() and not (tmp_path / "outside").exists()
    path.write_bytes(compressed(plain))
    assert verify(path)


def test_a_file_of_the_bundle_that_is_in_a_side(bundle_folder: Path, tmp_path: Path) -> None:
    """The top manifest may not list what is a side's, or the archive would hold it twice."""
    _, found = verified_files(bundle_folder)
    top = found["manifest.json"].replace(b'"path": "profile/plan.json"', b'"path": "edge/EDGE.onnx"', 1)
    assert top != found["manifest.json"]
    found["manifest.json"] = seal(top)
    found["edge/EDGE.onnx"] = found.pop("profile/plan.json")
    write_archive(bundle_folder, tmp_path / "x.tar.zst", found)
    refused(tmp_path / "x.tar.zst", "names a file that is a side's")


def test_it_unpacks_to_no_more_than_it_says(plain: bytes, tmp_path: Path) -> None:
    """128 MB of zeros, a few kilobytes packed: in a file's place, between files, and after the end."""
    path, start = tmp_path / "x.tar.zst", plain.index(b"edge/edge.onnx\0")
    for places in (
        (b"", b""),
        (plain[:start], plain[start:]),
        (plain[:start] + header("edge/edge.onnx", 1 << 27), b""),
        (plain, b""),
    ):
        compressor = zstandard.ZstdCompressor(level=1).compressobj()
        zeros = bytes(1 << 20)
        pieces = [compressor.compress(places[0]), *(compressor.compress(zeros) for _ in range(128))]
        path.write_bytes(b"".join([*pieces, compressor.compress(places[1]), compressor.flush()]))
        assert path.stat().st_size < len(plain) + (1 << 20)
        refused(path)


def test_it_takes_no_memory_that_an_archive_asks_for(plain: bytes, tmp_path: Path) -> None:
    """Zstandard lets an archive ask for a window of gigabytes."""
    parameters = zstandard.ZstdCompressionParameters(window_log=30)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "x.tar.zst").write_bytes(compressor.compress(plain) + compressor.flush())
    refused(tmp_path / "x.tar.zst", "(?i)memory")


def test_nothing_may_follow(packed: Path, tmp_path: Path) -> None:
    path, good = tmp_path / "x.tar.zst", packed.read_bytes()
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"evil"
    for after in (b"x", skippable, compressed(b""), compressed(b"x"), good):
        path.write_bytes(good + after)
        refused(path, "holds more than its manifest says")
    for less in (1, 2, 4, 100):
        path.write_bytes(good[:-less])
        refused(path)


def test_damage_is_found_while_unpacking(packed: Path, tmp_path: Path) -> None:
    path, good = tmp_path / "x.tar.zst", packed.read_bytes()
    for place in range(0, len(good), len(good) // 40):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        refused(path)


@pytest.mark.deep
def test_every_flipped_byte_of_an_archive_is_noticed(packed: Path, plain: bytes, tmp_path: Path) -> None:
    path, good = tmp_path / "x.tar.zst", packed.read_bytes()
    for number, place in enumerate(
        sorted({*range(200), *range(0, len(good), 1024), *range(len(good) - 20, len(good))})
    ):
        path.write_bytes(good[:place] + bytes([good[place] ^ (1 << number % 8)]) + good[place + 1 :])
        try:
            found = verify(path)
        except BundleError:
            continue
        # Some bits of a Zstandard frame, as how much memory to take, and padding, do not change what comes out.
        with path.open("rb") as file:
            same = zstandard.ZstdDecompressor().stream_reader(file).read() == plain
        assert same and found.id == verify(packed).id


def test_an_archive_cannot_be_served_as_another_bundle(packed: Path, plain: bytes, tmp_path: Path) -> None:
    """The id is the manifest's digest, in an archive as in a folder."""
    start = plain.index(b"{")
    size = int(plain[124:135], 8)
    assert verify(packed).id == digest(plain[start : start + size])
