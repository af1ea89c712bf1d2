"""`lmjax report`: runs as one page, from their files alone; JAX is not needed.

An unfinished run is told of as it stands. Numbers that are not finite are left out of the curves.
"""

import json
import math
import os
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from lmjax import runs
from lmjax.compare import schema
from lmjax.compare.forms import Anything, Named, Record, Tuple, Word, check_in
from lmjax.compare.page import HTML, MARKDOWN, write_pages
from lmjax.errors import InputError
from lmjax.flags import Parser
from lmjax.record import flat_record
from lmjax.results import question
from lmjax.runfiles import CONFIG, METRICS, PLAN, RESULT, read_json, write_json

JSON = "report.json"
PAGES = (JSON, HTML, MARKDOWN)
CONFIG_FORM = Record(  # of config.json, what is read here
    {
        "lmjax": Word(),
        "config": Named(Anything()),
        "overrides": Named(Tuple((Anything(), Anything()))),
        "data": Record({"name": Word()}),
    }
)
MACHINE = ("devices", "versions")  # of result.json, what tells where it was computed
POINTS = 240  # of a training curve: more than a screen shows apart
UNITS = ("tokens", "examples")  # what a result may count its speed in


class Read(NamedTuple):
    """A run's files."""

    listed: runs.Listed
    config: dict[str, Any]
    lines: list[dict[str, Any]]  # of metrics.jsonl
    result: dict[str, Any] | None


def run(words: Sequence[str]) -> None:
    """The command."""
    parser = Parser(prog="lmjax report", description="Runs as one page, beside each other.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run directory")
    parser.add_argument("--out", default="report", help="the folder to make; default: report")
    given = parser.parse_args(words)
    made = make(given.runs)
    folder = epath.Path(given.out)
    check_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / JSON, made)
    except OSError as error:
        raise InputError(f"--out {given.out}: not writable ({error.strerror})") from None
    write_pages(made, folder)
    print(folder / HTML)


def check_free(folder: epath.Path) -> None:
    """Raise InputError where something else lies in the place of a page of runs."""
    for name in (CONFIG, PLAN):
        if (folder / name).exists():
            told = f"has a {name}, of a run or a comparison; take another"
            raise InputError(f"--out {folder}: {told}")
    there = [name for name in PAGES if (folder / name).exists()]
    if there:
        try:
            ours = read_json(folder / JSON).get("kind") == "runs"
        except InputError:
            ours = False
        if not ours:
            raise InputError(f"--out {folder}: has a {there[0]} that is no report of runs")


def make(paths: Sequence[str]) -> dict[str, Any]:
    """report.json of runs; raises InputError where one of them is none or is damaged."""
    read = [_read(path) for path in paths]
    real = [os.path.realpath(path) for path in paths]
    for n, path in enumerate(paths):
        if real[n] in real[:n]:
            raise InputError(f"{path}: given twice")
    labels = _labels(paths)
    names = dict.fromkeys(run.listed.experiment for run in read)
    count = f"{len(read)} runs of " if len(read) > 1 else "A run of "
    configs = {
        label: flat_record(run.config["config"]) for label, run in zip(labels, read, strict=True)
    }
    machines = {label: _machine(run) for label, run in zip(labels, read, strict=True)}
    return {
        "schema": 1,
        "kind": "runs",
        "title": count + ", ".join(names),
        "runs": [_entry(label, run) for label, run in zip(labels, read, strict=True)],
        "config_diff": _difference(configs) if len(read) > 1 else _overrides(labels[0], read[0]),
        "environment": _rows(machines),
        "commands": [_command(run) for run in read if question(run.listed.experiment)],
    }


def _read(path: str) -> Read:
    """The files of a run; raises InputError."""
    folder = epath.Path(path)
    config = read_json(folder / CONFIG) if path else None
    if config is None:
        raise InputError("RUN is empty; name a run directory, such as `lmjax list` shows")
    found = runs.list_runs(path)
    if found.others:
        raise InputError(found.others[0])
    check_in(str(folder / CONFIG), CONFIG_FORM, config)
    result = read_json(folder / RESULT) if (folder / RESULT).exists() else None
    for group in MACHINE:
        told = {} if result is None else result.get(group, {})
        check_in(f"{folder / RESULT}: {group}", Named(Anything()), told)
    return Read(found.runs[0], config, _lines(folder / METRICS), result)


def _lines(path: epath.Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl; the last may be torn."""
    if not path.exists():
        return []
    found = []
    texts = path.read_text().splitlines()
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            if line["kind"] not in ("train", "validation") or type(line["step"]) is not int:
                raise ValueError
        except runs.DAMAGE:
            if number == len(texts):
                break
            raise InputError(f"{path}: line {number} is damaged") from None
        found.append(line)
    return found


def _labels(paths: Sequence[str]) -> list[str]:
    """The paths without the folders that all of them share."""
    if len(paths) == 1:
        return [os.path.basename(os.path.normpath(paths[0])) or paths[0]]
    whole = [os.path.abspath(path) for path in paths]
    top = os.path.commonpath(whole)
    return [os.path.relpath(path, top) for path in whole]


def _entry(label: str, run: Read) -> dict[str, Any]:
    """One run of the report."""
    result, listed = run.result or {}, run.listed
    held_out = [line for line in run.lines if line["kind"] == "validation"]
    metrics = dict.fromkeys(
        name for line in held_out for name in line if name not in ("kind", "step")
    )
    unit = next((unit for unit in UNITS if f"{unit}_per_second" in result), None)
    entry = {
        "label": label,
        "path": listed.path,
        "experiment": listed.experiment,
        "words": listed.words,
        "state": listed.state,
        "step": listed.step,
        "steps": listed.steps,
        "headline": listed.headline,
        "unit": unit,
        "train": thinned(_series(run.lines, "train", "loss")),
        "validation": {name: _series(run.lines, "validation", name) for name in metrics},
        "final": _final(run, held_out),
        "baselines": result.get("baselines", {}),
        "rate": result.get(f"{unit}_per_second"),
        "mfu": result.get("mfu", {}),
        "seconds": result.get("seconds"),
        "parameters": result.get("parameters"),
        "digest": result.get("state_digest"),
    }
    check_in(listed.path, schema.RUN, entry)
    return entry


def _final(run: Read, held_out: list[dict[str, Any]]) -> dict[str, float]:
    """The metrics of the result, or of the newest evaluation."""
    if run.result is not None and run.listed.state == "finished":
        return run.result["validation"]
    newest = held_out[-1] if held_out else {}
    return {name: value for name, value in newest.items() if name not in ("kind", "step")}


def _series(lines: list[dict[str, Any]], kind: str, name: str) -> dict[str, list[Any]]:
    """One metric over the steps that have it; None where it is not finite."""
    found = [line for line in lines if line["kind"] == kind and name in line]
    values = [_finite(line[name]) for line in found]
    return {"steps": [line["step"] for line in found], "values": values}


def _finite(value: Any) -> Any:
    """None for a number that is not finite; what is no number stays, to be refused."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def thinned(series: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """At most POINTS points, each the mean of as many neighbours, at the last one's step."""
    steps, values = series["steps"], series["values"]
    each = -(-len(steps) // POINTS)
    if each <= 1:
        return series
    kept: dict[str, list[Any]] = {"steps": [], "values": []}
    for first in range(0, len(steps), each):
        known = [value for value in values[first : first + each] if value is not None]
        kept["steps"].append(steps[min(first + each, len(steps)) - 1])
        kept["values"].append(math.fsum(known) / len(known) if known else None)
    return kept


def _difference(configs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The fields in which the runs differ."""
    rows = _rows(configs)
    return [
        row
        for row in rows
        if len(row["values"]) < len(configs)
        or any(value != next(iter(row["values"].values())) for value in row["values"].values())
    ]


def _rows(tables: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Field -> label -> value, of label -> field -> value."""
    fields = dict.fromkeys(field for table in tables.values() for field in table)
    return [
        {
            "field": field,
            "values": {label: table[field] for label, table in tables.items() if field in table},
        }
        for field in fields
    ]


def _overrides(label: str, run: Read) -> list[dict[str, Any]]:
    """The fields in which a run differs from its experiment."""
    changed = run.config["overrides"]
    return [
        {"field": field, "values": {"experiment": old, label: new}}
        for field, (old, new) in changed.items()
    ]


def _machine(run: Read) -> dict[str, Any]:
    """Devices and versions, as far as the run has said them."""
    result = run.result or {}
    told = {"data": run.config["data"]["name"], "lmjax": run.config["lmjax"]}
    for group in MACHINE:
        told |= {f"{group}.{name}": value for name, value in result.get(group, {}).items()}
    return told


def _command(run: Read) -> str:
    """The line that makes it again, in the directory that its name gives it."""
    return f"uv run lmjax train {shlex.join([run.listed.experiment, *run.listed.words])}"
