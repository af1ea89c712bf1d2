"""Scales: numbers to pixels, and the ticks that a reader can count by.

A chart that holds one number, or only equal ones, still gets a range that is not empty.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

MANTISSAS = (  # of the ticks of a logarithmic axis, from few to many
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
)
LEAST_TICKS = 3
LEAST_SPAN = 1e-6  # of a range, relative to its numbers: what six digits can tell apart
MOST_DECADES = 120  # of a log axis; what is smaller lies below its foot
MOST_DIGITS = 9  # of a tick that is written in full
LOG_RATIO = 30.0  # of the largest to the least number, above which a line is drawn on a log axis


Real = float | int  # as JSON writes them


class Tick(NamedTuple):
    """One mark of an axis."""

    value: Real
    text: str


class Scale(NamedTuple):
    """[low, high] of the data on [start, end] in pixels; `end` may lie before `start`."""

    low: Real
    high: Real
    start: Real
    end: Real
    log: bool = False

    def at(self, value: Real) -> Real:
        """The pixel of a value, also of one outside; of a log scale it must be positive."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def clamped(self, value: Real) -> Real:
        """The pixel of the nearest value inside."""
        return self.at(min(max(value, self.low), self.high))

    def ticks(self, most: int) -> list[Tick]:
        """At least two and about `most` marks inside the range."""
        return (
            log_ticks(self.low, self.high, most) if self.log else ticks(self.low, self.high, most)
        )


def ticks(low: Real, high: Real, most: int, whole: bool = False) -> list[Tick]:
    """Multiples of 1, 2 or 5 times a power of ten; with `whole`, of whole numbers alone."""
    rough = (high - low) / max(most, 1)
    rough = max(rough, 1.0) if whole else rough
    exponent = math.floor(math.log10(rough))
    options = [(mantissa, power) for power in (exponent, exponent + 1) for mantissa in (1, 2, 5)]
    mantissa, power = next(x for x in options if x[0] * 10.0 ** x[1] >= rough * (1 - 1e-9))
    step = mantissa * 10.0**power
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [n * step + 0.0 for n in range(first, last + 1)]
    decimals, whole_digits = max(0, -power), math.log10(max(abs(low), abs(high), 1.0))
    if decimals + whole_digits > MOST_DIGITS:
        return [Tick(value, f"{value:.8g}") for value in values]
    return [Tick(value, f"{value:,.{decimals}f}") for value in values]


def log_ticks(low: Real, high: Real, most: int) -> list[Tick]:
    """Round numbers in every decade, or in every second or third where there are many decades."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / max(most, 1)))
    found: list[Real] = []
    for mantissas in MANTISSAS if every == 1 else MANTISSAS[:1]:
        decades = [n for n in range(first, last + 1) if n % every == 0]
        wider = [float(f"{m:g}e{n}") for n in decades for m in mantissas]
        wider = [value for value in wider if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(wider) > most and found:
            break
        found = wider
    if len(found) < LEAST_TICKS and last - first <= LEAST_TICKS:
        return ticks(low, high, most)
    return [Tick(value, plain(value)) for value in found]


def plain(value: Real) -> str:
    """A number as one writes it by hand: 0.003, 1, 2,500, 1e-5."""
    if value and not 1e-4 <= abs(value) < 1e6:
        mantissa, _, exponent = f"{value:g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def span(values: Iterable[Real], log: bool = False, room: Real = 0.04) -> tuple[Real, Real]:
    """A range that is not empty around the values, with a share of it left free at either end."""
    values = list(values)
    low, high = min(values), max(values)
    if log:
        low = max(low, high / 10.0**MOST_DECADES)
        edge = max((high / low) ** room, 1.1 if high / low < 1 + LEAST_SPAN else 1.0)
        return low / edge, high * edge
    size = high - low
    if size <= LEAST_SPAN * max(abs(low), abs(high)):
        size = max(abs(low), abs(high), 1.0) / 2
    return low - room * size, high + room * size


def wants_log(values: Iterable[Real]) -> bool:
    """Whether a linear axis would press most of the values against its foot."""
    values = list(values)
    return bool(values) and min(values) > 0 and max(values) / min(values) > LOG_RATIO
