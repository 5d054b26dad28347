"""Where each key of a TOML text stands, and where one is no TOML."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_KEY = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[\w-]+)"""
_DOTTED = rf"\s*{_KEY}(?:\s*\.\s*{_KEY})*\s*"
_STATEMENT = re.compile(rf"{_DOTTED}=|\s*\[\[?{_DOTTED}\]\]?\s*(?:#.*)?$")
_SHOWN = 80
"""Characters of a line that a message shows."""
_ATTEMPTS = 50
"""Beginnings of a statement that are parsed in search of its end."""
_AGAIN = 4
"""Times that the text is parsed in all, where statements are long."""


def line_of(text: str, keys: Sequence[str]) -> int | None:
    """The line, from 1, on which the longest known prefix of ``keys`` begins in a TOML text."""
    known = _lines(text)
    prefixes = (tuple(keys[:end]) for end in range(len(keys), 0, -1))
    return next((known[prefix] for prefix in prefixes if prefix in known), None)


@functools.lru_cache(maxsize=4)
def _lines(text: str) -> dict[tuple[str, ...], int]:
    found: dict[tuple[str, ...], int] = {}
    header: tuple[str, ...] = ()
    for line, is_header, tables in _statements(text.replace("\r\n", "\n").split("\n")):
        paths = list(_paths(tables))
        if is_header:
            header = max(paths, key=len, default=())
        for path in paths:
            found.setdefault(path if is_header else header + path, line)
    return found


def _statements(lines: Sequence[str]) -> Iterator[tuple[int, bool, Mapping[str, Any]]]:
    """Each header and each assignment with its line, told by the parser itself: a statement ends
    where what stands between it and the next one parses alone."""
    start, attempts = 0, 0
    budget = _AGAIN * sum(len(line) + 1 for line in lines)
    for end, line in enumerate(lines, 1):
        if start == end - 1 and (not line.strip() or line.lstrip().startswith("#")):
            start = end
        elif end == len(lines) or _STATEMENT.match(lines[end]):
            said = "\n".join(lines[start:end])
            budget -= len(said)
            try:
                tables = tomllib.loads(said)
            except (ValueError, RecursionError):
                attempts += 1
                if attempts > _ATTEMPTS or budget < 0:
                    return  # a long string that looks like statements: its line matters less
                continue
            yield start + 1, lines[start].lstrip().startswith("["), tables
            start, attempts = end, 0


def _paths(tables: Any) -> Iterator[tuple[str, ...]]:
    if isinstance(tables, list):
        tables = tables[0] if len(tables) == 1 else {}
    if isinstance(tables, Mapping):
        for key, value in tables.items():
            yield (key,)
            yield from ((key, *path) for path in _paths(value))


def told(text: str, error: Exception) -> str:
    """What TOML's parser says of a text, with the line that it stopped at and the remedy where the
    value there is a bare word."""
    place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
    if place is None:
        return str(error)
    line = text.replace("\r\n", "\n").split("\n")[int(place[1]) - 1]
    shown = line.strip()
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    word = re.match(r"[A-Za-z_][\w-]{0,40}(?=\s*(?:$|[,\]}#]))", line[int(place[2]) - 1 :])
    return f"{error}: {shown}{_instead(word[0]) if word and 'Invalid value' in str(error) else ''}"


def in_brackets(value: str) -> str:
    """The remedy where what is no TOML value is a list without its brackets; nothing elsewhere."""
    parts = [part.strip() for part in value.split(",")]
    if len(parts) < 2 or not all(re.fullmatch(r"[\w.+/@-]+", part) for part in parts):
        return ""
    try:
        tomllib.loads(f"value = [{value}]")
    except ValueError:
        parts = [f'"{part}"' for part in parts]
    return f"; write [{', '.join(parts)}]"


def _instead(word: str) -> str:
    """What to write in place of a bare word, which is no value of TOML's."""
    if word.lower() in ("none", "null", "nil"):
        return f"; TOML has no {word}: leave the key out"
    for meant, words in (("true", ("true", "yes")), ("false", ("false", "no"))):
        if word.lower() in words:
            return f"; write {meant}"
    return f'; write a word in quotes, "{word}"'
