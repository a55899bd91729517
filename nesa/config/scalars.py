"""Read numbers, booleans and null as YAML 1.2's core schema does, and refuse spellings that are read in two ways.

    core_value(text)            the value of a plain scalar whose type is not declared
    read_number(kind, text)     a declared int or float; read_bool(text) a declared bool
    advice(text)                what to write instead of 010, 1_000, 1:30, 0b1, 1,5 or 5%, which nothing here reads

YAML 1.1, which PyYAML follows, reads 1:30 as 90 and 010 as 8. Here they are errors where a number is declared or where
no type is; a declared text keeps every spelling.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

MAX_INT = 2**63
MAX_DIGITS = 100

_TRUE, _FALSE = ("true", "yes", "on", "y"), ("false", "no", "off", "n")
# The core schema's types in the order in which they are tried; all other plain scalars are text.
CORE = {
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+\Z")
_RADIX = re.compile(r"[-+]?0(?:[bB][01_]+|[oO][0-7_]+|[xX][0-9a-fA-F_]+)\Z")
_UNDERSCORES = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?\Z")
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-9]{1,2})+(?:\.[0-9_]*)?\Z")
_SWITCH = re.compile(r"(?:yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)\Z")
_COMMAS = re.compile(r"[-+]?[0-9]+(?:,[0-9]+)+\Z")
_UNIT = re.compile(r"([-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)\s*(?![eE]\Z)(%|[A-Za-zµ°/]+|,)\Z")
_QUOTIENT = re.compile(r"([-+]?[0-9]+)\s*/\s*([0-9]+)\Z")


def core_type(text: str) -> str:
    """Return the core schema's type of a plain scalar: null, bool, int, float or str."""
    return next((kind for kind, pattern in CORE.items() if pattern.match(text)), "str")


def core_value(text: str) -> Any:
    """Return the value of a plain scalar by the core schema; a number that is too long stays text."""
    kind = core_type(text)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "str" or len(text) > MAX_DIGITS:
        return text
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    value = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    return value if abs(value) <= MAX_INT else text


def is_misleading(text: str) -> bool:
    """Check for what YAML 1.1 or a program reads as a number or boolean, and the core schema otherwise or as text."""
    if core_type(text) in ("int", "float"):
        return bool(_LEADING_ZERO.match(text))
    return any(pattern.match(text) for pattern in (_RADIX, _UNDERSCORES, _BASE_60, _SWITCH))


def check_untyped(text: str) -> None:
    """Raise ValueError where a plain scalar of no declared type could be meant in two ways, or is too long a number."""
    if _SWITCH.match(text):
        raise ValueError(f"{text} is not read: write {str(_switched(text)).lower()}, or '{text}' in quotes for text")
    if is_misleading(text):
        message = advice(text)
        raise ValueError(f"{message}; for text write '{text}' in quotes" if message else _unreadable(text))
    if core_type(text) in ("int", "float") and isinstance(core_value(text), str):
        raise ValueError(_unreadable(text))


def read_number(kind: type, text: str) -> int | float | None:
    """Read a declared int or float; None where ``text`` is none. Raises ValueError with what to write instead."""
    if message := advice(text):
        raise ValueError(message)
    if core_type(text) not in ("int", "float"):
        return None
    value = core_value(text)
    if isinstance(value, str):
        raise ValueError(_unreadable(text))
    if kind is float:
        return float(value)
    return value if isinstance(value, int) else None


def read_bool(text: str) -> bool | None:
    """Read a declared boolean in words, true or yes or on or y, in any case that is common; None where it is none."""
    return _switched(text) if text in (text.lower(), text.upper(), text.capitalize()) else None


def _switched(text: str) -> bool | None:
    word = text.lower()
    return True if word in _TRUE else False if word in _FALSE else None


def _unreadable(text: str) -> str:
    return f"{_quoted(text)} is not a number that can be read"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def advice(text: str) -> str:
    """Return '010 is not read: write 10, or 8 if octal was meant', or the like; '' for a number and for plain text."""
    if len(text) > MAX_DIGITS:
        return ""
    plain = unicodedata.normalize("NFKC", text).strip().replace("\N{MINUS SIGN}", "-")
    instead = _instead(plain)
    if not instead and plain != text and core_type(plain) in ("int", "float"):
        instead = plain
    return f"{text if text.isascii() and text == plain else repr(text)} is not read: write {instead}" if instead else ""


def _instead(text: str) -> str:
    """What to write instead of ``text``; '' where it is a number as it stands, or cannot be guessed."""
    if _LEADING_ZERO.match(text):
        decimal, octal = int(text), int(text, 8) if not set(text) & set("89") else None
        return f"{decimal}" if octal in (None, decimal) else f"{decimal}, or {octal} if octal was meant"
    if core_type(text) in ("int", "float"):
        return ""
    if _RADIX.match(text):
        try:
            return str(int(text, 0))
        except ValueError:  # underscores side by side
            return str(int(text.replace("_", ""), 0))
    if _UNDERSCORES.match(text):
        return text.replace("_", "")
    if _BASE_60.match(text):
        sign, parts = -1 if text[0] == "-" else 1, text.lstrip("+-").replace("_", "").split(":")
        total = 0.0
        for part in parts:
            total = 60 * total + float(part)
        return f"one number; {sign * total:.15g} if base 60 was meant"
    if _COMMAS.match(text):
        joined, point = text.replace(",", ""), text.replace(",", ".")
        if not re.match(r"[-+]?[1-9][0-9]{0,2}(?:,[0-9]{3})+\Z", text):
            return point if text.count(",") == 1 else "one number, without commas"
        return joined if text.count(",") > 1 else f"{joined}, or {point} if the comma is a decimal point"
    if found := _QUOTIENT.match(text):
        return f"{int(found[1]) / int(found[2]):.6g}" if int(found[2]) else ""
    if found := _UNIT.match(text):
        number, unit = found[1], found[2]
        if unit in ("%", "k", "K", "M"):
            return f"{float(number) * {'%': 0.01, 'M': 1e6}.get(unit, 1e3):.15g}"
        return number if unit == "," else f"a number without a unit, such as {number}"
    return ""
