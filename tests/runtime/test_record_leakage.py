"""What an audit found goes into a bundle's manifest: in one step, under a new id, with both sides left alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgecut.artefacts import write_bytes as write
from edgecut.errors import BundleError
from edgecut.runtime import record_leakage as recording
from edgecut.runtime.contents import Verified
from edgecut.runtime.manifest import Leakage, LeakageLimits, Manifest
from edgecut.runtime.noise_words import noise_words
from edgecut.runtime.packing import pack, unpack
from edgecut.runtime.record_leakage import record_leakage
from edgecut.runtime.verify import verify

LEAKAGE = Leakage(
    audit_digest="sha256:" + "e" * 64,
    data="mnist",
    private="slant",
    upper_bits=11.6,
    lower_bits=10.3,
    private_accuracy=0.449,
    ssim_p95=0.685,
    limits=LeakageLimits(max_private_accuracy=0.4, max_bits=12),
    holds=False,
    broken=("the private labels are told right in 44.9 %, and at most 40.0 % are allowed",),
    audited_at="2026-11-22T12:00:00+00:00",
)


@pytest.fixture
def copy(bundle_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))


def manifest_of(folder: Path) -> Manifest:
    manifest = verify(folder).manifest
    assert isinstance(manifest, Manifest)
    return manifest


def test_only_the_manifest_changes_and_the_id_is_the_new_one(copy: Path, bundle_folder: Path, tmp_path: Path) -> None:
    made = record_leakage(copy, LEAKAGE, expect_id=verify(bundle_folder).id)
    found = verify(copy, expect_id=made)
    first = verify(bundle_folder).id
    recorded = LEAKAGE.model_copy(update={"earlier_ids": (first,)})
    assert manifest_of(copy).leakage == recorded and made != first
    changed = [
        path.relative_to(copy).as_posix()
        for path in sorted(copy.rglob("*"))
        if path.is_file() and path.read_bytes() != (bundle_folder / path.relative_to(copy)).read_bytes()
    ]
    assert changed == ["manifest.json"] and found.files == verify(bundle_folder).files
    # It travels with the bundle, and can be taken out again: the same bytes as before.
    pack(copy, tmp_path / "b.tar.zst")
    assert verify(tmp_path / "b.tar.zst").id == made
    unpack(tmp_path / "b.tar.zst", tmp_path / "out")
    assert manifest_of(tmp_path / "out").leakage == recorded
    again = record_leakage(copy, LEAKAGE.model_copy(update={"holds": True, "broken": ()}))
    twice = manifest_of(copy).leakage
    assert twice is not None and twice.earlier_ids == (first, made) and again != made
    assert record_leakage(copy, None) == verify(bundle_folder).id
    assert (copy / "manifest.json").read_bytes() == (bundle_folder / "manifest.json").read_bytes()


def test_what_is_no_bundle_in_a_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    pack(copy, tmp_path / "b.tar.zst")
    before = (tmp_path / "b.tar.zst").read_bytes()
    for place, words in (
        (tmp_path / "b.tar.zst", "is an archive, which is never changed; unpack it"),
        (copy / "edge", "is one side of a bundle"),
        (copy / "cloud", "is one side of a bundle"),
        (tmp_path / "none", "no bundle folder"),
    ):
        with pytest.raises(BundleError, match=words) as raised:
            record_leakage(place, LEAKAGE)
        assert "\n" not in str(raised.value)
    assert (tmp_path / "b.tar.zst").read_bytes() == before and manifest_of(copy).leakage is None
    with pytest.raises(BundleError, match="was expected"):
        record_leakage(copy, LEAKAGE, expect_id="sha256:" + "0" * 64)
    (copy / "edge" / "noise.c").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"noise\.c"):
        record_leakage(copy, LEAKAGE)


def test_a_write_that_fails_leaves_the_bundle_as_it_was(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = verify(copy).id

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgecut.artefacts.os.replace", full)
    with pytest.raises(BundleError, match="No space left on device"):
        record_leakage(copy, LEAKAGE)
    monkeypatch.undo()
    assert verify(copy).id == before and recording.verify(copy).id == before
    assert [path.name for path in copy.parent.iterdir()] == ["bundle"]


def test_nothing_unknown_is_ever_in_the_bundle(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed right before its last step, it leaves a bundle that verifies."""
    before = verify(copy).id
    seen: list[str] = []
    monkeypatch.setattr(recording, "write_bytes", lambda path, data: seen.append(verify(copy).id) or write(path, data))
    monkeypatch.setattr(recording.os, "replace", lambda *_: seen.append(verify(copy).id))
    record_leakage(copy, LEAKAGE)
    assert set(seen) == {before} and len(seen) == 3  # once by itself, and at each rename


def test_a_bundle_that_another_wrote_meanwhile_is_left_alone(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs: list[str] = []

    def slow(folder: Path, **how: str) -> Verified:
        found = verify(folder, **how)
        monkeypatch.undo()
        theirs.append(record_leakage(folder, LEAKAGE.model_copy(update={"upper_bits": 3.0})))
        return found

    monkeypatch.setattr(recording, "verify", slow)
    with pytest.raises(BundleError, match="written by somebody else meanwhile; nothing was recorded"):
        record_leakage(copy, LEAKAGE)
    assert [verify(copy).id] == theirs and [path.name for path in copy.parent.iterdir()] == ["bundle"]


def test_figures_that_cannot_be_are_refused(copy: Path) -> None:
    for change in ({"private_accuracy": 1.2}, {"audit_digest": "none"}, {"upper_bits": float("nan")}):
        with pytest.raises(ValidationError):
            Leakage.model_validate({**LEAKAGE.model_dump(), **change})
    record_leakage(copy, LEAKAGE)
    path = copy / "manifest.json"
    values = json.loads(path.read_text())
    values["leakage"]["upper_bits"] = 1.0  # a figure embellished by hand: the seal tells
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match="was altered"):
        verify(copy)


def test_a_person_is_told_the_figures_and_the_verdict(copy: Path) -> None:
    record_leakage(copy, LEAKAGE)
    first, second = noise_words(verify(copy))
    assert first == "mechanism shredder: 120 float32 values are sent of each input"
    assert second == (
        "leakage, measured on mnist: at most 11.6 bits, at least 10.3 bits, private labels told right 44.9 %, SSIM of "
        "reconstructions, 95th percentile 0.685; limits broken: the private labels are told right in 44.9 %, and at "
        "most 40.0 % are allowed"
    )
    held = LEAKAGE.model_copy(update={"holds": True, "broken": (), "upper_bits": None, "ssim_p95": None})
    record_leakage(copy, held)
    assert noise_words(verify(copy))[1].endswith("private labels told right 44.9 %; all limits hold")
    record_leakage(copy, held.model_copy(update={"limits": LeakageLimits()}))
    assert noise_words(verify(copy))[1].endswith("no limits were given")
    assert noise_words(verify(copy / "edge")) == (first,) and noise_words(verify(copy / "cloud")) == ()
    assert noise_words(dataclasses.replace(verify(copy), edge=None)) == ()
