"""report.json, made anew from the cells whenever a process ends."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from lmjax.compare import costs, directory, fairness
from lmjax.compare.budget import best_of
from lmjax.compare.cells import Cell, Json, curve
from lmjax.compare.estimate import LEVEL, Estimate, Interval, band, estimate
from lmjax.compare.paired import paired_difference, paired_log_ratio
from lmjax.compare.plan import Plan
from lmjax.compare.queue import Board, Trials
from lmjax.compare.ranking import ranks
from lmjax.compare.sensitivity import basin
from lmjax.compare.speedup import Curve, Speedup, crossing, in_seconds, speedup_to_final
from lmjax.compare.variants import TUNED
from lmjax.compare.verdict import Verdict, judge, no_verdict, summary
from lmjax.console import human
from lmjax.record import difference
from lmjax.runfiles import read_json, write_json

REPORT = "report.json"
SCHEMA = 1
TOLERANCE = 0.05  # of the fall of the loss that a rate may miss and still count as good

STATISTICS = (
    "Every variant is run on the same report seeds at the one rate that did best on the tuning "
    "seeds. Intervals are Student's over seeds, at 95 %; differences and speed-ups are paired by "
    "seed, the latter in logarithms, and a verdict is told where p after Holm's correction over "
    "all variants is at most .05. A speed-up is the baseline's updates (or seconds) to the loss "
    "that it ends with, over the variant's; a run that never gets there bounds it and gives no "
    "interval. Seconds are updates times the measured time of an update."
)


class Finished(NamedTuple):
    """What there is of one variant."""

    trials: Trials
    rate: float | None  # its best
    cells: dict[int, Json]  # report seed -> cell
    start: float | None  # the metric before any update, on the first tuning seed


def write(
    path: epath.Path, plan: Plan, board: Board, baselines: dict[str, float], seconds: float
) -> dict[str, Any]:
    """Write report.json and its pages; returns it."""
    report = make(path, plan, board, baselines, seconds)
    write_json(path / REPORT, report)
    return report


def make(
    path: epath.Path, plan: Plan, board: Board, baselines: dict[str, float], seconds: float
) -> dict[str, Any]:
    """report.json of what is finished.

    `baselines` are what the task reaches without training, in its headline.
    """
    found = {v.label: _finished(plan, board, v.label) for v in plan.variants}
    measured = costs.read(path)
    known = measured["costs"] if measured else {}
    held = read_json(path / directory.PLAN)
    all_cells = _all_cells(plan, board, found)
    expected = sum(1 for _ in _expected(plan, found))
    done = len(all_cells)
    verdicts = _verdicts(plan, found)
    first = plan.variant(plan.baseline).experiment
    variants = [_variant(plan, label, found, verdicts, known) for label in found]
    return {
        "schema": SCHEMA,
        "kind": "comparison",
        "partial": False if done >= expected else {"done": done, "of": expected},
        "title": f"{plan.base.name}: {', '.join(found)}",
        "question": _question(plan),
        "answer": summary(verdicts, baseline=plan.baseline),
        "experiment": {
            "name": plan.base.name,
            "steps": first.steps,
            "batch_size": first.batch_size,
            "parameters": known[plan.baseline]["parameters"] if known else None,
            "data": {"name": held["data_name"], "digest": plan.data[plan.baseline]},
            "metric": _metric(plan.metric),
            "headline": _metric(plan.headline),
        },
        "horizon": _horizon(plan, found, baselines),
        "baseline": plan.baseline,
        "variants": variants,
        "ranking": _ranking(plan, found, known),
        "fairness": fairness.rows(plan, found),
        "config_diff": config_diff(plan),
        "auxiliary": fairness.auxiliary(plan),
        "environment": _environment(held, measured, seconds),
        "reproduce": {
            "all": held["command"],
            "cell": f"uv run lmjax reproduce {path} --cell ID",
            "cells": [_row(plan, cell) for cell in all_cells],
        },
        "statistics": STATISTICS,
    }


def _finished(plan: Plan, board: Board, label: str) -> Finished:
    trials = board.trials(label)
    rate = trials.decision.best if trials.decision.rate is None else None
    cells = {} if rate is None else {c.seed: board.result(c) for c in board.reports(label, rate)}
    first = next(iter(trials.losses), None)
    tried = None if first is None else board.result(board.trial(label, first)[0])
    start = None if tried is None else curve(tried, plan.metric.name)[1][0]
    return Finished(trials, rate, {s: cell for s, cell in cells.items() if cell is not None}, start)


def _expected(plan: Plan, found: dict[str, Finished]) -> Any:
    """As many things as there are cells; a variant whose every rate diverged has none to report."""
    for each in found.values():
        yield from range(plan.trials * len(plan.tune_seeds))
        if each.trials.decision.rate is not None or each.rate is not None:
            yield from plan.report_seeds


def _all_cells(plan: Plan, board: Board, found: dict[str, Finished]) -> list[Json]:
    cells = []
    for label, each in found.items():
        for rate in each.trials.losses:
            cells += [board.result(cell) for cell in board.trial(label, rate)]
        cells += each.cells.values()
    return [cell for cell in cells if cell is not None]


def _question(plan: Plan) -> str:
    sort = "lowest" if plan.metric.better == "lower" else "highest"
    kinds = [v.words for v in plan.variants]
    optimizers = all(not words or words[0].startswith("optimizer:") for words in kinds)
    what = "optimizers" if optimizers else "variants"
    return (
        f"Which of {len(kinds)} {what} reaches the {sort} held-out {plan.metric.name} on "
        f"{plan.base.name} within {plan.base.steps} updates?"
    )


def _metric(metric: Any) -> Json:
    return {
        "name": metric.name,
        "unit": metric.unit,
        "direction": "down" if metric.better == "lower" else "up",
    }


def _finals(plan: Plan, cells: dict[int, Json], metric: str | None = None) -> dict[int, float]:
    """Seed -> what a cell ended with; where more is better, a diverged one has -inf."""
    chosen = plan.metric if metric is None else plan.headline
    values = {seed: curve(cell, chosen.name)[1][-1] for seed, cell in cells.items()}
    return {seed: _worst(chosen.better, value) for seed, value in values.items()}


def _worst(better: str, value: float) -> float:
    return -math.inf if math.isinf(value) and better == "higher" else value


def _pairs(plan: Plan, ours: Finished, theirs: Finished) -> list[int]:
    """The report seeds that both have finished."""
    return [seed for seed in plan.report_seeds if seed in ours.cells and seed in theirs.cells]


def _estimate(plan: Plan, ours: Finished, theirs: Finished) -> Estimate:
    seeds = _pairs(plan, ours, theirs)
    values = (_finals(plan, each.cells) for each in (ours, theirs))
    return paired_difference(*(np.array([v[seed] for seed in seeds]) for v in values))


def _why_not(plan: Plan, each: Finished) -> str | None:
    """Why a variant may not be judged; None = it may, or is not far enough to tell."""
    decision = each.trials.decision
    if decision.rate is not None:
        return f"{len(each.trials.losses)} of {plan.trials} trials are done"
    return None if decision.settled else decision.reason


def _verdicts(plan: Plan, found: dict[str, Finished]) -> dict[str, Verdict]:
    """Of every variant but the baseline."""
    theirs, ruled_out, estimates = found[plan.baseline], {}, {}
    without = _why_not(plan, theirs)
    for label, each in found.items():
        if label == plan.baseline:
            continue
        why = _why_not(plan, each)
        if why is None and without is not None:
            why = f"none on the baseline {plan.baseline} either: {without}"
        if why is not None:
            ruled_out[label] = no_verdict(label, why)
        else:
            estimates[label] = _estimate(plan, each, theirs)
    judged = judge(estimates, baseline=plan.baseline, better=plan.metric.better)
    return {label: (judged | ruled_out)[label] for label in found if label != plan.baseline}


def _variant(
    plan: Plan,
    label: str,
    found: dict[str, Finished],
    verdicts: dict[str, Verdict],
    known: dict[str, Any],
) -> Json:
    each, variant = found[label], plan.variant(label)
    verdict = verdicts.get(label)
    finals = _finals(plan, each.cells)
    told = estimate(np.array(list(finals.values())))
    heads = _finals(plan, each.cells, "headline")
    steps, seconds = _speedups(plan, label, found, known)
    why = None if verdict is not None and verdict.word != "no verdict" else _why_not(plan, each)
    return {
        "label": label,
        "words": list(variant.words),
        "reference": _reference(variant.experiment.optimizer.reference),
        "verdict": None if verdict is None else verdict.word,
        "sentence": f"{label} is the baseline." if verdict is None else verdict.sentence,
        "why": why,
        "rate": each.rate,
        "tuning": _tuning(plan, each, label),
        "final": {
            "mean": _plain(told.mean),
            **_bounds(told.interval),
            "values": [_plain(x) for x in finals.values()],
            "seeds": list(finals),
            "diverged": sum(cell["diverged"] is not None for cell in each.cells.values()),
            "cells": [cell["id"] for cell in each.cells.values()],
            "note": told.note,
        },
        "headline": {
            "mean": _plain(float(np.mean(list(heads.values())))) if heads else None,
            "values": [_plain(x) for x in heads.values()],
        },
        "difference": _difference(plan, label, found, verdict),
        "speedup_steps": steps,
        "speedup_seconds": seconds,
        "sensitivity": _sensitivity(plan, each),
        "budget_curve": _budget(plan, each),
        "costs": _costs(known.get(label)),
        "curve": _curve(plan, each),
    }


def _reference(reference: Any) -> Json | None:
    return None if reference is None else dataclasses.asdict(reference)


def _tuning(plan: Plan, each: Finished, label: str) -> Json:
    trials = [
        {
            "rate": rate,
            "loss": _plain(_unsigned(plan, float(np.mean(losses)))),
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
    seeds = _pairs(plan, ours, theirs)
    if not seeds:
        return None
    told = verdict.estimate or _estimate(plan, ours, theirs)
    return {
        "mean": _plain(told.mean),
        **_bounds(told.interval),
        "p": told.p,
        "p_holm": verdict.p_holm,
        "test": told.test,
        "note": told.note,
        "seeds_needed": verdict.seeds_needed,
        "seeds": seeds,
        "cells": [cell["id"] for seed in seeds for cell in (ours.cells[seed], theirs.cells[seed])],
    }


def _curves(plan: Plan, cells: dict[int, Json], seeds: list[int]) -> list[Curve]:
    """For speed-ups, where lower is better."""
    sign = 1.0 if plan.metric.better == "lower" else -1.0
    found = []
    for seed in seeds:
        steps, values = curve(cells[seed], plan.metric.name)
        found.append(Curve(np.array(steps), np.array([x if math.isinf(x) else sign * x for x in values])))
    return found


def _speedups(
    plan: Plan, label: str, found: dict[str, Finished], known: dict[str, Any]
) -> tuple[Json | None, Json | None]:
    """(in updates, in seconds)."""
    if label == plan.baseline:
        return None, None
    seeds = _pairs(plan, found[label], found[plan.baseline])
    if not seeds:
        return None, None
    ours, theirs = (_curves(plan, found[x].cells, seeds) for x in (label, plan.baseline))
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
        **_bounds(found.interval),
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
        return {"width_decades": None, "low": None, "high": None, "tolerance": None,
                "diverged": int(np.isinf(values).sum())}
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


def _budget(plan: Plan, each: Finished) -> list[list[float | None]]:
    """[k, expected best of k trials, least, most], in the metric."""
    losses = [float(np.mean(x)) for x in each.trials.losses.values()]
    if not losses:
        return []
    found = []
    for best in best_of(np.array(losses)):
        ends = [_plain(_unsigned(plan, x)) for x in (best.expected, best.low, best.high)]
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
        "mean": [_plain(x) for x in told.mean],
        "low": [_plain(x) for x in told.low],
        "high": [_plain(x) for x in told.high],
        "seeds": {str(seed): [_plain(x) for x in values] for seed, (_, values) in curves.items()},
        "cells": [cell["id"] for cell in each.cells.values()],
    }


def _ranking(plan: Plan, found: dict[str, Finished], known: dict[str, Any]) -> Json:
    """Per step by the final metric; per second by the time to what the baseline ends with.

    Variants without a verdict are not ranked.
    """
    labels = [label for label, each in found.items() if _why_not(plan, each) is None]
    shared = [s for s in plan.report_seeds if all(s in found[x].cells for x in labels)]
    none = {"per_step": [], "per_second": []}
    if not labels or not shared:
        return none
    finals = {x: _finals(plan, found[x].cells) for x in labels}
    values = {x: np.array([finals[x][seed] for seed in shared]) for x in labels}
    per_step = ranks(values, better=plan.metric.better)
    result = {**none, "per_step": [[each.name, each.rank] for each in per_step]}
    if plan.baseline not in labels or not known or len(shared) < 1:
        return result
    targets = [c.loss[-1] for c in _curves(plan, found[plan.baseline].cells, shared)]
    if not np.isfinite(targets).all():
        return result
    seconds = {}
    for label in labels:
        curves = _curves(plan, found[label].cells, shared)
        each = float(np.median(known[label]["step_seconds"]))
        reached = [crossing(c, float(t)).latest for c, t in zip(curves, targets, strict=True)]
        seconds[label] = each * np.maximum(np.array(reached), 1.0)
    per_second = ranks(seconds, better="lower", scale="log ratio")
    result["per_second"] = [[each.name, each.rank] for each in per_second]
    return result


def _horizon(plan: Plan, found: dict[str, Finished], baselines: dict[str, float]) -> Json:
    """Whether the best cell is worse than what the task can do without training."""
    values = [x for each in found.values() for x in _finals(plan, each.cells, "headline").values()]
    told = {"short": False, "why": None, "metric": plan.headline.name, "baselines": baselines}
    if not values or not baselines:
        return told
    choose = min if plan.headline.better == "lower" else max
    best = choose(values)
    name, bar = choose(baselines.items(), key=lambda item: item[1])
    if best == bar or choose(best, bar) == best:
        return told
    why = (
        f"the best cell has a {plan.headline.name} of {best:.4g}, worse than the {bar:.4g} of "
        f"the {name}"
    )
    return {**told, "short": True, "why": why}


def config_diff(plan: Plan) -> list[Json]:
    """Every field in which variants differ, with the value that each has."""
    fields: dict[str, dict[str, Any]] = {}
    first = plan.variants[0].experiment
    for label, _, experiment in plan.variants:
        for path, (was, now) in difference(first, experiment).items():
            if path == TUNED:
                continue
            fields.setdefault(path, {v.label: was for v in plan.variants})
            fields[path][label] = now
    return [{"field": path, "values": values} for path, values in fields.items()]


def _environment(held: Json, measured: Json | None, seconds: float) -> Json:
    machine = {
        "machine": held["devices"],
        "versions": held["versions"],
        "lmjax": held["lmjax"],
        "commit": held["commit"],
        "dirty": held["dirty"],
        "begun": held["begun"],
        "strategy": {**held["strategy"], **held["strategy_measured"]},
        "seconds_total": seconds,
        "command": held["command"],
    }
    if measured is not None:
        machine["updates_in_a_block"] = measured["updates_in_a_block"]
    return machine


def _row(plan: Plan, cell: Json) -> Json:
    value = curve(cell, plan.metric.name)[1][-1]
    return {
        **{name: cell[name] for name in ("id", "variant", "rate", "seed", "purpose", "seconds")},
        "loss": _plain(value),
        "diverged": cell["diverged"],
        "state": cell["bits"]["state"],
    }


def _bounds(interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return {"low": None, "high": None}
    return {"low": _plain(interval.low), "high": _plain(interval.high)}


def _plain(value: float | None) -> float | None:
    """For JSON, which has no word for what is not finite."""
    return value if value is not None and math.isfinite(value) else None


def to_text(report: dict[str, Any]) -> str:
    """The verdicts, for a terminal."""
    lines = [report["question"]]
    if report["horizon"]["short"]:
        lines.append(f"SHORT HORIZON: {report['horizon']['why']}")
    if report["partial"]:
        lines.append("PARTIAL: {done} of {of} cells".format(**report["partial"]))
    lines += [variant["sentence"] for variant in report["variants"]]
    return "\n".join(lines)
