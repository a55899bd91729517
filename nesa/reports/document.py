"""Write a document once from sections of text, tables and pictures, and print it as Markdown and as one HTML page.

A section is a title and blocks, and a block is one of the classes here. Text that comes from a user (names of tasks,
messages, a curriculum) is escaped in the output, so a name can neither break a table nor run as a script.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nesa.run_folder.tables import markdown_table

MEDIA = {"png": "image/png", "svg": "image/svg+xml", "gif": "image/gif"}
STYLE = """
body { font: 15px/1.55 system-ui, sans-serif; color: #262626; background: #fff; margin: 2em auto; padding: 0 1.2em;
  max-width: 72em; }
h1 { font-size: 1.6em; } h2 { margin-top: 2.2em; border-bottom: 1px solid #e6e6e6; }
table { border-collapse: collapse; font-size: .9em; margin: 1em 0; display: block; overflow-x: auto;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25em .8em; border-bottom: 1px solid #e6e6e6; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 2px solid #8c8c8c; }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: .85em; }
figure { margin: 1em 0; display: inline-block; max-width: 100%; vertical-align: top; }
img, svg { max-width: 100%; height: auto; } figcaption { color: #6b6b6b; font-size: .85em; }
figcaption b { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin: 0 .4em 0 1em; }
iframe { width: 100%; height: 720px; border: 1px solid #e6e6e6; }
summary { cursor: pointer; color: #3b6ea5; } nav a { margin-right: 1.2em; white-space: nowrap; }
.note { background: #fff4d6; padding: .4em .8em; border-left: 4px solid #ffa90e; }
"""


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Note(NamedTuple):
    """A paragraph that must not be overlooked."""

    text: str


class Code(NamedTuple):
    """Preformatted text; the page folds it away behind its title."""

    title: str
    text: str


class Picture(NamedTuple):
    """A picture with its caption, its kind (png, svg or gif) and its bytes; ``link`` for Markdown."""

    caption: str
    kind: str
    content: bytes
    link: str


class Drawing(NamedTuple):
    """An <svg> element with a legend of (colour, label); Markdown has the labels alone."""

    legend: Sequence[tuple[str, str]]
    svg: str


class Frame(NamedTuple):
    """A whole HTML page inside the page; Markdown has its ``link`` instead."""

    caption: str
    page: str
    link: str


@dataclass(frozen=True)
class Table:
    """Rows of cells below a header; ``show`` turns a cell into text. The page keeps each number in full beside it."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    show: Callable[[Any], str] = field(default=str)
    folded: str = ""  # the title behind which the page hides it


Block = Text | Note | Code | Picture | Drawing | Frame | Table


class Section(NamedTuple):
    """A title and the blocks below it."""

    title: str
    blocks: Sequence[Block]


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Print the document as Markdown; pictures are links."""
    parts = [f"# {_plain(title)}"]
    for section in sections:
        parts += [f"## {_plain(section.title)}", *map(_markdown, section.blocks)]
    return "\n\n".join(parts) + "\n"


def page(title: str, sections: Sequence[Section]) -> str:
    """Print the document as one HTML page that needs no other file and no network."""
    names = [re.sub(r"\W+", "-", section.title.lower()) for section in sections]
    links = " ".join(f'<a href="#{n}">{html.escape(s.title)}</a>' for n, s in zip(names, sections, strict=True))
    body = "\n".join(
        f'<section id="{name}"><h2>{html.escape(section.title)}</h2>\n{"".join(map(_html, section.blocks))}</section>'
        for name, section in zip(names, sections, strict=True)
    )
    heading = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><h1>{heading}</h1>\n<nav>{links}</nav>\n{body}\n</body></html>\n"
    )


def _markdown(block: Block) -> str:
    """Print one block as Markdown."""
    match block:
        case Text(text):
            return _plain(text)
        case Note(text):
            return f"**Note:** {_plain(text)}"
        case Code(title, text):
            fence = "`" * (1 + max([2, *(len(run) for run in re.findall("`+", text))]))
            return f"{_plain(title)}\n\n{fence}\n{text.rstrip()}\n{fence}"
        case Picture(caption, _, _, link):
            return f"![{_plain(caption)}]({link})"
        case Drawing(legend, _):
            return _plain(", ".join(label for _, label in legend))
        case Frame(caption, _, link):
            return f"[{_plain(caption)}]({link})"
        case Table():
            return markdown_table(block.header, [[_shown(block, cell) for cell in row] for row in block.rows], _plain)


def _html(block: Block) -> str:
    """Print one block as HTML."""
    match block:
        case Text(text):
            return f"<p>{html.escape(text)}</p>\n"
        case Note(text):
            return f'<p class="note">{html.escape(text)}</p>\n'
        case Code(title, text):
            return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>\n"
        case Picture(caption, kind, content, _):
            source = f"data:{MEDIA[kind]};base64,{base64.b64encode(content).decode()}"
            text = html.escape(caption)
            return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>\n'
        case Drawing(legend, svg):
            labels = "".join(f'<b style="background: {colour}"></b>{html.escape(label)}' for colour, label in legend)
            return f"<figure><figcaption>{labels}</figcaption>{svg}</figure>\n"
        case Frame(caption, inner, _):
            return f'<iframe title="{html.escape(caption)}" srcdoc="{html.escape(inner)}"></iframe>\n'
        case Table():
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in block.header)
            rows = "".join(f"<tr>{''.join(_cell(block, cell) for cell in row)}</tr>\n" for row in block.rows)
            table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>\n"
            if block.folded:
                return f"<details><summary>{html.escape(block.folded)}</summary>{table}</details>\n"
            return table


def _cell(table: Table, cell: Any) -> str:
    """Print one cell as HTML, a number in full beside the text that is shown."""
    value = "" if cell is None or isinstance(cell, str) else f' data-value="{html.escape(json.dumps(cell))}"'
    return f"<td{value}>{html.escape(_shown(table, cell))}</td>"


def _shown(table: Table, cell: Any) -> str:
    return "" if cell is None else cell if isinstance(cell, str) else table.show(cell)


def _plain(text: str) -> str:
    """Escape what Markdown and HTML would act on, and join lines."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))
