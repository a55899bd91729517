"""Parse YAML text into a tree in which every value has its place: FILE:LINE:COLUMN.

YAML is data here: nothing is constructed from tags, nothing is looked up in the environment, and text that is made to
exhaust memory or time (depth, anchors that multiply, size) ends in a problem. Problems are collected, not raised, so
that all of them are reported at once. Scalars are typed by YAML 1.2's core schema (nesa.config.scalars).

    read_text(path)                  the file's text, or the reason why it cannot be had
    parse(text, file, problems)      the text as a tree of Node
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nesa.config.scalars import CORE, core_type, core_value
from nesa.errors import Problem, UserError

MAX_BYTES = 256 * 1024
MAX_NODES = 20_000  # values in one file after anchors are expanded; a curriculum of 100 tasks has about 2,000
MAX_DEPTH = 24

_TAG = "tag:yaml.org,2002:"
_TEXT = ("str", "timestamp", "value", "merge")  # tags of scalars that are text to a curriculum


@dataclass(frozen=True)
class Place:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def problem(self, key: str, message: str) -> Problem:
        """Make the problem of a key at this place."""
        return Problem(self.file, self.line, self.column, key, message)


@dataclass
class Node:
    """A value: dict[str, Node], list[Node] or a scalar, with its place, its key's place and a scalar's own text.

    quoted: in quotes, or of an explicit tag. broken: its problem has been reported, and it is here as None.
    """

    value: Any
    place: Place
    key_place: Place
    text: str = ""
    broken: bool = False
    quoted: bool = False

    def plain(self) -> Any:
        """Return the value without places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value


def show(value: Any) -> str:
    """Format a value for a message: short, on one line, without control characters; text in quotes."""
    if isinstance(value, Node):
        value = value.value
    if isinstance(value, str):
        return repr(_short(value))
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        parts = [item.value if isinstance(item, Node) else item for item in value[:8]]
        inner = ["..." if isinstance(part, (list, dict)) else show(part) for part in parts]
        return f"[{', '.join(inner)}{', ...' if len(value) > 8 else ''}]"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _code(character: Any) -> str:
    """Format the code point of a character, which PyYAML gives as itself, as its number, or as a byte."""
    return f"U+{character if isinstance(character, int) else ord(character):04X}"


def join(path: tuple[str | int, ...]) -> str:
    """Join a key path: ('tasks', 1, 'name') -> 'tasks[1].name', with odd keys made printable."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            plain = step if step.isprintable() and len(step) <= 60 else show(step)
            text += f".{plain}" if text else plain
    return text


def suggestion(word: str, known: Sequence[str]) -> str:
    """Return ' (did you mean X?)' when a known word is near, else ''."""
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


class _Loader(yaml.SafeLoader):
    """Composes nodes only, tags plain scalars by YAML 1.2's core schema, and stops at hostile depth and size."""

    # None: whatever the first character. PyYAML's own resolvers, those of YAML 1.1, are replaced.
    yaml_implicit_resolvers = {  # noqa: RUF012
        None: [*((_TAG + kind, pattern) for kind, pattern in CORE.items()), (_TAG + "merge", re.compile(r"<<\Z"))]
    }

    depth = 0
    count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        self.count += 1
        mark = self.peek_event().start_mark
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=mark)
        if self.count > MAX_NODES:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_NODES:,} values", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _TreeBuilder:
    """Builds the Node of one file's text, collecting problems."""

    def __init__(self, file: str, problems: list[Problem], line: int | None = None, column: int = 1):
        self.file, self.problems = file, problems
        self.line, self.column = line, column  # set for the command line, where every value is at one place
        self.count = self.depth = 0

    def place(self, mark: Any) -> Place:
        if self.line is not None or mark is None:
            return Place(self.file, self.line or 1, self.column)
        return Place(self.file, mark.line + 1, mark.column + 1)

    def parse(self, text: str) -> Node | None:
        """Return the document's node; None for an empty document or after a problem."""
        loader: _Loader | None = None
        try:
            loader = _Loader(text)
            root = loader.get_single_node()
            return None if root is None else self.build(loader, root, (), self.place(root.start_mark))
        except yaml.MarkedYAMLError as error:
            sentence = " ".join(str(part) for part in (error.context, error.problem) if part)
            place = self.place(error.problem_mark or error.context_mark)
            self.problems.append(place.problem("", f"not readable as YAML: {sentence}"))
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            column = error.position - text.rfind("\n", 0, error.position)
            place = Place(self.file, line, column) if self.line is None else self.place(None)
            self.problems.append(place.problem("", f"character {_code(error.character)} is not allowed in YAML"))
        except (ValueError, OverflowError, LookupError, AttributeError, TypeError, RecursionError) as error:
            # PyYAML lets some of its own slips through, for example chr() of an escape beyond U+10FFFF.
            mark = loader.get_mark() if loader is not None else None
            self.problems.append(self.place(mark).problem("", f"not readable as YAML: {show(str(error))}"))
        return None

    def build(self, loader: _Loader, node: Any, path: tuple[str | int, ...], key_place: Place) -> Node:
        self.count, self.depth = self.count + 1, self.depth + 1
        if self.count > MAX_NODES or self.depth > MAX_DEPTH:
            what = f"more than {MAX_NODES:,} values" if self.count > MAX_NODES else "an anchor that contains itself"
            raise yaml.MarkedYAMLError(problem=f"anchors expand to {what}", problem_mark=node.start_mark)
        converted = self.build_value(loader, node, path, key_place)
        self.depth -= 1
        return converted

    def build_value(self, loader: _Loader, node: Any, path: tuple[str | int, ...], key_place: Place) -> Node:
        place = self.place(node.start_mark)
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return Node(self.mapping(loader, node, path), place, key_place)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            items = [
                self.build(loader, item, (*path, i), self.place(item.start_mark)) for i, item in enumerate(node.value)
            ]
            return Node(items, place, key_place)
        if not isinstance(node, yaml.ScalarNode) or kind not in (*_TEXT, *CORE):
            return self.broken_value(
                place, key_place, path, f"tag {show(node.tag)} is not allowed: a curriculum is data"
            )
        try:
            node.value.encode()
        except UnicodeEncodeError:
            return self.broken_value(place, key_place, path, "has half a character (a lone surrogate)")
        written = core_type(node.value)
        if kind in CORE and kind != written and not (kind == "float" and written == "int"):  # an explicit tag
            return self.broken_value(place, key_place, path, f"{show(node.value)} is not a number that can be read")
        value = node.value if kind in _TEXT else core_value(node.value)
        value = float(value) if kind == "float" and isinstance(value, int) else value
        quoted = kind in _TEXT and (node.style is not None or written != "str")
        return Node(value, place, key_place, node.value, quoted=quoted)

    def broken_value(self, place: Place, key_place: Place, path: tuple[str | int, ...], message: str) -> Node:
        self.problems.append(place.problem(join(path), message))
        return Node(None, place, key_place, broken=True)

    def mapping(self, loader: _Loader, node: Any, path: tuple[str | int, ...]) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key_node, value_node in node.value:
            place = self.place(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(place.problem(join(path), "a key must be plain text"))
                continue
            key = key_node.value
            if key_node.tag == _TAG + "merge":
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in sources:
                    if not isinstance(source, yaml.MappingNode):
                        self.problems.append(place.problem(join((*path, key)), "merges mappings only (<<: *anchor)"))
                        continue
                    for name, child in self.build(loader, source, path, place).value.items():
                        merged.setdefault(name, child)
            elif key in own:
                first = own[key].key_place.line
                self.problems.append(place.problem(join((*path, key)), f"is given twice (first in line {first})"))
            else:
                own[key] = self.build(loader, value_node, (*path, key), place)
        return own | {key: child for key, child in merged.items() if key not in own}


def read_text(path: Path) -> str:
    """Read the file's text. Raises UserError with the reason when it cannot be had."""
    try:
        if not path.exists():
            near = sorted(other.name for other in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
            raise UserError("no such file" + (f"; the folder has {', '.join(near[:10])}" if near else ""))
        if not path.is_file():
            raise UserError("not a file" + ("; give the curriculum inside the folder" if path.is_dir() else ""))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"larger than {MAX_BYTES // 1024} kB: not a curriculum")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"not UTF-8 text (byte 0x{data[error.start]:02x} in line {line})") from None


def parse(text: str, file: str, problems: list[Problem], *, line: int | None = None, column: int = 1) -> Node | None:
    """Parse one YAML document; None when it is empty or not readable, problems appended.

    ``line`` and ``column`` give every value the same place: a piece of the command line has no lines of its own.
    """
    return _TreeBuilder(file, problems, line, column).parse(text)
