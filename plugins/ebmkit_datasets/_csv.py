"""Tables of numbers in text, its cells separated by commas or the like."""

from __future__ import annotations

import csv
import json
import math
from array import array
from collections.abc import Iterator, Sequence
from typing import TextIO

import torch

from ebmkit import DataError, expect_memory
from ebmkit_datasets._columns import select, title
from ebmkit_datasets._rows import Table

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_LONGEST = 2**22
"""Characters of one row; more are refused before they are taken apart into cells."""
_NOW_AND_THEN = 2**16


def read_csv(
    path: str,
    columns: Sequence[str] | Sequence[int] | None,
    label: str | int | None,
    largest: float,
    separator: str,
) -> Table:
    """The chosen columns of a file with or without a row of names; DataError names row and column.

    Numbers must be finite and at most ``largest`` in size. Only the chosen columns are kept, as
    eight bytes a cell.
    """
    records = _records(path, separator)
    number, first = next(records, (0, []))
    names = [cell.strip() for cell in first] if any(map(_is_text, first)) else None
    if names is None and first:
        records = _before((number, first), records)
    width = len(first)
    chosen, at = select(path, columns, label, names, width) if first else ([], None)

    cells, labels = array("d"), array("q")
    for number, row in records:
        if len(row) != width:
            raise DataError(
                f"{path}: row {number}: expected {width} cells as in the first row, got {len(row)}; "
                f"cells are separated by {_SEPARATORS[separator]}"
            )
        for position in chosen:
            value = _number(row[position])
            if not abs(value) <= largest:
                got = repr(row[position]) if row[position].strip() else "an empty cell"
                raise DataError(
                    f"{path}: row {number}, {title(position, names)}: expected a finite number of "
                    f"size at most {largest:.2g}, got {got}; "
                    + (_other_separator(row[position]) or _mended(row[position]))
                )
            cells.append(value)
        if len(cells) % _NOW_AND_THEN < len(chosen):
            # An array that grows is for a while there twice.
            expect_memory(f"{path}: the first {number:,} rows", 2 * cells.itemsize * len(cells))
        if at is not None:
            value = _number(row[at])
            if not (0 <= value < 2**53 and value.is_integer()):
                raise DataError(
                    f"{path}: row {number}, {title(at, names)}: expected a class label, an integer "
                    f"≥ 0, got {row[at]!r}; number the classes from 0"
                )
            labels.append(int(value))
    if not cells:
        raise DataError(f"{path}: expected rows of numbers, got none; give a file that holds data")
    return Table(
        torch.frombuffer(cells, dtype=torch.float64).view(-1, len(chosen)),
        None if at is None else torch.frombuffer(labels, dtype=torch.int64),
        [title(position, names) for position in chosen],
        None if names is None else tuple(names[position] for position in chosen),
        None if names is None or at is None else names[at],
    )


def _records(path: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line that each ends on; blank lines are for the end of a file."""
    blank = None
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = _Lines(path, file)
            reader = csv.reader(lines, delimiter=separator, strict=True)
            for row in reader:
                lines.length = 0
                if not row:
                    blank = blank or reader.line_num
                elif blank is not None:
                    raise DataError(
                        f"{path}: row {blank}: expected cells, got a blank line with rows below "
                        f"it; remove the line"
                    )
                else:
                    yield reader.line_num, row
    except csv.Error as error:
        raise DataError(
            f"{path}: row {reader.line_num}: expected cells separated by {_SEPARATORS[separator]} "
            f"({error}); mend the row, or set separator"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8 ({error}); convert the file") from error


class _Lines:
    """The lines of a file, of which no row may take too many."""

    def __init__(self, path: str, file: TextIO) -> None:
        self.path = path
        self.length = 0
        """Characters since the last row."""
        self._file = file

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(_LONGEST + 1):
            self.length += len(line)
            if self.length > _LONGEST:
                raise DataError(
                    f"{self.path}: expected rows of at most {_LONGEST:,} characters, got a longer one; "
                    "close its quotes, or give fewer columns"
                )
            yield line


def _other_separator(cell: str) -> str:
    """What to do about a cell that holds several by the look of it; nothing where it does not."""
    for separator, name in _SEPARATORS.items():
        parts = cell.split(separator)
        if len(parts) > 1 and all(math.isfinite(_number(part)) for part in parts):
            return (
                f"where its cells are separated by {name}, set separator = {json.dumps(separator)}"
            )
    return ""


def _mended(cell: str) -> str:
    """What to do about a cell that holds no number: where it is text, all of its column may be."""
    choice = " or, where all of the column is text, choose the others by columns = [...]"
    return f"mend or remove the row{choice if _is_text(cell) else ''}"


def _before(
    first: tuple[int, list[str]], rest: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    yield first
    yield from rest


def _number(cell: str) -> float:
    """The number that a cell holds; NaN where it holds none."""
    try:
        # Python's own digit separator is no part of a number in a file.
        return math.nan if "_" in cell else float(cell)
    except ValueError:
        return math.nan


def _is_text(cell: str) -> bool:
    """Whether a cell is no number, so that one of the first row can only be a column's name."""
    cell = cell.strip()
    return bool(cell) and math.isnan(_number(cell)) and cell.lstrip("+-").lower() != "nan"
