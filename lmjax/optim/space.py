"""Search spaces: which values of its hyper-parameters an optimizer is tuned over.

A space is a mapping from a dotted field of the optimizer to the values that it may take, the
learning rate first. It stands on the optimizer's dataclass (`Optimizer.search_space`).

A learning rate has a grid that is wider than any tuning can try. One tries a window of it, and
where the best value stands at the window's edge, the next trials go on beyond that edge:

    grid = optimizer.search_space["learning_rate"]
    tried = grid.window(optimizer.learning_rate, 5)
    beyond = grid.neighbour(tried[0], -1)    # None: the best stands at the edge of the space
"""

import dataclasses
import math
from collections.abc import Mapping

from lmjax.errors import unknown
from lmjax.parts import Part, leaves, validate
from lmjax.record import from_record, to_record

DIGITS = {1: (1,), 2: (1, 3), 3: (1, 2, 5)}  # values per decade -> their leading digits


@dataclasses.dataclass(frozen=True)
class LogGrid:
    """Round numbers from `low` to `high`, both among them, evenly spread in the logarithm."""

    low: float
    high: float
    per_decade: int = 2  # 1, 2 or 3: steps of 10, about 3 or about 2

    def __post_init__(self) -> None:
        if self.per_decade not in DIGITS:
            raise ValueError(f"per_decade = {self.per_decade}: must be one of {[*DIGITS]}")
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(f"low {self.low} and high {self.high}: must be 0 < low < high")
        if (self.values[0], self.values[-1]) != (self.low, self.high):
            digits = ", ".join(map(str, DIGITS[self.per_decade]))
            raise ValueError(f"{self.low} and {self.high} must begin with one of {digits}, then 0s")

    @property
    def values(self) -> tuple[float, ...]:
        """All of the grid, ascending: each the float that its decimal is read as."""
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        digits = DIGITS[self.per_decade]
        every = (float(f"{digit}e{exponent}") for exponent in exponents for digit in digits)
        return tuple(value for value in every if self.low <= value <= self.high)

    def window(self, around: float, count: int) -> tuple[float, ...]:
        """`count` neighbours, that nearest to `around` in the middle as far as the grid allows."""
        values = self.values
        if not 1 <= count <= len(values):
            raise ValueError(f"a window of {count}: the grid has {len(values)} values")
        nearest = min(range(len(values)), key=lambda n: abs(math.log(values[n] / around)))
        first = min(max(nearest - count // 2, 0), len(values) - count)
        return values[first : first + count]

    def neighbour(self, value: float, by: int) -> float | None:
        """The value `by` places above (below, if negative) one of the grid; None outside."""
        place = self.values.index(value) + by
        return self.values[place] if 0 <= place < len(self.values) else None


@dataclasses.dataclass(frozen=True)
class Choice:
    """A few values, each as good as another to begin with."""

    values: tuple[float | int | bool | str, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"{self.values}: must be one value or more, each once")


Space = Mapping[str, LogGrid | Choice]  # dotted field of the optimizer -> what to try


def check_space(part: Part, space: Space) -> None:
    """Refuse, by InputError, a name that is no field of `part`, and a value it may not have."""
    known = leaves(part)
    for path, values in space.items():
        if path not in known:
            raise unknown(f"hyper-parameter of {part.label}", path, known)
        *owners, name = path.split(".")
        for value in values.values:
            record = owner = to_record(part)
            for word in owners:
                owner = owner[word]
            owner[name] = value
            validate(from_record(type(part), record, part.label))  # which looks at types
