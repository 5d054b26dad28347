"""Tables of numbers in comma-separated text."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator, Sequence

import torch

from ebmkit import DataError
from ebmkit_datasets._columns import select, title
from ebmkit_datasets._rows import Table


def read_csv(
    path: str,
    columns: Sequence[str] | Sequence[int] | None,
    label: str | int | None,
    largest: float,
) -> Table:
    """The chosen columns of a file with or without a row of names; DataError names row and column.

    Numbers must be finite and at most ``largest`` in size. Only the chosen columns are kept, as
    eight bytes a cell.
    """
    records = _records(path)
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
                f"{path}: row {number}: expected {width} cells as in the first row, got {len(row)};"
                f" cells are separated by commas"
            )
        for position in chosen:
            value = _number(row[position])
            if not abs(value) <= largest:
                got = repr(row[position]) if row[position].strip() else "an empty cell"
                raise DataError(
                    f"{path}: row {number}, {title(position, names)}: expected a finite number of "
                    f"size at most {largest:.2g}, got {got}; mend or remove the row"
                )
            cells.append(value)
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
    )


def _records(path: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line that each ends on; blank lines are for the end of a file."""
    blank = None
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
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
            f"{path}: row {reader.line_num}: expected comma-separated cells ({error}); mend the row"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8 ({error}); convert the file") from error


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
    """Whether a cell of the first row can only be a column's name."""
    cell = cell.strip()
    return bool(cell) and math.isnan(_number(cell)) and cell.lstrip("+-").lower() != "nan"
