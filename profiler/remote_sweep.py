"""The sweep of `edgecut calibrate` on a device reached by ssh: chains go there as kits, one after the other.

What the agent there sends back are the times of a chain's prefixes, in turns; a layer is the difference of two.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ..agent.timing import median
from ..artefacts import digest
from ..models.downgrade import downgrade
from .agents import Agent
from .chains import Chain, chain_feed
from .kit import OLD_IR, OLD_OPSET, KitSettings, finish
from .result import read_result
from .sweep import Bench


class RemoteBench(Bench):
    """Times chains with a backend of the agent on another device."""

    def __init__(self, agent: Agent, backend: str, precision: str, threads: int, pause_s: float, folder: Path) -> None:
        from ..agent.backends import Settings

        super().__init__(None, Settings(threads=threads, precision=precision), pause_s, folder)
        self._agent, self._name, self._kit = agent, backend, folder / "kit"

    def times(self, chains: dict[str, tuple[Chain, int]], seconds_each: float) -> dict[str, float]:
        """Seconds of each chain's first layers on the device, by name, all in turns."""
        shutil.rmtree(self._kit, ignore_errors=True)
        self._kit.mkdir()
        parts = []
        for number, (name, (chain, layers)) in enumerate(chains.items()):
            file = f"chain-{number:02}.onnx"
            Path(self.write(chain, layers)).replace(self._kit / file)
            _rewrite(self._kit / file)
            inputs = [
                {"name": value, "dtype": str(array.dtype), "shape": list(array.shape), "below": None}
                for value, array in chain_feed(chain).items()
            ]
            size = (self._kit / file).stat().st_size
            parts.append({"name": name, "file": file, "weight_bytes": size, "inputs": inputs})
        settings = KitSettings(
            backend=self._name,
            threads=self._settings.threads,
            precision=self._settings.precision,
            pause_s=self._pause_s,
            max_seconds=seconds_each * len(chains),
            meter="none",
        )
        finish(self._kit, "chains", digest(b"chains"), [], settings, parts)
        result = read_result(self._agent.profile(self._kit, lambda *_: None), "the device")
        return {name: median([median(block) for block in result.tasks[name].rounds]) for name in chains}


def _rewrite(path: Path) -> None:
    """For the oldest runtimes, which new ones read as well."""
    import onnx

    model = onnx.load(path)
    onnx.save(downgrade(model, opset=OLD_OPSET, ir_version=OLD_IR), path)
