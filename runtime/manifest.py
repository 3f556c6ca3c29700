"""The manifests of a bundle: what each side holds, by digest, and how the two sides fit together.

    bundle/manifest.json          names the two sides by the digest of their manifests; accuracy, versions
    bundle/edge/manifest.json     the edge partition and the noise, which stay private
    bundle/cloud/manifest.json    the cloud partition; nothing of the noise, the plan or the edge
    bundle/profile/               the plan and the profiles it came from

A digest finds damage, not a forger. The bundle's id is the digest of its manifest; `--expect-id` pins it.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, StringConstraints

from ..artefacts import Artefact, Record
from ..models.spec import PixelFormat, TensorSpec
from .accuracy import NoiseAccuracy

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
MANIFEST = "manifest.json"
EDGE, CLOUD, PROFILE = "edge", "cloud", "profile"
EDGE_MODEL, NOISE = "edge.onnx", "noise.npz"
REPOSITORY = "model_repository"
MECHANISM = "shredder"
MAX_NOISE_BYTES = 256 * 1024 * 1024
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


class StoredFile(Record):
    """One file: its path inside the side's folder, with forward slashes, its size and digest."""

    path: str
    size_bytes: int = Field(ge=0)
    digest: Digest

    @property
    def safe(self) -> bool:
        """Whether the path cannot leave its folder."""
        return bool(_SAFE.fullmatch(self.path)) and ".." not in self.path.split("/")


class EdgeManifest(Artefact):
    """The private side: takes `input`, sends `cut` to the cloud model called `model_name`, expects `answer`."""

    KIND = "edge-side"

    model_name: str
    input: TensorSpec
    pixels: PixelFormat | None
    cut: tuple[TensorSpec, ...]
    answer: TensorSpec
    mechanism: str
    files: tuple[StoredFile, ...]


class CloudManifest(Artefact):
    """The cloud side: an ordinary model in a Triton repository."""

    KIND = "cloud-side"

    model_name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: tuple[StoredFile, ...]


class Manifest(Artefact):
    """The whole bundle. `model_digest` is that of the model that was split, which itself is not in the bundle."""

    KIND = "bundle"

    model_name: str
    model_digest: Digest
    cut_name: str
    edge_digest: Digest
    cloud_digest: Digest
    files: tuple[StoredFile, ...]
    accuracy: NoiseAccuracy | None
    accuracy_missing: str
    largest_difference: float
    versions: dict[str, str]
    created_at: str
