"""What a bundle's parts must be wherever they are read, in a folder or an archive: the rules, without the reading.

Each function raises BundleError with one sentence that names the place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artefacts import digest
from ..errors import ArtefactError, BundleError
from ..noise_kernels.collection import CollectionError
from ..noise_kernels.mechanism import read_noise
from .manifest import CLOUD, EDGE, MANIFEST, MAX_FILE_BYTES, NOISE, CloudManifest, EdgeManifest, Manifest, StoredFile

AGAIN = "get the bundle again, or write it again with edgecut bundle"
AnyManifest = Manifest | EdgeManifest | CloudManifest
_KINDS: tuple[type[AnyManifest], ...] = (Manifest, EdgeManifest, CloudManifest)


@dataclass(frozen=True)
class Verified:
    """A side or bundle whose files are all as its manifest says; `id` is the manifest's digest.

    `folder` is where it lies: a folder, or the archive it was read from. `edge` is the manifest of its edge side, or of
    itself where it is one; None for a cloud side.
    """

    folder: Path
    id: str
    manifest: AnyManifest
    files: int
    size_bytes: int
    edge: EdgeManifest | None = None


def parse_manifest(text: bytes, where: str, kind: type[AnyManifest] | None = None) -> AnyManifest:
    """The manifest in `text`, of the kind it says where none is given."""
    try:
        found = kind or _kind(text, where)
        manifest = found.from_json(text, where=where)
    except ArtefactError as error:
        raise BundleError(str(error)) from None
    _check_listing(manifest.files, where)
    if isinstance(manifest, EdgeManifest):
        _check_names(manifest, where)
    return manifest


def _kind(text: bytes, where: str) -> type[AnyManifest]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        raise BundleError(f"{where} is not JSON; {AGAIN}") from None
    said = parsed.get("kind") if isinstance(parsed, dict) else None
    for kind in _KINDS:
        if said == kind.KIND:
            return kind
    raise BundleError(f"{where} is not a bundle's manifest; {AGAIN}")


def _check_listing(files: tuple[StoredFile, ...], where: str) -> None:
    seen: set[str] = set()
    for stored in files:
        if not stored.safe:
            raise BundleError(f"{where} names the unsafe path {stored.path[:300]!r}; do not use this bundle")
        # A file system may take names that differ in case for one.
        if stored.path.casefold() in seen or stored.path.casefold() == MANIFEST:
            raise BundleError(f"{where} names {stored.path!r} twice; do not use this bundle")
        if stored.size_bytes > MAX_FILE_BYTES:
            raise BundleError(
                f"{where} says that {stored.path} has over {MAX_FILE_BYTES} bytes; do not use this bundle"
            )
        seen.add(stored.path.casefold())


def _check_names(manifest: EdgeManifest, where: str) -> None:
    listed = {stored.path for stored in manifest.files}
    named = [engine.file for engine in manifest.engines] + ([manifest.fallback] if manifest.fallback else [])
    for name in named:
        if name not in listed:
            raise BundleError(f"{where} names {name[:300]!r}, which is none of its files; {AGAIN}")
    if manifest.wire is not None and len(manifest.wire.steps) != len(manifest.cut):
        raise BundleError(
            f"{where} has {len(manifest.wire.steps)} steps of int8 for {len(manifest.cut)} tensors; {AGAIN}"
        )


def check_side(where: str, side: str, text: bytes, whole: Manifest) -> None:
    """Whether a side's manifest is the one that the bundle's names."""
    stated = {EDGE: whole.edge_digest, CLOUD: whole.cloud_digest}[side]
    if digest(text) != stated:
        raise BundleError(f"{where}/{side} is not the side that {where}/{MANIFEST} names; {AGAIN}")


def check_file(where: str, stored: StoredFile, data: bytes) -> None:
    """Whether a file has the size and digest of its manifest, and is nothing that reaches out of the bundle."""
    if len(data) != stored.size_bytes:
        raise BundleError(f"{where} has {len(data)} bytes where its manifest says {stored.size_bytes}; {AGAIN}")
    if digest(data) != stored.digest:
        raise BundleError(f"{where} was altered, its digest is not the manifest's; {AGAIN}")
    if where.endswith(".onnx"):
        _check_model(where, data)
    elif where.endswith(f"/{NOISE}"):
        try:
            read_noise(data, where)
        except CollectionError as error:
            raise BundleError(str(error)) from None


def _check_model(where: str, data: bytes) -> None:
    """A model of a bundle is one file: none of its tensors lies elsewhere, and no node loads another file."""
    # The key that says where is stored as it is read, so that most models need not be parsed here.
    if b"location" not in data and b"EPContext" not in data:
        return
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError and relatives
        raise BundleError(f"{where} is not an ONNX file ({str(error)[:200]}); {AGAIN}") from None
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and (message.external_data or message.data_location):
            raise BundleError(f"{where} keeps '{message.name[:100]}' in another file; do not use this bundle")
        if isinstance(message, onnx.NodeProto) and message.op_type == "EPContext":
            raise BundleError(f"{where} has a node EPContext, which loads other files; do not use this bundle")


def _messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all within it."""
    waiting = [message]
    while waiting:
        current = waiting.pop()
        yield current
        for field, value in current.ListFields():
            if field.message_type is not None:
                waiting.extend(value if hasattr(value, "extend") else [value])


def summary(
    place: Path, text: bytes, manifest: AnyManifest, sides: Mapping[str, tuple[bytes, AnyManifest]]
) -> Verified:
    """What was verified, with the sides of a bundle counted in; `text` is the manifest's."""
    parts = [(text, manifest), *sides.values()]
    edges = [part for _, part in parts if isinstance(part, EdgeManifest)]
    return Verified(
        folder=place,
        id=digest(text),
        manifest=manifest,
        files=sum(len(part.files) + 1 for _, part in parts),
        size_bytes=sum(len(raw) + sum(stored.size_bytes for stored in part.files) for raw, part in parts),
        edge=edges[0] if edges else None,
    )
