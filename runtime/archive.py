"""The archive of a bundle, or of one side of it: one .tar.zst file to ship, written and read strictly.

The archive is a plain tar (ustar) of files alone, compressed with Zstandard: first the manifests, then every file by
name, all of one date, owner and mode. The same folder gives the same tar, byte for byte, and with the same release of
Zstandard the same archive; any tar unpacks it. What is read must be exactly such an archive: the manifests come first
and say how much may follow, so that no archive unpacks to more than it says, and nothing but plain files comes out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from ..artefacts import writing
from ..errors import ArtefactError, BundleError, DeviceError
from .contents import AnyManifest, Verified, check_file, check_side, parse_manifest, summary
from .manifest import CLOUD, EDGE, MANIFEST, MAX_MANIFEST_BYTES, CloudManifest, EdgeManifest, Manifest, StoredFile

LEVEL = 9
"""Weights hardly shrink at any level; this one is quick."""
MAX_WINDOW_BYTES = 1 << 27
"""Of memory that an archive may ask of its reader; ours ask for 8 MB."""
PIECE = 1024
"""Of compressed bytes read at a time. Zstandard makes at most 128 KB of 4 bytes, so that is 32 MB at once."""
BLOCK = 512
END = bytes(2 * BLOCK)
AGAIN = "get the archive again"
Keep = Callable[[str, bytes], None]


def write_archive(folder: Path, target: Path, files: dict[str, bytes]) -> Path:
    """Write the verified `files` of a bundle or side to `target`, in one step. Raises BundleError."""
    zstandard = _zstandard()
    if target.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{target} lies in {folder} itself; write the archive elsewhere")
    manifests = [name for name in _MANIFESTS if name in files]
    try:
        with writing(target) as beside, open(beside, "wb") as file:
            compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, threads=0)
            with compressor.stream_writer(file, closefd=False) as stream:
                for name in (*manifests, *sorted(files.keys() - set(manifests))):
                    stream.write(_header(name, len(files[name])))
                    stream.write(files[name])
                    stream.write(bytes(-len(files[name]) % BLOCK))
                stream.write(END)
    except ArtefactError as error:
        raise BundleError(str(error)) from None
    return target


def verify_archive(path: Path) -> Verified:
    """Check a packed bundle or side without writing any of it. Raises BundleError."""
    return read_archive(path, lambda *_: None)


_MANIFESTS = (MANIFEST, f"{CLOUD}/{MANIFEST}", f"{EDGE}/{MANIFEST}")
_SIDES: dict[str, type[AnyManifest]] = {CLOUD: CloudManifest, EDGE: EdgeManifest}


def read_archive(path: Path, keep: Keep) -> Verified:
    """Read an archive once, handing over each file when it is verified."""
    zstandard = _zstandard()
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
    try:
        with _opened(path) as file:
            return _read_bundle(_Tar(file, decompressor, str(path)), path, keep)
    except zstandard.ZstdError as error:
        raise BundleError(f"{path} is no archive of edgecut pack, or damaged ({error}); {AGAIN}") from None
    except MemoryError:
        raise BundleError(f"{path} does not fit into memory; unpack it on a larger machine") from None


def _opened(path: Path) -> IO[bytes]:
    """The archive's file; a pipe in its place is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BundleError(f"there is no archive {path}; check the path") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); check the path") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{path} is no file; give an archive that edgecut pack wrote")
    return open(descriptor, "rb")


def _read_bundle(tar: _Tar, path: Path, keep: Keep) -> Verified:
    text = tar.expect(MANIFEST, None)
    where = f"{path}:{MANIFEST}"
    manifest = parse_manifest(text, where)
    sides: dict[str, tuple[bytes, AnyManifest]] = {}
    if isinstance(manifest, Manifest):
        for side, kind in _SIDES.items():
            raw = tar.expect(f"{side}/{MANIFEST}", None)
            sides[side] = raw, parse_manifest(raw, f"{path}:{side}/{MANIFEST}", kind)
            check_side(str(path), side, raw, manifest)
    keep(MANIFEST, text)
    listed: list[tuple[str, StoredFile]] = [(stored.path, stored) for stored in manifest.files]
    for side, (raw, part) in sides.items():
        keep(f"{side}/{MANIFEST}", raw)
        listed += [(f"{side}/{stored.path}", stored) for stored in part.files]
    if len({name.casefold() for name, _ in listed}) < len(listed):
        raise BundleError(f"{where} names a file that is a side's; do not use this archive")
    for name, stored in sorted(listed):
        data = tar.expect(name, stored.size_bytes)
        check_file(f"{path}:/{name}", stored, data)
        keep(name, data)
    tar.end()
    return summary(path, text, manifest, sides)


class _Tar:
    """A compressed tar that is read once, in order; only the one form that `_header` writes is taken."""

    def __init__(self, file: IO[bytes], decompressor: Any, where: str) -> None:
        self._file, self._decompressor, self._where = file, decompressor, where
        self._ready = bytearray()

    def expect(self, name: str, size: int | None) -> bytes:
        """The next file, which must be `name` and have `size` bytes, or be a manifest. Raises BundleError."""
        header = self._take(BLOCK)
        stated = _octal(header[124:135])
        if size is None and stated is not None and stated > MAX_MANIFEST_BYTES:
            raise BundleError(f"{self._where}: {name} has {stated} bytes, too many for a manifest; {AGAIN}")
        if stated is None or header != _header(name, stated) or stated != (stated if size is None else size):
            raise BundleError(f"{self._where} does not hold {name} where its manifest says so; {AGAIN}")
        data = self._take(stated)
        if any(self._take(-stated % BLOCK)):
            raise BundleError(f"{self._where} holds something between its files; {AGAIN}")
        return data

    def end(self) -> None:
        """Check that the archive ends here, and its file with it."""
        if self._take(len(END)) != END:
            raise BundleError(f"{self._where} holds more than its manifest says; {AGAIN}")
        self._fill(1)
        if self._ready or self._decompressor.unused_data or self._file.read(1):
            raise BundleError(f"{self._where} holds more than its manifest says; {AGAIN}")
        if not self._decompressor.eof:
            raise BundleError(f"{self._where} ends too early; {AGAIN}")

    def _take(self, size: int) -> bytes:
        self._fill(size)
        if len(self._ready) < size:
            raise BundleError(f"{self._where} ends too early; {AGAIN}")
        data = bytes(memoryview(self._ready)[:size])
        del self._ready[:size]
        return data

    def _fill(self, size: int) -> None:
        """Decompress until so much is ready; `PIECE` bounds what one step may bring beyond that."""
        while len(self._ready) < size and not self._decompressor.eof:
            piece = self._file.read(PIECE)
            if not piece:
                break
            self._ready += self._decompressor.decompress(piece)


def _octal(digits: bytes) -> int | None:
    return int(digits, 8) if len(digits) == 11 and all(0x30 <= digit <= 0x37 for digit in digits) else None


def _header(name: str, size: int) -> bytes:
    """The one tar header that a plain file of this name and size has here (POSIX.1-1988, ustar)."""
    path, prefix = name.encode(), b""
    if len(path) > 100:
        cut = path.rfind(b"/", 0, 156)
        prefix, path = path[:cut], path[cut + 1 :]
    if len(path) > 100 or len(prefix) > 155 or size >= 8**11:
        raise BundleError(
            f"{name[:300]} has too long a name or too many bytes for an archive; shorten the model's name"
        )
    fields = [
        path.ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,
        b"%011o\0" % size,
        b"%011o\0" % 0,
        b" " * 8,
        b"0",
        bytes(100),
        b"ustar\x0000",
        bytes(32 + 32),
        b"0000000\0" * 2,
        prefix.ljust(155, b"\0"),
        bytes(12),
    ]
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError as error:
        raise DeviceError(f"archives need the package zstandard ({error}); install it: pip install zstandard") from None
    return zstandard
