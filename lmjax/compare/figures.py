"""The charts of a comparison, from its report."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmjax.compare import numerals
from lmjax.compare.charts.lines import Level, Line, LineChart, left_out, line_chart
from lmjax.compare.charts.panels import Panel, PanelChart, Trial, ceiling, panel_chart
from lmjax.compare.charts.ranks import RankChart, Ranking, rank_chart
from lmjax.compare.charts.ratios import Ratio, RatioChart, ratio_chart
from lmjax.compare.charts.scale import Real
from lmjax.compare.document import Cell, Column, Figure, Link, Name, Table

Report = Mapping[str, Any]
SLOTS = 11  # colours with dashes in style.css, beside the baseline's
NUMBERED_STEPS = 8  # columns of the table of a chart of curves
MOST_WORDS = 60  # letters of the names of cells in a table
MOST_BANDS = 2  # lines whose bands can be told apart where each covers most of the chart


def slots(report: Report) -> dict[str, int]:
    """Label -> its colour: 0 for the baseline, the others in their order."""
    others = [v["label"] for v in report["variants"] if v["label"] != report["baseline"]]
    return {report["baseline"]: 0} | {label: slot(n) for n, label in enumerate(others)}


def slot(number: int) -> int:
    """The colour of the n-th line that is no baseline, from 0."""
    return number % SLOTS + 1


def ordered(report: Report) -> list[Mapping[str, Any]]:
    """The variants, the best at the end first; those that have no end last."""
    sign = 1 if is_lower_better(report) else -1

    def place(variant: Mapping[str, Any]) -> tuple[bool, Real]:
        mean = variant["final"]["mean"]
        return mean is None, sign * (mean or 0.0)

    return sorted(report["variants"], key=place)


def is_lower_better(report: Report) -> bool:
    """Whether the metric that is compared is a loss, and no accuracy."""
    return report["experiment"]["metric"]["direction"] == "down"


def metric_of(report: Report) -> str:
    """The name of what is compared."""
    return report["experiment"]["metric"]["name"].replace("_", " ")


def axis_name(report: Report) -> str:
    """Of an axis: held-out loss (nats per token)."""
    unit = report["experiment"]["metric"]["unit"]
    return f"held-out {metric_of(report)}" + (f" ({unit})" if unit else "")


def curves(report: Report) -> Figure | None:
    """The held-out metric against steps; None before any variant has been reported."""
    if not any(variant["curve"]["steps"] for variant in report["variants"]):
        return None
    colours, places = slots(report), numerals.decimals(*final_spread(report))
    lines = []
    for variant in report["variants"]:
        curve = variant["curve"]
        steps = curve["steps"]
        lines.append(
            Line(
                variant["label"],
                colours[variant["label"]],
                list(zip(steps, curve["mean"], strict=True)),
                list(zip(steps, curve["low"], curve["high"], strict=True)),
                final_words(variant["final"], places),
            )
        )
    chart = LineChart(
        f"Held-out {metric_of(report)} against steps",
        f"One line a variant: {', '.join(line.label for line in lines)}.",
        "steps",
        axis_name(report),
        lines,
        levels(report),
    )
    seeds = max(len(variant["final"]["values"]) for variant in report["variants"])
    told = f"Mean over {seeds} report seeds, with its 95 % interval as a band. "
    told += "Verdicts pair the seeds, so that bands may overlap where one is sure."
    told = " ".join(part for part in (told, left_out(chart), other_metric(report)) if part)
    cells = {v["label"]: v["final"]["cells"] for v in report["variants"]}
    table = _curve_table(lines, chart.y_title, "step", cells)
    return Figure("curves", chart.title, told, _drawn(line_chart, chart), numbers=table)


def levels(report: Report) -> list[Level]:
    """The task's baselines, if they are told in the metric that is compared."""
    horizon, metric = report["horizon"], report["experiment"]["metric"]["name"]
    if horizon.get("metric", metric) != metric:
        return []
    return [Level(name, value) for name, value in horizon["baselines"].items()]


def other_metric(report: Report) -> str:
    """The baselines in a metric of their own, beside the best that a variant reaches in it."""
    headline, horizon = report["experiment"]["headline"], report["horizon"]
    found = {v["label"]: v["headline"]["mean"] for v in report["variants"] if v["headline"]}
    found = {label: mean for label, mean in found.items() if mean is not None}
    if headline is None or levels(report) or not (horizon["baselines"] and found):
        return ""
    choose = min if headline["direction"] == "down" else max
    best = choose(found, key=lambda label: found[label])
    beside = [f"{name} {x:.4g}" for name, x in horizon["baselines"].items()]
    name = headline["name"].replace("_", " ")
    told = f"Held-out {name} at the end: {best} has the best, {numerals.significant(found[best])}"
    return f"{told}; baselines: {', '.join(beside)}."


def final_spread(report: Report) -> tuple[list[Real | None], list[Real | None]]:
    """The final means, and how far their intervals reach to either side."""
    finals = [variant["final"] for variant in report["variants"]]
    return [f["mean"] for f in finals], [half(f["low"], f["high"]) for f in finals]


def final_words(final: Mapping[str, Any], places: int) -> str:
    """The final loss; that it diverged; or nothing, where no cell is done."""
    if final["mean"] is not None:
        return numerals.fixed(final["mean"], places)
    return "diverged" if final["diverged"] else ""


def half(low: Real | None, high: Real | None) -> Real | None:
    """Of an interval."""
    return None if low is None or high is None else (high - low) / 2


def _drawn(draw: Any, chart: Any) -> Any:
    """The function of (name, width) that a Figure wants."""
    return lambda name, width: draw(name, chart, width)


def _curve_table(
    lines: Sequence[Line], title: str, place: str, cells: Mapping[str, Sequence[str]]
) -> Table:
    """The values of all lines at some of their common steps, the last one among them."""
    steps = sorted({x for line in lines for x, _ in line.points})
    count = min(NUMBERED_STEPS, len(steps))
    kept = [steps[round(n * (len(steps) - 1) / max(count - 1, 1))] for n in range(count)]
    columns = [Column("variant", numbers=False)]
    columns += [Column(f"{place} {numerals.count(step)}") for step in kept]
    rows = []
    for line in lines:
        at = dict(line.points)
        values = [numerals.significant(at.get(step)) for step in kept]
        rows.append([Name(line.label, line.slot), *values, link_to(cells[line.label])])
    return Table(title, [*columns, Column("cells", numbers=False)], rows)


def link_to(cells: Sequence[str]) -> Cell:
    """Names of cells in short, or their number where they are too many; leads to all of them."""
    if not cells:
        return ""
    words = numerals.together(cells)
    return Link(words if len(words) <= MOST_WORDS else f"{len(cells)} cells", "cells")


def speedups(report: Report, unit: str) -> Figure:
    """How many times sooner the baseline's end is reached, in `unit` (steps or seconds)."""
    baseline, colours = report["baseline"], slots(report)
    rows = []
    for variant in ordered(report):
        found = variant[f"speedup_{unit}"]
        if variant["label"] == baseline or found is None:
            continue
        bound = found["bound"]
        rows.append(
            Ratio(
                variant["label"],
                colours[variant["label"]],
                found["ratio"],
                found["low"],
                found["high"],
                bound,
                speedup_words(found),
                f"{variant['label']}: {speedup_words(found)}",
            )
        )
    chart = RatioChart(
        f"Speed-up in {unit}",
        f"Speed-up over {baseline} in {unit}, with 95 % intervals: "
        + "; ".join(row.told for row in rows),
        f"times sooner at the baseline's final {metric_of(report)}",
        rows,
        f"1 = {baseline}",
    )
    name = f"speedup-{unit}"
    return Figure(name, chart.title, "", _drawn(ratio_chart, chart), half=True)


def speedup_words(found: Mapping[str, Any] | None) -> str:
    """1.31 [1.22, 1.41], or the bound, or that nothing is known."""
    if found is None:
        return numerals.MISSING
    if found["bound"] is not None:
        return found["bound"]
    if found["ratio"] is None:
        return "unknown"
    return numerals.with_interval(found["ratio"], found["low"], found["high"], 2)


def sensitivity(report: Report) -> Figure | None:
    """What tuning found, against the tuned rate; None before the first trial."""
    if not any(variant["tuning"]["trials"] for variant in report["variants"]):
        return None
    colours = slots(report)
    panels = []
    for variant in report["variants"]:
        basin, rate = variant["sensitivity"], variant["rate"]
        edge = " (edge)" if variant["tuning"]["at_edge"] else ""
        panels.append(
            Panel(
                variant["label"],
                colours[variant["label"]],
                [_trial(trial) for trial in variant["tuning"]["trials"]],
                rate,
                _ends(basin) if basin else None,
                "" if rate is None else f"best {numerals.rate(rate)}{edge}",
            )
        )
    chart = PanelChart(
        f"{metric_of(report).capitalize()} against the learning rate",
        "One panel a variant: " + "; ".join(f"{p.label}: {p.words}" for p in panels) + ".",
        "learning rate",
        axis_name(report),
        panels,
        is_lower_better(report),
    )
    told = "Each dot is one trial on the tuning seeds; the ring marks the best, crosses diverged."
    losses = [trial.loss for panel in panels for trial in panel.trials if trial.loss is not None]
    if losses and max(losses) > ceiling(chart):
        told += f" Triangles are losses above {numerals.significant(ceiling(chart), 3)}."
    if any(panel.basin for panel in panels):
        told += " Shaded: the rates that are about as good as the best."
    table = _trials(report)
    return Figure("sensitivity", chart.title, told, _drawn(panel_chart, chart), numbers=table)


def _trials(report: Report) -> Table:
    """Every trial, with its cell."""
    colours = slots(report)
    rows = [
        [
            Name(variant["label"], colours[variant["label"]]),
            numerals.rate(trial["rate"]),
            "diverged" if trial["loss"] is None else numerals.significant(trial["loss"]),
            cells_of(trial),
        ]
        for variant in report["variants"]
        for trial in sorted(variant["tuning"]["trials"], key=lambda trial: trial["rate"])
    ]
    columns = [Column("variant", numbers=False), Column("rate"), Column(metric_of(report))]
    return Table("All trials", [*columns, Column("cell", numbers=False, code=True)], rows)


def _ends(basin: Mapping[str, Any]) -> tuple[Real, Real] | None:
    """The lowest and the highest rate of a basin, where both are known."""
    low, high = basin["low"], basin["high"]
    return None if low is None or high is None or min(low, high) <= 0 else (low, high)


def _trial(trial: Mapping[str, Any]) -> Trial:
    loss = trial["loss"]
    words = "diverged" if loss is None else numerals.significant(loss)
    return Trial(trial["rate"], loss, f"{cells_of(trial)}: {words}")


def cells_of(trial: Mapping[str, Any]) -> str:
    """The cells of a trial, one for each tuning seed."""
    return numerals.together(_names(trial))


def _names(trial: Mapping[str, Any]) -> list[str]:
    return trial.get("cells") or [trial["cell"]]


def budget(report: Report) -> Figure | None:
    """What k trials of tuning buy; None before the first trial."""
    if not any(variant["budget_curve"] for variant in report["variants"]):
        return None
    colours = slots(report)
    few = len(report["variants"]) <= MOST_BANDS
    lines = []
    for variant in report["variants"]:
        curve = variant["budget_curve"]
        points = [(k, best) for k, best, _, _ in curve]
        area = [(k, least, most) for k, _, least, most in curve] if few else []
        last = curve[-1][1] if curve else None
        words = numerals.significant(last)
        lines.append(Line(variant["label"], colours[variant["label"]], points, area, words))
    chart = LineChart(
        f"{metric_of(report).capitalize()} against the budget of tuning",
        f"Expected best {metric_of(report)} after so many trials, one line a variant.",
        "trials",
        f"expected best {axis_name(report)}",
        lines,
        dots=True,
        settled=0.0,
    )
    told = "The expected best of k trials drawn from those that were run."
    told += " Bands reach from the best to the worst that k trials can give." if few else ""
    cells = {
        v["label"]: [name for trial in v["tuning"]["trials"] for name in _names(trial)]
        for v in report["variants"]
    }
    table = _curve_table(lines, chart.y_title, "k =", cells)
    return Figure("budget", chart.title, told, _drawn(line_chart, chart), numbers=table)


def step_times(report: Report) -> Figure | None:
    """Time of a step over sgd's, where it was measured."""
    colours = slots(report)
    rows = []
    for variant in ordered(report):
        over = (variant["costs"] or {"over_sgd": None})["over_sgd"]
        if over is None or over["median"] is None:
            continue
        words = numerals.with_interval(over["median"], over["q1"], over["q3"], 2)
        told = f"{variant['label']}: {words}"
        label = variant["label"]
        rows.append(
            Ratio(label, colours[label], over["median"], over["q1"], over["q3"], None, words, told)
        )
    if not rows:
        return None
    chart = RatioChart(
        "Time of a step, over sgd",
        "Median and quartiles: " + "; ".join(row.told for row in rows),
        "times the step of sgd",
        rows,
        "1 = sgd",
    )
    return Figure(
        "step-time",
        chart.title,
        "Median, with quartiles as whiskers.",
        _drawn(ratio_chart, chart),
        half=True,
    )


def ranks(report: Report) -> Figure | None:
    """Rank per step beside rank per second."""
    per_step, per_second = report["ranking"]["per_step"], report["ranking"]["per_second"]
    if not per_step or not per_second:
        return None
    told = [f"{rank} {label}" for label, rank in per_second]
    chart = RankChart(
        "Rank per step and per second",
        f"Per second: {', '.join(told)}.",
        Ranking("per step", [(label, rank) for label, rank in per_step]),
        Ranking("per second", [(label, rank) for label, rank in per_second]),
        slots(report),
    )
    caption = (
        "Left, after the same steps; right, by the time to where the baseline ends. A rank is 1 "
        "and how many are surely better, so that one whose seeds are far apart may stand before "
        "one that ends lower."
    )
    second = dict(chart.right.places)
    columns = [Column("variant", numbers=False), Column("per step"), Column("per second")]
    rows = [
        [Name(label, chart.slots[label]), str(rank), str(second.get(label, numerals.MISSING))]
        for label, rank in chart.left.places
    ]
    table = Table(chart.title, columns, rows)
    return Figure("ranks", chart.title, caption, _drawn(rank_chart, chart), True, table)
