"""Which strategy computes the cells of a comparison soonest: measured on the baseline, briefly.

What is measured is the pace of a strategy in updates of a cell a second, all workers together. What
that makes of a whole comparison depends on how many cells can be run at once: a trial that waits
for another fills one lane of eight. After the first, a strategy is only tried where it could save
more time than it takes to try it.
"""

import os
import threading
import time
from typing import Any, NamedTuple

import jax

from lmjax.compare.execution import (
    LANES,
    RUNNERS,
    Name,
    Sequential,
    Strategy,
    knobs_of,
    make_placer,
)
from lmjax.compare.feed import Feed, spans
from lmjax.compare.plan import Plan, evaluation_steps
from lmjax.data import Batch, Dataset
from lmjax.experiment import Experiment
from lmjax.mesh import Parallel, make_mesh
from lmjax.models.base import OnPaper, placing
from lmjax.parallel import abstract_state
from lmjax.platforms import limit_blas
from lmjax.step import make_train_step

CALL = 1.0  # seconds that a call may take, so that a stop is heard soon
CALL_BYTES = 2**26  # of batches in one call
TIMED = 0.25  # seconds of one measurement, of which there are ROUNDS
ROUNDS = 3
GAIN = 0.5  # share of the time that another strategy might save, at most
CONVOLUTION = "conv_general_dilated"


class Probe(NamedTuple):
    """What a strategy would do."""

    strategy: Strategy
    pace: float  # updates of a cell a second, with all lanes full and all workers at work
    total: float  # seconds that all cells would take
    tried: float  # seconds that trying it took

    def text(self) -> str:
        """For the record."""
        return (
            f"{self.pace:.4g} updates a second, {self.total:.3g} s for all cells "
            f"({self.tried:.2g} s to compile and measure)"
        )


def choose(
    plan: Plan, dataset: Dataset, batch: Batch, forced: Name | None = None
) -> tuple[Strategy, dict[str, Any]]:
    """(strategy, the time for all cells and why it was chosen)."""
    limit_blas()
    experiment = plan.variant(plan.baseline).experiment
    candidates: list[Name] = [forced] if forced else _order(experiment, batch)
    probes: list[Probe] = []
    told: dict[str, str] = {}
    for name in RUNNERS:
        if name not in candidates:
            told[name] = "not asked for" if forced else _why_never(name)
    for name in candidates:
        why = _hopeless(name, plan, probes)
        if why:
            told[name] = f"not tried: {why}"
            continue
        probes.append(_try(plan, dataset, batch, name))
        told[name] = probes[-1].text()
    best = min(probes, key=lambda probe: probe.total)
    reason = "as --strategy asks" if forced else "the soonest of those that were tried"
    return best.strategy, {"estimated_seconds": best.total, "reason": reason, "tried": told}


def _order(experiment: Experiment, batch: Batch) -> list[Name]:
    """The strategies that might do, the likeliest first."""
    if len(jax.devices()) > 1 and experiment.parallel != Parallel(data=1):
        return ["sequential"]
    if jax.default_backend() == "cpu" and _convolves(experiment, batch):
        return ["sequential"]
    return ["loop", "lanes", "sequential"]


def _why_never(name: Name) -> str:
    if len(jax.devices()) > 1:
        return "not tried: it uses one device"
    return (
        "not tried: on a CPU a convolution takes 12 times as long in a loop (jax issue 12868), and "
        "3 to 4 times as long in lanes"
    )


@placing(OnPaper())
def _convolves(experiment: Experiment, batch: Batch) -> bool:
    """Whether the train step has a convolution."""
    mesh = make_mesh(Parallel(), jax.devices()[:1])
    roles, state = abstract_state(experiment, batch, mesh)
    previous = batch if experiment.optimizer.needs_previous_batch else None
    step = make_train_step(experiment, roles)
    return CONVOLUTION in str(jax.make_jaxpr(step)(state, batch, previous, knobs_of(1.0, 0)))


def _hopeless(name: Name, plan: Plan, probes: list[Probe]) -> str | None:
    """Why a strategy is not tried; None = it is."""
    if not probes:
        return None
    cost, best = max(probe.tried for probe in probes), min(probe.total for probe in probes)
    if GAIN * best < cost:
        return f"that takes about {cost:.2g} s, and might save {GAIN * best:.2g} s"
    fill = fill_of(plan, LANES if name == "lanes" else 1)
    if jax.default_backend() == "cpu" and fill < 0.5:
        return f"only {fill:.0%} of the lanes would be full"
    return None


def workers(name: Name) -> int:
    """Calls at once. XLA runs a loop on one core of a CPU, so each core can have one."""
    return cores() if name != "sequential" and jax.default_backend() == "cpu" else 1


def cores() -> int:
    """Of this machine, that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fill_of(plan: Plan, lanes: int) -> float:
    """Share of lanes that cells would fill."""
    each = len(plan.tune_seeds)
    total = calls = 0
    for variant in plan.variants:
        window = len(plan.windows[variant.label])
        groups = [window * each, *[each] * (plan.trials - window), len(plan.report_seeds)]
        total += sum(groups)
        calls += sum(-(-group // lanes) for group in groups)
    return total / (calls * lanes)


def _try(plan: Plan, dataset: Dataset, batch: Batch, name: Name) -> Probe:
    """Compile the baseline under a strategy and time it."""
    begun = time.perf_counter()
    experiment = plan.variant(plan.baseline).experiment
    points = evaluation_steps(experiment.steps)
    size = sum(x.nbytes for x in batch.values())
    longest = max(span.updates for span in spans(points, max(1, CALL_BYTES // size)))
    strategy = Strategy(name, longest, workers(name))
    runner = RUNNERS[name](experiment, batch, strategy)
    seed, stretches = plan.tune_seeds[0], spans(points, longest)
    feed = Feed(dataset, experiment.batch_size, stretches, make_placer(experiment, strategy), 0)
    piece = runner.join([feed.piece(seed, 0).placed] * strategy.lanes)
    work = _Work(runner, piece, seed)
    work.advance(1, 1)  # compiles
    each = work.advance(1, 1)
    count = max(1, min(stretches[0].updates, round(TIMED / each)))
    calls = max(1, round(TIMED / (each * count)))
    if each * longest > CALL:
        strategy = strategy._replace(updates=max(1, int(CALL / each)))
    seconds = min(work.all_workers(count, calls) for _ in range(ROUNDS))
    pace = strategy.workers * strategy.lanes * count * calls / seconds
    updates = sum(v.experiment.steps for v in plan.variants) * plan.cells / len(plan.variants)
    total = updates / pace / fill_of(plan, strategy.lanes)
    return Probe(strategy, pace, total, time.perf_counter() - begun)


class _Work(NamedTuple):
    """What a probe computes."""

    runner: Sequential
    piece: Any
    seed: int

    def advance(self, count: int, calls: int) -> float:
        """Seconds of some calls by one worker."""
        rate = self.runner.experiment.optimizer.learning_rate
        each = [knobs_of(rate, self.seed)] * self.runner.strategy.lanes
        knobs, carry = self.runner.knobs(each), self.runner.start(each)
        jax.block_until_ready(carry.state)
        begun = time.perf_counter()
        for _ in range(calls):
            carry, told = self.runner.advance(carry, self.piece, count, knobs)
            self.runner.read(told, count)
        return time.perf_counter() - begun

    def all_workers(self, count: int, calls: int) -> float:
        """Seconds that all workers take for as many calls each."""
        threads = [
            threading.Thread(target=self.advance, args=(count, calls))
            for _ in range(self.runner.strategy.workers)
        ]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begun
