"""Numbers as a reader wants them: few digits, and the same number of decimals in a column."""

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from lmjax.compare.charts.scale import Real

MISSING = "-"  # what stands where there is no number
DIGITS = 4  # of a number that nothing says more of
MOST_DECIMALS = 6
HUGE = 1e9  # from which a number is told by its power of ten
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def decimals(values: Iterable[Real | None], errors: Iterable[Real | None] = ()) -> int:
    """Decimals for a column: of its usual error one digit, or two if it begins with 1 or 2.

    Of the largest value at least three digits are told; four, where no error is known.
    """
    known = max((abs(value) for value in values if value), default=None)
    sizes = [abs(error) for error in errors if error]
    if not sizes:
        return 2 if known is None else _decimals(known, DIGITS)
    usual = statistics.median(sizes)
    by_error = _decimals(usual, 2 if f"{usual:e}"[0] in "12" else 1)
    return by_error if known is None else max(by_error, _decimals(known, DIGITS - 1))


def _decimals(size: Real, digits: int) -> int:
    return min(max(digits - 1 - math.floor(math.log10(size)), 0), MOST_DECIMALS)


def fixed(value: Real | None, places: int, sign: bool = False) -> str:
    """A number with so many decimals; with `sign`, a plus before what is not negative."""
    if value is None:
        return MISSING
    if abs(value) >= HUGE:
        return significant(value)
    words = f"{value:{'+' if sign else ''},.{places}f}"
    return words.replace("-", "", 1) if not float(words.replace(",", "")) and not sign else words


def significant(value: Real | None, digits: int = DIGITS) -> str:
    """A number of any size in so many digits."""
    if value is None:
        return MISSING
    if value and not 1e-4 <= abs(value) < 1e7:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:,.{_decimals(abs(value) or 1.0, digits)}f}"


def rate(value: Real) -> str:
    """A rate in four digits: 0.003, 1e-5; its cell's name has all of them."""
    return _short_power(f"{value:.4g}")


def exact(value: Real) -> str:
    """A number with every digit that it has."""
    return _short_power(repr(float(value)).removesuffix(".0"))


def _short_power(words: str) -> str:
    return re.sub(r"(?<=e)\+?(-?)0*", r"\1", words)


def between(low: Real | None, high: Real | None, places: int, sign: bool = False) -> str:
    """An interval, or nothing where an end is not known."""
    if low is None or high is None:
        return ""
    return f"[{fixed(low, places, sign)}, {fixed(high, places, sign)}]"


def with_interval(
    value: Real | None, low: Real | None, high: Real | None, places: int, sign: bool = False
) -> str:
    """A number and its interval."""
    return f"{fixed(value, places, sign)} {between(low, high, places, sign)}".rstrip()


def probability(value: Real | None) -> str:
    """A p value."""
    if value is None:
        return MISSING
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def count(value: Real | None) -> str:
    """A whole number."""
    return MISSING if value is None else f"{value:,.0f}"


def big(value: Real | None, unit: str = "") -> str:
    """A large number in three digits: 1.23 MB, 45.6 GFLOP."""
    if value is None:
        return MISSING
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def shown(value: Any) -> str:
    """Any value of a configuration or an environment, in one line."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, Real):
        return rate(value)
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(inner)}" for key, inner in value.items())
    return " ".join(str(value).split()) or '""'


def together(names: Sequence[str]) -> str:
    """Names of cells in short, as a shell expands them: muon/lr0.02/seed{3,4,5}."""
    if len(names) < 2:
        return "".join(names)
    starts = [len(name.rstrip("0123456789")) for name in names]
    heads = {name[:at] for name, at in zip(names, starts, strict=True)}
    tails = [name[at:] for name, at in zip(names, starts, strict=True)]
    if len(heads) > 1 or not all(tails):
        return ", ".join(names)
    return f"{heads.pop()}{{{','.join(tails)}}}"
