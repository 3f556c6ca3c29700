"""The leakage verdict that an audit recorded in a bundle, for the report of what was measured with that bundle."""

from __future__ import annotations

import os
from pathlib import Path

from ..artefacts import digest, read_bytes
from ..errors import ArtefactError
from ..runtime.manifest import MANIFEST, MAX_MANIFEST_BYTES, Leakage, Manifest
from ..runtime.measurement import Measurement


def recorded(bundle: str | os.PathLike[str], measurement: Measurement) -> Leakage:
    """The verdict in the manifest of a bundle's folder.

    Recording gives a bundle another id, so the one that was measured is this one, or this one before a verdict. Raises
    ArtefactError for another bundle and for one without a verdict.
    """
    where = Path(bundle) / MANIFEST
    text = read_bytes(where, limit=MAX_MANIFEST_BYTES)
    manifest = Manifest.from_json(text, str(where))
    earlier = () if manifest.leakage is None else manifest.leakage.earlier_ids
    if measurement.bundle_id not in (digest(text), *earlier):
        raise ArtefactError(f"{bundle} is not the bundle that was measured ({measurement.bundle_id}); give that one")
    if manifest.leakage is None:
        raise ArtefactError(f"{bundle} has no leakage verdict; write one into it with edgecut audit, or leave it out")
    return manifest.leakage
