"""The table of results in experiments/README.md, written from what finished runs recorded.

A row is an experiment with its overrides. Runs that are at hand replace their rows or add to them;
the other rows stay. All around the two marks stays too.
"""

import ast
import importlib.util
import shlex
from typing import Any

from etils import epath

from lmjax.errors import InputError
from lmjax.runfiles import RESULT, read_json
from lmjax.runs import Listed

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
HEAD = ("experiment", "question", "validation", "beside", "steps, time", "machine")


def write_table(file: str, runs: list[Listed]) -> int:
    """Bring the table between the marks of a file up to date; returns how many runs it holds now.

    Of runs of the same experiment and overrides the newest counts. Raises InputError for a file
    without the marks, and for a result that lacks what a row says.
    """
    path = epath.Path(file)
    if not path.is_file():
        raise InputError(f"{file}: no such file")
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"{file}: the table needs the marks {BEGIN} and {END} around it")
    rows = {line.split("|")[1].strip(): line for line in table.strip().splitlines()[2:]}
    finished = [run for run in runs if run.state == "finished"]
    for run in sorted(finished, key=lambda run: -run.age):
        cells = row(run, read_json(epath.Path(run.path) / RESULT))
        rows[cells[0]] = _line(cells)
    lines = [_line(HEAD), _line(["---"] * len(HEAD)), *rows.values()]
    path.write_text("\n".join([before + BEGIN, *lines, END + after]))
    return len(rows)


def row(run: Listed, result: dict[str, Any]) -> list[str]:
    """The cells of a finished run."""
    try:
        devices, versions = result["devices"], result["versions"]
        beside = result["baselines"][run.headline].items()
        resumed = result["resumed_from"]
        machine = f"{devices['count']} x {devices['kind']}"
        cells = [
            shlex.join([run.experiment, *run.words]),
            question(run.experiment),
            f"{result['validation'][run.headline]:.3f} {run.headline.replace('_', ' ')}",
            ", ".join(f"{name} {value:.3f}" for name, value in beside),
            f"{result['steps']:,}, {duration(float(result['seconds']))}"
            + (f" from step {resumed:,}" if resumed else ""),
            f"{machine}, {devices['cores']} cores, Python {versions['python']}, "
            f"JAX {versions['jax']}",
        ]
    except KeyError as error:
        raise InputError(f"{run.path}: {RESULT} has no {error}") from None
    return [cell.replace("|", "\\|") for cell in cells]


def question(name: str) -> str:
    """The first line of an experiment's docstring; "" for one that is not ours."""
    spec = importlib.util.find_spec(f"experiments.{name}")
    if spec is None or spec.origin is None:
        return ""
    text = ast.get_docstring(ast.parse(epath.Path(spec.origin).read_text()))
    return text.splitlines()[0] if text else ""


def duration(seconds: float) -> str:
    """9 s, 2 min 26 s, 3 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole // 60 % 60} min"


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
