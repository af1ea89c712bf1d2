"""Lines with bands over a common axis, each with its name at its end."""

from collections.abc import Sequence
from typing import NamedTuple

from lmjax.compare.charts.scale import Real, Scale, plain, span, ticks, wants_log
from lmjax.compare.charts.svg import (
    BOLD,
    NARROW,
    Frame,
    band,
    curve,
    dot,
    drawing,
    fitted,
    segment,
    spread,
    text,
    text_width,
    x_axis,
    y_axis,
)

SETTLED = 0.2  # of the axis, after which all values are shown; what is higher before it is cut
LABEL_GAP, LEADER = 15.0, 16.0  # pixels between two names, and from a line's end to its name
FEW = 10  # values of a line that are all shown
SPILL = 0.25  # of its range, by which a band may widen the axis
MOST_WIDER, A_LITTLE = 4.0, 1.25  # times its range, to which a level may widen the axis
HEIGHT = {"wide": 380.0, "narrow": 330.0}
MOST_LABEL = {"wide": 0.26, "narrow": 0.36}  # of the width


class Line(NamedTuple):
    """One line: (x, y) with None for what is not a number, and (x, low, high) around it."""

    label: str
    slot: int  # of its colour and dashes in style.css; 0 is the baseline's
    points: Sequence[tuple[Real, Real | None]]
    band: Sequence[tuple[Real, Real | None, Real | None]] = ()
    ends: str = ""  # its last value, as it stands behind its name


class Level(NamedTuple):
    """A line of one value, to judge the others by."""

    label: str
    value: Real


class LineChart(NamedTuple):
    """What is drawn, and in which words."""

    title: str
    description: str
    x_title: str
    y_title: str
    lines: Sequence[Line]
    levels: Sequence[Level] = ()
    dots: bool = False  # mark every value: there are few of them
    settled: Real = SETTLED


class Window(NamedTuple):
    """Which values the vertical axis holds."""

    low: Real
    high: Real
    log: bool
    levels: Sequence[Level]  # those that are in it


def window(chart: LineChart) -> Window:
    """Around the values that are left once the first steep part of each line is over.

    The level that is nearest to the lines may widen it much, the others a little: a picture of
    lines that are all far from it would tell nothing of them.
    """
    late = [y for line in chart.lines for y in _late(line.points, chart.settled)]
    if not late:
        values = [level.value for level in chart.levels] or [0.0, 1.0]
        low, high = span(values)
        return Window(low, high, False, chart.levels)
    low, high = min(late), max(late)
    reach = high - low
    bands = [edge for line in chart.lines for edge in _edges(line, chart.settled)]
    # A band may be far wider than its line while seeds are few; it does not set the scale alone.
    low = min([low, *(edge for edge in bands if edge >= low - SPILL * reach)])
    high = max([high, *(edge for edge in bands if edge <= high + SPILL * reach)])
    levels = []
    for level in sorted(chart.levels, key=lambda x: max(low - x.value, x.value - high, 0)):
        wider = min(low, level.value), max(high, level.value)
        most = MOST_WIDER * reach if not levels else A_LITTLE * (high - low)
        if reach > 0 and wider[1] - wider[0] > most:
            continue
        (low, high), levels = wider, [*levels, level]
    log = wants_log([low, high])
    return Window(*span([low, high], log), log, [x for x in chart.levels if x in levels])


def _late(points: Sequence[tuple[Real, Real | None]], settled: Real) -> list[Real]:
    """The values after a share of the line; all of them, where there are few."""
    known = [(x, y) for x, y in points if y is not None]
    if len(known) <= FEW:
        return [y for _, y in known]
    first, last = known[0][0], known[-1][0]
    return [y for x, y in known if x >= first + settled * (last - first)]


def _edges(line: Line, settled: Real) -> list[Real]:
    """Both sides of a line's band, there."""
    sides = ([(x, low) for x, low, _ in line.band], [(x, high) for x, _, high in line.band])
    return [edge for side in sides for edge in _late(side, settled)]


def left_out(chart: LineChart) -> str:
    """What the picture does not show, in words; "" where it shows all."""
    view, told = window(chart), []
    values = [y for line in chart.lines for _, y in line.points if y is not None]
    for sign, words in ((1, "above"), (-1, "below")):
        edge = view.high if sign > 0 else view.low
        if any(sign * value > sign * edge for value in values):
            told.append(f"What is {words} {brief(edge, 3)} is cut off.")
    outside = [level for level in chart.levels if level not in view.levels]
    if outside:
        names = ", ".join(f"{x.label} {brief(x.value)}" for x in outside)
        told.append(f"Outside the picture: {names}.")
    return " ".join(told)


def brief(value: Real, digits: int = 4) -> str:
    """A number in a few digits."""
    return plain(float(f"{value:.{digits}g}"))


def line_chart(name: str, chart: LineChart, width: Real) -> str:
    """The chart at a width in pixels."""
    size = "wide" if width >= NARROW else "narrow"
    view = window(chart)
    chart = chart._replace(levels=view.levels)
    labels = _labels(chart, width, size)
    height = max(HEIGHT[size], LABEL_GAP * len(labels) + 80)
    y = Scale(view.low, view.high, height - 38, 24, view.log)
    marks = y.ticks(6)
    left = max(text_width(mark.text) for mark in marks) + 12
    right = width - LEADER - max((text_width(label, BOLD) for label in labels), default=0)
    places = [x for line in chart.lines for x, _ in line.points]
    low, high = (min(places), max(places)) if places else (0.0, 1.0)
    low, high = (low, high) if low < high else span([low])
    frame = Frame(width, height, Scale(low, high, left, right), y)
    drawn = [band(frame, line.band, f"s{line.slot}") for line in chart.lines]
    drawn += [_level(frame, level) for level in chart.levels]
    # The baseline first: it is the broadest, so that a line upon it leaves its edges to be seen.
    for line in sorted(chart.lines, key=lambda line: line.slot != 0):
        drawn.append(curve(frame, line.points, f"s{line.slot}"))
        drawn += _dots(frame, line) if chart.dots else []
    return drawing(
        name,
        frame,
        chart.title,
        chart.description,
        y_axis(frame, marks, chart.y_title),
        x_axis(
            frame, ticks(low, high, max(2, int((right - left) / 80)), whole=True), chart.x_title
        ),
        *drawn,
        _names(frame, chart, labels),
    )


def _labels(chart: LineChart, width: Real, size: str) -> list[str]:
    """The names of lines and levels as they fit; where there is room, with the values reached."""
    most = MOST_LABEL[size] * width
    names = [line.label for line in chart.lines] + [level.label for level in chart.levels]
    values = [line.ends for line in chart.lines] + [brief(x.value) for x in chart.levels]
    if size == "narrow":
        return fitted(names, most)
    behind = max((text_width(f" {value}", BOLD) for value in values), default=0)
    short = fitted(names, most - behind)
    return [f"{name} {value}".strip() for name, value in zip(short, values, strict=True)]


def _level(frame: Frame, level: Level) -> str:
    at = frame.y.at(level.value)
    return segment((frame.x.start, at), (frame.x.end, at), "level")


def _dots(frame: Frame, line: Line) -> list[str]:
    return [
        dot((frame.x.at(x), frame.y.at(y)), f"s{line.slot}", f"{line.label}: {brief(y)}", 3)
        for x, y in line.points
        if y is not None and frame.y.low <= y <= frame.y.high
    ]


def _names(frame: Frame, chart: LineChart, labels: Sequence[str]) -> str:
    """Each name beside the end of its line, moved as far as the others need, and led to it."""
    ends, styles, told = [], [], []
    for line in chart.lines:
        known = [(x, y) for x, y in line.points if y is not None and (y > 0 or not frame.y.log)]
        x, y = known[-1] if known else (frame.x.high, frame.y.high)
        ends.append((frame.x.at(x), frame.y.clamped(y)))
        styles.append(f"s{line.slot}")
        told.append(line.label if known else f"{line.label}: no value")
    for level in chart.levels:
        ends.append((frame.x.end, frame.y.clamped(level.value)))
        styles.append("levelname")
        told.append(level.label)
    places = spread([y for _, y in ends], LABEL_GAP, frame.y.end, frame.y.start)
    parts, at = [], frame.x.end + LEADER
    for end, place, label, style, words in zip(ends, places, labels, styles, told, strict=True):
        parts.append(segment(end, (at - 3, place), f"leader {style}"))
        parts.append(text((at, place + 4), label, f"label {style}", told=words))
    return "".join(parts)
