"""Bad input, told in one line: field, value, what is allowed, the nearest valid name."""

import contextlib
import difflib
import math
import re
import struct
from collections.abc import Iterable, Iterator
from typing import Any

INT32_MOST = 2**31 - 1  # JAX counts steps, positions and ids in int32
PEER_GONE = 75  # exit status where another process of the run is gone: EX_TEMPFAIL of sysexits.h
FLOAT32_LEAST = 2.0**-126  # what is nearer to 0, XLA takes for 0
BUCKET = re.compile(r"(?:^|[:=])((?:gs|s3|az|hf)://)")  # which epath would ask the network for
STORES = ("gs://", "s3://")
DAMAGE = (  # what using a damaged record raises, where the form of each field is not checked before
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)


class InputError(ValueError):
    """Something the user gave cannot be used; the command line prints it and exits with 2."""


class FieldError(InputError):
    """One field has a value it may not have. `field` is a dotted path from where it is known."""

    def __init__(self, field: str, value: Any, allowed: str):
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(f"{field} = {value!r}: {allowed}")

    def under(self, prefix: str) -> "FieldError":
        """The same error, told from one level further out."""
        return FieldError(f"{prefix}.{self.field}", self.value, self.allowed)


@contextlib.contextmanager
def fields_of(prefix: str) -> Iterator[None]:
    """Within it, fields are told with the path of the part that they belong to."""
    try:
        yield
    except FieldError as error:
        raise error.under(prefix) from None


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error that names the nearest valid name, or all of them where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"nearest: {near[0]}" if near else f"known: {', '.join(known)}"
    return InputError(f"unknown {kind} {name!r}; {hint}")


def check_number(
    field: str,
    value: Any,
    *,
    above: float | int | None = None,
    least: float | int | None = None,
    below: float | int | None = None,
    most: float | int | None = None,
) -> None:
    """Refuse what is not a finite real number within the bounds (above, below are exclusive).

    The bounds hold for the number in float32, in which it is computed with: 1 - 1e-11 is 1 there,
    and 1e-300 is 0, which only a 0 that is written as such may be.
    """
    bounds = ((">", above), (">=", least), ("<", below), ("<=", most))
    allowed = " and ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not real or not is_finite(value):
        raise FieldError(field, value, f"must be a finite number {allowed}".rstrip())
    rounded = in_float32(value)
    if not math.isfinite(rounded):
        raise FieldError(field, value, f"must be finite in float32, {allowed}".rstrip(", "))
    inside = (
        (above is None or value > above)
        and (least is None or value >= least)
        and (below is None or value < below)
        and (most is None or value <= most)
    )
    if not inside:
        raise FieldError(field, value, f"must be {allowed}")
    if (below is not None and rounded >= below) or (above is not None and rounded <= above):
        raise FieldError(field, value, f"must be {allowed} in float32, where it is {rounded:g}")
    if value and not rounded:
        raise FieldError(field, value, f"is 0 in float32; must be at least {FLOAT32_LEAST:.2g}")


def is_finite(value: float | int) -> bool:
    """Whether float64 has the number; a whole number may be larger than all that it has."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def in_float32(value: float) -> float:
    """The number as XLA has it in float32: what is too large is inf, what is too near to 0 is 0."""
    try:
        (rounded,) = struct.unpack("f", struct.pack("f", value))
    except OverflowError:
        return math.copysign(math.inf, value)
    return rounded if abs(rounded) >= FLOAT32_LEAST else 0.0


def check_integer(field: str, value: Any, *, least: int, most: int = INT32_MOST) -> None:
    """Refuse what is not a whole number in [least, most]."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise FieldError(field, value, f"must be a whole number >= {least}")
    if not least <= value <= most:
        ceiling = f" and <= {most}" if value > most or most != INT32_MOST else ""
        raise FieldError(field, value, f"must be >= {least}{ceiling}")


def check_choice(field: str, value: str, choices: Iterable[str]) -> None:
    """Refuse what is not one of the choices, naming the nearest."""
    choices = tuple(choices)
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; nearest: {near[0]}" if near else ""
        raise FieldError(field, value, f"must be one of {', '.join(choices)}{hint}")


def check_text(field: str, value: str, stores: bool = False) -> None:
    """Refuse what names nothing here: a NUL, which no path has, or a place in a bucket, but for
    those that a run may be kept in, where it is one (`stores`).
    """
    if "\0" in value:
        raise FieldError(field, value, "must not hold a NUL")
    found = BUCKET.search(value)
    if found and not (stores and found[1] in STORES):
        allowed = f"must lie in the file system of this machine; mount what {found[1]} names"
        raise FieldError(field, value, allowed)


class RunError(RuntimeError):
    """A run that cannot go on, told in one line; what it has saved is kept. Exit status 1."""
