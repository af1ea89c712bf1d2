"""Where numbers go: metrics.jsonl always, TensorBoard beside it, which never stops a run."""

import json
import math
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

from etils import epath

from lmjax.lines import Line, read_lines
from lmjax.remote import is_remote
from lmjax.runfiles import EVENTS, METRICS, begin_log, onto_disk

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

    def __init__(self, directory: epath.Path | None, history: History, say: Callable[[str], None]):
        """Continue the log of a run from its history; what came after that is dropped.

        `directory` None is for a process whose peers write it: it writes nothing. `say` is told
        when TensorBoard gets no more.
        """
        self._say = say
        self._last = {line.entry["kind"]: line.step for line in history.lines}
        text = "".join(f"{line.text}\n" for line in history.lines)
        self._file = begin_log(None if directory is None else directory / METRICS, text)
        self._shown = 0.0
        self._events: Any = None  # once it has failed, too
        if directory is not None and not is_remote(directory):
            self._to_events(lambda: self._open_events(directory, history))

    def write(self, kind: Kind, step: int, metrics: dict[str, float], skipped: str = "") -> None:
        """One line of one step; `skipped` = the first leaf that was not finite, if it was skipped.

        What is not finite is null, as JSON has no other word for it; trace.jsonl has the number.
        """
        if step <= self._last.get(kind, 0):
            return
        self._last[kind] = step
        finite = {name: x for name, x in metrics.items() if math.isfinite(x)}
        line = {"kind": kind, "step": step, **dict.fromkeys(metrics), **finite}
        line |= {"skipped": skipped} if skipped else {}
        self._file.write(json.dumps(line) + "\n")
        now = time.monotonic()
        if kind == "train" and now - self._shown < EVENT_SECONDS:
            return
        self._shown = now

        def show() -> None:
            for name, value in finite.items():
                self._events.add_scalar(f"{kind}/{name}", value, step)

        if self._events is not None:
            self._to_events(show)

    def flush(self) -> None:
        """Bring all lines to the disk, before a checkpoint claims their step."""
        onto_disk(self._file)
        if self._events is not None:
            self._to_events(self._events.flush)

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._to_events(self._events.close)

    def _open_events(self, directory: epath.Path, history: History) -> None:
        from tensorboardX import SummaryWriter

        self._events = SummaryWriter(str(directory / EVENTS), purge_step=history.step + 1)

    def _to_events(self, call: Callable[[], None]) -> None:
        """Call it; where it fails, say so once and go on without TensorBoard."""
        try:
            call()
        except Exception as error:  # whatever a tracker stumbles over
            self._events = None
            told = f"{type(error).__name__}: {error}"
            self._say(f"TensorBoard gets no more ({told}); the run goes on, and {METRICS} has all")


def read_history(directory: epath.Path, step: int) -> History:
    """What a run that stands at `step` has logged; raises InputError, and changes nothing."""
    return History(step, read_lines(directory / METRICS, step, _fits))


def _fits(entry: dict[str, Any]) -> bool:
    return entry.get("kind") in get_args(Kind)
