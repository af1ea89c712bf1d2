"""A comparison, from a plan to a report. The only file that knows the order of things."""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epath

from lmjax.compare import assemble, cells, costs, directory, progress
from lmjax.compare.cells import Cell, Work
from lmjax.compare.execution import (
    Programs,
    Sequential,
    Strategy,
    make_held_out_placer,
    make_placer,
)
from lmjax.compare.feed import Feed, held_out, spans
from lmjax.compare.lease import Leases
from lmjax.compare.plan import Plan, evaluation_steps
from lmjax.compare.probe import Choice
from lmjax.compare.queue import Board
from lmjax.console import Console
from lmjax.data import Batch, Dataset
from lmjax.platforms import limit_blas
from lmjax.room import host_memory
from lmjax.signals import Stopped, StopRequest

MEMORY_SHARE = 8  # of the host's memory, one part for batches that are kept
POLL = 0.5  # seconds between two looks for work while others are at what is left


class Loaded(NamedTuple):
    """The data of each variant, by label."""

    datasets: dict[str, Dataset]
    batches: dict[str, Batch]


class Workshop:
    """What the cells of a comparison are computed with, shared by variants where it is the same."""

    def __init__(
        self,
        plan: Plan,
        loaded: Loaded,
        strategy: Strategy,
        machine: str,
        compiled: dict[str, Sequential] | None = None,
    ):
        self.plan, self.strategy, self._machine = plan, strategy, machine
        self.programs = Programs(
            {v.label: v.experiment for v in plan.variants},
            loaded.batches,
            strategy,
            compiled or {},
        )
        self._loaded = loaded
        self._made: dict[Any, tuple[Feed, dict[str, list[Batch]]]] = {}
        self._lock = threading.Lock()

    def work(self, label: str) -> Work:
        """For one variant."""
        experiment = self.plan.variant(label).experiment
        points = evaluation_steps(experiment.steps)
        stretches = spans(points, self.strategy.updates)
        feed, split = self._data(label, stretches)
        runner = self.programs[label]
        return Work(experiment, runner, feed, split, stretches, points, self._machine)

    def batch(self, label: str) -> Batch:
        """A batch of a variant, for its shapes."""
        return self._loaded.batches[label]

    def _data(self, label: str, stretches: Any) -> tuple[Feed, dict[str, list[Batch]]]:
        experiment = self.plan.variant(label).experiment
        key = experiment.data, experiment.batch_size, stretches, experiment.task.batch_axes
        with self._lock:
            if key not in self._made:
                dataset, size = self._loaded.datasets[label], experiment.batch_size
                place = make_placer(experiment, self.strategy)
                memory = host_memory() // MEMORY_SHARE
                self._made[key] = (
                    Feed(dataset, size, stretches, place, memory),
                    held_out(dataset, size, make_held_out_placer(experiment, self.strategy)),
                )
            return self._made[key]


class Baselines:
    """What the task reaches without training, found while the first cells are compiled."""

    def __init__(self, plan: Plan, loaded: Loaded):
        self._found: dict[str, float] = {}
        label, task = plan.baseline, plan.variant(plan.baseline).experiment.task

        def find() -> None:
            self._found |= task.baselines(loaded.datasets[label])

        self._thread = threading.Thread(target=find, daemon=True)
        self._thread.start()

    def wait(self) -> dict[str, float]:
        """Name -> value of the task's headline."""
        self._thread.join()
        return self._found


class Unfinished(Stopped):
    """A comparison that was asked to stop; its finished cells are kept."""

    def __init__(self, number: int, told: str):
        self.number = number
        Exception.__init__(self, told)


def run(
    plan: Plan,
    loaded: Loaded,
    path: epath.Path,
    choose: Callable[[], Choice],
    command: list[str],
    quiet: bool = False,
) -> dict[str, Any]:
    """Run what is not finished of a plan in a directory; returns report.json.

    Args:
      choose: decides how cells are computed, where the directory does not say so yet.
      command: the words after `lmjax compare`, by which the report says how it was made.

    Raises InputError for a directory of another comparison, before anything is compiled;
    Unfinished after a SIGINT or SIGTERM, when the report of what there is has been written.
    """
    console, stop = Console(quiet), StopRequest()
    compiled: dict[str, Sequential] = {}

    def decide() -> tuple[Strategy, dict[str, Any]]:
        choice = choose()
        compiled.update(choice.made)
        return choice.strategy, choice.told

    name = loaded.datasets[plan.baseline].name
    chosen = directory.claim(path, plan, decide, command, name, console)
    limit_blas()
    machine, differences = directory.register(path, plan.base)
    if differences:
        console.say(f"not as the comparison was begun: {'; '.join(differences)}")
    workshop, bars = Workshop(plan, loaded, chosen, machine, compiled), Baselines(plan, loaded)
    with Leases(path, console.say).beating() as leases, stop:
        board = Board(plan, path, leases, chosen.lanes)
        workers = Workers(workshop, board, stop, progress.Progress(board, chosen, console))
        workers.run()
        if not stop.number:
            costs.ensure(path, workshop, leases, console)
        found = bars.wait()
        with leases.holding(assemble.REPORT):
            report = assemble.write(path, plan, board, found)
    if stop.number:
        done = report["partial"]
        told = f"{done['done']} of {done['of']} cells are kept" if done else "all cells are kept"
        raise Unfinished(
            stop.number,
            f"stopped; {told}, and {path / assemble.REPORT} is of those; the same command goes on",
        )
    return report


class Workers:
    """Threads that take cells until there are none; what one raises ends all."""

    def __init__(
        self, workshop: Workshop, board: Board, stop: StopRequest, shown: progress.Progress
    ):
        self._workshop, self._board, self._stop, self._shown = workshop, board, stop, shown
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def run(self) -> None:
        """Until all cells are done, or a stop was asked for."""
        count = self._workshop.strategy.workers
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # a join without end would not hear signals
                thread.join(0.2)
                self._shown.show()
        if self._error is not None:
            raise self._error

    def _ends(self) -> bool:
        return bool(self._stop.number) or self._error is not None

    def _work(self) -> None:
        try:
            while not self._ends():
                taken = self._board.take()
                if taken is None:
                    return
                if taken:
                    self._run(taken)
                else:
                    with self._changed:
                        self._changed.wait(POLL)
        except BaseException as error:  # told by the main thread
            self._error = error
        finally:
            with self._changed:
                self._changed.notify_all()

    def _run(self, taken: list[Cell]) -> None:
        results = None
        try:
            self._shown.began(taken)
            results = cells.run(self._workshop.work(taken[0].variant), taken, self._ends)
        finally:
            for number, cell in enumerate(taken):
                self._board.done(cell, None if results is None else results[number])
            self._shown.ended(taken, results)
            with self._changed:
                self._changed.notify_all()
