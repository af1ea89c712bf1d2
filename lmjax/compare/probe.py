"""Which strategy computes the cells of a comparison soonest: measured on the baseline, briefly.

What is measured is the pace of a strategy in updates of a cell a second, all workers together. What
that makes of a whole comparison depends on how many cells can be run at once: a trial that waits
for another fills one lane of eight. After the first, a strategy is only tried where that may
well save more time than it takes.
"""

import threading
import time
from typing import Any, NamedTuple

import jax
from flax.core import meta
from jaxtyping import PRNGKeyArray

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
from lmjax.mesh import Parallel
from lmjax.parallel import abstract_variables
from lmjax.placement import OnPaper, placing
from lmjax.platforms import limit_blas, visible_cores
from lmjax.rng import key_for
from lmjax.tasks import Variables

CALL = 1.0  # seconds that a call may take, so that a stop is heard soon
CALL_BYTES = 2**26  # of batches in one call
TIMED = 0.15  # seconds of one measurement, of which there are ROUNDS
ROUNDS = 3
GAIN_CPU = 0.05  # share of the time that trying another saves on average: loops mostly win
GAIN = 0.5  # the same on accelerators, where lanes may save most of it
CLEARLY = 0.9  # of the time of the likelier one, that another must not take longer than
CONVOLUTION = "conv_general_dilated"


class Probe(NamedTuple):
    """What a strategy would do."""

    strategy: Strategy
    pace: float  # updates of a cell a second, with all lanes full and all workers at work
    total: float  # seconds that all cells would take

    def text(self) -> str:
        """For the record."""
        return f"{self.pace:.4g} updates a second, {self.total:.3g} s for all cells"


class Choice(NamedTuple):
    """What was chosen."""

    strategy: Strategy
    told: dict[str, Any]  # the seconds that all cells would take, and why
    made: dict[str, Sequential]  # label -> what has been compiled for it


def choose(plan: Plan, dataset: Dataset, batch: Batch, forced: Name | None = None) -> Choice:
    """How all cells are to be computed."""
    limit_blas()
    experiment = plan.variant(plan.baseline).experiment
    candidates: list[Name] = [forced] if forced else _order(experiment, batch)
    told = {name: "not asked for" if forced else _why_never() for name in RUNNERS}
    trials: list[_Trial] = []
    for name in candidates:
        why = _hopeless(name, plan, trials)
        if why:
            told[name] = f"not tried: {why}"
        else:
            trials.append(_Trial(plan, dataset, batch, name))
    if len(trials) > 1:  # by turns, so that what slows the machine for a while slows all
        for _ in range(ROUNDS):
            for trial in trials:
                trial.measure()
    probes = [trial.probe() for trial in trials]
    told |= {probe.strategy.name: probe.text() for probe in probes}
    best = 0
    for number, probe in enumerate(probes):
        best = number if probe.total < CLEARLY * probes[best].total else best
    reason = "the soonest of those that were tried" if len(probes) > 1 else "no other was tried"
    strategy, runner = probes[best].strategy, trials[best].runner
    return Choice(
        strategy,
        {
            "estimated_seconds": probes[best].total,
            "reason": "as --strategy asks" if forced else reason,
            "tried": told,
        },
        {plan.baseline: runner} if runner.strategy == strategy else {},
    )


def pace(plan: Plan, dataset: Dataset, batch: Batch, name: Name) -> float:
    """Updates of a cell a second under a strategy, with all its lanes full."""
    trial = _Trial(plan, dataset, batch, name)
    for _ in range(ROUNDS):
        trial.measure()
    return trial.probe().pace


def _order(experiment: Experiment, batch: Batch) -> list[Name]:
    """The strategies that might do, the likeliest first."""
    if len(jax.devices()) > 1 and experiment.parallel != Parallel(data=1):
        return ["sequential"]
    if jax.default_backend() == "cpu" and _convolves(experiment, batch):
        return ["sequential"]
    return ["loop", "lanes", "sequential"]


def _why_never() -> str:
    if len(jax.devices()) > 1:
        return "not tried: it uses one device"
    return (
        "not tried: on a CPU a convolution takes 12 times as long in a loop (jax issue 12868), and "
        "3 to 4 times as long in lanes"
    )


@placing(OnPaper())
def _convolves(experiment: Experiment, batch: Batch) -> bool:
    """Whether the model, or what its inputs go through in the step, has a convolution."""
    task = experiment.task

    def forward(variables: Variables, batch: Batch, key: PRNGKeyArray) -> Any:
        return task.outcome(variables, task.augment(batch, key), key)

    variables = meta.unbox(abstract_variables(experiment, batch))
    key = jax.eval_shape(lambda: key_for(0, "init"))
    return CONVOLUTION in str(jax.make_jaxpr(forward)(variables, batch, key))


def _hopeless(name: Name, plan: Plan, trials: list["_Trial"]) -> str | None:
    """Why a strategy is not tried; None = it is."""
    if not trials:
        return None
    cost = max(trial.seconds for trial in trials)
    gain = GAIN_CPU if jax.default_backend() == "cpu" else GAIN
    saved = gain * min(trial.probe().total for trial in trials)
    if saved < cost:
        return f"that takes about {cost:.2g} s, and might save {saved:.2g} s"
    fill = fill_of(plan, LANES if name == "lanes" else 1)
    if jax.default_backend() == "cpu" and fill < 0.5:
        return f"only {fill:.0%} of the lanes would be full"
    return None


def workers(name: Name) -> int:
    """Calls at once. XLA runs a loop on one core of a CPU, so each core can have one."""
    return len(visible_cores()) if name != "sequential" and jax.default_backend() == "cpu" else 1


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


class _Trial:
    """The baseline compiled under a strategy, and how fast it goes."""

    def __init__(self, plan: Plan, dataset: Dataset, batch: Batch, name: Name):
        begun = time.perf_counter()
        self._plan = plan
        experiment = plan.variant(plan.baseline).experiment
        points = evaluation_steps(experiment.steps)
        size = sum(x.nbytes for x in batch.values())
        longest = max(span.updates for span in spans(points, max(1, CALL_BYTES // size)))
        self._strategy = Strategy(name, longest, workers(name))
        self.runner = RUNNERS[name](experiment, batch, self._strategy)
        self._seed, stretches = plan.tune_seeds[0], spans(points, longest)
        place = make_placer(experiment, self._strategy)
        feed = Feed(dataset, experiment.batch_size, stretches, place, 0)
        piece = feed.piece(self._seed, 0).placed
        self._piece = self.runner.join([piece] * self._strategy.lanes)
        self._advance(1, 1)  # compiles
        self._each = self._advance(1, 1)
        self._count = max(1, min(stretches[0].updates, round(TIMED / self._each)))
        self._calls = max(1, round(TIMED / (self._each * self._count)))
        self._paces: list[float] = []
        self.measure()
        self.seconds = time.perf_counter() - begun  # that trying it took

    def measure(self) -> None:
        """One round."""
        workers = self._strategy.workers
        threads = [
            threading.Thread(target=self._advance, args=(self._count, self._calls))
            for _ in range(workers)
        ]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done = workers * self._strategy.lanes * self._count * self._calls
        self._paces.append(done / (time.perf_counter() - begun))

    def probe(self) -> Probe:
        """What the rounds so far say."""
        plan, pace = self._plan, max(self._paces)
        updates = sum(v.experiment.steps for v in plan.variants) * plan.cells / len(plan.variants)
        total = updates / pace / fill_of(plan, self._strategy.lanes)
        within = max(1, min(self._strategy.updates, int(CALL / self._each)))
        return Probe(self._strategy._replace(updates=within), pace, total)

    def _advance(self, count: int, calls: int) -> float:
        """Seconds of some calls by one worker."""
        runner = self.runner
        rate = runner.experiment.optimizer.learning_rate
        each = [knobs_of(rate, self._seed)] * self._strategy.lanes
        knobs, carry = runner.knobs(each), runner.start(each)
        jax.block_until_ready(carry.state)
        begun = time.perf_counter()
        for _ in range(calls):
            carry, told = runner.advance(carry, self._piece, count, knobs)
            runner.read(told, count)
        return time.perf_counter() - begun
