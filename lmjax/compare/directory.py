"""The directory of a comparison.

plan.json      what is compared and how, with the machine; written before the first cell
cells/ID.json  a finished cell, written whole
leases/        who is at which cell
machines/      on what, and by which code, cells were computed
costs.json     what each variant costs, measured once
report.*       written anew from these whenever a process ends
"""

import datetime
import json
import os
import shlex
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

import lmjax
from lmjax import catalog, environment, source
from lmjax.compare.execution import Strategy
from lmjax.compare.forms import Anything, Many, Maybe, Named, Record, Whole, Word, check_in
from lmjax.compare.plan import Plan, from_full_record, full_record
from lmjax.console import Console
from lmjax.environment import command_line
from lmjax.errors import InputError
from lmjax.experiment import Experiment
from lmjax.lock import check_makeable
from lmjax.mesh import Parallel, make_mesh
from lmjax.record import digest, record_difference
from lmjax.runfiles import PLAN, draft_of, read_json, write_json

MACHINES = "machines"
SHOWN = 4  # differences that are told
FOLDER = "comparisons"
OBJECT = Named(Anything())
SURROUNDINGS = {
    "environment": Record(
        {
            **dict.fromkeys(("variables", "settings", "compiler", "versions"), OBJECT),
            "devices": Record({"count": Whole(), "kind": Word()}),
            "machine": Record({"cores": Many(Whole()), "processor_flags": Anything()}),
        }
    ),
    "code": Record(
        {
            **dict.fromkeys(("files", "parts"), OBJECT),
            "tree": Word(),
            "commit": Maybe(Word()),
            "changed": Many(Word()),
        }
    ),
}
FORM = Record(  # of plan.json, what is read but to make the plan of it
    {
        **dict.fromkeys(("lmjax", "data_name", "command", "begun"), Word()),
        "strategy": OBJECT,
        "strategy_measured": OBJECT,
        **SURROUNDINGS,
    }
)


def choose(plan: Plan, out: str | None) -> epath.Path:
    """The directory of a comparison: `out`, or one named by all that decides its numbers."""
    if out is not None:
        if not out:
            raise InputError("--out is empty")
        return epath.Path(out)
    return epath.Path(FOLDER) / f"{plan.base.name}-{plan.digest()}"


def check(path: epath.Path, plan: Plan) -> Strategy | None:
    """The strategy of the comparison that lies there, None where none does; changes nothing.

    Raises InputError for a directory that holds something else, or cannot be used.
    """
    for label, _, experiment in plan.variants:
        if experiment.data.reads(str(path)):
            raise InputError(f"--out {path}: {label} would read what lies there as data")
    check_makeable(path, f"--out {path}")
    try:
        if not path.exists():
            return None
        if not (path / PLAN).exists():
            drafts = draft_of(path / PLAN).name  # of processes that died before they had one
            if any(not inside.name.startswith(drafts) for inside in path.iterdir()):
                raise InputError(f"--out {path}: not empty and no comparison; choose another")
            return None
    except OSError as error:
        raise InputError(f"--out {path}: not usable ({error.strerror})") from None
    held = read_json(path / PLAN)
    ours = json.loads(json.dumps(plan.decisive()))
    theirs = held.get("decisive")
    if not isinstance(theirs, dict):
        raise InputError(f"{path / PLAN}: damaged (no field decisive)")
    if ours != theirs:
        told = [
            f"{name}: {_short(was)} -> {_short(now)}"
            for name, (was, now) in record_difference(theirs, ours).items()
        ]
        more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        raise InputError(
            f"{path} holds another comparison ({'; '.join(told[:SHOWN])}{more}); "
            "choose another --out, or undo the change"
        )
    check_in(str(path / PLAN), FORM, held)
    return strategy_of(path, held)


def claim(
    path: epath.Path,
    plan: Plan,
    decide: Callable[[], tuple[Strategy, dict[str, Any]]],
    command: list[str],
    data_name: str,
    console: Console,
) -> Strategy:
    """Make the directory this comparison's; returns how its cells are computed.

    Of several processes that begin at once, one decides.
    """
    found = check(path, plan)
    if found is not None:
        return found
    strategy, measured = decide()
    record = {
        "lmjax": lmjax.__version__,
        "data_name": data_name,
        "command": shlex.join(["uv", "run", "lmjax", "compare", *command_line(command)]),
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "decisive": plan.decisive(),
        "strategy": strategy._asdict(),
        "strategy_measured": measured,
        **surroundings(plan.base),
        "plan": full_record(plan),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        draft = path / f"{draft_of(path / PLAN).name}.{os.getpid()}"
        draft.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        try:
            os.link(draft, path / PLAN)  # fails where another process was first
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    except OSError as error:
        raise InputError(f"--out {path}: not writable ({error.strerror})") from None
    agreed = check(path, plan)
    assert agreed is not None
    console.say(f"comparison in {path}")
    return agreed


def register(path: epath.Path, base: Experiment) -> tuple[str, list[str]]:
    """(a name for this machine and code, how they differ from what the comparison began with).

    They are kept by that name, for whoever finds a cell that does not come out again.
    """
    here = surroundings(base)
    held = read_json(path / PLAN)
    known = {"environment": decides(here["environment"]), "code": here["code"]["tree"]}
    name = digest(known)[:8]
    file = path / MACHINES / f"{name}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, here)
    return name, apart(held, here)


def apart(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """How two `surroundings` differ, as far as a bit can depend on it."""
    found = environment.differences(then["environment"], now["environment"])
    return [*map(str, found), *source.differences(then["code"], now["code"])]


def surroundings(base: Experiment) -> dict[str, Any]:
    """All that a cell's bits depend on beside the plan, as plain JSON."""
    mesh = make_mesh(Parallel(), jax.devices()[:1])
    found = {
        "environment": environment.read_environment(mesh),
        "code": source.read_code(base)._asdict(),
    }
    return json.loads(json.dumps(found))


def decides(about: dict[str, Any]) -> dict[str, Any]:
    """An environment without what differs between two equal machines."""
    kept = {name: about[name] for name in ("settings", "compiler", "versions", "devices")}
    machine = about["machine"] | {"cores": len(about["machine"]["cores"])}
    return kept | {"machine": machine}


def open_plan(path: epath.Path, code: str | None = None) -> tuple[Plan, Strategy, dict[str, Any]]:
    """(plan, strategy, plan.json) of a comparison's directory; raises InputError.

    `code` is the file that the comparison was made of, where that is none of our experiments. It
    is run, so that the user names it, and not the directory, which may be a stranger's.
    """
    if not (path / PLAN).exists():
        raise InputError(f"{path} is not a comparison (no {PLAN})")
    held = read_json(path / PLAN)
    record = held.get("plan")
    if not isinstance(record, dict) or not isinstance(record.get("name"), str):
        raise InputError(f"{path / PLAN}: damaged (no field plan)")
    check_in(str(path / PLAN), FORM, held)
    name = record["name"]
    if code is not None:
        catalog.find(code)  # for the parts that it defines
    elif name.endswith(".py"):
        told = f"was made of {name}, which is not run unasked; name it by --code {name}"
        raise InputError(f"{path} {told}")
    else:
        catalog.import_parts(name)
    return from_full_record(record, str(path / PLAN)), strategy_of(path, held), held


def strategy_of(path: epath.Path, held: dict[str, Any]) -> Strategy:
    """How the cells of a comparison are computed; raises InputError."""
    try:
        return Strategy(**held["strategy"])
    except (KeyError, TypeError):
        raise InputError(f"{path / PLAN}: damaged (strategy)") from None


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
