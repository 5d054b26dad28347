"""How large what is read may be: bounds that are checked before anything is made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MOST_PARTS = 200
"""Parts in one list of parts."""
DEPTH = 30
"""Tables and lists of a pipeline inside one another."""
KEYS = 2000
"""Keys of all tables of a pipeline together."""
_LONGEST = 2**63
DOTS = DEPTH
"""Dots of a line beside those of numbers: TOML's parser takes time by the cube of a key's length."""
_NUMBERS = re.compile(r"(?<![\w.])[+-]?\d+\.\d+(?:[eE][+-]?\d+)?(?![\w.])")


def overlong_key(text: str) -> int | None:
    """The line, from 1, of a TOML text that may hold a key of more parts than a pipeline has tables
    inside one another; None where there is none."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > DOTS and _NUMBERS.sub("", line).count(".") > DOTS:
            return number
    return None


def excess(tables: Any) -> tuple[tuple[str, ...], str] | None:
    """The keys that lead to what is too large in tables, and what is; None where nothing is."""
    pending: list[tuple[tuple[str, ...], int, Any]] = [((), 0, tables)]
    keys = 0
    while pending:
        path, depth, value = pending.pop()
        if isinstance(value, Mapping):
            keys += 1 + len(value)
            inner = [((*path, str(key)), depth + 1, item) for key, item in value.items()]
        elif isinstance(value, list):
            inner = [(path, depth + 1, item) for item in value]
        else:
            if type(value) is int and not -_LONGEST <= value < _LONGEST:
                return path, "expected a whole number of at most 64 bits, got a longer one"
            continue
        if depth >= DEPTH:
            return path[:3], f"nested too deeply; expected at most {DEPTH} tables in one another"
        if keys > KEYS:
            return (), f"expected at most {KEYS:,} keys in all, got more"
        pending += reversed(inner)
    return None
