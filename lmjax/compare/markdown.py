"""A document as Markdown: the same words and tables, and the numbers of each chart."""

import re
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from lmjax.compare.document import (
    Block,
    Cell,
    Commands,
    Document,
    Figure,
    Figures,
    Fold,
    Notice,
    Prose,
    Table,
    Verdicts,
)

# What Markdown, or HTML within it, would take for its own: escaped where it would do something.
SPECIAL = re.compile(r"[\\`*|]|~(?=~)|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")
MARKUP = re.compile(r"<(?=[A-Za-z/!?])|&(?=#?\w+;)")
LINE_START = re.compile(r"^([#+=>-]|\d+(?=[.)]\s))")


def to_markdown(document: Document) -> str:
    """The whole report."""
    parts = [f"# {plain(document.question)}", paragraph(document.origin)]
    parts += _all(document.opening, 2)
    for section in document.sections:
        parts += [f"## {plain(section.title)}", *_all(section.blocks, 3)]
    parts.append(paragraph(document.foot))
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str) -> str:
    """Text in one line that shows as it is, wherever in a line it stands."""
    words = SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))
    return MARKUP.sub(lambda found: "&lt;" if found[0] == "<" else "&amp;", words)


def paragraph(text: str) -> str:
    """Text that begins a line, and no list, heading or quotation with it."""
    words = plain(text)
    if not LINE_START.match(words):
        return words
    return f"\\{words}" if not words[0].isdigit() else re.sub(r"^(\d+)", r"\1\\", words)


def _all(blocks: Sequence[Block], level: int) -> list[str]:
    return [part for block in blocks for part in _block(block, level)]


@singledispatch
def _block(block: Any, level: int) -> list[str]:
    """One block as paragraphs; headings in it are of this level."""
    raise TypeError(type(block))


@_block.register
def _(block: Prose, level: int) -> list[str]:
    return [paragraph(block.text)]


@_block.register
def _(block: Notice, level: int) -> list[str]:
    return [f"> **{plain(block.title)}.** {plain(block.text)}"]


@_block.register
def _(block: Verdicts, level: int) -> list[str]:
    return ["\n".join(f"- **{plain(v.text)}**: {plain(words)}" for v, words in block.rows)]


@_block.register
def _(block: Figure, level: int) -> list[str]:
    told = f"{block.title} (drawn in report.html). {block.caption}".strip()
    return [paragraph(told), *(_block(block.numbers, level) if block.numbers else [])]


@_block.register
def _(block: Figures, level: int) -> list[str]:
    return _all(block.items, level)


@_block.register
def _(block: Commands, level: int) -> list[str]:
    text = "\n".join(block.lines)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}\n{text}\n{fence}"]


@_block.register
def _(block: Fold, level: int) -> list[str]:
    return [f"{'#' * level} {plain(block.summary)}", *_all(block.blocks, level + 1)]


@_block.register
def _(block: Table, level: int) -> list[str]:
    caption = f"**{plain(block.caption)}**"
    if not block.rows:
        return [f"{caption}: none"]
    heads = _row([column.title for column in block.columns])
    rule = f"|{'|'.join('---:' if column.numbers else '---' for column in block.columns)}|"
    return [caption, "\n".join([heads, rule, *map(_row, block.rows)])]


def _row(cells: Sequence[Cell]) -> str:
    return f"| {' | '.join(plain(_text(cell)) for cell in cells)} |"


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.text
