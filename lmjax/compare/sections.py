"""A comparison as a document: the first screen, then each question that a careful reader has."""

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
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
from lmjax.compare.run_sections import value_table
from lmjax.compare.schema import VERDICTS

MOST_SENTENCES = 4  # verdicts on the first screen; more than these are put together by kind
BASELINE = "baseline"


def document(report: Report) -> Document:
    """The whole page."""
    e = report["experiment"]
    sizes = [f"{e['steps']:,} steps of {e['batch_size']:,}"]
    sizes += [] if e["parameters"] is None else [f"{e['parameters']:,} parameters"]
    return Document(
        report["title"],
        f"lmjax compare: {e['name']}, {', '.join(sizes)}, {e['data']['name']}",
        report["question"],
        [*notices(report), verdicts(report), *meaning(report), figures.curves(report)],
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
        found.append(Notice("Not fair", f"These do not hold: {'; '.join(broken)}."))
    return found


def verdicts(report: Report) -> Verdicts:
    """A sentence for each variant, or for each verdict where there are many variants."""
    others = [v for v in figures.ordered(report) if v["label"] != report["baseline"]]
    others.sort(key=lambda v: VERDICTS.index(verdict_of(report, v)))
    if len(others) <= MOST_SENTENCES:
        return Verdicts([(Verdict(verdict_of(report, v)), v["sentence"]) for v in others])
    rows = []
    for verdict, kind in itertools.groupby(others, key=lambda v: verdict_of(report, v)):
        rows.append((Verdict(verdict), ", ".join(map(_with_difference, kind))))
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
    unit = report["experiment"]["metric"]["unit"]
    told = f"In brackets: final held-out loss minus that of {report['baseline']}, in {unit}."
    return [Prose(f"{told} Intervals are in the table below.")]


def _with_difference(variant: Mapping[str, Any]) -> str:
    found = variant["difference"]
    if found is None or found["mean"] is None:
        return variant["label"]
    return (
        f"{variant['label']} ({numerals.fixed(found['mean'], _difference_places([found]), True)})"
    )


def _difference_places(differences: Sequence[Mapping[str, Any]]) -> int:
    return numerals.decimals(
        [found["mean"] for found in differences],
        [figures.half(found["low"], found["high"]) for found in differences],
    )


def _name(report: Report, variant: Mapping[str, Any]) -> Name:
    return Name(variant["label"], figures.slots(report)[variant["label"]])


def result(report: Report) -> Section:
    """Which, by how much, how sure, at what cost, and how to check it, in one table."""
    unit = report["experiment"]["metric"]["unit"]
    cell = report["reproduce"]["cell"]
    blocks: list[Block] = [
        overview(report),
        Prose(f"Differences are of final held-out loss, in {unit}; below 0 is better."),
        Prose(report["statistics"]),
        Prose("To check it, make all of it again, or any one cell to the same bits:"),
        Commands([report["reproduce"]["all"], _example(report, cell)]),
        Fold("Every sentence, and the final loss of each seed", [sentences(report), seeds(report)]),
    ]
    return Section("result", "Result", blocks)


def _example(report: Report, command: str) -> str:
    """The command for one cell, with the first report cell of the best variant in it."""
    cells = [cell for v in figures.ordered(report) for cell in v["final"]["cells"]]
    words = command.split(" ")
    if not cells or words[-1] != "ID":
        return command
    return " ".join([*words[:-1], shlex.quote(cells[0])])


def overview(report: Report) -> Table:
    """One row a variant, the best first."""
    places = numerals.decimals(*figures.final_spread(report))
    apart = _difference_places([v["difference"] for v in report["variants"] if v["difference"]])
    columns = [
        Column("variant", numbers=False),
        Column("verdict", numbers=False),
        Column(f"minus {report['baseline']} [95 %]"),
        Column("p (Holm)"),
        Column(f"final {report['experiment']['metric']['name']} [95 %]"),
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
                _name(report, v),
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
            [_name(report, v), v["sentence"], v["why"] or "", numerals.count(needed)],
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
    places = numerals.decimals(*figures.final_spread(report))
    headline = report["experiment"]["headline"]
    rows: list[list[Cell]] = []
    for v in variants:
        values = [
            "diverged" if value is None else numerals.fixed(value, places)
            for value in v["final"]["values"]
        ]
        values += [numerals.MISSING] * (len(titles) - len(values))
        middle = [numerals.significant(v["headline"]["mean"] if v["headline"] else None)]
        cells = Link(numerals.together(v["final"]["cells"]), "cells")
        rate = numerals.MISSING if v["rate"] is None else numerals.rate(v["rate"])
        middle = middle if headline else []
        rows.append([_name(report, v), rate, *middle, *values[: len(titles)], cells])
    columns = [Column("variant", numbers=False), Column("rate")]
    columns += [Column(f"mean {headline['name']}")] if headline else []
    columns += [*map(Column, titles), Column("cells", numbers=False, code=True)]
    return Table("Final held-out loss by report seed", columns, rows)


def speedups(report: Report) -> Section:
    """How much sooner."""
    told = f"How many times sooner a variant is at {report['baseline']}'s final loss."
    open_ends = [
        v["label"]
        for v in report["variants"]
        for unit in ("steps", "seconds")
        if v[f"speedup_{unit}"] and v[f"speedup_{unit}"]["censored"]
    ]
    if open_ends:
        names = ", ".join(dict.fromkeys(open_ends))
        told += f" An arrow is a bound, where a seed did not get there in the time given: {names}."
    pair = [figures.speedups(report, unit) for unit in ("steps", "seconds")]
    return Section("speed-up", "Speed-up", [Prose(told), Figures(pair)])


def tuning(report: Report) -> Section:
    """How well each was tuned, and how much that matters."""
    rows: list[list[Cell]] = []
    for v in figures.ordered(report):
        trials, basin = v["tuning"]["trials"], v["sensitivity"]
        losses = [trial["loss"] for trial in trials if trial["loss"] is not None]
        rows.append(
            [
                _name(report, v),
                numerals.count(len(trials)),
                numerals.MISSING if v["rate"] is None else numerals.rate(v["rate"]),
                "yes" if v["tuning"]["at_edge"] else "no",
                numerals.significant(min(losses, default=None)),
                numerals.fixed(basin["width_decades"] if basin else None, 2),
                numerals.count(len(trials) - len(losses)),
            ]
        )
    titles = (
        "trials",
        "best rate",
        "at the edge",
        "best tuning loss",
        "basin, decades",
        "diverged",
    )
    columns = [Column("variant", numbers=False), *map(Column, titles)]
    return Section(
        "tuning",
        "Tuning",
        [
            figures.sensitivity(report),
            Table("Tuning of each variant", columns, rows),
            figures.budget(report),
        ],
    )


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
                _name(report, v),
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
        [row["claim"], "yes" if row["holds"] else "NO", row["proof"], _cells(row["cells"])]
        for row in report["fairness"]
    ]
    blocks: list[Block] = [Table("Proofs of fairness", columns, rows)]
    if report["auxiliary"]:
        blocks.append(Prose(report["auxiliary"]))
    return Section("fairness", "Fairness", blocks)


def _cells(names: Sequence[str]) -> Cell:
    """Names of cells in short; too many of them by their number."""
    words = numerals.together(names)
    if not names:
        return ""
    return Link(words if len(words) <= 60 else f"{len(names)} cells", "cells")


def configuration(report: Report) -> Section:
    """What makes each variant, and where their configurations differ."""
    rows = [
        [_name(report, v), " ".join(v["words"]), numerals.shown(v["reference"] or "")]
        for v in report["variants"]
    ]
    columns = [Column("variant", numbers=False), Column("words", numbers=False, code=True)]
    columns.append(Column("reference", numbers=False))
    return Section(
        "configuration",
        "Configuration",
        [Table("Variants", columns, rows), *difference(report)],
    )


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
    titles = ("cell", "variant", "purpose", "rate", "seed", "loss", "seconds")
    words = {"cell", "variant", "purpose"}
    columns = [Column(t, numbers=t not in words, code=t == "cell") for t in titles]
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
            ]
        )
    return Section(
        "reproduce",
        "How to reproduce it",
        [
            Prose("The whole comparison, then one cell by its ID, to the same bits:"),
            Commands([found["all"], found["cell"]]),
            Fold(f"All {len(rows)} cells", [Table("Cells", columns, rows)]),
        ],
    )
