"""What becomes of a step whose loss, gradient or update is not finite: Experiment.on_nonfinite.

stop      The run stops. The compiled step knows nothing of it: the host sees it in the metrics, and
          before each save in the state, so that what is saved is finite.
skip      The step changes nothing. That is decided inside the compiled step (`take_or_skip`).
rollback  The compiled step is that of `stop`. When the host sees a number that is not finite, the
          run goes back to its newest whole checkpoint, or to its seed, looks for the step that
          went astray (`find`), and goes on without that one (`undoing`). Steps that are computed
          again have the same bits, so the checkpoint that it goes back to decides nothing: the run
          ends as one that had skipped the step at once. Where all steps are finite when computed
          again, the machine had erred.

A skipped step has happened: state.step counts it, so that batch t and the keys of step t are those
of step t in any run, and each step has its line in trace.jsonl. The counters of the optimizer and
of the schedule are in the optimizer's state, which is as it was: they count updates.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from jaxtyping import Array

from lmjax.errors import RunError
from lmjax.feed import Fed
from lmjax.finite import SKIPPED, looked_at
from lmjax.metrics import unpack, values
from lmjax.parallel import Program
from lmjax.state import TrainState, leaves_not_finite, on_devices, on_host
from lmjax.trace import Step

MOST_IN_A_ROW = 10  # skipped steps; after so many it is not the batches
MOST_ROLLBACKS = 10  # of a run, with those before it was resumed


class NotFinite(RunError):
    """A run that has gone astray, noticed at `step`."""

    def __init__(self, step: int, told: str):
        self.step = step
        super().__init__(told)


class Skips:
    """Which steps of a run are skipped, and when there are too many of them.

    Args:
      names: what the compiled step looks at, in order; see `names_of`.
      traced: the steps that the run has made.
      undone: steps to be skipped after a rollback -> the first leaf that was not finite.
      rollbacks: that this process has made.
    """

    def __init__(
        self,
        names: Sequence[str],
        traced: Iterable[Step],
        undone: dict[int, str] | None = None,
        rollbacks: int = 0,
    ):
        self.names, self.rollbacks = names, rollbacks
        self.undone = {} if undone is None else undone
        self.steps: list[int] = []
        self.in_a_row = 0
        for step in traced:
            self.count(step.step, step.skipped)

    def count(self, step: int, skipped: str) -> None:
        """A step is in the trace."""
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        if skipped:
            self.steps.append(step)

    def of(self, step: int, numbers: dict[str, float]) -> str:
        """The first leaf that was not finite, of a step that is skipped; "" of any other.

        Takes the metric that says so out of the numbers.
        """
        number = int(numbers.pop(SKIPPED, 0))
        return self.names[number - 1] if number else self.undone.get(step, "")

    @property
    def too_many(self) -> str:
        """Why the run stops, "" while it does not."""
        if self.in_a_row >= MOST_IN_A_ROW:
            return f"{self.in_a_row} steps in a row were skipped, so it is not their batches"
        return ""

    @property
    def rolled_back_too_often(self) -> str:
        """Why the run does not go back once more, "" where it does."""
        if max(self.rollbacks, len(self.steps)) >= MOST_ROLLBACKS:
            return f"it has gone back {MOST_ROLLBACKS} times, so the run stops"
        return ""


def names_of(program: Program) -> list[str]:
    """What a step that skips looks at, in order."""
    means = dict.fromkeys(name for name in program.metric_names if name != SKIPPED)
    return list(looked_at(program.abstract_state.params, program.abstract_state, means))


def first_bad(program: Program, after: TrainState, packed: Array) -> str:
    """Which leaf of the state after a step, or which of its metrics, is not finite; "" = none."""
    numbers = values(unpack(program.metric_names, packed))
    lost = [name for name in sorted(numbers) if not math.isfinite(numbers[name])]
    return next(iter([*leaves_not_finite(after), *lost]), "")


def undoing(program: Program, start: int, undone: dict[int, str]) -> Program:
    """The program of a run that goes on from step `start` and skips some steps.

    Such a step is computed, and the state before it given back, with the step counted. Its first
    leaf that is not finite takes its place in `undone`, "" where all are: then it is not skipped.
    """
    if not undone:
        return program
    numbers = itertools.count(start + 1)

    def train_step(state: TrainState, *rest: Any) -> tuple[TrainState, Array]:
        number = next(numbers)
        if number not in undone:
            return program.train_step(state, *rest)
        before = on_host(state)
        after, packed = program.train_step(state, *rest)
        undone[number] = first_bad(program, after, packed)
        if not undone[number]:
            return after, packed
        before = dataclasses.replace(before, step=before.step.plus(1))
        return on_devices(before, program.abstract_state), packed

    return program._replace(train_step=train_step)


def find(
    program: Program,
    state: TrainState,
    fed: Iterable[Fed],
    start: int,
    until: int,
    undone: dict[int, str],
) -> tuple[int, str] | None:
    """(step, first leaf that is not finite) of the first step that goes astray, of those after
    `start` up to `until` which are not skipped already; None = they are all finite now.

    Looks at the state after each step, and so waits for it.
    """
    stepping = undoing(program, start, dict(undone))
    for number, (batch, previous, _) in enumerate(fed, start + 1):
        state, packed = stepping.train_step(state, batch, previous, program.knobs)
        if number not in undone and (bad := first_bad(program, state, packed)):
            return number, bad
        if number == until:
            break
    return None


def rows_of(step: int, batch_size: int) -> str:
    """Where the rows of a step's batch stand in the stream, from 0."""
    return f"rows {(step - 1) * batch_size} to {step * batch_size - 1} of the stream"
