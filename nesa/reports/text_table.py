"""Tables of text that fit where they are read: a terminal of 80 columns, or Markdown.

A table is a heading and rows of cells; the first column names the row and stands on the left, the others on the right.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 80
GAP = "  "

Rows = Sequence[Sequence[str]]


def terminal(header: Sequence[str], rows: Rows, width: int = WIDTH) -> str:
    """Lines of at most ``width`` characters. What does not fit beside the first column goes on below, as further
    blocks that repeat it; a cell too long for the line by itself is cut, and ends in an ellipsis."""
    lines = [list(map(_plain, line)) for line in (header, *rows)]
    first = min(max(len(line[0]) for line in lines), width // 3)
    most = width - first - len(GAP)
    widths = [min(max(len(line[at]) for line in lines), most) for at in range(1, len(header))]
    blocks, at = [], 0
    while at < len(widths) or not blocks:
        end, used = at, first
        while end < len(widths) and (end == at or used + len(GAP) + widths[end] <= width):
            used += len(GAP) + widths[end]
            end += 1
        blocks.append(
            "\n".join(
                GAP.join(
                    [
                        cut(line[0], first).ljust(first),
                        *(cut(line[1 + i], widths[i]).rjust(widths[i]) for i in range(at, end)),
                    ]
                ).rstrip()
                for line in lines
            )
        )
        at = max(end, at + 1)
    return "\n\n".join(blocks)


def markdown(header: Sequence[str], rows: Rows) -> str:
    """A Markdown table."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(length - 1, 0)] + "…"


def _plain(text: str) -> str:
    """One line without control characters: a name may hold anything that a file name may."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def wrapped(text: str, width: int = WIDTH) -> str:
    """A paragraph of at most ``width`` columns; further lines are indented by two. Long words stay whole."""
    return textwrap.fill(_plain(text), width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
