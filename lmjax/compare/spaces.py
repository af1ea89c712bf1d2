"""The rates that each variant begins its tuning with.

They are three of its optimizer's search space, a decade apart, around its own rate: wide first, so
that few trials find a rate that is far from any default, and what is left of them refines. Or they
are what --learning-rates says, for all variants; or what a file says, a JSON object of one entry
for a variant:

    {"adamw": {"learning_rate": {"low": 1e-4, "high": 1e-1, "per_decade": 2}},
     "muon": {"learning_rate": [0.01, 0.03, 0.1]}}

A grid is one to take three rates of, as the optimizer's own; a list is what to begin with itself.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmjax.compare.variants import Variant
from lmjax.errors import InputError, in_float32, unknown
from lmjax.optim import LogGrid, check_space
from lmjax.optim.space import Choice, Space

RATE = "learning_rate"
DIGITS = 6  # of a rate, by which its cells are named

Windows = dict[str, tuple[float, ...]]  # label of a variant -> its first rates, ascending


def windows(
    variants: Sequence[Variant], trials: int, rates: Sequence[float] = (), file: str | None = None
) -> Windows:
    """Label -> the first rates of each variant, fewer than or as many as it has trials.

    Raises InputError for spaces that cannot be used.
    """
    if rates:
        return {v.label: _window("--learning-rates", rates, trials) for v in variants}
    given = {} if file is None else read(file, variants)
    found = {}
    for label, _, experiment in variants:
        optimizer = experiment.optimizer
        space = given[label] if label in given else optimizer.search_space[RATE]
        if isinstance(space, Choice):
            found[label] = _window(f"--space {file}: {label}", _numbers(space), trials)
        else:
            found[label] = decades(space, optimizer.learning_rate)
    return found


def decades(grid: LogGrid, around: float) -> tuple[float, ...]:
    """The value of a grid that is nearest to `around`, with those a decade below and above it.

    Fewer than three, or others beside it, where the grid ends earlier.
    """
    size = len(grid.values)
    first = grid.values.index(grid.window(around, 1)[0])
    step = max(1, min(grid.per_decade, (size - 1) // 2))
    middle = min(max(first, step), max(size - 1 - step, 0))
    places = sorted({max(middle - step, 0), middle, min(middle + step, size - 1)})
    return tuple(grid.values[place] for place in places)


def read(file: str, variants: Sequence[Variant]) -> dict[str, LogGrid | Choice]:
    """Label -> the rates of a file's variants; raises InputError."""
    where = f"--space {file}"
    try:
        held = json.loads(Path(file).read_text())
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from None
    if not isinstance(held, dict):
        raise InputError(f"{where}: must be an object with an entry for a variant")
    optimizers = {variant.label: variant.experiment.optimizer for variant in variants}
    found = {}
    for label, entry in held.items():
        if label not in optimizers:
            raise InputError(f"{where}: {unknown('variant', label, optimizers)}")
        if not isinstance(entry, dict):
            raise InputError(f"{where}: {label}: must be an object of hyper-parameters")
        space = {name: _values(f"{where}: {label}.{name}", x) for name, x in entry.items()}
        for value in space[RATE].values if RATE in space else ():
            if isinstance(value, (bool, str)):
                raise InputError(f"{where}: {label}.{RATE} = {value!r}: must be a number")
        try:
            check_space(optimizers[label], space)
        except InputError as error:
            raise InputError(f"{where}: {label}: {error}") from None
        found[label] = _rates(f"{where}: {label}", space)
    return found


def _rates(where: str, space: Space) -> LogGrid | Choice:
    others = [name for name in space if name != RATE]
    if others:
        raise InputError(
            f"{where}: {others[0]} is not tuned, the {RATE} alone is; set it for a variant by "
            f'--axis "optimizer:... --optimizer.{others[0].replace("_", "-")} VALUE"'
        )
    if RATE not in space:
        raise InputError(f"{where}: no {RATE}")
    return space[RATE]


def _values(where: str, value: Any) -> LogGrid | Choice:
    """What a file says of one hyper-parameter."""
    if isinstance(value, dict):
        return _grid(where, value)
    if not isinstance(value, list):
        raise InputError(f"{where}: must be a list of values, or a grid with low and high")
    if not all(isinstance(x, (bool, int, float, str)) for x in value):
        raise InputError(f"{where}: must be numbers or words")
    try:
        return Choice(tuple(value))
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def _grid(where: str, given: dict[str, Any]) -> LogGrid:
    names = [field.name for field in dataclasses.fields(LogGrid)]
    for name, value in given.items():
        if name not in names:
            raise InputError(f"{where}: {unknown('field of a grid', name, names)}")
        kinds = int if name == "per_decade" else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            kind = "whole number" if kinds is int else "number"
            raise InputError(f"{where}.{name} = {value!r}: must be a {kind}")
    missing = [name for name in ("low", "high") if name not in given]
    if missing:
        raise InputError(f"{where}: a grid needs {missing[0]}")
    try:
        ends = {name: float(given[name]) for name in ("low", "high")}
        return LogGrid(**{**given, **ends})
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from None


def _numbers(space: Choice) -> list[float]:
    return [float(value) for value in space.values]  # check_space has seen that they are


def _window(where: str, rates: Sequence[float], trials: int) -> tuple[float, ...]:
    """Rates that were given, ascending."""
    found = tuple(sorted(float(rate) for rate in rates))
    if any(not 0 < rate < math.inf or not 0 < in_float32(rate) < math.inf for rate in found):
        raise InputError(f"{where}: rates must be > 0 and finite, also in float32")
    if any(named(rate) != repr_of(rate) for rate in found):
        raise InputError(f"{where}: rates may have {DIGITS} digits, by which cells are named")
    if len(set(found)) < len(found):
        raise InputError(f"{where}: a rate is given twice")
    if not 2 <= len(found) <= trials:
        raise InputError(f"{where}: {len(found)} rates; must be 2 to {trials}, the --trials")
    return found


def named(rate: float) -> str:
    """A rate as the cells that have it are named."""
    return f"{rate:.{DIGITS}g}"


def repr_of(rate: float) -> str:
    """The same, if the rate has no more digits."""
    return named(rate) if float(named(rate)) == rate else repr(rate)


def record(windows: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """As plain JSON."""
    return {label: list(rates) for label, rates in windows.items()}
