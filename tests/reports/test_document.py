"""Test that a document prints as Markdown and as HTML, and that text from users is always escaped."""

from __future__ import annotations

import html
import json
from html.parser import HTMLParser

from nesa.reports.document import Code, Frame, Picture, Section, Table, Text, markdown, page

NASTY = "<script>alert('x')</script> | `y` \n# z"


class Reader(HTMLParser):
    """Tags, texts of cells and the values that cells keep."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.values, self.words = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "td":
            self.cells.append("")
            self.values.append(json.loads(dict(attrs).get("data-value", "null")))

    def handle_data(self, data):
        self.words += data
        if self.tags and self.tags[-1] == "td":
            self.cells[-1] += data.strip()


def test_the_page_keeps_each_number_in_full():
    table = Table(("task", "score"), [("a", 1 / 3), ("b", None), ("c", [1, 2])], lambda v: f"{v}"[:4].strip())
    read = Reader(page("t", [Section("s", [table])]))
    assert read.cells == ["a", "0.33", "b", "", "c", "[1,"]
    assert read.values == [None, 1 / 3, None, None, None, [1, 2]]


def test_what_a_user_wrote_is_text():
    blocks = [Text(NASTY), Code(NASTY, NASTY), Table((NASTY,), [[NASTY]]), Picture(NASTY, "png", b"x", "a.png")]
    read = Reader(page(NASTY, [Section(NASTY, blocks)]))
    assert "script" not in read.tags
    assert read.words.count("alert('x')") >= 6
    text = markdown(NASTY, [Section(NASTY, blocks)])
    outside = text.split("```")[0] + text.split("```")[-1]
    assert "<script>" not in outside.replace("\\<", "") and "\n# z" not in outside
    row = next(line for line in text.splitlines() if line.startswith("| \\<script"))
    assert row.replace("\\|", "").count("|") == 2, "a bar in a name opens no column"


def test_code_with_fences_in_it_stays_whole():
    text = markdown("t", [Section("s", [Code("c", "a\n```\nb")])])
    assert "````\na\n```\nb\n````" in text


def test_pictures_and_frames_are_inside_the_page_and_links_in_markdown():
    blocks = [Picture("p", "gif", b"GIF89a", "report/p.gif"), Frame("f", '<p class="q">&</p>', "report/f.html")]
    text = page("t", [Section("s", blocks)])
    assert 'src="data:image/gif;base64,R0lGODlh"' in text
    assert f'srcdoc="{html.escape(blocks[1].page)}"' in text
    assert markdown("t", [Section("s", blocks)]).endswith("![p](report/p.gif)\n\n[f](report/f.html)\n")
