"""Why a replay is apart from its run: evidence, and the cause from a closed list that it tells of.

The causes are tried in an order in which each rules out those before it: what was given (seed,
configuration, data), then the program and which of its parts has changed (lmjax/anatomy.py), then
the machine and its settings, and only then the numbers themselves.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from lmjax.anatomy import NAMES
from lmjax.environment import Difference
from lmjax.replay import Apart, differing

Cause = Literal[
    "seed",
    "data",
    "config",
    "init",
    "layer code",
    "flag or version",
    "cores",
    "reduction order",
    "gradient bit",
    "optimizer hyper-parameter",
    "dropout key",
    "data position",
    "dtype",
    "nondeterminism",  # of this machine: the step does not repeat here, so nothing can be said
]
ROUNDING = {"float32": 4e-6, "bfloat16": 2e-2}  # relative, of a loss summed in another order


class Evidence(NamedTuple):
    """What is known of the step that is apart, the run's side first in each pair."""

    apart: Apart
    seeds: tuple[int, int]  # of the compiled step
    keys: list[str]  # purposes whose keys are derived otherwise
    config: list[str]  # fields that are not what they were
    rates: tuple[str, str]  # learning rates, exact
    data: tuple[str, str]  # digests
    position: int | None  # of the batch that the run used, where it is another one of the stream
    environment: Sequence[Difference]
    code: list[str]  # files that are not what they were
    parts: tuple[dict[str, Any], dict[str, Any]]  # of the traced step
    lowered: bool  # whether the lowered step is the same
    same_mesh: bool  # whether it is computed on as many devices
    described: tuple[dict[str, str], dict[str, str]]  # leaves of the state: dtype and shape
    compute_dtype: str


class Verdict(NamedTuple):
    """The cause, and what tells of it."""

    cause: Cause
    because: str


def judge(e: Evidence) -> Verdict:
    """The cause of a divergence."""
    if not e.apart.repeats:
        return Verdict("nondeterminism", "the step gives something else when it is computed again")
    return of_what_was_given(e) or of_the_program(e) or of_the_machine(e) or of_the_numbers(e)


def of_what_was_given(e: Evidence) -> Verdict | None:
    """Seed, configuration, data."""
    run, here = e.apart.run, e.apart.here
    if e.seeds[0] != e.seeds[1]:
        return Verdict("seed", f"{e.seeds[0]} in the run, {e.seeds[1]} here")
    if e.config:
        return Verdict(_of_fields(e.config), f"{', '.join(e.config)} not as in the run")
    if run.batch != here.batch:
        if e.position is not None:
            told = f"the run had batch {e.position} of the stream at step {run.step}"
            own = ", which is right" if e.position == run.step - 1 else f", not {run.step - 1}"
            return Verdict("data position", told + own)
        changed = "have changed" if e.data[0] != e.data[1] else "are said to be the same"
        return Verdict("data", f"the batch is nowhere near in the stream; the data {changed}")
    if not e.keys:
        return None
    told = f"of {', '.join(e.keys)}: derived otherwise from the same seed"
    if run.step == 0:
        return Verdict("init", f"keys {told}") if "init" in e.keys else None
    return Verdict("dropout key", f"keys {told}")


def _of_fields(fields: Sequence[str]) -> Cause:
    """The cause that a change of these fields is."""
    tops = {field.partition(".")[0] for field in fields}
    special: dict[str, Cause] = {
        "seed": "seed",
        "compute_dtype": "dtype",
        "data": "data",
        "optimizer": "optimizer hyper-parameter",
        "schedule": "optimizer hyper-parameter",
    }
    causes: set[Cause] = {special.get(top, "config") for top in tops}
    return causes.pop() if len(causes) == 1 else "config"


def of_the_program(e: Evidence) -> Verdict | None:
    """What the step, or what draws the first state, computes; nothing can be said of another
    version's programs."""
    if any(each.kind == "version" for each in e.environment):
        return None
    then, now = e.described
    if then != now:
        same = then.keys() == now.keys() and all(_shape(then[x]) == _shape(now[x]) for x in then)
        paths = sorted(x for x in then.keys() | now.keys() if then.get(x) != now.get(x))
        told = f"{paths[0]} {then.get(paths[0])} in the run, {now.get(paths[0])} here"
        of_state: Cause = "dtype" if same else "layer code"
        return Verdict(of_state, told)
    if e.apart.run.step == 0:
        if e.environment:
            return None
        return Verdict("init", f"equal keys draw another {first_leaf(e.apart)}{_code(e)}")
    if e.rates[0] != e.rates[1]:
        return Verdict("optimizer hyper-parameter", f"rate {e.rates[0]}, here {e.rates[1]}")
    changed, size = first_change(*e.parts), apart_by(e.apart)
    rounding = 0 < size <= ROUNDING[e.compute_dtype]
    if changed is None or (rounding and not e.same_mesh):  # another mesh may cut it otherwise
        return None
    part, module = changed
    where = f"{part}{f' of {module}' if module else ''}{_code(e)}"
    if e.parts[0][part]["dtypes"].keys() != e.parts[1][part]["dtypes"].keys():
        dtypes = [", ".join(parts[part]["dtypes"]) or "none" for parts in e.parts]
        return Verdict("dtype", f"{where}: {dtypes[0]} in the run, {dtypes[1]} here")
    if part == "prepare":
        return Verdict("dropout key", f"keys, or augmentation: {where}")
    if part == "update":
        return Verdict("optimizer hyper-parameter", where)
    if rounding:
        return Verdict("reduction order", f"{where}: {size:.1e} apart, as by rounding")
    return Verdict("layer code", where)


def of_the_machine(e: Evidence) -> Verdict | None:
    """Versions, flags, cores, devices."""
    if not e.environment:
        told = "the step is laid out otherwise"
        return None if e.lowered else Verdict("reduction order", told)
    causes: dict[str, Cause] = {
        "version": "flag or version",
        "flag": "flag or version",
        "cores": "cores",
        "devices": "reduction order",
        "machine": "flag or version",
    }
    kinds = {each.kind for each in e.environment}
    cause: Cause = next(cause for kind, cause in causes.items() if kind in kinds)
    return Verdict(cause, "; ".join(map(str, e.environment)))


def of_the_numbers(e: Evidence) -> Verdict:
    """What is left where all that is known is equal."""
    run, here = e.apart.run, e.apart.here
    names = differing(run, here)
    where = f"{len(names)} leaves, first {names[0]}" if names else "in the state before or in this"
    told = "the same program gives something else on the same machine"
    return Verdict("gradient bit", f"{told}: {where}, a bit of a gradient or of the state")


def first_change(then: dict[str, Any], now: dict[str, Any]) -> tuple[str, str] | None:
    """(part, module) of the traced step that comes first of those that have changed."""
    for part in NAMES:
        old, new = then[part]["modules"], now[part]["modules"]
        if then[part]["digest"] != now[part]["digest"]:
            modules = [*old, *(name for name in new if name not in old)]
            return part, next((x for x in modules if old.get(x) != new.get(x)), "")
    return None


def apart_by(apart: Apart) -> float:
    """The relative difference of the first number that differs; 0 where none does, nan where that
    cannot be said."""
    for name, told in apart.run.numbers.items():
        if apart.here.numbers[name] != told:
            here, number = map(float.fromhex, (apart.here.numbers[name], told))
            return abs(here - number) / max(abs(number), 1e-30)
    return 0.0


def first_leaf(apart: Apart) -> str:
    """Which leaf differs first, and how many do."""
    names = differing(apart.run, apart.here)
    if not names:
        return "leaf, of which the run has kept no fingerprint"
    return f"{names[0]} ({len(names)} of {len(apart.run.leaves)} leaves differ)"


def describe(e: Evidence, verdict: Verdict) -> str:
    """The one line."""
    run, here, equal_at = e.apart.run, e.apart.here, e.apart.equal_at
    told = []
    if run.step:
        since = "init" if equal_at == 0 else f"state of step {equal_at}"
        told.append("state before it not known" if equal_at is None else f"{since} equal")
        told.append(f"batch {'equal' if run.batch == here.batch else 'differs'}")
    else:
        told.append(f"keys {'differ' if e.keys or e.seeds[0] != e.seeds[1] else 'equal'}")
    for name, number in run.numbers.items():
        other = here.numbers[name]
        differs = f"differs ({number}, here {other})"
        told.append(f"{name} {'equal' if number == other else differs}")
    if run.skipped != here.skipped:
        done = [f"skipped for {x.skipped}" if x.skipped else "taken" for x in (run, here)]
        told.append(f"{done[0]} in the run, {done[1]} here")
    if run.leaves:
        names = differing(run, here)
        some = f"{len(names)} of {len(run.leaves)} leaves differ, first {names[0]}" if names else ""
        told.append(some or "leaves equal")
    rerun = "agrees with itself" if e.apart.repeats else "does not agree with itself"
    return (
        f"DIVERGED at step {run.step}: {', '.join(told)}; local re-run {rerun} -> "
        f"{verdict.cause}: {verdict.because}"
    )


def _shape(told: str) -> str:
    return told.partition("[")[2]


def _code(e: Evidence) -> str:
    return f" ({', '.join(e.code[:3])} not as in the run)" if e.code else ""
