"""What there is of each variant, and what may be said about it."""

import math
from typing import NamedTuple

import numpy as np

from lmjax.compare.cells import Json, curve
from lmjax.compare.estimate import Estimate
from lmjax.compare.paired import paired_difference
from lmjax.compare.plan import Plan
from lmjax.compare.queue import Board, Trials
from lmjax.compare.speedup import Curve
from lmjax.compare.verdict import Verdict, judge, no_verdict


class Finished(NamedTuple):
    """What there is of one variant."""

    trials: Trials
    rate: float | None  # its best
    cells: dict[int, Json]  # report seed -> cell
    start: float | None  # the metric before any update, on the first tuning seed


def finished(plan: Plan, board: Board, label: str) -> Finished:
    trials = board.trials(label)
    rate = trials.decision.best if trials.decision.rate is None else None
    cells = {} if rate is None else {c.seed: board.result(c) for c in board.reports(label, rate)}
    first = next(iter(trials.losses), None)
    tried = None if first is None else board.result(board.trial(label, first)[0])
    start = None if tried is None else curve(tried, plan.metric.name)[1][0]
    return Finished(trials, rate, {s: cell for s, cell in cells.items() if cell is not None}, start)


def finals(plan: Plan, cells: dict[int, Json], metric: str | None = None) -> dict[int, float]:
    """Seed -> what a cell ended with; where more is better, a diverged one has -inf."""
    chosen = plan.metric if metric is None else plan.headline
    values = {seed: curve(cell, chosen.name)[1][-1] for seed, cell in cells.items()}
    return {seed: _worst(chosen.better, value) for seed, value in values.items()}


def _worst(better: str, value: float) -> float:
    return -math.inf if math.isinf(value) and better == "higher" else value


def pairs(plan: Plan, ours: Finished, theirs: Finished) -> list[int]:
    """The report seeds that both have finished."""
    return [seed for seed in plan.report_seeds if seed in ours.cells and seed in theirs.cells]


def difference_of(plan: Plan, ours: Finished, theirs: Finished) -> Estimate:
    seeds = pairs(plan, ours, theirs)
    values = (finals(plan, each.cells) for each in (ours, theirs))
    return paired_difference(*(np.array([v[seed] for seed in seeds]) for v in values))


def why_not(plan: Plan, each: Finished) -> str | None:
    """Why a variant may not be judged; None = it may, or is not far enough to tell."""
    decision = each.trials.decision
    if decision.rate is not None:
        return f"{len(each.trials.losses)} of {plan.trials} trials are done"
    return None if decision.settled else decision.reason


def verdicts_of(plan: Plan, found: dict[str, Finished]) -> dict[str, Verdict]:
    """Of every variant but the baseline."""
    theirs, ruled_out, estimates = found[plan.baseline], {}, {}
    without = why_not(plan, theirs)
    for label, each in found.items():
        if label == plan.baseline:
            continue
        why = why_not(plan, each)
        if why is None and without is not None:
            why = f"none on the baseline {plan.baseline} either: {without}"
        if why is not None:
            ruled_out[label] = no_verdict(label, why)
        else:
            estimates[label] = difference_of(plan, each, theirs)
    judged = judge(estimates, baseline=plan.baseline, better=plan.metric.better)
    return {label: (judged | ruled_out)[label] for label in found if label != plan.baseline}


def curves_of(plan: Plan, cells: dict[int, Json], seeds: list[int]) -> list[Curve]:
    """For speed-ups, where lower is better."""
    sign = 1.0 if plan.metric.better == "lower" else -1.0
    found = []
    for seed in seeds:
        steps, values = curve(cells[seed], plan.metric.name)
        signed = [x if math.isinf(x) else sign * x for x in values]
        found.append(Curve(np.array(steps), np.array(signed)))
    return found
