"""Finished or unfinished runs as a document: their curves, final numbers, speed, differences."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmjax.compare import numerals
from lmjax.compare.charts.lines import Level, Line, LineChart, left_out, line_chart
from lmjax.compare.charts.scale import Real
from lmjax.compare.document import (
    Block,
    Cell,
    Column,
    Commands,
    Document,
    Figure,
    Name,
    Notice,
    Prose,
    Section,
    Table,
    Verdict,
    Verdicts,
)
from lmjax.compare.figures import Report, slot
from lmjax.results import duration

FINISHED = "finished"
MOST_SENTENCES = 8  # runs that are told of one by one on the first screen


def document(report: Report) -> Document:
    """The whole page."""
    runs = report["runs"]
    sections = [numbers(report), training(report), configuration(report), environment(report)]
    if report["commands"]:
        told = "Each of these commands makes its run again:"
        sections.append(
            Section("reproduce", "How to reproduce it", [Prose(told), Commands(report["commands"])])
        )
    return Document(
        report["title"],
        f"lmjax report: {len(runs)} run{'s' if len(runs) > 1 else ''}",
        report["title"],
        [*notices(report), *sentences(report), *pictures(report)],
        [section for section in sections if section.blocks],
        "Made by lmjax from report.json beside this page.",
    )


def slots(report: Report) -> dict[str, int]:
    """Label -> its colour; none is the baseline."""
    return {run["label"]: slot(n) for n, run in enumerate(report["runs"])}


def notices(report: Report) -> list[Block]:
    """Which runs are not at their end."""
    told = [
        f"{run['label']} ({run['state']}) stands at step {run['step']:,} of {run['steps']:,}"
        for run in report["runs"]
        if run["state"] != FINISHED
    ]
    return [Notice("Unfinished", "; ".join(told) + ".")] if told else []


def sentences(report: Report) -> list[Block]:
    """What each run has reached, where there are few."""
    runs = report["runs"]
    if len(runs) > MOST_SENTENCES:
        return []
    return [Verdicts([(Verdict(run["state"]), _sentence(run)) for run in runs])]


def _sentence(run: Mapping[str, Any]) -> str:
    headline = run["headline"]
    name = headline.replace("_", " ")
    if headline not in run["final"]:
        return f"{run['label']}: not evaluated yet, at step {run['step']:,}"
    value = numerals.significant(run["final"][headline])
    beside = run["baselines"].get(headline, {})
    told = ", ".join(f"{label} {numerals.significant(x)}" for label, x in beside.items())
    told = f", beside {told}" if told else ""
    return f"{run['label']}: {name} {value} after {run['step']:,} steps{told}"


def pictures(report: Report) -> list[Block]:
    """The headline metric and the loss on held-out data."""
    headlines = list(dict.fromkeys(run["headline"] for run in report["runs"]))
    names = list(dict.fromkeys([*headlines, "loss"]))
    return [figure for name in names if (figure := validation(report, name)) is not None]


def validation(report: Report, metric: str) -> Figure | None:
    """One metric on held-out data against steps, or None where no run has it."""
    levels: dict[str, Real] = {}
    for run in report["runs"]:
        if metric in run["baselines"]:
            levels |= run["baselines"][metric]
    series = {
        run["label"]: run["validation"][metric]
        for run in report["runs"]
        if metric in run["validation"]
    }
    name = metric.replace("_", " ")
    chart = _chart(report, f"Held-out {name} against steps", f"held-out {name}", series, levels)
    return None if chart is None else _figure(f"validation-{metric}", chart, "")


def training(report: Report) -> Section:
    """The loss of the batches that were trained on."""
    series = {run["label"]: run["train"] for run in report["runs"]}
    chart = _chart(report, "Training loss against steps", "training loss", series, {})
    told = "Where a run has many steps, each point is the mean over the steps since the last one."
    blocks: list[Block] = [] if chart is None else [_figure("training", chart, told)]
    return Section("training", "Training", blocks)


def _chart(
    report: Report,
    title: str,
    y_title: str,
    series: Mapping[str, Mapping[str, Any]],
    levels: Mapping[str, Real],
) -> LineChart | None:
    colours = slots(report)
    lines = []
    for label, found in series.items():
        known = [value for value in found["values"] if value is not None]
        if known:
            points = list(zip(found["steps"], found["values"], strict=True))
            words = numerals.significant(known[-1])
            lines.append(Line(label, colours[label], points, ends=words))
    if not lines:
        return None
    told = f"One line a run: {', '.join(line.label for line in lines)}."
    marks = [Level(name, value) for name, value in levels.items()]
    few = max(len(line.points) for line in lines) <= 20
    return LineChart(title, told, "steps", y_title, lines, marks, dots=few)


def _figure(name: str, chart: LineChart, told: str) -> Figure:
    told = f"{told} {left_out(chart)}".strip()
    return Figure(name, chart.title, told, lambda at, width: line_chart(at, chart, width))


def numbers(report: Report) -> Section:
    """The final metrics, what they cost in time, and how fast each run went."""
    runs = report["runs"]
    metrics = list(dict.fromkeys(name for run in runs for name in run["final"]))
    titles = [*(name.replace("_", " ") for name in metrics), "steps", "parameters", "time"]
    titles += ["speed", "MFU"]
    columns = [Column("run", numbers=False), Column("state", numbers=False), *map(Column, titles)]
    columns.append(Column("digest of the state", numbers=False, code=True))
    colours = slots(report)
    rows: list[list[Cell]] = []
    for run in runs:
        final, unit = run["final"], run["unit"]
        speed = numerals.big(run["rate"])
        mfu = [f"{share:.1%} ({name})" for name, share in run["mfu"].items()]
        rows.append(
            [
                Name(run["label"], colours[run["label"]]),
                Verdict(run["state"]),
                *(numerals.significant(final.get(m)) for m in metrics),
                numerals.count(run["step"]),
                numerals.count(run["parameters"]),
                numerals.MISSING if run["seconds"] is None else duration(run["seconds"]),
                f"{speed} {unit}/s" if run["rate"] is not None and unit else numerals.MISSING,
                ", ".join(mfu) or numerals.MISSING,
                (run["digest"] or numerals.MISSING)[:16],
            ]
        )
    blocks: list[Block] = [Table("Every run where it stands", columns, rows), *baselines(report)]
    return Section("numbers", "Final numbers", blocks)


def baselines(report: Report) -> list[Block]:
    """What the numbers are to be judged by."""
    rows = [
        [run["label"], metric.replace("_", " "), name, numerals.significant(value)]
        for run in report["runs"]
        for metric, found in run["baselines"].items()
        for name, value in found.items()
    ]
    if not rows:
        return []
    # Runs on the same data have the same baselines.
    alike = list(dict.fromkeys(tuple(row[1:]) for row in rows))
    if len(alike) * len({row[0] for row in rows}) == len(rows):
        columns = [Column("metric", numbers=False), Column("baseline", numbers=False)]
        return [Table("Baselines on the same data", [*columns, Column("value")], alike)]
    columns = [Column(title, numbers=False) for title in ("run", "metric", "baseline")]
    return [Table("Baselines", [*columns, Column("value")], rows)]


def configuration(report: Report) -> Section:
    """Where the runs differ; of a single run, where it differs from its experiment."""
    single = len(report["runs"]) == 1
    caption = "Fields that differ from the experiment" if single else "Fields that differ"
    blocks = value_table(caption, report["config_diff"])
    nothing = "All fields are the experiment's own." if single else "All fields are the same."
    return Section("configuration", "Configuration", [blocks] if blocks else [Prose(nothing)])


def environment(report: Report) -> Section:
    """Machines and versions, each value once where all runs share it."""
    rows = report["environment"]
    count = len(report["runs"])
    same = [row for row in rows if len(row["values"]) == count and _equal(row["values"].values())]
    apart = [row for row in rows if row not in same]
    columns = [Column("what", numbers=False), Column("value", numbers=False, code=True)]
    shared = [[row["field"], numerals.shown(next(iter(row["values"].values())))] for row in same]
    blocks: list[Block] = [Table("The same for all", columns, shared)] if shared else []
    table = value_table("Different", apart)
    return Section("environment", "Environment", [*blocks, *([table] if table else [])])


def _equal(values: Any) -> bool:
    first, *others = values
    return all(value == first for value in others)


def value_table(caption: str, rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """A column for each label; None where there is no row."""
    if not rows:
        return None
    labels = list(dict.fromkeys(label for row in rows for label in row["values"]))
    columns = [Column("field", numbers=False, code=True), *map(Column, labels)]
    return Table(
        caption,
        columns,
        [
            [
                row["field"],
                *(
                    numerals.shown(row["values"][label])
                    if label in row["values"]
                    else numerals.MISSING
                    for label in labels
                ),
            ]
            for row in rows
        ],
    )
