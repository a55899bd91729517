"""Format tables and paragraphs for a terminal of 80 columns.

A table is a header and rows of cells; the first column names the row and is left-aligned, the others right-aligned.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 80
GAP = "  "

Rows = Sequence[Sequence[str]]


def terminal(header: Sequence[str], rows: Rows, width: int = WIDTH) -> str:
    """Format a table in lines of at most ``width`` characters.

    Columns that do not fit follow below, in blocks that repeat the first column; a cell too long for a line is cut,
    and ends in an ellipsis.
    """
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
        block = []
        for line in lines:
            cells = [cut(line[1 + i], widths[i]).rjust(widths[i]) for i in range(at, end)]
            block.append(GAP.join([cut(line[0], first).ljust(first), *cells]).rstrip())
        blocks.append("\n".join(block))
        at = max(end, at + 1)
    return "\n\n".join(blocks)


def cut(text: str, length: int) -> str:
    """Cut text to ``length`` characters, an ellipsis at its end."""
    return text if len(text) <= length else text[: max(length - 1, 0)] + "…"


def _plain(text: str) -> str:
    """Replace control characters, which a name may contain as a file name may."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def wrapped(text: str, width: int = WIDTH) -> str:
    """Wrap a paragraph at ``width`` columns, further lines indented by two. Long words stay whole."""
    return textwrap.fill(_plain(text), width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
