"""report.json, made anew from the cells whenever a process ends."""

import shlex
from typing import Any

import numpy as np
from etils import epath

from lmjax.compare import costs, fairness
from lmjax.compare.cells import Json, curve
from lmjax.compare.entry import entry, plain
from lmjax.compare.finished import Finished, curves_of, finals, finished, verdicts_of, why_not
from lmjax.compare.page import write_pages
from lmjax.compare.plan import Metric, Plan
from lmjax.compare.queue import Board
from lmjax.compare.ranking import ranks
from lmjax.compare.speedup import crossing
from lmjax.compare.variants import TUNED
from lmjax.compare.verdict import summary
from lmjax.record import difference
from lmjax.runfiles import PLAN, read_json, write_json

REPORT = "report.json"
SCHEMA = 1

STATISTICS = (
    "Every variant is run on the same report seeds at the one rate that did best on the tuning "
    "seeds. Intervals are Student's over seeds, at 95 %; differences and speed-ups are paired by "
    "seed, the latter in logarithms, and a verdict is told where p after Holm's correction over "
    "all variants is at most .05. A speed-up is the baseline's updates (or seconds) to what "
    "it ends with, over the variant's; a run that never gets there bounds it and gives no "
    "interval. Seconds are updates times the measured time of an update."
)


def write(
    path: epath.Path, plan: Plan, board: Board, baselines: dict[str, float]
) -> dict[str, Any]:
    """Write report.json and its pages; returns it."""
    report = make(path, plan, board, baselines)
    write_json(path / REPORT, report)
    write_pages(report, str(path))
    return report


def make(path: epath.Path, plan: Plan, board: Board, baselines: dict[str, float]) -> dict[str, Any]:
    """report.json of what is finished.

    `baselines` are what the task reaches without training, in its headline.
    """
    found = {v.label: finished(plan, board, v.label) for v in plan.variants}
    measured = costs.read(path, list(found))
    known = measured["costs"] if measured else {}
    held = read_json(path / PLAN)
    all_cells = _all_cells(plan, board, found)
    expected = sum(1 for _ in _expected(plan, found))
    done = len(all_cells)
    verdicts = verdicts_of(plan, found)
    first = plan.variant(plan.baseline).experiment
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
        "variants": [entry(plan, label, found, verdicts, known) for label in found],
        "ranking": _ranking(plan, found, known),
        "fairness": fairness.rows(plan, found, all_cells),
        "config_diff": config_diff(plan),
        "auxiliary": fairness.auxiliary(plan),
        "environment": _environment(held, measured, all_cells),
        "reproduce": {
            "all": held["command"],
            "cell": f"uv run lmjax reproduce {shlex.quote(str(path))} --cell ID{_code(plan)}",
            "cells": [_row(plan, cell) for cell in all_cells],
        },
        "statistics": STATISTICS,
    }


def _code(plan: Plan) -> str:
    """The flag without which no file of one's own is run."""
    return f" --code {shlex.quote(plan.name)}" if plan.name.endswith(".py") else ""


def _expected(plan: Plan, found: dict[str, Finished]) -> Any:
    """As many things as there are cells; a variant whose every rate diverged has none to report."""
    for each in found.values():
        ended = each.trials.decision.rate is None  # maybe before all its trials: see window.py
        trials = len(each.trials.losses) if ended else plan.trials
        yield from range(trials * len(plan.tune_seeds))
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
    budgets = {v.experiment.steps for v in plan.variants}
    within = f"{budgets.pop()} updates" if len(budgets) == 1 else "its own number of updates"
    return (
        f"Which of {len(kinds)} {what} reaches the {sort} held-out {plan.metric.name} on "
        f"{plan.base.name} within {within}?"
    )


def _metric(metric: Metric) -> Json:
    return {
        "name": metric.name,
        "unit": metric.unit,
        "direction": "down" if metric.better == "lower" else "up",
    }


def _ranking(plan: Plan, found: dict[str, Finished], known: dict[str, Any]) -> Json:
    """Per step by the final metric; per second by the time to what the baseline ends with, and
    behind those that get there the others, by the final metric.

    Variants without a verdict are not ranked.
    """
    labels = [label for label, each in found.items() if why_not(plan, each) is None]
    shared = [s for s in plan.report_seeds if all(s in found[x].cells for x in labels)]
    none = {"per_step": [], "per_second": []}
    if not labels or not shared:
        return none
    ends = {x: finals(plan, found[x].cells) for x in labels}
    values = {x: np.array([ends[x][seed] for seed in shared]) for x in labels}
    per_step = ranks(values, better=plan.metric.better)
    result = {**none, "per_step": [[each.name, each.rank] for each in per_step]}
    if plan.baseline not in labels or not known:
        return result
    targets = [c.loss[-1] for c in curves_of(plan, found[plan.baseline].cells, shared)]
    if not np.isfinite(targets).all():
        return result
    seconds = {}
    for label in (each.name for each in per_step):  # the order of those that are tied
        curves = curves_of(plan, found[label].cells, shared)
        each = float(np.median(known[label]["step_seconds"]))
        reached = [crossing(c, float(t)).latest for c, t in zip(curves, targets, strict=True)]
        seconds[label] = each * np.maximum(np.array(reached), 1.0)
    per_second = ranks(seconds, better="lower", scale="log ratio")
    result["per_second"] = [[each.name, each.rank] for each in per_second]
    return result


def _horizon(plan: Plan, found: dict[str, Finished], baselines: dict[str, float]) -> Json:
    """Whether the best cell is worse than what the task can do without training."""
    values = [x for each in found.values() for x in finals(plan, each.cells, "headline").values()]
    told = {"short": False, "why": None, "metric": plan.headline.name, "baselines": baselines}
    if not values or not baselines:
        return told
    choose = min if plan.headline.better == "lower" else max
    best = choose(values)
    name, bar = choose(baselines.items(), key=lambda item: item[1])
    if best == bar or choose(best, bar) == best:
        return told
    why = f"the best cell's {plan.headline.name} is {best:.4g}, worse than {bar:.4g} of the {name}"
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


def _environment(held: Json, measured: Json | None, all_cells: list[Json]) -> Json:
    about, code = held["environment"], held["code"]
    machine = about["machine"] | {"cores": len(about["machine"]["cores"])}
    del machine["processor_flags"]
    return {
        "machine": {
            **machine,
            "device": f"{about['devices']['count']} x {about['devices']['kind']}",
        },
        "versions": about["versions"],
        "lmjax": held["lmjax"],
        "commit": code["commit"],
        "dirty": bool(code["changed"]),
        "begun": held["begun"],
        "strategy": {**held["strategy"], **held["strategy_measured"]},
        "updates_in_a_timed_block": measured and measured["updates_in_a_block"],
        "seconds_of_all_cells": sum(cell["seconds"] for cell in all_cells),
        "command": held["command"],
    }


def _row(plan: Plan, cell: Json) -> Json:
    value = curve(cell, plan.metric.name)[1][-1]
    return {
        **{name: cell[name] for name in ("id", "variant", "rate", "seed", "purpose", "seconds")},
        "loss": plain(value),
        "diverged": cell["diverged"],
        "state": cell["bits"]["state"],
    }


def to_text(report: dict[str, Any]) -> str:
    """The verdicts, for a terminal."""
    lines = [report["question"]]
    if report["horizon"]["short"]:
        lines.append(f"SHORT HORIZON: {report['horizon']['why']}")
    if report["partial"]:
        lines.append("PARTIAL: {done} of {of} cells".format(**report["partial"]))
    lines += [variant["sentence"] for variant in report["variants"]]
    return "\n".join(lines)
