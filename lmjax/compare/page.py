"""report.json as one HTML page and as Markdown: no network, the same bytes for the same report.

The page is whole without JavaScript, which only adds buttons that copy a table. Its content policy
forbids every request, so nothing that stands in a report can make one.
"""

import base64
import hashlib
from functools import singledispatch
from html import escape
from pathlib import Path
from typing import Any

from lmjax.compare import markdown, run_sections, schema, sections
from lmjax.compare.document import (
    Block,
    Cell,
    Column,
    Commands,
    Document,
    Figure,
    Figures,
    Fold,
    Link,
    Name,
    Notice,
    Prose,
    Section,
    Table,
    Verdict,
    Verdicts,
)
from lmjax.errors import InputError

HTML, MARKDOWN = "report.html", "report.md"
HERE = Path(__file__).parent
FULL, HALF, PHONE = 1100.0, 538.0, 358.0  # pixels: a chart over the page, one of two, on a phone
MAKERS = {"comparison": sections.document, "runs": run_sections.document}  # by kind of report


def write_pages(report: Any, folder: Path | str) -> None:
    """Write report.html and report.md into a folder that exists.

    Raises InputError for a report that no page can be made of, or a folder that takes no file.
    """
    made = make(report)
    folder = Path(folder)
    for name, text in ((HTML, to_html(made)), (MARKDOWN, markdown.to_markdown(made))):
        try:
            draft = folder / f".{name}.draft"
            draft.write_text(text, encoding="utf-8")
            draft.replace(folder / name)
        except OSError as error:
            raise InputError(f"{folder / name}: not writable ({error.strerror})") from None


def make(report: Any) -> Document:
    """The document of a report; raises InputError for a damaged or foreign one."""
    schema.check(report)
    return MAKERS[report["kind"]](report)


def to_html(document: Document) -> str:
    """The whole page."""
    style = (HERE / "style.css").read_text(encoding="utf-8")
    script = (HERE / "copy.js").read_text(encoding="utf-8")
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}"
    policy += "; base-uri 'none'; form-action 'none'"
    links = "".join(
        f'<a href="#{escape(section.name)}">{escape(section.title)}</a>'
        for section in document.sections
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(document.title)}</title>
<style>{style}</style>
</head>
<body>
<header>
<p class="origin">{escape(document.origin)}</p>
<h1>{escape(document.question)}</h1>
{_all(document.opening)}
</header>
<nav aria-label="Sections">{links}</nav>
<main>
{"".join(map(_section, document.sections))}
</main>
<footer><p>{escape(document.foot)}</p></footer>
<script>{script}</script>
</body>
</html>
"""


def _hash(text: str) -> str:
    """By which the page's policy knows its own style and script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _section(section: Section) -> str:
    return (
        f'<section id="{escape(section.name)}"><h2>{escape(section.title)}</h2>\n'
        f"{_all(section.blocks)}</section>\n"
    )


def _all(blocks: Any) -> str:
    return "".join(map(_block, blocks))


@singledispatch
def _block(block: Block) -> str:
    """One block as HTML."""
    raise TypeError(type(block))


@_block.register
def _(block: Prose) -> str:
    return f"<p>{escape(block.text)}</p>\n"


@_block.register
def _(block: Notice) -> str:
    return (
        f'<p class="notice" role="note"><strong>{escape(block.title)}.</strong> '
        f"{escape(block.text)}</p>\n"
    )


@_block.register
def _(block: Verdicts) -> str:
    rows = "".join(
        f"<li>{_cell(verdict)}<span>{escape(sentence)}</span></li>"
        for verdict, sentence in block.rows
    )
    return f'<ul class="verdicts">{rows}</ul>\n'


@_block.register
def _(block: Figure) -> str:
    wide = HALF if block.half else FULL
    numbers = _block(Fold("The numbers of this picture", [block.numbers])) if block.numbers else ""
    caption = f"<figcaption>{escape(block.caption)}</figcaption>" if block.caption else ""
    return (
        f'<figure id="{escape(block.name)}"><h3>{escape(block.title)}</h3>'
        f'<div class="wide">{block.draw(f"{block.name}-wide", wide)}</div>'
        f'<div class="narrow">{block.draw(f"{block.name}-narrow", PHONE)}</div>'
        f"{caption}{numbers}</figure>\n"
    )


@_block.register
def _(block: Figures) -> str:
    return f'<div class="figures">{_all(block.items)}</div>\n'


@_block.register
def _(block: Commands) -> str:
    """Each word in a box, so that a line is broken between words and not after their hyphens."""
    lines = (
        " ".join(f'<span class="word">{escape(word)}</span>' for word in line.split(" "))
        for line in block.lines
    )
    return f"<pre><code>{chr(10).join(lines)}</code></pre>\n"


@_block.register
def _(block: Fold) -> str:
    return f"<details><summary>{escape(block.summary)}</summary>\n{_all(block.blocks)}</details>\n"


@_block.register
def _(block: Table) -> str:
    heads = "".join(
        f'<th scope="col"{_kind(column)}>{escape(column.title)}</th>' for column in block.columns
    )
    rows = []
    for cells in block.rows:
        first, *others = zip(cells, block.columns, strict=True)
        row = f'<th scope="row"{_kind(first[1])}>{_cell(first[0])}</th>'
        row += "".join(f"<td{_kind(column)}>{_cell(cell)}</td>" for cell, column in others)
        rows.append(f"<tr>{row}</tr>\n")
    caption = escape(block.caption)
    place = f' id="{escape(block.name)}"' if block.name else ""
    return (
        f'<div class="table"{place} role="region" aria-label="{caption}" tabindex="0">'
        f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{''.join(rows)}</tbody></table></div>\n"
    )


def _kind(column: Column) -> str:
    names = [name for name in ("numbers", "code") if getattr(column, name)]
    return f' class="{" ".join(names)}"' if names else ""


def _cell(cell: Cell) -> str:
    return _inline(cell)


@singledispatch
def _inline(cell: Cell) -> str:
    """What stands in a cell of a table."""
    return escape(str(cell))


@_inline.register
def _(cell: Name) -> str:
    return f'<span class="swatch s{cell.slot}" aria-hidden="true"></span>{escape(cell.text)}'


@_inline.register
def _(cell: Verdict) -> str:
    return f'<span class="verdict {cell.text.replace(" ", "-")}">{escape(cell.text)}</span>'


@_inline.register
def _(cell: Link) -> str:
    return f'<a href="#{escape(cell.target)}">{escape(cell.text)}</a>'
