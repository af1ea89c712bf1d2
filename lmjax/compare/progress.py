"""What a comparison shows while it runs."""

import math
import threading
import time
from collections.abc import Sequence

from lmjax.compare.cells import Cell, Json, curve
from lmjax.compare.execution import Strategy
from lmjax.compare.queue import Board
from lmjax.compare.spaces import named
from lmjax.console import Console, clock


class Progress:
    """One line that follows the cells, with the time that is left; may be told by threads."""

    def __init__(self, board: Board, strategy: Strategy, console: Console):
        self._board, self._strategy, self._console = board, strategy, console
        self._seconds: dict[str, list[float]] = {}  # variant -> of each cell that we have run
        self._begun = time.monotonic()
        self._running: dict[str, Cell] = {}
        self._newest = ""
        self._lock = threading.Lock()
        self._fresh = False

    def began(self, cells: Sequence[Cell]) -> None:
        """Cells are being run."""
        with self._lock:
            self._running |= {cell.id: cell for cell in cells}

    def ended(self, cells: Sequence[Cell], results: Sequence[Json] | None) -> None:
        """They are done, or given up."""
        with self._lock:
            for cell in cells:
                del self._running[cell.id]
            for cell, result in zip(cells, results or [], strict=False):
                self._seconds.setdefault(cell.variant, []).append(result["seconds"])
                value = curve(result, self._board.plan.metric.name)[1][-1]
                told = "diverged" if math.isinf(value) else f"{value:.4g}"
                self._newest = f"{cell.variant} at {named(cell.rate)}, seed {cell.seed}: {told}"
                self._fresh = True

    def show(self) -> None:
        """The line, if there is something new in it."""
        with self._lock:
            if not self._fresh:
                return
            self._fresh = False
            done, of, newest = len(self._board.results), self._board.plan.cells, self._newest
            left = self._left(done, of)
        self._console.progress(
            lambda: f"{done}/{of} cells  {newest}  ETA {clock(left)}", final=done >= of
        )

    def _left(self, done: int, of: int) -> float | None:
        """Seconds, as long as the cells that are left take what the others took."""
        known = [seconds for each in self._seconds.values() for seconds in each]
        if not known:
            return None
        mean = sum(known) / len(known)
        counts: dict[str, int] = {}
        for result in list(self._board.results.values()):
            counts[result["variant"]] = counts.get(result["variant"], 0) + 1
        each = of / len(self._board.plan.variants)
        total = 0.0
        for variant in self._board.plan.variants:
            own = self._seconds.get(variant.label, [mean])
            total += max(each - counts.get(variant.label, 0), 0) * sum(own) / len(own)
        return total / self._strategy.workers
