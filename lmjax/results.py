"""The table of results in experiments/README.md, written from what finished runs recorded.

A row is an experiment with its overrides. Runs that are at hand replace their rows or add to them;
the other rows stay. All around the two marks stays too.
"""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterable
from typing import Any, NamedTuple

from etils import epath

from lmjax.errors import InputError
from lmjax.runfiles import RESULT, read_json
from lmjax.runs import Listed

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
HEAD = ("experiment", "question", "validation", "beside", "steps, time", "machine")


class Written(NamedTuple):
    """What a table holds now."""

    rows: int
    others: int  # finished runs of experiments that are not in experiments/, which have no row


def write_table(file: str, runs: list[Listed]) -> Written:
    """Bring the table between the marks of a file up to date.

    Of runs of the same experiment and overrides the newest counts. Raises InputError for a file
    without the marks, and for a result that lacks what a row says.
    """
    path = epath.Path(file)
    before, table, after = read_table(file)
    rows = {}
    for line in table.strip().splitlines()[2:]:
        cells = _cells(file, line)
        rows[cells[0]] = cells
    finished = [run for run in runs if run.state == "finished"]
    ours = [run for run in finished if _file_of(run.experiment)]
    for run in sorted(ours, key=lambda run: -run.age):
        cells = row(run, read_json(epath.Path(run.path) / RESULT))
        rows[cells[0]] = cells
    lines = [_line(HEAD), _line(["---"] * len(HEAD)), *map(_line, asked_once(rows.values()))]
    try:
        path.write_text("\n".join([before + BEGIN, *lines, END + after]))
    except OSError as error:
        raise InputError(f"{file}: not writable ({error.strerror})") from None
    return Written(len(rows), len(finished) - len(ours))


def read_table(file: str) -> tuple[str, str, str]:
    """What is before, between and after the marks of a file; raises InputError without them."""
    path = epath.Path(file)
    if not path.is_file():
        raise InputError(f"{file}: no such file")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    before, begin, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"{file}: the table needs the marks {BEGIN} and {END} around it")
    return before, table, after


def asked_once(rows: Iterable[list[str]]) -> list[list[str]]:
    """The rows of each experiment together, with its question in the first of them alone."""
    rows, found = list(rows), []
    for name in dict.fromkeys(map(_experiment, rows)):
        first, *more = [cells for cells in rows if _experiment(cells) == name]
        asked = _escaped(question(name)) or first[1]
        found += [[first[0], asked, *first[2:]], *([cells[0], "", *cells[2:]] for cells in more)]
    return found


def row(run: Listed, result: dict[str, Any]) -> list[str]:
    """The cells of a finished run; raises InputError for a result that is damaged."""
    try:
        devices, versions = result["devices"], result["versions"]
        beside = result["baselines"][run.headline].items()
        resumed = result["resumed_from"]
        machine = f"{devices['count']} x {devices['kind']}, {devices['cores']} cores"
        if "processor" in devices:  # which results of an older lmjax lack
            machine += f" of {devices['processor']}"
        cells = [
            shlex.join([run.experiment, *run.words]),
            question(run.experiment),
            f"{result['validation'][run.headline]:.3f} {run.headline.replace('_', ' ')}",
            ", ".join(f"{name} {value:.3f}" for name, value in beside),
            f"{result['steps']:,}, {duration(float(result['seconds']))}"
            + (f" from step {resumed:,}" if resumed else ""),
            f"{machine}, Python {versions['python']}, JAX {versions['jax']}",
        ]
    except KeyError as error:
        raise InputError(f"{run.path}: {RESULT} has no {error}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{run.path}: {RESULT} is damaged ({error})") from None
    return list(map(_escaped, cells))


def question(name: str) -> str:
    """The first line of an experiment's docstring; "" for one that is not ours."""
    file = _file_of(name)
    text = ast.get_docstring(ast.parse(epath.Path(file).read_text())) if file else None
    return text.splitlines()[0] if text else ""


def _file_of(name: str) -> str | None:
    """Where one of our experiments stands."""
    spec = importlib.util.find_spec(f"experiments.{name}") if name.isidentifier() else None
    return spec.origin if spec else None


def duration(seconds: float) -> str:
    """9 s, 2 min 26 s, 3 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole // 60 % 60} min"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(file: str, line: str) -> list[str]:
    """Of a row of the table, escaped as they stand there."""
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())]
    if len(cells) < 4 or cells[0] or cells[-1]:
        raise InputError(f"{file}: between the marks stands what is no row of a table: {line!r}")
    return cells[1:-1]


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _experiment(cells: list[str]) -> str:
    return cells[0].partition(" ")[0]
