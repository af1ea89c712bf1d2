"""Loss against a tuned rate: a panel for each variant, all on the same two axes."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from lmjax.compare.charts.scale import Real, Scale, Tick, span, wants_log
from lmjax.compare.charts.svg import (
    NARROW,
    Frame,
    Point,
    apart,
    cross,
    dot,
    drawing,
    element,
    fitted,
    path,
    segment,
    text,
    text_width,
    triangle,
    x_axis,
)

HEADER, STRIP, FOOT = 40.0, 18.0, 36.0  # of a panel: its name, what diverged, the ticks below
PLOT = 128.0  # the height of its axes
GAP, TOP, BOTTOM = 24.0, 22.0, 8.0
FAR = 4.0  # times the usual distance from the best, beyond which a loss stands at the top


class Trial(NamedTuple):
    """One value of the rate that was tried."""

    rate: Real
    loss: Real | None  # None: it diverged
    told: str  # what a pointer over it shows


class Panel(NamedTuple):
    """One variant."""

    label: str
    slot: int
    trials: Sequence[Trial]
    best: Real | None  # its best rate
    basin: tuple[Real, Real] | None  # the rates that are about as good
    words: str  # beside its name


class PanelChart(NamedTuple):
    """What is drawn, and in which words."""

    title: str
    description: str
    x_title: str
    y_title: str
    panels: Sequence[Panel]
    is_loss: bool = True  # lower is better


def ceiling(chart: PanelChart) -> Real:
    """The highest loss that is drawn to scale; the others, and what diverged, stand above."""
    losses = [t.loss for panel in chart.panels for t in panel.trials if t.loss is not None]
    if not losses:
        return 1.0
    if not chart.is_loss:
        return max(losses)
    best = min(losses)
    usual = statistics.median(losses) - best
    return min(max(losses), best + FAR * usual) if usual > 0 else max(losses)


def panel_chart(name: str, chart: PanelChart, width: Real) -> str:
    """The chart at a width in pixels: up to four panels side by side, two on a phone."""
    count = len(chart.panels)
    columns = min(count, 4 if count not in (5, 6) else 3) if width >= NARROW else min(count, 2)
    columns = max(columns, 1)
    top = ceiling(chart)
    losses = [
        t.loss for p in chart.panels for t in p.trials if t.loss is not None and t.loss <= top
    ]
    log = wants_log(losses)
    y = Scale(*(span(losses, log, 0.07) if losses else (0.0, 1.0)), 0, 1, log)
    marks = y.ticks(4)
    left = max(text_width(mark.text) for mark in marks) + 12
    each = (width - left - GAP * (columns - 1)) / columns
    tall = HEADER + STRIP + PLOT + FOOT
    rows = -(-count // columns)
    height = TOP + rows * tall + BOTTOM
    labels = fitted([panel.label for panel in chart.panels], each)
    parts = [text((0, 12), chart.y_title, "name")]
    for n, panel in enumerate(chart.panels):
        column, row = n % columns, n // columns
        x0, y0 = left + column * (each + GAP), TOP + row * tall
        frame = Frame(
            width,
            y0 + tall + 30,
            Scale(*_rates(chart.panels), x0, x0 + each, log=True),
            Scale(y.low, y.high, y0 + HEADER + STRIP + PLOT, y0 + HEADER + STRIP, log),
        )
        parts.append(_panel(frame, panel, labels[n], marks, column == 0))
    parts.append(text((width, height - 4), chart.x_title, "name", "end"))
    whole = Frame(width, height, y, y)
    return drawing(name, whole, chart.title, chart.description, *parts)


def _rates(panels: Sequence[Panel]) -> tuple[Real, Real]:
    rates = [trial.rate for panel in panels for trial in panel.trials if trial.rate > 0]
    return span(rates or [1.0], log=True, room=0.07)


def _panel(frame: Frame, panel: Panel, label: str, marks: list[Tick], first: bool) -> str:
    """One panel: name, strip for what diverged, axes, line, dots."""
    left, right, top = frame.x.start, frame.x.end, frame.y.end
    head = top - STRIP - 24
    parts = [
        text((left, head), label, f"label s{panel.slot}", told=panel.label),
        text((left, head + 16), fitted([panel.words], right - left)[0], "tick"),
        element("rect", x=left, y=top - STRIP, width=right - left, height=STRIP, class_="strip"),
        _basin(frame, panel),
    ]
    for mark in marks:
        at = frame.y.at(mark.value)
        parts.append(segment((left, at), (right, at), "grid"))
        if first:
            parts.append(text((left - 7, at + 4), mark.text, "tick", "end"))
    parts.append(x_axis(frame, _decades(frame), ""))
    trials = sorted((t for t in panel.trials if t.rate > 0), key=lambda trial: trial.rate)
    places = [_place(frame, trial) for trial in trials]
    run: list[Point] = []
    for place, trial in [*zip(places, trials, strict=True), ((0.0, 0.0), Trial(1, None, ""))]:
        if trial.loss is not None and trial.loss <= frame.y.high:
            run.append(place)
            continue
        parts += [path(run, f"line s{panel.slot} solid")] if len(run) > 1 else []
        run = []
    parts += [
        _mark(frame, panel, trial, place) for trial, place in zip(trials, places, strict=True)
    ]
    return "".join(parts)


def _decades(frame: Frame) -> list[Tick]:
    marks = frame.x.ticks(max(2, int((frame.x.end - frame.x.start) / 48)))
    return apart(frame.x, marks)


def _place(frame: Frame, trial: Trial) -> Point:
    x = frame.x.clamped(trial.rate)
    if trial.loss is None or trial.loss > frame.y.high:
        return x, frame.y.end - STRIP / 2
    return x, frame.y.clamped(trial.loss)


def _mark(frame: Frame, panel: Panel, trial: Trial, at: Point) -> str:
    """A dot; a cross for what diverged; a triangle for what is too high to be drawn to scale."""
    style = f"s{panel.slot}"
    if trial.loss is None:
        return cross(at, style, trial.told)
    if trial.loss > frame.y.high:
        return triangle(at, style, trial.told)
    is_best = panel.best is not None and math.isclose(trial.rate, panel.best, rel_tol=1e-9)
    ring = element("circle", cx=at[0], cy=at[1], r=7.5, class_=f"ring {style}") if is_best else ""
    return ring + dot(at, style, trial.told, 3.5)


def _basin(frame: Frame, panel: Panel) -> str:
    """The rates about as good as the best, as an area."""
    if panel.basin is None:
        return ""
    low, high = sorted(frame.x.clamped(rate) for rate in panel.basin)
    low = min(low, frame.x.end - 1.0)  # however narrow, it is seen
    return element(
        "rect",
        x=low,
        y=frame.y.end,
        width=max(high - low, 1.0),
        height=frame.y.start - frame.y.end,
        class_=f"band s{panel.slot}",
    )
