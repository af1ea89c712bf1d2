"""`lmjax compare`: words of a command line to one comparison."""

import argparse
import shlex
from collections.abc import Sequence

from lmjax import catalog, overrides
from lmjax.compare import assemble, comparison, directory, probe, spaces
from lmjax.compare.dry import tell
from lmjax.compare.execution import RUNNERS
from lmjax.compare.plan import Plan, make_budget, make_plan, prepare_all
from lmjax.compare.variants import Variant, of_axis, of_optimizers
from lmjax.errors import InputError
from lmjax.experiment import Experiment
from lmjax.flags import Parser, is_plain, number
from lmjax.overrides import Parse

SEEDS, TUNE_SEEDS, TRIALS = 5, 1, 7
TUNING_OFFSET = 1000  # from the experiment's seed to the first that is tuned on
OPTIMIZERS = ("adamw", "lion", "muon", "soap")  # and the experiment's own
DESCRIPTION = """Variants of an experiment beside each other: each tuned by the same number of
trials, then run on the same fresh seeds; with a verdict, and what it costs. The same command again
goes on where it was stopped."""


def run(words: Sequence[str], parse: Parse) -> None:
    """The command."""
    if "-h" in words or "--help" in words:
        parser().print_help()
        own = [] if words[0].startswith("-") else catalog.comparison(words[0])
        if own:
            print(f"\n{words[0]} begins with: {shlex.join(own)}")
        return
    if not words or words[0].startswith("-"):
        raise InputError("compare needs the name of an experiment")
    given, rest = parser().parse_known_args([*catalog.comparison(words[0]), *words[1:]])
    base = overrides.apply(catalog.find(words[0]), rest, parse)
    plan, loaded = make(words[0], base, given, parse)
    path = directory.choose(plan, given.out)
    found = directory.check(path, plan)
    if found is not None and given.strategy not in (None, found.name):
        told = f"{path} is computed by {found.name}; choose another --out"
        raise InputError(f"--strategy {given.strategy}: {told}")

    def choose() -> probe.Choice:
        datasets, batches = loaded
        label = plan.baseline
        return probe.choose(plan, datasets[label], batches[label], given.strategy)

    if given.dry_run:
        if found is None:
            strategy, told, _ = choose()
            print(tell(plan, loaded.batches, path, strategy, told["estimated_seconds"]))
        else:
            print(tell(plan, loaded.batches, path, found, None))
        return
    report = comparison.run(plan, loaded, path, choose, list(words))
    print(assemble.to_text(report))
    print(f"report: {path / assemble.REPORT}")


def make(
    name: str, base: Experiment, given: argparse.Namespace, parse: Parse
) -> tuple[Plan, comparison.Loaded]:
    """The plan of the flags, checked, and its data; raises InputError."""
    seeds = _seeds("--seeds", given.seeds, base.seed)
    tune_seeds = _seeds("--tune-seeds", given.tune_seeds, base.seed + TUNING_OFFSET)
    budget = make_budget(seeds, tune_seeds, given.trials)
    variants = _variants(base, given, parse)
    windows = spaces.windows(variants, given.trials, given.learning_rates, given.space)
    datasets, batches = prepare_all(variants)
    plan = make_plan(
        name,
        base,
        variants,
        datasets,
        budget,
        windows,
        baseline=given.baseline,
        metric=given.metric,
    )
    return plan, comparison.Loaded(datasets, batches)


def _variants(base: Experiment, given: argparse.Namespace, parse: Parse) -> tuple[Variant, ...]:
    if given.optimizers and given.axis:
        raise InputError("--optimizers and --axis: give one of them; an axis may be optimizer:NAME")
    if given.axis:
        return of_axis(base, given.axis, parse)
    own = base.optimizer.label
    names = given.optimizers or list(dict.fromkeys([*OPTIMIZERS, own]))
    return of_optimizers(base, names, parse)


def _seeds(flag: str, text: str, first: int) -> tuple[int, ...]:
    """5 = five seeds from `first` on; 3,7,9 = those."""
    parts = [part for part in text.split(",") if part]
    try:
        if not parts or not all(map(is_plain, parts)):
            raise ValueError
        numbers = tuple(int(part) for part in parts)
    except ValueError:
        told = "must be how many (5) or which (3,7,9; one is written 3,)"
        raise InputError(f"{flag} {text}: {told}") from None
    if "," in text:
        return numbers
    if numbers[0] > 10_000:
        raise InputError(f"{flag} {text}: too many")
    return tuple(range(first, first + numbers[0]))


def parser() -> Parser:
    """The flags that are no overrides."""
    made = Parser(prog="lmjax compare EXPERIMENT [OVERRIDES]", description=DESCRIPTION)
    add = made.add_argument
    add("--optimizers", nargs="+", metavar="NAME", help="which to compare")
    add(
        "--axis",
        nargs="+",
        action="extend",
        metavar="WORDS",
        help="any other variants: override words such as schedule:wsd, or FIELD=V,V,V",
    )
    add("--baseline", metavar="LABEL", help="the others are judged against it; adamw, or the first")
    add("--seeds", default=str(SEEDS), help=f"how many to report on, or which (3,7,9); {SEEDS}")
    add("--tune-seeds", default=str(TUNE_SEEDS), help=f"the same to tune on; {TUNE_SEEDS}")
    add("--trials", type=int, default=TRIALS, help=f"rates that each variant tries; {TRIALS}")
    add("--learning-rates", nargs="+", type=number, default=(), help="the first of them, for all")
    add("--space", metavar="FILE", help="JSON: the rates of each variant (lmjax/compare/spaces.py)")
    add("--metric", metavar="NAME", help="of the held-out split, to compare by; loss")
    add("--out", metavar="DIR", help="the directory; comparisons/NAME-DIGEST")
    add("--strategy", choices=tuple(RUNNERS), help="how cells are computed")
    add("--dry-run", action="store_true", help="tell cells, time and memory; write nothing")
    return made
