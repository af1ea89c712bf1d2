"""The runs below a directory, as their files tell; neither JAX nor their parts are needed.

A run is finished when it has its result. Whether another is still running, its files need not tell
(lmjax/lock.py): it counts as running while something in them is fresh, and as stopped after that.
"""

import json
import os
import time
from typing import Any, NamedTuple

from etils import epath

from lmjax.console import aligned
from lmjax.errors import DAMAGE, InputError
from lmjax.runfiles import (
    CHECKPOINTS,
    CONFIG,
    EVENTS,
    METRICS,
    RESULT,
    newest_checkpoint,
    read_json,
)

FRESH_SECONDS = 300.0  # events are written at least every two minutes, if steps take less


class Listed(NamedTuple):
    """One run."""

    path: str
    experiment: str
    words: list[str]  # the overrides it was launched with
    state: str  # finished, running or stopped
    step: int
    steps: int
    headline: str  # the name of the metric that its task is judged by
    value: float | None  # of the newest evaluation
    age: float  # seconds since anything was written


class Listing(NamedTuple):
    """What is below a directory."""

    runs: list[Listed]  # the newest first
    others: list[str]  # what is below it besides: damaged runs, and folders that hold none

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"runs": [run._asdict() for run in self.runs], "others": self.others}


def list_runs(directory: str) -> Listing:
    """All runs below a directory; raises InputError where there is none such."""
    top = epath.Path(directory)
    if not directory or not top.is_dir():
        raise InputError(f"{directory or repr(directory)}: no such directory")
    found = _below(top, time.time(), set())
    runs = sorted(found.runs, key=lambda run: (run.age, run.path))
    return Listing(runs, found.damaged + [f"{folder}: no run" for folder in found.foreign])


class Found(NamedTuple):
    """What is in and below a folder."""

    runs: list[Listed]
    damaged: list[str]  # what is wrong with each run that cannot be read
    foreign: list[str]  # folders that hold no run, each without those inside it


def _below(folder: epath.Path, now: float, seen: set[str]) -> Found:
    """Each folder once, by its real path: links may lead round in a circle."""
    seen.add(os.path.realpath(folder))
    found = Found([], [], [])
    if (folder / CONFIG).exists():
        try:
            found.runs.append(_read(folder, now))
        except InputError as error:
            found.damaged.append(str(error))
        except DAMAGE as error:  # it must not hide the runs beside it
            found.damaged.append(f"{folder}: damaged ({type(error).__name__}: {error})")
        return found
    try:
        # Links last, so that what is here too goes by its own name.
        children = sorted(folder.iterdir(), key=lambda child: (os.path.islink(child), child))
    except OSError as error:
        return Found([], [f"{folder}: cannot be read ({error.strerror})"], [])
    for child in children:
        if not child.is_dir() or child.name.startswith("."):
            continue
        if os.path.realpath(child) in seen:
            continue
        inside = _below(child, now, seen)
        found.runs.extend(inside.runs)
        found.damaged.extend(inside.damaged)
        none = not (inside.runs or inside.damaged)
        found.foreign.extend([str(child)] if none else inside.foreign)
    return found


def _read(path: epath.Path, now: float) -> Listed:
    """A run from its files; raises InputError or one of DAMAGE."""
    config = read_json(path / CONFIG)
    steps, headline = int(config["config"]["steps"]), str(config["headline"])
    age = now - _last_written(path)
    result = read_json(path / RESULT) if (path / RESULT).exists() else None
    if result is not None and result["steps"] >= steps:
        state, step, value = "finished", int(result["steps"]), result["validation"][headline]
    else:
        state = "running" if age < FRESH_SECONDS else "stopped"
        text = (path / METRICS).read_text() if (path / METRICS).exists() else ""
        trained, validated = _newest(text, "train"), _newest(text, "validation")
        step = max(newest_checkpoint(path) or 0, trained["step"] if trained else 0)
        value = validated[headline] if validated else None
    words = [str(word) for word in config["words"]]
    name = str(config["experiment"])
    value = None if value is None else float(value)
    return Listed(str(path), name, words, state, step, steps, headline, value, age)


def _newest(text: str, kind: str) -> dict[str, Any] | None:
    """The last whole line of metrics.jsonl that is of this kind."""
    start = text.rfind(f'{{"kind": "{kind}"')
    while start >= 0:
        line, newline, _ = text[start:].partition("\n")
        if newline:
            return json.loads(line)
        start = text.rfind(f'{{"kind": "{kind}"', 0, start)
    return None


def _last_written(path: epath.Path) -> float:
    """When anything in the run directory was last written, seconds since 1970."""
    events = path / EVENTS
    files = [path / CONFIG, path / METRICS, path / CHECKPOINTS, path / RESULT]
    files += list(events.iterdir()) if events.is_dir() else []
    return float(max(file.stat().mtime for file in files if file.exists()))


def to_text(listing: Listing, top: str) -> str:
    """For a reader."""
    rows = [("run", "state", "step", "validation", "written")]
    for run in listing.runs:
        name = run.path.removeprefix(f"{top.rstrip('/')}/")
        value = "-" if run.value is None else f"{run.headline} {run.value:.4g}"
        rows.append((name, run.state, f"{run.step}/{run.steps}", value, f"{ago(run.age)} ago"))
    return "\n".join([aligned(rows) if listing.runs else "no runs", *listing.others])


def ago(seconds: float) -> str:
    """An age in its largest unit: 12 s, 3 min, 5 h, 2 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
