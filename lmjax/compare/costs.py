"""What a variant costs: memory of its state and of a step, operations, and time beside plain SGD.

Times are of the program that computes the cells. Blocks of updates of every variant and of SGD,
on the same model and data, take turns, and each block is set beside the SGD block of its round: so
what slows the machine for a while slows both.
"""

import time
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from lmjax import flops
from lmjax.compare.execution import RUNNERS, Carry, Sequential, knobs_of
from lmjax.compare.forms import Many, Maybe, Number, Record, Whole, Word
from lmjax.compare.lease import Leases
from lmjax.console import Console
from lmjax.errors import InputError
from lmjax.experiment import Experiment
from lmjax.optim import SGD
from lmjax.parts import replace
from lmjax.placement import OnPaper, placing
from lmjax.runfiles import read_json, write_json
from lmjax.state import parameter_count

COSTS, LEASE = "costs.json", "costs"
ROUNDS, LEAST_ROUNDS = 9, 3
FORM = Record(  # of what a variant costs
    {
        "parameters": Whole(),
        **dict.fromkeys(("state_bytes_per_parameter", "state_copies"), Number()),
        **dict.fromkeys(("peak_bytes", "flops_per_step"), Maybe(Number())),
        "flops_unseen": Many(Word()),
        "step_seconds": Many(Number(), least=LEAST_ROUNDS),
        "over_sgd": Many(Number(), least=LEAST_ROUNDS),
    }
)
SGD_LABEL = " sgd"  # no label of a variant has a space
BLOCK = 0.06  # seconds of SGD in a block
BUDGET = 20.0  # seconds that all rounds may take


def ensure(path: epath.Path, workshop: Any, leases: Leases, console: Console) -> None:
    """Measure and write costs.json, unless it is there; where another process is at it, wait."""
    if (path / COSTS).exists():
        return
    with leases.holding(LEASE):
        if not (path / COSTS).exists():
            console.say("measuring what a step costs")
            write_json(path / COSTS, measure(workshop))


def read(path: epath.Path, labels: list[str]) -> dict[str, Any] | None:
    """costs.json, None where it is not measured yet; raises InputError for a damaged one."""
    if not (path / COSTS).exists():
        return None
    held = read_json(path / COSTS)
    form = Record({"updates_in_a_block": Whole(), "costs": Record(dict.fromkeys(labels, FORM))})
    try:
        form.check(held, "")
        if not all(min(held["costs"][label]["step_seconds"]) > 0 for label in labels):
            raise InputError("a step that took no time")
    except InputError as error:
        told = f"damaged ({error}); remove it, and the same command measures anew"
        raise InputError(f"{path / COSTS}: {told}") from None
    return held


class _Timed(NamedTuple):
    """A program that takes its turns."""

    runner: Sequential
    piece: Any
    knobs: Any
    reference: str  # the label of the SGD that it is set beside


def measure(workshop: Any) -> dict[str, Any]:
    """What costs.json holds: a record for each variant."""
    found, timed, carries = {}, {}, {}
    references: dict[Experiment, str] = {
        experiment: label
        for label, _, experiment in workshop.plan.variants
        if experiment.optimizer == SGD()
    }
    for label, _, experiment in workshop.plan.variants:
        plain = replace(experiment, "optimizer", SGD())
        if plain not in references:
            own = references[plain] = f"{SGD_LABEL}{len(references)}"
            runner = RUNNERS[workshop.strategy.name](
                plain, workshop.batch(label), workshop.strategy
            )
            timed[own], carries[own] = _begin(workshop, label, runner, own)
        runner = workshop.work(label).runner
        timed[label], carries[label] = _begin(workshop, label, runner, references[plain])
        found[label] = _of_program(timed[label], carries[label])
    first = min(workshop.work(label).spans[0].updates for label in found)
    times, count = _take_turns(timed, carries, first)
    for label, record in found.items():
        own, sgd = times[label], times[timed[label].reference]
        record["step_seconds"] = own
        record["over_sgd"] = [a / b for a, b in zip(own, sgd, strict=True)]
    return {"strategy": workshop.strategy._asdict(), "updates_in_a_block": count, "costs": found}


def _begin(workshop: Any, label: str, runner: Sequential, reference: str) -> tuple[_Timed, Carry]:
    """A program with something to compute."""
    lanes, seed = workshop.strategy.lanes, workshop.plan.tune_seeds[0]
    rate = runner.experiment.optimizer.learning_rate
    each = [knobs_of(rate, seed)] * lanes
    piece = runner.join([workshop.work(label).feed.piece(seed, 0).placed] * lanes)
    return _Timed(runner, piece, runner.knobs(each), reference), runner.start(each)


def _of_program(timed: _Timed, carry: Carry) -> dict[str, Any]:
    """What is known of a program without running it."""
    runner = timed.runner
    params, state = runner.abstract.params, runner.abstract.opt_state
    held = sum(_bytes(x) for x in jax.tree.leaves(state) if x.ndim)  # counters are not counted
    size, count = sum(map(_bytes, jax.tree.leaves(params))), parameter_count(params)
    operations = _operations(runner, carry, timed.piece)
    return {
        "parameters": count,
        "state_bytes": held,
        "state_bytes_per_parameter": held / count,
        "state_copies": held / size,
        "peak_bytes": _peak(timed, carry),
        "flops_per_step": operations.flops,
        "flops_unseen": sorted(operations.unseen),
    }


def _bytes(x: Any) -> int:
    return x.size * x.dtype.itemsize


def _peak(timed: _Timed, carry: Carry) -> int | None:
    """Bytes of one cell's step, as the compiler says, without the batches that lie ready."""
    told = timed.runner.lowered(carry, timed.piece, timed.knobs).compile().memory_analysis()
    if told is None:
        return None
    batches = jax.tree.leaves(timed.piece)
    ready = sum(_bytes(x) for x in batches)
    if isinstance(timed.piece, list):  # of which the program takes one
        ready //= len(timed.piece)
    used = told.argument_size_in_bytes + told.output_size_in_bytes + told.temp_size_in_bytes
    return (used - told.alias_size_in_bytes - ready) // timed.runner.strategy.lanes


@placing(OnPaper())
def _operations(runner: Sequential, carry: Carry, piece: Any) -> flops.Count:
    """Of one update, the optimizer's own included."""
    one = piece[0] if isinstance(piece, list) else jax.tree.map(lambda x: x[0], piece)
    if runner.strategy.lanes > 1:
        one = jax.tree.map(lambda x: x[0], one)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), one)
    previous = batch if runner.experiment.optimizer.needs_previous_batch else None
    return flops.count(runner.step, runner.abstract, batch, previous, knobs_of(1.0, 0))


def _take_turns(
    timed: dict[str, _Timed], carries: dict[str, Carry], most: int
) -> tuple[dict[str, list[float]], int]:
    """(label -> seconds of an update in each round, updates in a block, `most` at most)."""

    def block(label: str, count: int) -> float:
        own, begun = timed[label], time.perf_counter()
        carries[label], told = own.runner.advance(carries[label], own.piece, count, own.knobs)
        own.runner.read(told, count)
        return (time.perf_counter() - begun) / count / own.runner.strategy.lanes

    for label in timed:
        block(label, 1)  # compiles
    each = {label: block(label, 1) for label in timed}
    fastest = min(each.values()) * next(iter(timed.values())).runner.strategy.lanes
    count = max(1, min(most, round(BLOCK / fastest)))
    a_round = sum(each.values()) * count
    rounds = max(LEAST_ROUNDS, min(ROUNDS, int(BUDGET / a_round)))
    times: dict[str, list[float]] = {label: [] for label in timed}
    labels = list(timed)
    for number in range(rounds):
        turned = labels[number % len(labels) :] + labels[: number % len(labels)]
        for label in turned:
            times[label].append(block(label, count))
    return times, count


def quartiles(values: list[float]) -> dict[str, float]:
    """Of times or ratios."""
    low, middle, high = np.quantile(np.asarray(values), (0.25, 0.5, 0.75)).tolist()
    return {"median": middle, "q1": low, "q3": high}
