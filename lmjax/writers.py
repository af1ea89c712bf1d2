"""Where numbers go: metrics.jsonl always, TensorBoard beside it."""

import json
import time
from typing import Literal, NamedTuple, get_args

from etils import epath

from lmjax.errors import InputError
from lmjax.runfiles import EVENTS, METRICS, write_text

EVENT_SECONDS = 0.25  # least time between two training steps shown to TensorBoard
Kind = Literal["train", "validation"]


class Line(NamedTuple):
    """One line of metrics.jsonl."""

    kind: Kind
    step: int
    text: str


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
        self._last = {kind: step for kind, step, _ in history.lines}
        write_text(path, "".join(f"{line}\n" for _, _, line in history.lines))
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
    """What a run that stands at `step` has logged; later lines will be written again.

    A crash tears what was written last. Raises InputError for damage further up, which would be
    lost, and changes nothing.
    """
    path = directory / METRICS
    try:
        text = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    kept: list[Line] = []
    damaged = 0  # number of the first line that is none, from 1
    for number, line in enumerate(text.splitlines(), 1):
        entry = _parse(line)
        if entry is None:
            damaged = damaged or number
        elif entry.step <= step:
            if damaged:
                told = "is damaged; remove or mend it, and the same command goes on"
                raise InputError(f"{path}: line {damaged} {told}")
            kept.append(entry)
    return History(step, kept)


def _parse(line: bytes) -> Line | None:
    """The entry of a line, or None for what is none."""
    try:
        text = line.decode()
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not {"kind", "step"} <= entry.keys():
        return None
    known = entry["kind"] in get_args(Kind) and type(entry["step"]) is int
    return Line(entry["kind"], entry["step"], text) if known else None
