"""One cell of a comparison, computed again alone, and compared bit for bit."""

from typing import Any, NamedTuple

from etils import epath

from lmjax.compare import cells, directory
from lmjax.compare.cells import Cell, Json
from lmjax.compare.comparison import Loaded, Workshop
from lmjax.compare.forms import Record, check_in
from lmjax.compare.plan import prepare_all
from lmjax.console import Console
from lmjax.errors import InputError, unknown
from lmjax.platforms import limit_blas
from lmjax.runfiles import read_json

BITS = {
    "batches": "its batches",
    "init": "the weights at step 0",
    "train_loss": "the training losses",
    "state": "the state at the end",
}


class Rerun(NamedTuple):
    """What came out."""

    reproduced: bool
    line: str
    record: dict[str, Any]


def rerun_cell(
    path: str, cell_id: str, code: str | None = None, console: Console | None = None
) -> Rerun:
    """Compute a finished cell again, by the strategy that it was computed by, and compare.

    `code` is the file of one's own that the comparison was made of. Nothing is written. Raises
    InputError where it cannot be checked.
    """
    console = console or Console()
    folder = epath.Path(path)
    plan, strategy, _ = directory.open_plan(folder, code)
    held = find(folder, cell_id)
    label = str(held["variant"])
    variants = (plan.variant(label),)
    datasets, batches = prepare_all(variants)
    if datasets[label].digest != plan.data[label]:
        raise InputError(f"{path}: its data ({datasets[label].name!r}) has changed")
    here = directory.surroundings(plan.base)
    apart = surroundings_apart(folder, held, here)
    for told in apart:
        console.say(f"not as it was: {told}")
    limit_blas()
    alone = plan._replace(variants=variants, baseline=label)
    workshop = Workshop(alone, Loaded(datasets, batches), strategy, held["machine"])
    cell = Cell(label, held["rate"], held["seed"], held["purpose"])
    found = cells.run(workshop.work(label), [cell], lambda: False)
    assert found is not None
    return judge(held, found[0], apart)


def judge(held: Json, found: Json, apart: list[str]) -> Rerun:
    """Two results of a cell beside each other."""
    first = first_difference(held, found)
    if first is None:
        line = f"{held['id']}: the same bits, {_reach(held)}"
    else:
        line = f"{held['id']}: DIFFERS: {first}"
        line += f"; not as it was: {'; '.join(apart)}" if apart else ""
    record = {"cell": held["id"], "reproduced": first is None, "difference": first, "apart": apart}
    return Rerun(first is None, line, {**record, "was": held["bits"], "is": found["bits"]})


def _reach(held: Json) -> str:
    """How far a cell goes."""
    if held["diverged"] is None:
        return f"{held['steps']} updates and every evaluation"
    return f"up to update {held['diverged']}, where it diverges"


def first_difference(held: Json, found: Json) -> str | None:
    """The first thing that differs, in the order of a run; None = nothing does.

    Where only one diverged, or one before the other, only their beginnings can be compared.
    """
    ended, ends = held["diverged"], found["diverged"]
    for name in ("batches", "init") if ended == ends else ("init",):
        if held["bits"][name] != found["bits"][name]:
            return f"{BITS[name]}: {held['bits'][name]} was, {found['bits'][name]} is"
    if ended != ends:
        return f"the update at which it diverged: {ended} was, {ends} is (None: it did not)"
    then, now = held["train_loss"], found["train_loss"]
    for step, was, new in zip(then["steps"], then["values"], now["values"], strict=False):
        if was != new:
            return f"the training loss of update {step} or one before: {was!r} was, {new!r} is"
    then, now = held["evaluations"], found["evaluations"]
    for name, values in then["values"].items():
        for step, was, new in zip(then["steps"], values, now["values"][name], strict=True):
            if was != new:
                return f"held-out {name} after {step} updates: {was!r} was, {new!r} is"
    for name in ("train_loss", "state"):
        if held["bits"][name] != found["bits"][name]:
            return f"{BITS[name]}: {held['bits'][name]} was, {found['bits'][name]} is"
    return None


def find(folder: epath.Path, cell_id: str) -> Json:
    """A finished cell; raises InputError that names the nearest."""
    known = all_ids(folder)
    if cell_id not in known:
        raise unknown("cell", cell_id, known) if known else InputError(f"{folder}: no cell yet")
    held = cells.read(folder, cell_id)
    assert held is not None  # since it is one of them
    return held


def all_ids(folder: epath.Path) -> list[str]:
    """Of the finished cells."""
    top = folder / cells.FOLDER
    return sorted(
        str(path.relative_to(top)).removesuffix(".json")
        for path in top.glob("*/*/*.json")
        if not path.name.startswith(".")
    )


def surroundings_apart(folder: epath.Path, held: Json, here: dict[str, Any]) -> list[str]:
    """How machine and code differ from those that the cell was computed with."""
    file = folder / directory.MACHINES / f"{held['machine']}.json"
    if not file.exists():
        return [f"nobody knows on what it was computed (no {file})"]
    then = read_json(file)
    check_in(str(file), Record(directory.SURROUNDINGS), then)
    return directory.apart(then, here)
