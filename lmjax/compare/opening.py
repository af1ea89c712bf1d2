"""The first two screens: which, by how much, how sure, at what cost, and how to check it."""

import itertools
import shlex
from collections.abc import Mapping
from typing import Any

from lmjax.compare import figures, numerals
from lmjax.compare.document import (
    Block,
    Cell,
    Column,
    Commands,
    Fold,
    Link,
    Name,
    Notice,
    Prose,
    Section,
    Table,
    Verdict,
    Verdicts,
)
from lmjax.compare.figures import Report
from lmjax.compare.schema import VERDICTS

MOST_SENTENCES = 4  # verdicts on the first screen; more than these are put together by kind
BASELINE = "baseline"


def opening(report: Report) -> list[Block]:
    """The first screen."""
    picture = figures.curves(report) or Prose("No variant has a report cell yet.")
    return [*notices(report), verdicts(report), *meaning(report), picture]


def notices(report: Report) -> list[Block]:
    """What weakens all that follows."""
    found: list[Block] = []
    if report["partial"]:
        done, of = report["partial"]["done"], report["partial"]["of"]
        told = f"{done} of {of} cells are done; everything below may still change."
        found.append(Notice("Partial", told))
    if report["horizon"]["short"]:
        why = report["horizon"]["why"] or "the best cell does not pass the baseline"
        told = f"{why}. Longer training may rank these variants otherwise."
        found.append(Notice("Short horizon", told[:1].upper() + told[1:]))
    broken = [row["claim"] for row in report["fairness"] if not row["holds"]]
    if broken:
        found.append(Notice("Does not hold", f"{'; '.join(broken)} (see Fairness)."))
    return found


def verdicts(report: Report) -> Verdicts:
    """A sentence for each variant, or for each verdict where there are many variants."""
    others = [v for v in figures.ordered(report) if v["label"] != report["baseline"]]
    others.sort(key=lambda v: VERDICTS.index(verdict_of(report, v)))
    if len(others) <= MOST_SENTENCES:
        return Verdicts([(Verdict(verdict_of(report, v)), v["sentence"]) for v in others])
    rows, places = [], _difference_places(report)
    for verdict, kind in itertools.groupby(others, key=lambda v: verdict_of(report, v)):
        rows.append((Verdict(verdict), ", ".join(_with_difference(v, places) for v in kind)))
    return Verdicts(rows)


def verdict_of(report: Report, variant: Mapping[str, Any]) -> str:
    """One of four words, or "baseline"."""
    if variant["label"] == report["baseline"]:
        return BASELINE
    return variant["verdict"] or "no verdict"


def meaning(report: Report) -> list[Block]:
    """What the numbers behind the names are, where verdicts are put together by kind."""
    if len(report["variants"]) - 1 <= MOST_SENTENCES:
        return []
    told = f"In brackets: {difference_of(report)}. Intervals are in the table below."
    return [Prose(told)]


def difference_of(report: Report) -> str:
    """What a difference is of."""
    return f"final {figures.axis_name(report)} minus that of {report['baseline']}"


def _with_difference(variant: Mapping[str, Any], places: int) -> str:
    found = variant["difference"]
    if found is None or found["mean"] is None:
        return variant["label"]
    return f"{variant['label']} ({numerals.fixed(found['mean'], places, True)})"


def _difference_places(report: Report) -> int:
    """Decimals of all differences."""
    differences = [v["difference"] for v in report["variants"] if v["difference"]]
    return numerals.decimals(
        [found["mean"] for found in differences],
        [figures.half(found["low"], found["high"]) for found in differences],
    )


def name_of(report: Report, variant: Mapping[str, Any]) -> Name:
    """A variant in its colour."""
    return Name(variant["label"], figures.slots(report)[variant["label"]])


def result(report: Report) -> Section:
    """Which, by how much, how sure, at what cost, and how to check it, in one table."""
    sign = "below" if figures.is_lower_better(report) else "above"
    cell = report["reproduce"]["cell"]
    blocks: list[Block] = [
        overview(report),
        Prose(f"Differences are {difference_of(report)}; {sign} 0 is better."),
        Prose("To check it, make all of it again, or any one cell to the same bits:"),
        Commands([report["reproduce"]["all"], _example(report, cell)]),
        Prose(report["statistics"]),
        Fold(
            f"Every sentence, and the final {figures.metric_of(report)} of each seed",
            [sentences(report), seeds(report)],
        ),
    ]
    return Section("result", "Result", blocks)


def _example(report: Report, command: str) -> str:
    """The command for one cell, with the first report cell of the best variant in it."""
    cells = [cell for v in figures.ordered(report) for cell in v["final"]["cells"]]
    return command.replace("--cell ID", f"--cell {shlex.quote(cells[0])}") if cells else command


def overview(report: Report) -> Table:
    """One row a variant, the best first."""
    places = numerals.decimals(*figures.final_spread(report))
    apart = _difference_places(report)
    columns = [
        Column("variant", numbers=False),
        Column("verdict", numbers=False),
        Column(f"minus {report['baseline']} [95 %]"),
        Column("p (Holm)"),
        Column(f"final {figures.metric_of(report)} [95 %]"),
        Column("speed-up in steps"),
        Column("in seconds"),
        Column("step over sgd"),
        Column("state, bytes a parameter"),
    ]
    rows = []
    for v in figures.ordered(report):
        final, difference, costs = v["final"], v["difference"], v["costs"]
        over = costs["over_sgd"] if costs else None
        rows.append(
            [
                name_of(report, v),
                Verdict(verdict_of(report, v)),
                numerals.with_interval(
                    difference["mean"], difference["low"], difference["high"], apart, True
                )
                if difference
                else numerals.MISSING,
                numerals.probability(difference["p_holm"] if difference else None),
                _final(final, places),
                speedup(report, v, "steps"),
                speedup(report, v, "seconds"),
                numerals.fixed(over["median"] if over else None, 2),
                numerals.significant(costs["state_bytes_per_parameter"] if costs else None, 3),
            ]
        )
    return Table("All variants, the best first", columns, rows)


def _final(final: Mapping[str, Any], places: int) -> str:
    """A final loss with its interval, and on how many seeds there is none."""
    words = numerals.with_interval(final["mean"], final["low"], final["high"], places)
    if not final["diverged"]:
        return words
    lost = f"{final['diverged']} of {len(final['values'])} diverged"
    return lost if final["mean"] is None else f"{words}, {lost}"


def speedup(report: Report, variant: Mapping[str, Any], unit: str) -> str:
    """The words of a speed-up; the baseline has none."""
    if variant["label"] == report["baseline"]:
        return numerals.MISSING
    return figures.speedup_words(variant[f"speedup_{unit}"])


def sentences(report: Report) -> Table:
    """The verdicts in words, with what would settle the open ones."""
    rows = []
    for v in figures.ordered(report):
        if v["label"] == report["baseline"]:
            continue
        needed = v["difference"]["seeds_needed"] if v["difference"] else None
        rows.append(
            [name_of(report, v), v["sentence"], v["why"] or "", numerals.count(needed)],
        )
    columns = [Column("variant", numbers=False), Column("in words", numbers=False)]
    columns += [Column("why", numbers=False), Column("seeds needed to tell")]
    return Table("Verdicts in words", columns, rows)


def seeds(report: Report) -> Table:
    """The final loss on every report seed, and the cells it comes from."""
    variants = figures.ordered(report)
    seed_of = {cell["id"]: cell["seed"] for cell in report["reproduce"]["cells"]}
    most = max((v["final"]["cells"] for v in variants), key=len)
    titles = [f"seed {seed_of[cell]}" if cell in seed_of else cell for cell in most]
    headline = report["experiment"]["headline"]
    rows: list[list[Cell]] = []
    for v in variants:
        values = [
            "diverged" if value is None else numerals.significant(value)
            for value in v["final"]["values"]
        ]
        values += [numerals.MISSING] * (len(titles) - len(values))
        middle = [numerals.significant(v["headline"]["mean"] if v["headline"] else None)]
        cells = Link(numerals.together(v["final"]["cells"]), "cells")
        rate = numerals.MISSING if v["rate"] is None else numerals.rate(v["rate"])
        middle = middle if headline else []
        rows.append([name_of(report, v), rate, *middle, *values[: len(titles)], cells])
    columns = [Column("variant", numbers=False), Column("rate")]
    columns += [Column(f"mean {headline['name'].replace('_', ' ')}")] if headline else []
    columns += [*map(Column, titles), Column("cells", numbers=False, code=True)]
    return Table(f"Final held-out {figures.metric_of(report)} by report seed", columns, rows)
