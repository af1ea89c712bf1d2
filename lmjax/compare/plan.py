"""What a comparison will do, all of it decided and checked before anything is compiled."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.core import meta

from lmjax.compare import spaces
from lmjax.compare.spaces import Windows
from lmjax.compare.variants import Variant, decides
from lmjax.compare.verdict import Better
from lmjax.compare.window import Decision, next_trial
from lmjax.data import Batch, Dataset
from lmjax.errors import FieldError, InputError, unknown
from lmjax.experiment import Experiment
from lmjax.optim.recipe import MatrixOptimizer
from lmjax.parallel import abstract_variables
from lmjax.placement import OnPaper, placing
from lmjax.record import digest, from_record, to_record
from lmjax.rng import SEED_LIMIT
from lmjax.train import prepare

SCHEMA = 1
POINTS = 20  # evaluations of a cell, beside that at step 0
LEAST_TRIALS, MOST_TRIALS, MOST_SEEDS = 3, 50, 1000


class Metric(NamedTuple):
    """What the variants are compared by, on the held-out split."""

    name: str
    unit: str  # "" = a pure number
    better: Better


class Plan(NamedTuple):
    """A comparison."""

    name: str  # of the experiment: NAME or PATH.py, as it was given
    base: Experiment
    variants: tuple[Variant, ...]
    baseline: str  # the label that the others are judged against
    metric: Metric
    headline: Metric  # what the task judges a run by
    report_seeds: tuple[int, ...]
    tune_seeds: tuple[int, ...]
    trials: int  # rates that each variant tries, each on all tuning seeds
    windows: Windows
    data: dict[str, str]  # label of a variant -> digest of its data

    def variant(self, label: str) -> Variant:
        """The variant of that label; raises InputError."""
        for variant in self.variants:
            if variant.label == label:
                return variant
        raise unknown("variant", label, [variant.label for variant in self.variants])

    def decide(self, label: str, losses: dict[float, float]) -> Decision:
        """What a variant's finished trials (rate -> mean loss, lower is better) ask for next."""
        return next_trial(
            np.asarray(self.windows[label]),
            self.trials,
            np.asarray(list(losses), np.float64),
            np.asarray(list(losses.values()), np.float64),
        )

    @property
    def cells(self) -> int:
        """How many cells there are, if every variant has a rate that does not diverge."""
        each = self.trials * len(self.tune_seeds) + len(self.report_seeds)
        return len(self.variants) * each

    def decisive(self) -> dict[str, Any]:
        """All that decides a cell's numbers or which cells there are, as plain JSON."""
        return {
            "schema": SCHEMA,
            "experiment": decides(self.base),
            "variants": {v.label: decides(v.experiment) for v in self.variants},
            "baseline": self.baseline,
            "metric": self.metric.name,
            "report_seeds": list(self.report_seeds),
            "tune_seeds": list(self.tune_seeds),
            "trials": self.trials,
            "rates": spaces.record(self.windows),
            "evaluations": POINTS,
            "data": self.data,
        }

    def digest(self) -> str:
        """Eight hex digits over `decisive`."""
        return digest(self.decisive())[:8]


def evaluation_steps(steps: int) -> tuple[int, ...]:
    """After how many updates a cell is evaluated: 0, then evenly to the last."""
    return tuple(sorted({round(steps * n / POINTS) for n in range(POINTS + 1)}))


class Budget(NamedTuple):
    """How much is tried, checked."""

    report_seeds: tuple[int, ...]
    tune_seeds: tuple[int, ...]
    trials: int


def make_budget(seeds: Sequence[int], tune_seeds: Sequence[int], trials: int) -> Budget:
    """Raises InputError for numbers from which nothing could be told."""
    if len(set(seeds)) < 2:
        raise InputError(
            f"--seeds: {len(set(seeds))} seed; must be at least 2: from one seed nothing tells a "
            "difference from luck, so there would be no interval and no verdict"
        )
    if not tune_seeds:
        raise InputError("--tune-seeds: must be at least 1: the rate is tuned on it")
    for flag, given in (("--seeds", seeds), ("--tune-seeds", tune_seeds)):
        if len(set(given)) < len(given):
            raise InputError(f"{flag}: a seed is given twice")
        if len(given) > MOST_SEEDS:
            raise InputError(f"{flag}: {len(given)} seeds; at most {MOST_SEEDS}")
        if any(not 0 <= seed < SEED_LIMIT for seed in given):
            raise InputError(f"{flag}: seeds must be >= 0 and < {SEED_LIMIT}")
    both = sorted(set(seeds) & set(tune_seeds))
    if both:
        raise InputError(
            f"--tune-seeds: {both[0]} is a report seed too; on a seed that it was chosen on, a "
            "rate looks better than it is"
        )
    if not LEAST_TRIALS <= trials <= MOST_TRIALS:
        raise InputError(
            f"--trials {trials}: must be {LEAST_TRIALS} to {MOST_TRIALS}; with fewer than 3 the "
            "best rate always stands at the edge"
        )
    return Budget(tuple(seeds), tuple(tune_seeds), trials)


def make_plan(
    name: str,
    base: Experiment,
    variants: Sequence[Variant],
    datasets: dict[str, Dataset],
    budget: Budget,
    windows: Windows,
    *,
    baseline: str | None,
    metric: str | None,
) -> Plan:
    """A checked plan; raises InputError for a baseline or a metric that there is not."""
    labels = [variant.label for variant in variants]
    if baseline is None:
        baseline = "adamw" if "adamw" in labels else labels[0]
    elif baseline not in labels:
        raise unknown("baseline", baseline, labels)
    known = metrics(variants, datasets)
    chosen = "loss" if metric is None else metric
    if chosen not in known:
        raise unknown("metric", chosen, known)
    headline = variants[0].experiment.task.headline_for(datasets[labels[0]])
    return Plan(
        name,
        base,
        tuple(variants),
        baseline,
        known[chosen],
        known[headline],
        budget.report_seeds,
        budget.tune_seeds,
        budget.trials,
        windows,
        {label: datasets[label].digest for label in labels},
    )


def prepare_all(variants: Sequence[Variant]) -> tuple[dict[str, Dataset], dict[str, Batch]]:
    """Label -> data and a batch of each variant, everything checked that needs no device.

    Variants with the same data share it. Raises InputError, told with the variant's label.
    """
    datasets: dict[str, Dataset] = {}
    batches: dict[str, Batch] = {}
    loaded: dict[Any, Dataset] = {}
    for label, _, experiment in variants:
        try:
            if experiment.init_from:
                allowed = "must be empty: a comparison begins at the fresh weights of each seed"
                raise FieldError("init_from", experiment.init_from, allowed)
            if experiment.on_nonfinite != "stop":
                allowed = "must be stop in a comparison, of which a cell that diverges is a result"
                raise FieldError("on_nonfinite", experiment.on_nonfinite, allowed)
            dataset, batch = prepare(experiment, loaded.get(experiment.data))
        except FieldError as error:
            raise InputError(f"{label}: {error}") from None
        loaded[experiment.data] = datasets[label] = dataset
        batches[label] = batch
    return datasets, batches


def metrics(variants: Sequence[Variant], datasets: dict[str, Dataset]) -> dict[str, Metric]:
    """Name -> every metric that an evaluation of all variants has; nothing is computed."""
    found: dict[Any, dict[str, Metric]] = {}
    for label, _, experiment in variants:
        key = experiment.task, experiment.data
        if key not in found:
            found[key] = _metrics(experiment, datasets[label])
    first, *others = found.values()
    return {name: x for name, x in first.items() if all(name in other for other in others)}


@placing(OnPaper())
def _metrics(experiment: Experiment, dataset: Dataset) -> dict[str, Metric]:
    task, batch = experiment.task, dataset.batch(experiment.seed, 0, experiment.batch_size)
    variables = meta.unbox(abstract_variables(experiment, batch))
    told = jax.eval_shape(lambda v, b: task.outcome(v, b, None).metrics, variables, batch)
    names = ["loss", *told]
    names += task.derived(dict.fromkeys(names, 1.0))
    if len(dataset.members) > 1:
        names += [f"{name}/{member.name}" for name in names for member in dataset.members]

    def metric(name: str) -> Metric:
        plain = name.partition("/")[0]
        unit = f"nats per {task.unit.removesuffix('s')}" if plain == "loss" else ""
        return Metric(name, unit, "higher" if plain in task.rising else "lower")

    return {name: metric(name) for name in names}


def matrix_methods(plan: Plan) -> dict[str, MatrixOptimizer]:
    """Label -> the optimizer of each variant that has an auxiliary."""
    found = {v.label: v.experiment.optimizer for v in plan.variants}
    return {label: x for label, x in found.items() if isinstance(x, MatrixOptimizer)}


def full_record(plan: Plan) -> dict[str, Any]:
    """The plan with every field of every experiment, from which `read` makes it again."""
    return {
        "name": plan.name,
        "base": to_record(plan.base),
        "variants": [
            {"label": v.label, "words": list(v.words), "config": to_record(v.experiment)}
            for v in plan.variants
        ],
        "baseline": plan.baseline,
        "metric": plan.metric._asdict(),
        "headline": plan.headline._asdict(),
        "report_seeds": list(plan.report_seeds),
        "tune_seeds": list(plan.tune_seeds),
        "trials": plan.trials,
        "windows": spaces.record(plan.windows),
        "data": plan.data,
    }


def from_full_record(held: dict[str, Any], where: str) -> Plan:
    """The plan again; the parts that it names must have been imported. Raises InputError."""
    try:
        variants = tuple(
            Variant(
                item["label"],
                tuple(item["words"]),
                from_record(Experiment, item["config"], f"{where}: {item['label']}"),
            )
            for item in held["variants"]
        )
        return Plan(
            held["name"],
            from_record(Experiment, held["base"], f"{where}: base"),
            variants,
            held["baseline"],
            Metric(**held["metric"]),
            Metric(**held["headline"]),
            tuple(held["report_seeds"]),
            tuple(held["tune_seeds"]),
            held["trials"],
            {label: tuple(rates) for label, rates in held["windows"].items()},
            held["data"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: damaged ({type(error).__name__}: {error})") from None
