"""A comparison as a document: after the first two screens, each question of a careful reader."""

from collections.abc import Iterator, Mapping
from typing import Any

from lmjax.compare import figures, numerals
from lmjax.compare.document import (
    Block,
    Cell,
    Column,
    Commands,
    Document,
    Figures,
    Fold,
    Prose,
    Section,
    Table,
)
from lmjax.compare.figures import Report
from lmjax.compare.opening import name_of, opening, result
from lmjax.compare.run_sections import value_table

DIGEST = 16  # hex digits of a digest that are shown


def document(report: Report) -> Document:
    """The whole page."""
    e = report["experiment"]
    sizes = [f"{e['steps']:,} steps of {e['batch_size']:,}"]
    sizes += [] if e["parameters"] is None else [f"{e['parameters']:,} parameters"]
    return Document(
        report["title"],
        f"lmjax compare: {e['name']}, {', '.join(sizes)}, {e['data']['name']}",
        report["question"],
        opening(report),
        [
            result(report),
            speedups(report),
            tuning(report),
            costs(report),
            fairness(report),
            configuration(report),
            environment(report),
            reproduce(report),
        ],
        "Made by lmjax from report.json beside this page.",
    )


def speedups(report: Report) -> Section:
    """How much sooner."""
    told = f"How many times sooner a variant is at what {report['baseline']} ends with."
    rows: list[list[Cell]] = []
    for v in figures.ordered(report):
        steps, seconds = v["speedup_steps"], v["speedup_seconds"]
        if steps is None:
            continue
        why = steps.get("note") or (seconds or {}).get("note") or ""
        rows.append(
            [
                name_of(report, v),
                figures.speedup_words(steps),
                figures.speedup_words(seconds),
                numerals.count(steps["censored"]),
                figures.link_to((v["difference"] or {"cells": ()})["cells"]),
                why,
            ]
        )
    if not rows:
        return Section("speed-up", "Speed-up", [Prose(f"{told} Nothing is known of it yet.")])
    if any(v["speedup_steps"] and v["speedup_steps"]["censored"] for v in report["variants"]):
        told += " An arrow is a bound: on some seed it, or the baseline, did not get there."
    pair = [figures.speedups(report, unit) for unit in ("steps", "seconds")]
    titles = ("in steps [95 %]", "in seconds [95 %]", "seeds that bound it")
    columns = [Column("variant", numbers=False), *map(Column, titles)]
    columns.append(Column("cells", numbers=False))
    if any(row[-1] for row in rows):
        columns.append(Column("note", numbers=False))
    rows = [row[: len(columns)] for row in rows]
    return Section(
        "speed-up", "Speed-up", [Prose(told), Figures(pair), Table("Speed-ups", columns, rows)]
    )


def tuning(report: Report) -> Section:
    """How well each was tuned, and how much that matters."""
    rows: list[list[Cell]] = []
    for v in figures.ordered(report):
        trials, basin = v["tuning"]["trials"], v["sensitivity"]
        losses = [trial["loss"] for trial in trials if trial["loss"] is not None]
        best = min if figures.is_lower_better(report) else max
        rows.append(
            [
                name_of(report, v),
                numerals.count(len(trials)),
                numerals.MISSING if v["rate"] is None else numerals.rate(v["rate"]),
                "yes" if v["tuning"]["at_edge"] else "no",
                numerals.significant(best(losses, default=None)),
                numerals.fixed(basin["width_decades"] if basin else None, 2),
                numerals.count(len(trials) - len(losses)),
            ]
        )
    titles = (
        "trials",
        "best rate",
        "at the edge",
        f"best tuning {figures.metric_of(report)}",
        "basin, decades",
        "diverged",
    )
    columns = [Column("variant", numbers=False), *map(Column, titles)]
    blocks = [
        figures.sensitivity(report),
        Table("Tuning of each variant", columns, rows),
        figures.budget(report),
    ]
    return Section("tuning", "Tuning", [block for block in blocks if block is not None])


def costs(report: Report) -> Section:
    """What each costs, and what that does to its rank."""
    rows: list[list[Cell]] = []
    times = [v["costs"]["step_ms"]["median"] for v in report["variants"] if _timed(v)]
    for v in figures.ordered(report):
        found = v["costs"]
        if found is None:
            continue
        step = found["step_ms"] or {"median": None, "q1": None, "q3": None}
        over = found["over_sgd"] or {"median": None, "q1": None, "q3": None}
        rows.append(
            [
                name_of(report, v),
                numerals.with_interval(
                    step["median"], step["q1"], step["q3"], numerals.decimals(times)
                ),
                numerals.with_interval(over["median"], over["q1"], over["q3"], 2),
                numerals.significant(found["state_bytes_per_parameter"], 3),
                numerals.significant(found["state_copies"], 2),
                numerals.big(found["peak_bytes"], "B"),
                numerals.big(found["flops_per_step"], "FLOP"),
            ]
        )
    titles = ("step, ms [quartiles]", "over sgd [quartiles]", "state, bytes a parameter")
    titles += ("copies", "peak memory", "a step's FLOP")
    columns = [Column("variant", numbers=False), *map(Column, titles)]
    pair = [f for f in (figures.ranks(report), figures.step_times(report)) if f is not None]
    blocks: list[Block] = [Figures(pair)] if pair else []
    blocks.append(Table("Costs of each variant", columns, rows))
    return Section("costs", "Costs and ranks", blocks)


def _timed(variant: Mapping[str, Any]) -> bool:
    return variant["costs"] is not None and variant["costs"]["step_ms"] is not None


def fairness(report: Report) -> Section:
    """The proofs that all were treated alike."""
    columns = [Column(title, numbers=False) for title in ("claim", "holds", "proof")]
    columns.append(Column("cells", numbers=False, code=True))
    rows = [
        [row["claim"], "yes" if row["holds"] else "NO", row["proof"], figures.link_to(row["cells"])]
        for row in report["fairness"]
    ]
    blocks: list[Block] = [Table("Proofs of fairness", columns, rows)]
    if report["auxiliary"]:
        blocks.append(Prose(report["auxiliary"][:1].upper() + report["auxiliary"][1:]))
    return Section("fairness", "Fairness", blocks)


def configuration(report: Report) -> Section:
    """What makes each variant, and where their configurations differ."""
    rows = [
        [name_of(report, v), " ".join(v["words"]), _reference(v["reference"])]
        for v in report["variants"]
    ]
    columns = [Column("variant", numbers=False), Column("words", numbers=False, code=True)]
    columns.append(Column("reference", numbers=False))
    return Section(
        "configuration",
        "Configuration",
        [Table("Variants", columns, rows), *difference(report)],
    )


def _reference(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    code = f"{found['repository']}@{found['commit'][:7]}, {found['path']}"
    return f"{found['title']}, {found['paper']}; equal to {code}"


def difference(report: Report) -> list[Block]:
    """The fields that differ, a column for each variant."""
    table = value_table("Fields that differ", report["config_diff"])
    return [table or Prose("All other fields are the same.")]


def environment(report: Report) -> Section:
    """Where and with what it was computed."""
    data = report["experiment"]["data"]
    facts = {"data": data, **report["environment"]}
    return Section("environment", "Environment", [fact_table(facts)])


def fact_table(facts: Mapping[str, Any]) -> Table:
    """Dotted names and their values."""
    columns = [Column("what", numbers=False), Column("value", numbers=False, code=True)]
    rows = [[name, numerals.shown(value)] for name, value in _flat(facts)]
    return Table("Environment", columns, rows)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def reproduce(report: Report) -> Section:
    """The exact commands, and every cell there is."""
    found = report["reproduce"]
    metric, state = figures.metric_of(report), "state at the end"
    titles = ("cell", "variant", "purpose", "rate", "seed", metric, "seconds", state)
    words = {"cell", "variant", "purpose", state}
    columns = [Column(t, numbers=t not in words, code=t in ("cell", state)) for t in titles]
    rows: list[list[Cell]] = []
    for cell in found["cells"]:
        rows.append(
            [
                cell["id"],
                cell["variant"],
                cell["purpose"],
                numerals.MISSING if cell["rate"] is None else numerals.rate(cell["rate"]),
                str(cell["seed"]),
                "diverged" if cell["loss"] is None else numerals.significant(cell["loss"], 6),
                numerals.fixed(cell["seconds"], 1),
                (cell.get("state") or numerals.MISSING)[:DIGEST],
            ]
        )
    return Section(
        "reproduce",
        "How to reproduce it",
        [
            Prose("The whole comparison, then one cell by its ID, to the same bits:"),
            Commands([found["all"], found["cell"]]),
            Fold(f"All {len(rows)} cells", [Table("Cells", columns, rows, "cells")]),
        ],
    )
