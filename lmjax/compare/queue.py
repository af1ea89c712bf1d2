"""Which cell is run next: trials first, each where the tuning rule says, then the report seeds.

It is worked out anew from the cells that are finished, so a comparison that was killed goes on, and
several processes agree without talking to each other.
"""

import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from lmjax.compare import cells
from lmjax.compare.cells import Cell, Json, curve
from lmjax.compare.lease import Leases
from lmjax.compare.plan import Plan, evaluation_steps
from lmjax.compare.window import Decision


class Trials(NamedTuple):
    """How far the tuning of a variant is."""

    losses: dict[float, list[float]]  # rate -> what each tuning seed ended with; lower is better
    decision: Decision


class Board:
    """The cells of a comparison as they lie on the disk; may be asked by several threads."""

    def __init__(self, plan: Plan, directory: epath.Path, leases: Leases, lanes: int):
        self.plan, self._directory, self._leases, self._lanes = plan, directory, leases, lanes
        self.results: dict[str, Json] = {}
        self._running: dict[str, str] = {}  # id -> variant
        self._lock = threading.Lock()

    def take(self) -> list[Cell] | None:
        """Cells of one variant to be run now, leased; [] = others are at them; None = all done.

        Raises InputError for a damaged cell.
        """
        with self._lock:
            groups = self._ready()
            if groups is None:
                return None
            for group in groups:
                taken: list[Cell] = []
                for cell in group:
                    if len(taken) < self._lanes and self._lease(cell):
                        taken.append(cell)
                if taken:
                    self._running |= {cell.id: cell.variant for cell in taken}
                    return taken
            return []

    def done(self, cell: Cell, result: Json | None) -> None:
        """A cell that was taken has been run, or given up (None)."""
        if result is not None:
            cells.write(self._directory, result)
        with self._lock:
            if result is not None:
                self.results[cell.id] = result
            del self._running[cell.id]
            self._leases.give_back(cell.id)

    def trials(self, label: str) -> Trials:
        """The finished trials of a variant, in the order in which they were asked for."""
        losses: dict[float, list[float]] = {}
        while True:
            means = {rate: float(np.mean(values)) for rate, values in losses.items()}
            decision = self.plan.decide(label, means)
            if decision.rate is None:
                return Trials(losses, decision)
            each = [self._tuned(cell) for cell in self.trial(label, decision.rate)]
            if any(value is None for value in each):
                return Trials(losses, decision)
            losses[decision.rate] = [value for value in each if value is not None]

    def trial(self, label: str, rate: float) -> list[Cell]:
        """The cells of one trial."""
        return [Cell(label, rate, seed, "tune") for seed in self.plan.tune_seeds]

    def reports(self, label: str, rate: float) -> list[Cell]:
        """The cells that a variant is reported by."""
        return [Cell(label, rate, seed, "report") for seed in self.plan.report_seeds]

    def result(self, cell: Cell) -> Json | None:
        """A finished cell, ours or another process's; None if it has not ended."""
        if cell.id not in self.results and cell.id not in self._running:
            found = cells.read(self._directory, cell.id)
            if found is not None:
                self._check(cell, found)
                self.results[cell.id] = found
        return self.results.get(cell.id)

    def _check(self, cell: Cell, found: Json) -> None:
        """Raise InputError for a cell that is none of this plan."""
        held, plan = found["evaluations"], self.plan
        steps = list(evaluation_steps(plan.variant(cell.variant).experiment.steps))
        missing = {"loss", plan.metric.name, plan.headline.name} - held["values"].keys()
        if held["steps"] != steps or missing:
            told = f"no {min(missing)}" if missing else "evaluated at other steps"
            raise cells.damaged(self._directory, cell.id, told)

    def _tuned(self, cell: Cell) -> float | None:
        """What a trial's cell ended with, the lower the better; None if it has not ended."""
        found = self.result(cell)
        if found is None:
            return None
        value = curve(found, self.plan.metric.name)[1][-1]
        return value if math.isinf(value) or self.plan.metric.better == "lower" else -value

    def _ready(self) -> list[list[Cell]] | None:
        """Groups of cells that could be run now, what is to come first at the front."""
        tuning: list[list[Cell]] = []
        reporting: list[list[Cell]] = []
        for variant in self.plan.variants:
            wanted = self._wanted(variant.label)
            if wanted:
                (tuning if wanted[0].purpose == "tune" else reporting).append(wanted)
        if not tuning and not reporting:
            return None
        # A variant that nobody is at goes first: two that share one would wait for one compiler.
        busy = list(self._running.values())
        tuning.sort(key=lambda group: busy.count(group[0].variant))
        return tuning + self._by_seed(reporting)

    def _by_seed(self, groups: Sequence[list[Cell]]) -> list[list[Cell]]:
        """One seed of all variants after the other, so that a report of a part has whole pairs."""
        if self._lanes > 1:
            return list(groups)
        single = [[cell] for group in groups for cell in group]
        order = {seed: n for n, seed in enumerate(self.plan.report_seeds)}
        return sorted(single, key=lambda group: order[group[0].seed])

    def _wanted(self, label: str) -> list[Cell]:
        """The cells of a variant that are not finished and need none that is not."""
        decision = self.trials(label).decision
        if decision.rate is None:
            wanted = [] if decision.best is None else self.reports(label, decision.best)
        elif decision.edge == "open":  # none of the window waits for another
            window = self.plan.windows[label]
            wanted = [cell for rate in window for cell in self.trial(label, rate)]
        else:
            wanted = self.trial(label, decision.rate)
        return [cell for cell in wanted if self.result(cell) is None]

    def _lease(self, cell: Cell) -> bool:
        """Whether the cell is ours to run: leased, and not finished by another meanwhile."""
        if cell.id in self._running or not self._leases.take(cell.id):
            return False
        if self.result(cell) is not None:
            self._leases.give_back(cell.id)
            return False
        return True
