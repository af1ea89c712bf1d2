"""Ratios on a logarithmic axis as dots with whiskers; what is only bounded, as an arrow."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from lmjax.compare.charts.scale import Real, Scale, span
from lmjax.compare.charts.svg import (
    BOLD,
    NARROW,
    Frame,
    Point,
    arrow,
    dot,
    drawing,
    fitted,
    segment,
    text,
    text_width,
    x_axis,
)

ROW, STACKED_ROW, CAP = 27.0, 44.0, 4.0  # pixels
TOP, FOOT = 26.0, 38.0  # above and below the rows
REACH = 3.0  # an interval is drawn to this many times the outermost dots, then has an arrow
BOUND = re.compile(r"(>=|<=|>|<)\s*([0-9.]+(?:e[+-]?[0-9]+)?)", re.IGNORECASE)


class Ratio(NamedTuple):
    """One row; what is None is not known."""

    label: str
    slot: int
    value: Real | None
    low: Real | None
    high: Real | None
    bound: str | None  # such as ">= 1.3", in place of an interval
    words: str  # the numbers, as they stand in the row
    told: str = ""  # what a pointer over the dot shows


class RatioChart(NamedTuple):
    """What is drawn, and in which words."""

    title: str
    description: str
    x_title: str
    rows: Sequence[Ratio]
    one: str  # what the ratio 1 stands for


def ratio_chart(name: str, chart: RatioChart, width: Real) -> str:
    """The chart at a width in pixels: words beside their rows, or above them on a phone."""
    stacked = width < NARROW
    row = STACKED_ROW if stacked else ROW
    left, right = (6.0, width - 6.0) if stacked else _sides(chart, width)
    height = TOP + row * len(chart.rows) + FOOT
    low, high = _range(chart.rows)
    x = Scale(low, high, left, right, log=True)
    frame = Frame(width, height, x, Scale(0, 1, height - FOOT, TOP))
    one = x.clamped(1.0)
    half = text_width(chart.one) / 2
    parts = [
        x_axis(frame, x.ticks(max(2, int((right - left) / 55))), chart.x_title),
        segment((one, TOP - 8), (one, height - FOOT), "level"),
        text((min(max(one, half), width - half), 12), chart.one, "levelname", "middle"),
    ]
    room = width * 0.45 if stacked else left - 14
    labels = fitted([item.label for item in chart.rows], room)
    for n, (item, label) in enumerate(zip(chart.rows, labels, strict=True)):
        top = TOP + n * row
        base, level = (top + 15, top + 30) if stacked else (top + row / 2 + 4, top + row / 2)
        parts.append(text((0, base), label, f"label s{item.slot}", told=item.label))
        parts.append(text((width, base), item.words, "value", "end"))
        parts.append(_mark(frame, item, level))
    return drawing(name, frame, chart.title, chart.description, *parts)


def _sides(chart: RatioChart, width: Real) -> tuple[Real, Real]:
    """Where the rows begin and end, between their names and their numbers."""
    names = max((text_width(item.label, BOLD) for item in chart.rows), default=0)
    numbers = max((text_width(item.words) for item in chart.rows), default=0)
    return min(names, 0.3 * width) + 16, width - numbers - 16


def bound_of(item: Ratio) -> tuple[str, Real] | None:
    """(sign, number) of a row that has but a bound."""
    found = BOUND.fullmatch(item.bound.strip()) if item.bound else None
    return (found[1], float(found[2])) if found and float(found[2]) > 0 else None


def _range(rows: Sequence[Ratio]) -> tuple[Real, Real]:
    """Around all dots, bounds and 1, and as much of the intervals as does not drown the dots."""
    dots = [item.value for item in rows if item.value is not None and item.value > 0]
    dots += [bound[1] for item in rows if (bound := bound_of(item))]
    dots.append(1.0)
    ends = [end for item in rows for end in (item.low, item.high) if end is not None]
    least, most = min(dots) / REACH, max(dots) * REACH
    return span([*dots, *(min(max(end, least), most) for end in ends)], log=True, room=0.08)


def _mark(frame: Frame, item: Ratio, level: Real) -> str:
    """The dot of a row with its whiskers, or its arrow, or nothing."""
    style, bound = f"s{item.slot}", bound_of(item)
    if bound is not None:
        sign, value = bound
        x = frame.x.clamped(value)
        away = frame.x.end if sign.startswith(">") else frame.x.start
        tail = dot((x, level), f"{style} hollow", item.told)
        return arrow((x, level), (away, level), style) + tail
    if item.value is None or item.value <= 0:
        return ""
    at = (frame.x.clamped(item.value), level)
    whiskers = [_whisker(frame, at, end, style) for end in (item.low, item.high) if end is not None]
    return "".join(whiskers) + dot(at, style, item.told)


def _whisker(frame: Frame, at: Point, end: Real, style: str) -> str:
    """From the dot to an end of its interval; an arrow where that lies outside."""
    level = at[1]
    if not frame.x.low <= end <= frame.x.high:
        away = frame.x.end if end > frame.x.high else frame.x.start
        return arrow(at, (away, level), style)
    x = frame.x.at(end)
    cap = segment((x, level - CAP), (x, level + CAP), f"stroke {style}")
    return segment(at, (x, level), f"stroke {style}") + cap
