"""What a report says, before it becomes HTML (page.py) or Markdown (markdown.py): a tree of blocks.

All text in it is plain; escaping is the renderers' work.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lmjax.compare.charts.scale import Real


class Name(NamedTuple):
    """A variant or a run, in its colour."""

    text: str
    slot: int


class Verdict(NamedTuple):
    """better, worse, cannot tell, no verdict, or baseline."""

    text: str


class Link(NamedTuple):
    """Words that lead to a place in the same page."""

    text: str
    target: str


Cell = str | Name | Verdict | Link


class Column(NamedTuple):
    """The head of a column, and what stands in it."""

    title: str
    numbers: bool = True  # to the right, in digits of one width
    code: bool = False


class Table(NamedTuple):
    """Rows of cells, each row as long as the columns; `name` is its place to lead to."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    name: str = ""


class Prose(NamedTuple):
    """A paragraph."""

    text: str


class Notice(NamedTuple):
    """What a reader must know before the numbers."""

    title: str
    text: str


class Verdicts(NamedTuple):
    """(verdict, sentence), all of them alike."""

    rows: Sequence[tuple[Verdict, str]]


class Figure(NamedTuple):
    """A chart: `draw` takes a name that is unique in the page and a width in pixels."""

    name: str
    title: str
    caption: str
    draw: Callable[[str, Real], str]
    half: bool = False  # of the page's width, where there is room
    numbers: Table | None = None  # what is drawn


class Figures(NamedTuple):
    """Charts side by side, where there is room."""

    items: Sequence[Figure]


class Commands(NamedTuple):
    """Lines for a shell."""

    lines: Sequence[str]


class Fold(NamedTuple):
    """What is there for those who ask."""

    summary: str
    blocks: Sequence["Block"]


Block = Table | Prose | Notice | Verdicts | Figure | Figures | Commands | Fold


class Section(NamedTuple):
    """A part of the page with a heading; `name` is its place to lead to."""

    name: str
    title: str
    blocks: Sequence[Block]


class Document(NamedTuple):
    """A whole report."""

    title: str
    origin: str  # what kind of page it is, in a line above the question
    question: str
    opening: Sequence[Block]  # the first screen
    sections: Sequence[Section]
    foot: str
