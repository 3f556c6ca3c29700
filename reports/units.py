"""How numbers are spelled: seconds, joules, bytes, ratios and shares as short text.

Values come in SI units and go out in the unit named by the function or by the `Scale`. None is always spelled out,
never shown as 0; a ratio keeps about three digits, a time as many decimals as its table's largest value asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

UNAVAILABLE = "unavailable"
MINUS = "\N{MINUS SIGN}"
TO = "\N{EN DASH}"


@dataclass(frozen=True)
class Scale:
    """One unit for a whole table or figure: `text(value) == value * factor` with `decimals` decimals."""

    unit: str
    factor: float
    decimals: int

    def number(self, value: float | None) -> float | None:
        """The value in this unit, for a figure."""
        return None if value is None else value * self.factor

    def text(self, value: float | None, missing: str = UNAVAILABLE) -> str:
        """The value in this unit, without the unit; too small to show is `<0.001`, not 0."""
        if value is None:
            return missing
        shown = value * self.factor
        least = 10.0**-self.decimals
        if 0 < abs(shown) < least / 2:
            return f"<{least:.{self.decimals}f}"
        return signed(f"{shown:,.{self.decimals}f}")

    def interval(self, low: float, high: float) -> str:
        """`low-high` in this unit."""
        return f"{self.text(low)}{TO}{self.text(high)}"

    def with_unit(self, value: float | None) -> str:
        """`6.32 ms`, or `unavailable`."""
        return UNAVAILABLE if value is None else f"{self.text(value)} {self.unit}"


def scale_of(values: Iterable[float | None], units: Sequence[tuple[str, float]]) -> Scale:
    """The first unit in which the largest value is at least 1, else the last; decimals so that it has four digits."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    unit, factor = next(((unit, factor) for unit, factor in units if largest * factor >= 1), units[-1])
    shown = largest * factor
    return Scale(unit, factor, 3 if shown < 10 else 2 if shown < 100 else 1 if shown < 1000 else 0)


def times(values: Iterable[float | None]) -> Scale:
    """Milliseconds or microseconds, whichever suits the largest of some seconds."""
    return scale_of(values, (("ms", 1e3), ("µs", 1e6)))


def milliseconds(values: Iterable[float | None]) -> Scale:
    """Milliseconds, whatever the size of the values."""
    return scale_of(values, (("ms", 1e3),))


def millijoules(values: Iterable[float | None]) -> Scale:
    """Millijoules, whatever the size of the values."""
    return scale_of(values, (("mJ", 1e3),))


def signed(text: str) -> str:
    """With a real minus sign, as wide as a digit."""
    return text.replace("-", MINUS)


def ratio(value: float | None) -> str:
    """A factor with three significant digits, or three decimals below 1: 1.36, 20.4, 0.049, 0.0049."""
    if value is None:
        return UNAVAILABLE
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1:
        return f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.2g}"
    return f"{value:#.3g}".rstrip(".")


def percent(share: float, decimals: int = 2) -> str:
    """A share of 1 as a percentage."""
    return f"{100 * share:.{decimals}f} %"


def percent_change(share: float | None) -> str:
    """A signed share of 1 as a percentage."""
    return UNAVAILABLE if share is None else signed(f"{100 * share:+.1f} %")


def points(value: float) -> str:
    """Percentage points."""
    return signed(f"{value:.2f}")


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return UNAVAILABLE if value is None else signed(f"{value:,.0f}")


def rate(bits_per_second: float) -> str:
    """Mbit/s."""
    return f"{bits_per_second / 1e6:,.4g} Mbit/s"


def gibibytes(size_bytes: int) -> str:
    """Memory in GiB."""
    return f"{size_bytes / 2**30:.1f} GiB"


def shape(dimensions: Sequence[int]) -> str:
    """6 x 14 x 14."""
    return " \N{MULTIPLICATION SIGN} ".join(str(size) for size in dimensions) or "scalar"


def printable(text: str) -> str:
    """With everything a terminal might obey replaced: names come from model files, which anyone may have written."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def shorten(text: str, width: int, head: int | None = None) -> str:
    """At most `width` letters, the first `head` of them: cut in the middle, as layers' names differ at both ends."""
    if len(text) <= width:
        return text
    kept = width // 2 if head is None else head
    return f"{text[:kept]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - (width - 1 - kept) :]}"


def moment(stamp: str) -> str:
    """2026-11-21T22:13:55+00:00 as 2026-11-21 22:13:55 UTC; other forms as they are."""
    head, _, zone = stamp.partition("+")
    return head.replace("T", " ") + (" UTC" if zone == "00:00" else f" +{zone}" if zone else "")
