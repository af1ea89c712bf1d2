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

SPECIAL = re.compile(
    r"([\\`*_\[\]<>|~])"
)  # what Markdown, or HTML within it, would take for its own
LINE_MARK = re.compile(r"^(\s*)([#+=-]|\d+(?=[.)]))")  # and what it would at the start of a line


def to_markdown(document: Document) -> str:
    """The whole report."""
    parts = [f"# {plain(document.question)}", plain(document.origin)]
    parts += _all(document.opening, 2)
    for section in document.sections:
        parts += [f"## {plain(section.title)}", *_all(section.blocks, 3)]
    parts.append(plain(document.foot))
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str) -> str:
    """Text in one line that shows as it is."""
    words = SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")
    words = words.replace("\\<", "&lt;").replace("\\>", "&gt;")
    return LINE_MARK.sub(r"\1\\\2", words) if not words[:1].isdigit() else words


def _all(blocks: Sequence[Block], level: int) -> list[str]:
    return [part for block in blocks for part in _block(block, level)]


@singledispatch
def _block(block: Any, level: int) -> list[str]:
    """One block as paragraphs; headings in it are of this level."""
    raise TypeError(type(block))


@_block.register
def _(block: Prose, level: int) -> list[str]:
    return [plain(block.text)]


@_block.register
def _(block: Notice, level: int) -> list[str]:
    return [f"> **{plain(block.title)}.** {plain(block.text)}"]


@_block.register
def _(block: Verdicts, level: int) -> list[str]:
    return ["\n".join(f"- **{plain(v.text)}**: {plain(words)}" for v, words in block.rows)]


@_block.register
def _(block: Figure, level: int) -> list[str]:
    told = f"{block.title} (drawn in report.html). {block.caption}".strip()
    return [plain(told), *(_block(block.numbers, level) if block.numbers else [])]


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
    if not block.rows:
        return [f"{plain(block.caption)}: none"]
    heads = _row([column.title for column in block.columns])
    rule = f"|{'|'.join('---:' if column.numbers else '---' for column in block.columns)}|"
    return ["\n".join([heads, rule, *map(_row, block.rows)])]


def _row(cells: Sequence[Cell]) -> str:
    return f"| {' | '.join(plain(_text(cell)) for cell in cells)} |"


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.text
