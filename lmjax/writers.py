"""Where numbers go: metrics.jsonl always, TensorBoard beside it."""

import json
import time
from typing import Literal

from etils import epath

from lmjax.runfiles import EVENTS, METRICS

EVENT_SECONDS = 0.25  # least time between two training steps shown to TensorBoard
Kind = Literal["train", "validation"]


class MetricsLog:
    """metrics.jsonl: each (kind, step) once, also after a resume; equal runs write equal files.

    TensorBoard gets every evaluation and what training steps a curve needs, by the clock.
    """

    def __init__(self, directory: epath.Path, step: int):
        """Continue the log of a run that stands at `step`; what comes after it is dropped."""
        from tensorboardX import SummaryWriter

        path = directory / METRICS
        self._last: dict[str, int] = {}
        kept = []
        for line in path.read_text().splitlines() if path.exists() else []:
            entry = _parse(line)
            if entry is not None and entry["step"] <= step:
                kept.append(line)
                self._last[entry["kind"]] = entry["step"]
        draft = directory / f".{METRICS}.draft"
        draft.write_text("".join(line + "\n" for line in kept))
        draft.replace(path)
        self._file = path.open("a")
        self._shown = 0.0
        self._events = SummaryWriter(str(directory / EVENTS), purge_step=step + 1)

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


def _parse(line: str) -> dict | None:
    """The entry of a line, or None for one that a crash has torn."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {"kind", "step"} <= entry.keys() else None
