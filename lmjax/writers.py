"""Where numbers go: metrics.jsonl always, TensorBoard beside it."""

import json
import time
from typing import Any, Literal, NamedTuple, get_args

from etils import epath

from lmjax.lines import Line, read_lines
from lmjax.runfiles import EVENTS, METRICS, write_text

EVENT_SECONDS = 0.25  # least time between two training steps shown to TensorBoard
Kind = Literal["train", "validation"]


class History(NamedTuple):
    """What a run has logged."""

    step: int  # that it stands at
    lines: list[Line]  # of all steps up to that one


class MetricsLog:
    """metrics.jsonl: each (kind, step) once, also after a resume; equal runs write equal files.

    TensorBoard gets every evaluation and what training steps a curve needs, by the clock.
    """

    def __init__(self, directory: epath.Path, history: History):
        """Continue the log of a run from its history; what came after that is dropped."""
        from tensorboardX import SummaryWriter

        path = directory / METRICS
        self._last = {line.entry["kind"]: line.step for line in history.lines}
        write_text(path, "".join(f"{line.text}\n" for line in history.lines))
        self._file = path.open("a")
        self._shown = 0.0
        self._events = SummaryWriter(str(directory / EVENTS), purge_step=history.step + 1)

    def write(self, kind: Kind, step: int, metrics: dict[str, float]) -> None:
        """One line of one step."""
        if step <= self._last.get(kind, 0):
            return
        self._last[kind] = step
        self._file.write(json.dumps({"kind": kind, "step": step, **metrics}) + "\n")
        now = time.monotonic()
        if kind == "train" and now - self._shown < EVENT_SECONDS:
            return
        self._shown = now
        for name, value in metrics.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)

    def flush(self) -> None:
        """Hand all lines to the operating system, before a checkpoint claims their step."""
        self._file.flush()
        self._events.flush()

    def close(self) -> None:
        self._file.close()
        self._events.close()


def read_history(directory: epath.Path, step: int) -> History:
    """What a run that stands at `step` has logged; raises InputError, and changes nothing."""
    return History(step, read_lines(directory / METRICS, step, _fits))


def _fits(entry: dict[str, Any]) -> bool:
    return entry.get("kind") in get_args(Kind)
