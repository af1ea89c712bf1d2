"""Two rankings side by side, with a line from each place in one to its place in the other."""

from collections.abc import Sequence
from typing import NamedTuple

from lmjax.compare.charts.scale import Real, Scale
from lmjax.compare.charts.svg import (
    BOLD,
    Frame,
    dot,
    drawing,
    fitted,
    segment,
    text,
    text_width,
)

ROW, TOP = 24.0, 34.0  # pixels
MOST_NAME, LEAST_GAP = 0.36, 60.0  # of the width for a name, and pixels between the two columns


class Ranking(NamedTuple):
    """One column: (label, rank), the best first; equal ranks are ties."""

    title: str
    places: Sequence[tuple[str, int]]


class RankChart(NamedTuple):
    """What is drawn, and in which words."""

    title: str
    description: str
    left: Ranking
    right: Ranking
    slots: dict[str, int]  # label -> its colour


def rank_chart(name: str, chart: RankChart, width: Real) -> str:
    """The chart at a width in pixels."""
    left, right = _words(chart.left, width), _words(chart.right, width)
    names = [*left.values(), *right.values()]
    room = max((text_width(words, BOLD) for words in names), default=0)
    inner = max(width - 2 * room - 40, LEAST_GAP)
    start = room + 12
    end = start + min(inner, 220)
    rows = max(len(left), len(right))
    frame = Frame(width, TOP + ROW * rows + 4, Scale(0, 1, start, end), Scale(0, 1, 1, 0))
    heights = [
        {label: TOP + ROW * (n + 0.5) for n, label in enumerate(column)} for column in (left, right)
    ]
    parts = [
        text((start, 14), chart.left.title, "name", "end"),
        text((end, 14), chart.right.title, "name"),
    ]
    for label, at in heights[0].items():
        style = f"s{chart.slots[label]}"
        if label in heights[1]:
            parts.append(segment((start, at), (end, heights[1][label]), f"line {style}"))
    columns = ((left, heights[0], start, -8, "end"), (right, heights[1], end, 8, "start"))
    for words, places, x, away, anchor in columns:
        for label, at in places.items():
            style = f"s{chart.slots[label]}"
            parts.append(dot((x, at), style))
            parts.append(text((x + away, at + 4), words[label], f"label {style}", anchor, label))
    return drawing(name, frame, chart.title, chart.description, *parts)


def _words(ranking: Ranking, width: Real) -> dict[str, str]:
    """Label -> "2 lion", or "2= lion" where it shares its rank."""
    labels = [label for label, _ in ranking.places]
    ranks = [rank for _, rank in ranking.places]
    short = fitted(labels, MOST_NAME * width - text_width("12= ", BOLD))
    tie = {rank for rank in ranks if ranks.count(rank) > 1}
    return {
        label: f"{rank}{'=' if rank in tie else ''} {name}"
        for label, rank, name in zip(labels, ranks, short, strict=True)
    }
