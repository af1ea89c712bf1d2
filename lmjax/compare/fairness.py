"""What makes a comparison fair, each claim with its proof from the cells themselves."""

import collections
from collections.abc import Callable, Iterable
from typing import Any

from lmjax.compare.cells import Json, curve
from lmjax.compare.plan import Plan, evaluation_steps, matrix_methods
from lmjax.compare.variants import departures

LEAVES = {"embedding": "embeddings", "head": "output head", "vector": "biases and norms"}
SHOWN = 12  # hex digits of a hash


def rows(plan: Plan, found: dict[str, Any], all_cells: list[Json]) -> list[Json]:
    """A row for each claim; `found` has what there is of each variant (assemble.Finished), and
    `all_cells` those that were tuned by beside those that are reported."""
    cells = [cell for each in found.values() for cell in each.cells.values()]
    return [
        _same_batches(cells),
        _equal("the same weights at step 0, for each seed", cells, lambda c: c["bits"]["init"]),
        _equal("the same held-out loss at step 0, for each seed", cells, _first_loss),
        _budget(plan),
        _trials(plan, found),
        _seeds(plan, found),
        _edges(plan, found),
        settings(plan),
        *_same_auxiliary(plan),
        _strategy(all_cells),
    ]


def auxiliary(plan: Plan) -> str | None:
    """What the matrix methods leave to another rule; None where there are none."""
    known = matrix_methods(plan)
    if not known:
        return None
    labels: dict[tuple[str, ...], list[str]] = {}
    for label, optimizer in known.items():
        labels.setdefault(optimizer.left, []).append(label)
    moved = "; ".join(
        f"{', '.join(LEAVES[role] for role in left)} in {', '.join(each)}"
        for left, each in labels.items()
    )
    rules = {optimizer.auxiliary for optimizer in known.values()}
    if len(rules) > 1:
        return f"{moved}: AdamW with other settings in each"
    (rule,) = rules
    told = f"rate {rule.learning_rate:g}, b1 {rule.b1:g}, b2 {rule.b2:g}"
    return f"{moved}: the same AdamW in all ({told})"


def settings(plan: Plan) -> Json:
    """Which settings of optimizers, beside the rate, are not the defaults of their classes.

    What is so in all variants favours none. Else somebody has chosen it for some of them: by words
    of an axis, or the experiment's author for its own optimizer.
    """
    own = {v.label: departures(v.experiment.optimizer) for v in plan.variants}
    first, *others = own.values()
    shared = {path: x for path, x in first.items() if all(each.get(path) == x for each in others)}
    kinds = {v.label: type(v.experiment.optimizer) for v in plan.variants}
    told = []
    for label, each in own.items():
        apart = {path: x for path, x in each.items() if path not in shared}
        kept = kinds[label] is type(plan.base.optimizer) and len(set(kinds.values())) > 1
        mark = " (the experiment's own)" if kept else ""
        told += [f"{label}{mark}: {_values(apart)}"] if apart else []
    claim = "every setting but the rate at its optimizer's default, or the same in all"
    proof = [*told, *([f"in all: {_values(shared)}"] if shared else [])]
    return _row(claim, "; ".join(proof) or "all at their defaults", not told)


def _values(changed: dict[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{path} {new} (default {old})" for path, (old, new) in changed.items())


def _same_batches(cells: list[Json]) -> Json:
    """A cell that diverged ended early, and so has no hash of all its batches."""
    whole = [cell for cell in cells if cell["diverged"] is None]
    lost = len(cells) - len(whole)
    note = f"not among them: {lost} that diverged, and so ended early" if lost else ""
    claim = "the same batches in the same order, for each seed"
    return _equal(claim, whole, lambda c: c["bits"]["batches"], note)


def _first_loss(cell: Json) -> float:
    return curve(cell, "loss")[1][0]


def _equal(claim: str, cells: list[Json], value: Callable[[Json], Any], note: str = "") -> Json:
    """That something is equal in all cells of a seed; the note ends the proof."""
    seeds: dict[int, list[Any]] = {}
    for cell in cells:
        seeds.setdefault(cell["seed"], []).append(value(cell))
    told = []
    for seed, values in seeds.items():
        most = max(set(values), key=values.count)
        shown = most[:SHOWN] if isinstance(most, str) else f"{most!r}"
        told.append(f"seed {seed}: {shown} in {values.count(most)} of {len(values)}")
    told += [note] if note else []
    holds = all(len(set(values)) == 1 for values in seeds.values())
    return _row(claim, "; ".join(told) or "no cell yet", holds, cells)


def _row(claim: str, proof: str, holds: bool, cells: Iterable[Json] = ()) -> Json:
    return {"claim": claim, "proof": proof, "holds": holds, "cells": [c["id"] for c in cells]}


def _budget(plan: Plan) -> Json:
    budgets = {
        v.label: (v.experiment.steps, v.experiment.batch_size, evaluation_steps(v.experiment.steps))
        for v in plan.variants
    }
    steps, size, points = next(iter(budgets.values()))
    if len(set(budgets.values())) == 1:
        proof = f"{steps} updates of {size} for all, evaluated {len(points)} times"
    else:
        proof = ", ".join(f"{k}: {a} updates of {b}" for k, (a, b, _) in budgets.items())
    return _row("the same budget of training", proof, len(set(budgets.values())) == 1)


def _trials(plan: Plan, found: dict[str, Any]) -> Json:
    counts = {label: len(each.trials.losses) for label, each in found.items()}
    seeds = len(plan.tune_seeds)
    proof = f"{plan.trials} rates each, on {seeds} tuning seed{'s' * (seeds != 1)}"
    if set(counts.values()) != {plan.trials}:
        told = ", ".join(f"{label} {count}" for label, count in counts.items())
        proof = f"trials made, of {plan.trials} each: {told}"
    early = [
        f"{label} ended early: {each.trials.decision.reason}"
        for label, each in found.items()
        if each.trials.decision.rate is None and counts[label] < plan.trials
    ]
    equal = len(set(counts.values())) == 1
    return _row("the same number of trials", "; ".join([proof, *early]), equal)


def _seeds(plan: Plan, found: dict[str, Any]) -> Json:
    tune, report = ", ".join(map(str, plan.tune_seeds)), ", ".join(map(str, plan.report_seeds))
    done = {frozenset(each.cells) for each in found.values() if each.rate is not None}
    return _row(
        "tuned on some seeds, reported on others, the same for all",
        f"tuned on {tune}; reported on {report}",
        not set(plan.tune_seeds) & set(plan.report_seeds) and len(done) <= 1,
    )


def _edges(plan: Plan, found: dict[str, Any]) -> Json:
    out = [label for label, each in found.items() if not each.trials.decision.settled]
    proof = "inside what was tried for all"
    if out:
        proof = "; ".join(f"{label}: {found[label].trials.decision.reason}" for label in out)
    return _row("no best rate at the edge of what was tried", proof, not out)


def _same_auxiliary(plan: Plan) -> list[Json]:
    known = matrix_methods(plan)
    if len(known) < 2:
        return []
    equal = len({x.auxiliary for x in known.values()}) == 1
    claim = "one auxiliary rule, with the same settings, for all matrix methods"
    return [_row(claim, auxiliary(plan) or "", equal)]


def _strategy(cells: list[Json]) -> Json:
    names = sorted({cell["strategy"] for cell in cells})
    machines = collections.Counter(cell["machine"] for cell in cells)
    several = [f"{name} for {count} of the cells" for name, count in sorted(machines.items())]
    told = ", ".join(several if len(machines) > 1 else machines)
    proof = f"{', '.join(names)}; machine and code {told}"
    return _row(
        "all cells computed in one way, by one code on one kind of machine",
        proof if cells else "no cell yet",
        len(names) < 2 and len(machines) < 2,
    )
