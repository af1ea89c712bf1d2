"""The entry of one variant in report.json."""

import dataclasses
import math
from typing import Any

import numpy as np

from lmjax.compare import costs
from lmjax.compare.budget import best_of
from lmjax.compare.cells import Cell, Json, curve
from lmjax.compare.estimate import Interval, band, estimate
from lmjax.compare.finished import Finished, curves_of, difference_of, finals, pairs, why_not
from lmjax.compare.paired import paired_log_ratio
from lmjax.compare.plan import Plan
from lmjax.compare.sensitivity import basin
from lmjax.compare.speedup import Speedup, in_seconds, speedup_to_final
from lmjax.compare.verdict import Verdict

TOLERANCE = 0.05  # of the fall of the loss that a rate may miss and still count as good


def entry(
    plan: Plan,
    label: str,
    found: dict[str, Finished],
    verdicts: dict[str, Verdict],
    known: dict[str, Any],
) -> Json:
    each, variant = found[label], plan.variant(label)
    verdict = verdicts.get(label)
    ends = finals(plan, each.cells)
    told = estimate(np.array(list(ends.values())))
    heads = finals(plan, each.cells, "headline")
    steps, seconds = _speedups(plan, label, found, known)
    why = None if verdict is not None and verdict.word != "no verdict" else why_not(plan, each)
    return {
        "label": label,
        "words": list(variant.words),
        "reference": _reference(variant.experiment.optimizer.reference),
        "verdict": None if verdict is None else verdict.word,
        "sentence": _of_baseline(label, why) if verdict is None else verdict.sentence,
        "why": why,
        "rate": each.rate,
        "tuning": _tuning(plan, each, label),
        "final": {
            "mean": plain(told.mean),
            **bounds(told.interval),
            "values": [plain(x) for x in ends.values()],
            "seeds": list(ends),
            "diverged": sum(cell["diverged"] is not None for cell in each.cells.values()),
            "cells": [cell["id"] for cell in each.cells.values()],
            "note": told.note,
        },
        "headline": {
            "mean": plain(float(np.mean(list(heads.values())))) if heads else None,
            "values": [plain(x) for x in heads.values()],
        },
        "difference": _difference(plan, label, found, verdict),
        "speedup_steps": steps,
        "speedup_seconds": seconds,
        "sensitivity": _sensitivity(plan, each),
        "budget_curve": _budget(plan, each),
        "costs": _costs(known.get(label)),
        "curve": _curve(plan, each),
    }


def _of_baseline(label: str, why: str | None) -> str:
    return f"{label} is the baseline" + (f", and may not be judged by: {why}" if why else ".")


def _reference(reference: Any) -> Json | None:
    return reference and {**dataclasses.asdict(reference), "paper": reference.paper_url}


def _tuning(plan: Plan, each: Finished, label: str) -> Json:
    trials = [
        {
            "rate": rate,
            "loss": plain(_unsigned(plan, float(np.mean(losses)))),
            "diverged": sum(map(math.isinf, losses)),
            "cell": Cell(label, rate, plan.tune_seeds[0], "tune").id,
            "cells": [Cell(label, rate, seed, "tune").id for seed in plan.tune_seeds],
        }
        for rate, losses in each.trials.losses.items()
    ]
    decision = each.trials.decision
    return {
        "trials": trials,
        "at_edge": decision.rate is None and decision.edge != "inside",
        "edge": decision.edge,
        "reason": decision.reason,
        "seeds": list(plan.tune_seeds),
        "window": list(plan.windows[label]),
    }


def _unsigned(plan: Plan, loss: float) -> float:
    """A trial's loss, which is lower where it is better, as the metric again."""
    return loss if plan.metric.better == "lower" else -loss


def _difference(
    plan: Plan, label: str, found: dict[str, Finished], verdict: Verdict | None
) -> Json | None:
    """The final metric minus the baseline's, paired by seed; also where there is no verdict."""
    if label == plan.baseline or verdict is None:
        return None
    ours, theirs = found[label], found[plan.baseline]
    seeds = pairs(plan, ours, theirs)
    if not seeds:
        return None
    told = verdict.estimate or difference_of(plan, ours, theirs)
    return {
        "mean": plain(told.mean),
        **bounds(told.interval),
        "p": told.p,
        "p_holm": verdict.p_holm,
        "test": told.test,
        "note": told.note,
        "seeds_needed": verdict.seeds_needed,
        "seeds": seeds,
        "cells": [cell["id"] for seed in seeds for cell in (ours.cells[seed], theirs.cells[seed])],
    }


def _speedups(
    plan: Plan, label: str, found: dict[str, Finished], known: dict[str, Any]
) -> tuple[Json | None, Json | None]:
    """(in updates, in seconds)."""
    if label == plan.baseline:
        return None, None
    seeds = pairs(plan, found[label], found[plan.baseline])
    if not seeds:
        return None, None
    ours, theirs = (curves_of(plan, found[x].cells, seeds) for x in (label, plan.baseline))
    steps = speedup_to_final(ours, theirs)
    if not known:
        return _speedup(steps), None
    times = (np.array(known[x]["step_seconds"]) for x in (label, plan.baseline))
    return _speedup(steps), _speedup(in_seconds(steps, paired_log_ratio(*times)))


def _speedup(found: Speedup) -> Json:
    bound = None
    if found.bound in (">=", "<=") and found.ratio is not None:
        bound = f"{found.bound} {found.ratio:.3g}"
    return {
        "ratio": None if found.ratio is None or math.isinf(found.ratio) else found.ratio,
        **bounds(found.interval),
        "censored": found.censored,
        "pairs": found.pairs,
        "bound": bound,
        "note": found.note,
        "text": found.text,
    }


def _sensitivity(plan: Plan, each: Finished) -> Json | None:
    """The rates that lose at most TOLERANCE of what the best one gains."""
    losses = each.trials.losses
    if not losses:
        return None
    values = np.array(list(losses.values()), np.float64)
    means = values.mean(axis=1)
    if not np.isfinite(means).any():
        return None
    start = _unsigned(plan, math.inf if each.start is None else each.start)
    gained = max(start - float(means.min()), 0.0)
    found = basin(np.array(list(losses)), values, TOLERANCE * gained)
    return {
        "width_decades": found.decades,
        "low": found.low,
        "high": found.high,
        "open_low": found.open_low,
        "open_high": found.open_high,
        "tolerance": TOLERANCE * gained,
        "diverged": found.diverged,
        "diverged_rates": list(found.diverged_rates),
    }


def _budget(plan: Plan, each: Finished) -> list[list[Any]]:
    """[k, expected best of k trials, least, most], in the metric."""
    losses = [float(np.mean(x)) for x in each.trials.losses.values()]
    if not losses:
        return []
    found = []
    for best in best_of(np.array(losses)):
        ends = [plain(_unsigned(plan, x)) for x in (best.expected, best.least, best.most)]
        if plan.metric.better == "higher":
            ends = [ends[0], ends[2], ends[1]]
        found.append([best.trials, *ends])
    return found


def _costs(known: Any) -> Json | None:
    if known is None:
        return None
    names = ("state_bytes_per_parameter", "state_copies", "peak_bytes", "flops_per_step")
    return {
        **{name: known[name] for name in names},
        "flops_unseen": known["flops_unseen"],
        "step_ms": costs.quartiles([1e3 * x for x in known["step_seconds"]]),
        "over_sgd": costs.quartiles(known["over_sgd"]),
        "rounds": len(known["step_seconds"]),
    }


def _curve(plan: Plan, each: Finished) -> Json:
    curves = {seed: curve(cell, plan.metric.name) for seed, cell in each.cells.items()}
    if not curves:
        return {"steps": [], "mean": [], "low": [], "high": [], "seeds": {}}
    steps = next(iter(curves.values()))[0]
    told = band(np.array([values for _, values in curves.values()]))
    return {
        "steps": steps,
        "mean": [plain(x) for x in told.mean],
        "low": [plain(x) for x in told.low],
        "high": [plain(x) for x in told.high],
        "seeds": {str(seed): [plain(x) for x in values] for seed, (_, values) in curves.items()},
        "cells": [cell["id"] for cell in each.cells.values()],
    }


def bounds(interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return {"low": None, "high": None}
    return {"low": plain(interval.low), "high": plain(interval.high)}


def plain(value: float | None) -> float | None:
    """For JSON, which has no word for what is not finite."""
    return value if value is not None and math.isfinite(value) else None
