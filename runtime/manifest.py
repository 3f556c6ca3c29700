"""The manifests of a bundle: what each side holds, by digest, and how the two sides fit together.

    bundle/manifest.json          names the two sides by the digest of their manifests; accuracy, versions
    bundle/edge/manifest.json     the edge partition and the noise, which stay private; for which target they were made
    bundle/cloud/manifest.json    the cloud partition; nothing of the noise, the plan or the edge
    bundle/profile/               the plan and the profiles it came from

Each manifest is sealed: it holds a digest of its own text, so that damage to it shows wherever it is shipped. All
these digests find damage, not a forger. The bundle's id is the digest of its manifest; `--expect-id` pins it.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer

from ..artefacts import Artefact, Record, digest
from ..errors import ArtefactError
from ..models.spec import PixelFormat, TensorSpec
from .accuracy import NoiseAccuracy

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
MANIFEST = "manifest.json"
EDGE, CLOUD, PROFILE = "edge", "cloud", "profile"
EDGE_MODEL, NOISE, FALLBACK = "edge.onnx", "noise.npz", "fallback.onnx"
REPOSITORY = "model_repository"
MAX_NOISE_BYTES = 256 * 1024 * 1024
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_FILE_BYTES = 4 * 1024**3
"""Of one file of a bundle; an ONNX file has at most 2 GB, an engine may have somewhat more than its model."""
MAX_FILES = 10_000
MAX_EARLIER_IDS = 20
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_SEAL = re.compile(rb'"seal":\s*"sha256:([0-9a-f]{64})"')
_UNSEALED = "sha256:" + "0" * 64


class StoredFile(Record):
    """One file: its path inside the side's folder, with forward slashes, its size and digest."""

    path: str
    size_bytes: int = Field(ge=0)
    digest: Digest

    @property
    def safe(self) -> bool:
        """Whether the path cannot leave its folder."""
        return bool(_SAFE.fullmatch(self.path)) and ".." not in self.path.split("/") and len(self.path) <= 255


class Sealed(Artefact):
    """A manifest whose text holds its own digest, which is taken with zeros in the digest's place."""

    KIND = "sealed"

    seal: Digest | None = None

    def to_json(self) -> str:
        """The file's text, sealed."""
        return seal(super(Sealed, self.model_copy(update={"seal": _UNSEALED})).to_json().encode()).decode()

    @classmethod
    def from_json(cls, text: bytes | str, where: str) -> Self:
        """Parse strictly: no key twice, no NaN, no other text than was sealed. Raises ArtefactError."""
        raw = text.encode(errors="surrogateescape") if isinstance(text, str) else text
        _check_json(raw, where)
        value = super().from_json(raw, where)
        if value.seal is not None and (len(_SEAL.findall(raw)) != 1 or raw != seal(raw)):
            raise ArtefactError(f"{where} was altered, it does not have the digest that it holds; get it again")
        return value


def seal(text: bytes) -> bytes:
    """A manifest's text with the right digest in its seal; as it is where it has none."""
    found = list(_SEAL.finditer(text))
    if len(found) != 1:
        return text
    start, end = found[0].span(1)
    zeroed = text[:start] + b"0" * 64 + text[end:]
    return text[:start] + digest(zeroed).removeprefix("sha256:").encode() + text[end:]


def _check_json(text: bytes, where: str) -> None:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError("a key is there twice")
        return dict(pairs)

    def no_number(name: str) -> None:
        raise ValueError(f"{name} is no number")

    try:
        json.loads(text, object_pairs_hook=once, parse_constant=no_number)
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8, and numbers of thousands of digits
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ArtefactError(f"{where} is not usable JSON ({reason[:200]}); write it again with edgecut") from None


Precision = Literal["float32", "float16"]


class EdgeTarget(Record):
    """What the edge models were made for: the runtime that is expected to run them, and how they are written.

    `batch` is None where any batch size runs and 1 where the models take one item, so that callers loop. `precision`
    is that of the arithmetic; what goes in and comes out of a model has the types of the manifest either way.
    """

    name: str = "cpu"
    runtime: str = "onnxruntime-cpu"
    opset: int = Field(default=18, ge=1)
    ir_version: int = Field(default=10, ge=3)
    precision: Precision = "float32"
    batch: int | None = Field(default=None, ge=1)


class Engine(Record):
    """An engine that was built ahead, without the device: `file` runs on GPUs of these compute capabilities alone."""

    file: str
    runtime: str
    compute_capabilities: tuple[str, ...] = Field(min_length=1)
    version: str


class Wire(Record):
    """Noisy activations travel as int8: clamp(rint(sum / step), -128, 127), a step for each tensor of the cut."""

    dtype: Literal["int8"] = "int8"
    steps: tuple[Annotated[float, Field(strict=True, ge=1e-37, le=1e37)], ...] = Field(min_length=1)


class LeakageLimits(Record):
    """What the user allows to leak; None is no limit."""

    max_private_accuracy: float | None = Field(default=None, ge=0, le=1)
    max_bits: float | None = Field(default=None, ge=0)
    max_ssim: float | None = Field(default=None, ge=-1, le=1)


class Leakage(Record):
    """What an audit measured of the bundle: the largest figure of each kind over all its attackers.

    `audit_digest` is that of the audit's file, `private` the private labels' name. Bits are of one message about its
    input; None is not measured, and never 0. `broken` has a sentence for each limit that does not hold. `earlier_ids`
    are the bundle's before its verdicts, the latest last: what was measured with it may name any of them.
    """

    audit_digest: Digest
    data: str
    private: str | None = None
    upper_bits: float | None = None
    lower_bits: float | None = None
    private_accuracy: float | None = Field(default=None, ge=0, le=1)
    ssim_p95: float | None = Field(default=None, ge=-1, le=1)
    limits: LeakageLimits = LeakageLimits()
    holds: bool
    broken: tuple[str, ...] = ()
    audited_at: str
    earlier_ids: tuple[Digest, ...] = Field(default=(), max_length=MAX_EARLIER_IDS)


class EdgeManifest(Sealed):
    """The private side: takes `input`, sends `cut` to the cloud model called `model_name`, expects `answer`.

    `cut` are the tensors that cross: those of the model's cut, or the one that a mechanism's map makes of them.
    `fallback` names the file of the cloud partition, which runs on the device where the cloud is away; None where the
    bundle has none. `wire` is None, and not in the text, where the tensors of the cut travel as float32; nor is
    `sticky` where it is False: whether the same input always gets the same noise.
    """

    KIND = "edge-side"
    VERSION: ClassVar[int] = 2

    model_name: str
    input: TensorSpec
    pixels: PixelFormat | None
    cut: tuple[TensorSpec, ...]
    answer: TensorSpec
    mechanism: str
    target: EdgeTarget = EdgeTarget()
    fallback: str | None = None
    engines: tuple[Engine, ...] = ()
    wire: Wire | None = None
    sticky: bool = False
    files: tuple[StoredFile, ...] = Field(max_length=MAX_FILES)

    @model_serializer(mode="wrap")
    def _without_the_usual(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Agents that know of no wire but float32, and of fresh noise alone, read what was written for those."""
        fields: dict[str, Any] = inner(self)
        for name, usual in (("wire", self.wire is None), ("sticky", not self.sticky)):
            if usual:
                fields.pop(name, None)
        return fields


class CloudManifest(Sealed):
    """The cloud side: an ordinary model in a Triton repository."""

    KIND = "cloud-side"
    VERSION: ClassVar[int] = 2

    model_name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: tuple[StoredFile, ...] = Field(max_length=MAX_FILES)


class Manifest(Sealed):
    """The whole bundle. `model_digest` is that of the model that was split, which itself is not in the bundle.

    `accuracy_of` says what was run to measure the accuracy, and in which arithmetic. `largest_difference` is that of
    the halves, in the same arithmetic, from the whole model on random inputs. A mechanism's map changes what the halves
    compute; then it is the difference from the whole model with the mapping done in between, as NumPy does it.
    `leakage`, which is not in the text where it is None, is what an audit found (`record_leakage`).
    """

    KIND = "bundle"
    VERSION: ClassVar[int] = 2

    model_name: str
    model_digest: Digest
    cut_name: str
    edge_digest: Digest
    cloud_digest: Digest
    files: tuple[StoredFile, ...] = Field(max_length=MAX_FILES)
    accuracy: NoiseAccuracy | None
    accuracy_missing: str
    accuracy_of: str = ""
    largest_difference: float
    versions: dict[str, str]
    created_at: str
    leakage: Leakage | None = None

    @model_serializer(mode="wrap")
    def _without_no_leakage(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = inner(self)
        if self.leakage is None:
            fields.pop("leakage", None)
        return fields
