"""What an agent sends back, checked field by field, before any of it becomes a Profile."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ..agent.profile import FORMAT
from ..agent.timing import Samples
from ..artefacts import Record, first_fault
from ..errors import DeviceError
from .profile import Environment

Seconds = Annotated[float, Field(ge=0)]


class Taken(Record):
    """One task's raw samples in seconds, round by round."""

    rounds: tuple[Annotated[tuple[Seconds, ...], Field(min_length=1)], ...] = Field(min_length=1)
    cpu_s: float = Field(ge=0)
    wall_s: float = Field(gt=0)

    def samples(self) -> Samples:
        """As the timing loop gives them."""
        return Samples([list(block) for block in self.rounds], self.cpu_s, self.wall_s)


class Spent(Record):
    """One task's joules per run, see `agent/meters.py`."""

    energy_j: float | None
    above_idle_j: float | None
    runs: int = Field(ge=1)
    window_s: Seconds
    note: str

    @model_validator(mode="after")
    def _in_a_window(self) -> Self:
        if self.energy_j is not None and not self.window_s > 0:
            raise ValueError("joules of a window without length")
        return self


class MeterSaid(Record):
    """Which meter was read, or why none, and the idle power before measuring."""

    name: str | None
    source: str
    idle_w: float | None = Field(ge=0)
    idle_window_s: Seconds
    note: str


class AgentResult(Record):
    """The agent's result file. The two fields on memory are there only where that was asked for."""

    format: int
    model_digest: str
    backend: str
    threads: int = Field(ge=1)
    precision: Literal["float32", "float16"]
    pause_s: Seconds
    environment: Environment
    tasks: dict[str, Taken]
    nodes: tuple[tuple[str, Seconds], ...]
    layer_note: str
    meter: MeterSaid
    energy: dict[str, Spent]
    converged: bool
    groups: int = Field(ge=1)
    elapsed_s: Seconds
    memory_bytes: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    memory_note: str = ""


def read_result(values: dict[str, Any], where: str) -> AgentResult:
    """Check a result. Raises DeviceError naming the first thing wrong with it."""
    if values.get("format") != FORMAT:
        raise DeviceError(f"{where} sent a result of format {values.get('format')}, and {FORMAT} is read here")
    try:
        return AgentResult.model_validate(values)
    except ValidationError as error:
        raise DeviceError(f"{where} sent an unusable result ({first_fault(error)}); measure again") from None
