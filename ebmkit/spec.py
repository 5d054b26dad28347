"""What a run is: frozen classes, TOML in and out, overrides, and where each key stands in its file."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ebmkit.bounds import DEPTH, DOTS, excess, overlong_key
from ebmkit.errors import Problem, SpecError, did_you_mean
from ebmkit.lines import in_brackets, line_of, told

PARTS = ("model", "sampler", "loss", "dataset")
SECTIONS = (*PARTS, "training", "chains", "evaluation", "hooks", "parts")
SIZE_LIMIT = 2**18
"""Bytes of a pipeline file; a longer one is refused before it is parsed."""


@attrs.frozen
class Spec:
    """A run as it was asked for: plain tables, and where they came from."""

    tables: Mapping[str, Any]
    origin: str | None = None
    """The file, or the recipe's name; None for a dict."""
    text: str | None = None
    """The file's text, from which lines are told."""
    notices: tuple[str, ...] = ()
    """Lines that a person should see: what an override replaced."""
    overridden: tuple[str, ...] = ()
    """Paths that no longer stand as the file says."""

    def line(self, path: str) -> int | None:
        """The line, from 1, on which a key (or the nearest table around it) begins in the file."""
        if self.text is None or any(
            path == o or path.startswith(f"{o}.") or o.startswith(f"{path}.")
            for o in self.overridden
        ):
            return None
        return line_of(self.text, split_path(re.sub(r"\[\d+\]", "", path)))

    def problem(self, path: str, message: str) -> Problem:
        """A problem at a path, with its line where it came from a file."""
        return Problem(path, message, self.line(path))

    def with_overrides(self, overrides: Mapping[str, Any]) -> Spec:
        """The spec with values set at dotted paths.

        Setting ``use`` to another name replaces that table: the former part's keys are dropped and
        a notice says so. A table given as a value is merged into the one that is there.

        Raises:
            SpecError: a path leads through what is no table, or is longer than tables nest.
        """
        if (found := excess(overrides)) is not None:
            raise SpecError([Problem(".".join(found[0]), found[1])])
        tables = copy_tables(self.tables)
        notices = list(self.notices)
        for path, value in overrides.items():
            _set(tables, path, value, notices)
        paths = tuple(overrides)
        return attrs.evolve(
            self, tables=tables, notices=tuple(notices), overridden=self.overridden + paths
        ).bounded()

    def bounded(self) -> Spec:
        """The spec itself.

        Raises:
            SpecError: it is too deep or has too many keys, or a number is too long.
        """
        if (found := excess(self.tables)) is not None:
            raise SpecError([self.problem(".".join(found[0]), found[1])], self.origin)
        return self


def read_toml(path: Path) -> Spec:
    """Read a pipeline file.

    Raises:
        SpecError: the file is missing, too large, not UTF-8, or not TOML (with line and column).
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(SIZE_LIMIT + 1)
        if len(raw) > SIZE_LIMIT:
            raise SpecError([Problem("", f"larger than {SIZE_LIMIT:,} bytes")], str(path))
        return parse_toml(raw.decode(), str(path))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SpecError([Problem("", f"cannot be read: {reason}")], str(path)) from None
    except UnicodeDecodeError as error:
        raise SpecError([Problem("", f"not UTF-8 text (byte {error.start})")], str(path)) from None


def parse_toml(text: str, origin: str) -> Spec:
    """A spec from TOML text.

    Raises:
        SpecError: the text is not TOML; the message has line and column. Or it is larger than a
            pipeline's tables may be.
    """
    if (line := overlong_key(text)) is not None:
        said = f"more than {DOTS} dots, as of a key that leads too deep (at line {line})"
        raise SpecError([Problem("", said)], origin)
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else told(text, error)
        raise SpecError([Problem("", f"not valid TOML: {reason}")], origin) from None
    return Spec(tables=tables, origin=origin, text=text).bounded()


def to_toml(tables: Mapping[str, Any]) -> str:
    """Tables as TOML text; None is left out, for TOML has no such value."""
    import tomli_w

    return tomli_w.dumps(_without_none(tables))


def parse_assignment(text: str) -> tuple[str, Any]:
    """``path=value`` of ``--set``, the value read as TOML; a bare word or path is a string.

    Raises:
        SpecError: there is no ``=``, the path is empty, or the value is not TOML.
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path or not all(split_path(path)):
        raise SpecError([Problem("", f"--set {text!r}: expected path=value")])
    if re.fullmatch(r"(\.{0,2}/|~/)?[A-Za-z_@][\w:./@-]*", value.strip()) and value.strip() not in (
        *("true", "false", "inf", "nan"),
    ):
        return path, value.strip()
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        parsed = {}
    if overlong_key(text) is not None or list(parsed) != ["value"]:
        said = f"--set {text!r}: {value!r} is not a TOML value{in_brackets(value)}"
        raise SpecError([Problem("", said)])
    return path, parsed["value"]


def split_path(path: str) -> list[str]:
    """The keys of a dotted path; one with a dot in it stands in quotes, as in TOML."""
    keys = re.findall(r"""\s*("[^"]*"|'[^']*'|[^.]*)\s*(?:\.|$)""", path)
    found = [key.strip() for key in (keys if path.endswith(".") else keys[:-1] or keys)]
    return [key[1:-1] if key[:1] in ("'", '"') else key for key in found]


def copy_tables(tables: Any) -> Any:
    """A copy of the tables in which live objects stay the objects they are."""
    if isinstance(tables, Mapping):
        return {key: copy_tables(value) for key, value in tables.items()}
    if isinstance(tables, list):
        return [copy_tables(value) for value in tables]
    return copy.copy(tables) if isinstance(tables, tuple) and type(tables) is tuple else tables


def check_sections(spec: Spec) -> list[Problem]:
    """Problems with the top level of a spec: unknown tables, values that are no tables."""
    return [
        spec.problem(
            str(key),
            f"no such table{did_you_mean(str(key), SECTIONS)} (known: {', '.join(SECTIONS)})",
        )
        for key in spec.tables
        if key not in SECTIONS
    ]


def _set(tables: dict[str, Any], path: str, value: Any, notices: list[str]) -> None:
    keys = split_path(path)
    if len(keys) > DEPTH:
        raise SpecError([Problem(path, f"expected at most {DEPTH} keys, got {len(keys)}")])
    table = tables
    for depth, key in enumerate(keys[:-1]):
        here = ".".join(keys[: depth + 1])
        below = table.get(key)
        if below is None:
            below = table[key] = {}
        elif isinstance(below, str) and depth == 0 and not below.startswith("@"):
            below = table[key] = {"use": below}
        elif not isinstance(below, dict):
            if keys[depth + 1 :] != ["use"]:
                raise SpecError(
                    [
                        Problem(
                            path,
                            f"cannot be set: {here} is {below!r}, not a table; "
                            f"set {_shared(below) or f'{here}.use first'}",
                        )
                    ]
                )
            below = table[key] = {}
        table = below
    last = keys[-1]
    if last == "use":
        _replace_use(table, ".".join(keys[:-1]), value, notices)
    elif isinstance(value, Mapping) and isinstance(table.get(last), dict):
        if "use" in value:
            _replace_use(table[last], path, value["use"], notices)
        for key, item in value.items():
            if key != "use":
                _set(tables, f"{path}.{key}", item, notices)
    else:
        table[last] = copy_tables(value)


def _replace_use(table: dict[str, Any], path: str, name: Any, notices: list[str]) -> None:
    former = table.get("use")
    dropped = [key for key in table if key != "use"]
    if former is not None and former != name:
        table.clear()
        if dropped:
            notices.append(
                f"{path}.use = {name!r} replaces {former!r}; dropped its keys: {', '.join(dropped)}"
            )
    table["use"] = name


def _shared(value: Any) -> str:
    if isinstance(value, str) and value.startswith("@"):
        return f"the key in [{value[1:]}], which it stands for"
    return ""


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value
