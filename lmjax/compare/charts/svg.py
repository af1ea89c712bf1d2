"""The elements of a chart: escaped text, lines, bands, whiskers, axes, labels beside their lines.

Colours, fonts and dashes are the page's (style.css), under the classes given here. Every number is
checked to be finite and written with two decimals, so that equal charts are equal bytes.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from lmjax.compare.charts.scale import Real, Scale, Tick

Point = tuple[Real, Real]
FONT = 12.0  # pixels; style.css says the same
BOLD = 1.1 * FONT  # as wide as text of this size that is not bold
NARROW = 480.0  # a chart below this width is for a phone
ADVANCE = {  # of characters, in units of the font's size, with room for the widest usual font
    **dict.fromkeys("iljI.,:;'|!()[] ft/-", 0.41),
    **dict.fromkeys("mwMW@%", 1.0),
    **dict.fromkeys("ABCDEFGHKLNOPQRSTUVXYZ=+<>~", 0.76),
}
WIDE_FROM, WIDE, USUAL = "\u2e80", 1.05, 0.64  # the scripts of East Asia fill a square


class Frame(NamedTuple):
    """A chart's size and its two scales, which leave room for labels around them."""

    width: Real
    height: Real
    x: Scale
    y: Scale


def number(value: Real) -> str:
    """A coordinate; raises ValueError for one that is nowhere."""
    if not math.isfinite(value):
        raise ValueError(f"a coordinate is {value}")
    words = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if words == "-0" else words


def element(tag: str, *inner: str, **attributes: str | Real) -> str:
    """One element around others, which are markup already; attributes are escaped.

    A name's underscores become hyphens, and one at its end is dropped: class_, stroke_width.
    """
    words = [
        f'{name.rstrip("_").replace("_", "-")}="'
        f'{escape(value) if isinstance(value, str) else number(value)}"'
        for name, value in attributes.items()
    ]
    head = " ".join([tag, *words])
    return f"<{head}>{''.join(inner)}</{tag}>" if any(inner) else f"<{head}/>"


def text(at: Point, words: str, style: str = "", anchor: str = "start", told: str = "") -> str:
    """Words with their baseline at a point; `told` is what a pointer over them shows."""
    where = {"text_anchor": anchor} if anchor != "start" else {}
    names = {"class_": style} if style else {}
    return element("text", _told(told), escape(words), x=at[0], y=at[1], **names, **where)


def segment(start: Point, end: Point, style: str) -> str:
    """A straight line."""
    return element("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=style)


def path(points: Sequence[Point], style: str, closed: bool = False) -> str:
    """Straight lines through points."""
    words = [f"{'L' if n else 'M'}{number(x)} {number(y)}" for n, (x, y) in enumerate(points)]
    return element("path", d="".join(words) + ("Z" if closed else ""), class_=style)


def dot(at: Point, style: str, told: str = "", radius: Real = 4) -> str:
    """A filled circle."""
    return element("circle", _told(told), cx=at[0], cy=at[1], r=radius, class_=f"dot {style}")


def triangle(at: Point, style: str, told: str = "", size: Real = 4.5) -> str:
    """What stands for a number above the frame."""
    x, y = at
    corners = f"M{number(x - size)} {number(y + size)}L{number(x)} {number(y - size)}"
    corners += f"L{number(x + size)} {number(y + size)}Z"
    return element("path", _told(told), d=corners, class_=f"dot {style}")


def cross(at: Point, style: str, told: str = "", size: Real = 4) -> str:
    """What stands for a run that diverged."""
    x, y = at
    strokes = f"M{number(x - size)} {number(y - size)}L{number(x + size)} {number(y + size)}"
    strokes += f"M{number(x - size)} {number(y + size)}L{number(x + size)} {number(y - size)}"
    return element("path", _told(told), d=strokes, class_=f"stroke {style}")


def _told(words: str) -> str:
    """What a pointer over an element shows."""
    return element("title", escape(words)) if words else ""


def arrow(start: Point, end: Point, style: str, size: Real = 5) -> str:
    """A level line with a head: the number lies somewhere beyond its start."""
    (x, y), back = end, math.copysign(size, start[0] - end[0])
    head = path([(x + back, y - size), (x, y), (x + back, y + size)], f"stroke {style}")
    return segment(start, end, f"stroke {style}") + head


def drawing(name: str, frame: Frame, title: str, description: str, *inner: str) -> str:
    """A whole chart, for eyes and for screen readers; `name` is unique in its page."""
    return element(
        "svg",
        element("title", escape(title), id=f"{name}-title"),
        element("desc", escape(description), id=f"{name}-desc"),
        *inner,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {number(frame.width)} {number(frame.height)}",
        width=frame.width,
        height=frame.height,
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )


def curve(frame: Frame, points: Sequence[tuple[Real, Real | None]], style: str) -> str:
    """A line through values, cut where it leaves the frame; None leaves a gap."""
    found, run = [], []
    for x, y in [*points, (0.0, None)]:
        if y is not None and not (frame.y.log and y <= 0):
            run.append((frame.x.at(x), frame.y.at(y)))
            continue
        if len(run) == 1:
            run *= 2  # a dot, by the round ends of lines
        found += [path(piece, f"line {style}") for piece in inside(run, frame)]
        run = []
    return "".join(found)


def inside(points: Sequence[Point], frame: Frame) -> list[list[Point]]:
    """The pieces of a line of pixels that lie between the top and the foot of the frame."""
    top, foot = frame.y.end, frame.y.start
    pieces: list[list[Point]] = []
    for start, end in itertools.pairwise(points):
        cut = _cut(start, end, top, foot)
        if cut is None:
            continue
        if pieces and pieces[-1][-1] == cut[0]:
            pieces[-1].append(cut[1])
        else:
            pieces.append(list(cut))
    return pieces


def _cut(start: Point, end: Point, top: Real, foot: Real) -> tuple[Point, Point] | None:
    """What of a line lies between two levels."""
    if max(start[1], end[1]) < top or min(start[1], end[1]) > foot:
        return None

    def at(point: Point) -> Point:
        level = min(max(point[1], top), foot)
        if level == point[1]:
            return point
        share = (level - start[1]) / (end[1] - start[1])
        return start[0] + share * (end[0] - start[0]), level

    return at(start), at(end)


def band(frame: Frame, points: Sequence[tuple[Real, Real | None, Real | None]], style: str) -> str:
    """An area between (x, low, high); None leaves a gap, and what is outside the frame is cut."""
    found: list[str] = []
    upper: list[Point] = []
    lower: list[Point] = []
    for x, low, high in [*points, (0.0, None, None)]:
        if low is not None and high is not None and not (frame.y.log and high <= 0):
            at = frame.x.at(x)
            upper.append((at, frame.y.at(high)))
            low = max(low, frame.y.low) if frame.y.log else low  # it may be below 0
            lower.append((at, frame.y.at(low)))
            continue
        area = _clipped([*upper, *reversed(lower)], frame)
        found += [path(area, f"band {style}", closed=True)] if len(area) > 2 else []
        upper, lower = [], []
    return "".join(found)


def _clipped(corners: list[Point], frame: Frame) -> list[Point]:
    """What of an area lies between the top and the foot of the frame (Sutherland and Hodgman)."""
    for level, side in ((frame.y.end, 1), (frame.y.start, -1)):
        kept: list[Point] = []
        for start, end in zip([*corners[-1:], *corners[:-1]], corners, strict=True):
            before, after = side * (start[1] - level), side * (end[1] - level)
            if before * after < 0:
                share = before / (before - after)
                kept.append((start[0] + share * (end[0] - start[0]), level))
            if after >= 0:
                kept.append(end)
        corners = kept
    return corners


def x_axis(frame: Frame, marks: Iterable[Tick], title: str) -> str:
    """Ticks below the frame, with the title under them at the right."""
    foot = frame.y.start
    parts = [segment((frame.x.start, foot), (frame.x.end, foot), "axis")]
    for mark in apart(frame.x, list(marks)):
        at = frame.x.at(mark.value)
        half = text_width(mark.text) / 2
        shown = min(max(at, half), frame.width - half)  # no label leaves the picture
        parts.append(segment((at, foot), (at, foot + 4), "axis"))
        parts.append(text((shown, foot + 17), mark.text, "tick", "middle"))
    if title:
        parts.append(text((frame.x.end, foot + 34), title, "name", "end"))
    return "".join(parts)


def apart(scale: Scale, marks: list[Tick]) -> list[Tick]:
    """The marks of a level axis, without those whose text would touch the one before."""
    kept: list[Tick] = []
    for mark in marks:
        if kept:
            room = (text_width(kept[-1].text) + text_width(mark.text)) / 2 + 6
            if scale.at(mark.value) - scale.at(kept[-1].value) < room:
                continue
        kept.append(mark)
    return kept


def y_axis(frame: Frame, marks: Iterable[Tick], title: str) -> str:
    """Level lines over the frame with their numbers at the left, and the title above them."""
    parts = []
    for mark in marks:
        at = frame.y.at(mark.value)
        parts.append(segment((frame.x.start, at), (frame.x.end, at), "grid"))
        parts.append(text((frame.x.start - 7, at + 4), mark.text, "tick", "end"))
    parts.append(text((0, 12), title, "name"))
    return "".join(parts)


def text_width(words: str, size: Real = FONT) -> Real:
    """About how wide words are, and seldom wider; fonts differ."""
    return size * sum(
        WIDE if letter >= WIDE_FROM else ADVANCE.get(letter, USUAL) for letter in words
    )


def fitted(labels: Sequence[str], room: Real, size: Real = BOLD) -> list[str]:
    """Labels that fit into so many pixels, cut in their middle, and still different."""
    short = [_fit(label, room, size) for label in labels]
    if len(set(short)) < len(set(labels)):
        return [_fit(f"{n} {label}", room, size) for n, label in enumerate(labels, 1)]
    return short


def _fit(label: str, room: Real, size: Real) -> str:
    kept = len(label)
    words = label
    while text_width(words, size) > room and kept > 2:
        kept -= 1
        words = f"{label[: (kept + 1) // 2]}…{label[len(label) - kept // 2 :]}"
    return words


def spread(places: Sequence[Real], gap: Real, low: Real, high: Real) -> list[Real]:
    """Each place moved as little as may be, by least squares, so that none is nearer than `gap`.

    They keep their order. Where [low, high] is too small for all of them the gap shrinks.
    """
    if not places:
        return []
    gap = min(gap, (high - low) / max(len(places) - 1, 1))
    order = sorted(range(len(places)), key=lambda n: (places[n], n))
    blocks: list[list[Real]] = []  # of (sum, count) in coordinates in which the gap is nothing
    for rank, n in enumerate(order):
        blocks.append([places[n] - rank * gap, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    level = [total / count for total, count in blocks for _ in range(int(count))]
    most = high - (len(places) - 1) * gap
    moved = [0.0] * len(places)
    for rank, n in enumerate(order):
        moved[n] = min(max(level[rank], low), most) + rank * gap
    return moved
