"""A cell: one whole training run of one variant, at one rate, from one seed."""

import dataclasses
import hashlib
import math
import time
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from etils import epath

from lmjax.compare.execution import Carry, Sequential, knobs_of
from lmjax.compare.feed import Feed, Span, stream_hash
from lmjax.compare.forms import Many, Maybe, Named, Number, NumberOr, Record, Whole, Word
from lmjax.compare.spaces import named
from lmjax.data import Batch
from lmjax.errors import InputError
from lmjax.evaluate import means_of
from lmjax.experiment import Experiment
from lmjax.metrics import Metrics
from lmjax.runfiles import read_json, write_json
from lmjax.state import TrainState, state_digest

FOLDER = "cells"
TRAIN_POINTS = 100  # of the training loss that a cell keeps
ENDS = ("batches", "state")  # bits that only a cell has which came to its end
INFINITE = "inf"  # stands in a file for what is not finite, which JSON has no word for

Purpose = Literal["tune", "report"]
Json = dict[str, Any]
WORD, VALUES = Word(), Many(NumberOr(INFINITE))
FORM = Record(  # of a cell's file
    {
        **dict.fromkeys(("id", "variant", "strategy", "machine"), WORD),
        **dict.fromkeys(("rate", "seconds"), Number()),
        **dict.fromkeys(("seed", "steps"), Whole()),
        "purpose": Word(get_args(Purpose)),
        "diverged": Maybe(Whole()),
        "evaluations": Record({"steps": Many(Whole(), least=1), "values": Named(VALUES, least=1)}),
        "train_loss": Record({"steps": Many(Whole()), "values": VALUES}),
        "bits": Record({"init": WORD, "train_loss": WORD, **dict.fromkeys(ENDS, Maybe(WORD))}),
    }
)


class Cell(NamedTuple):
    """Which run."""

    variant: str
    rate: float
    seed: int
    purpose: Purpose

    @property
    def id(self) -> str:
        """Its name, and its path in the comparison's directory."""
        return f"{self.variant}/lr{named(self.rate)}/seed{self.seed}"


def path_of(directory: epath.Path, cell_id: str) -> epath.Path:
    """The file of a cell."""
    return directory / FOLDER / f"{cell_id}.json"


def read(directory: epath.Path, cell_id: str) -> Json | None:
    """A finished cell, or None; raises InputError for a damaged one."""
    path = path_of(directory, cell_id)
    if not path.exists():
        return None
    held = read_json(path)
    try:
        FORM.check(held, "")
        told = _contradiction(held, cell_id)
    except InputError as error:
        told = str(error)
    if told:
        raise damaged(directory, cell_id, told)
    return held


def damaged(directory: epath.Path, cell_id: str, told: str) -> InputError:
    """Of a cell's file that is not what was written."""
    path = path_of(directory, cell_id)
    return InputError(f"{path}: damaged ({told}); remove it, and the same command makes it anew")


def _contradiction(held: Json, cell_id: str) -> str:
    """What in a cell's file contradicts itself; "" = nothing."""
    cell = Cell(held["variant"], held["rate"], held["seed"], held["purpose"])
    if not held["id"] == cell.id == cell_id:
        return f"it is of {held['id']}"
    kind = str if held["diverged"] is None else types.NoneType
    if not all(isinstance(held["bits"][name], kind) for name in ENDS):
        return "bits of an end"
    at, losses = held["evaluations"], held["train_loss"]
    lengths = {len(at["steps"]), *map(len, at["values"].values())}
    if len(lengths) > 1 or len(losses["steps"]) != len(losses["values"]):
        return "curves of different lengths"
    return ""


def write(directory: epath.Path, result: Json) -> None:
    """Whole or not at all."""
    path = path_of(directory, result["id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)


def curve(result: Json, metric: str) -> tuple[list[int], list[float]]:
    """(steps, values) of a metric at all evaluations; inf from where the cell diverged."""
    held = result["evaluations"]
    return held["steps"], [math.inf if x == INFINITE else x for x in held["values"][metric]]


@dataclasses.dataclass
class _Lane:
    """What is gathered of one cell while it runs."""

    cell: Cell
    values: list[dict[str, float]]
    losses: list[np.ndarray]
    batches: list[bytes]
    init: str
    diverged: int | None = None


class Work(NamedTuple):
    """What all cells of one variant are computed with."""

    experiment: Experiment
    runner: Sequential
    feed: Feed
    held_out: dict[str, list[Batch]]
    spans: tuple[Span, ...]
    evaluations: tuple[int, ...]
    machine: str  # names what it is computed on and by which code


def run(work: Work, cells: Sequence[Cell], stopped: Callable[[], object]) -> list[Json] | None:
    """The results of as many cells of one variant as the runner has lanes, or of fewer.

    None where `stopped()` said so before they were done.
    """
    begun, runner = time.monotonic(), work.runner
    filled = [*cells, *[cells[-1]] * (runner.strategy.lanes - len(cells))]
    each = [knobs_of(cell.rate, cell.seed) for cell in filled]
    knobs, carry = runner.knobs(each), runner.start(each)
    lanes = [
        _Lane(cell, [], [], [], _init_digest(runner.state(carry, number)))
        for number, cell in enumerate(cells)
    ]
    pending: Any = (0, None, _evaluate(work, carry))
    for number, span in enumerate(work.spans):
        pieces = [work.feed.piece(cell.seed, number) for cell in filled]
        carry, told = runner.advance(
            carry, runner.join([piece.placed for piece in pieces]), span.updates, knobs
        )
        for lane, piece in zip(lanes, pieces, strict=False):
            lane.batches += piece.digests
        ends = span.stop in work.evaluations
        found = _evaluate(work, carry) if ends else None
        _absorb(work, lanes, pending)  # of the call before, so that the device never waits
        pending = (span.updates, told, found)
        if stopped():
            return None
        if all(lane.diverged is not None for lane in lanes):
            break
    _absorb(work, lanes, pending)
    seconds = (time.monotonic() - begun) / len(cells)
    return [_result(work, lane, carry, n, seconds) for n, lane in enumerate(lanes)]


def _evaluate(work: Work, carry: Carry) -> dict[str, list[Metrics]]:
    """Under way."""
    return {
        name: [work.runner.evaluate(carry, batch) for batch in batches]
        for name, batches in work.held_out.items()
    }


def _absorb(work: Work, lanes: Sequence[_Lane], pending: Any) -> None:
    """Wait for one call, and note down what it says."""
    count, told, found = pending
    losses = None if told is None else work.runner.read(told, count)
    for number, lane in enumerate(lanes):
        if losses is not None:
            before = sum(map(len, lane.losses))
            lane.losses.append(losses[number])
            lost = np.flatnonzero(~np.isfinite(losses[number]))
            if lane.diverged is None and len(lost):
                lane.diverged = before + int(lost[0]) + 1
        if found is None:
            continue
        batches = {
            name: [work.runner.metrics(x, number) for x in each] for name, each in found.items()
        }
        values = means_of(batches, work.experiment)
        lane.values.append(values)
        if lane.diverged is None and not math.isfinite(values["loss"]):
            lane.diverged = work.evaluations[len(lane.values) - 1]


def _result(work: Work, lane: _Lane, carry: Carry, number: int, seconds: float) -> Json:
    cell, points = lane.cell, work.evaluations
    lost = math.inf if lane.diverged is None else lane.diverged
    names = list(lane.values[0])
    values = {
        name: [
            _number(lane.values[n][name]) if n < len(lane.values) and step < lost else INFINITE
            for n, step in enumerate(points)
        ]
        for name in names
    }
    losses = np.concatenate(lane.losses)
    last = len(losses) if lane.diverged is None else lane.diverged
    kept = sorted({round(last * n / TRAIN_POINTS) for n in range(1, TRAIN_POINTS + 1)} - {0})
    whole = lane.diverged is None
    return {
        "id": cell.id,
        "variant": cell.variant,
        "rate": cell.rate,
        "seed": cell.seed,
        "purpose": cell.purpose,
        "steps": points[-1],
        "diverged": lane.diverged,
        "evaluations": {"steps": list(points), "values": values},
        "train_loss": {"steps": kept, "values": [_number(float(losses[n - 1])) for n in kept]},
        "bits": {
            "batches": stream_hash(lane.batches) if whole else None,
            "init": lane.init,
            "train_loss": hashlib.sha256(losses[:last].tobytes()).hexdigest(),
            "state": state_digest(work.runner.state(carry, number)) if whole else None,
        },
        "seconds": seconds,
        "strategy": work.runner.strategy.name,
        "machine": work.machine,
    }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else INFINITE


def _init_digest(state: TrainState) -> str:
    """Of what is the same for every optimizer: the weights, without the optimizer's state."""
    return state_digest(dataclasses.replace(state, opt_state=()))
