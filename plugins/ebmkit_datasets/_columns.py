"""Finding the columns that were asked for, by name or by position."""

from __future__ import annotations

from collections.abc import Sequence

from ebmkit import DataError
from ebmkit.errors import did_you_mean


def title(position: int, names: Sequence[str] | None) -> str:
    """What to call a column in a message."""
    return f"column {position if names is None else repr(names[position])}"


def find(path: str, column: str | int, names: Sequence[str] | None, width: int) -> int:
    """Position of a column, counted from 0; DataError where there is no such column, or several."""
    if isinstance(column, int):
        if 0 <= column < width:
            return column
        raise DataError(
            f"{path}: expected the position of a column, from 0 to {width - 1}, got {column}"
        )
    if names is None:
        raise DataError(
            f"{path}: expected the position of a column, from 0 to {width - 1}, since its columns "
            f"have no names, got {column!r}"
        )
    if column not in names:
        raise DataError(
            f"{path}: no column {column!r}{did_you_mean(column, names)} (its columns: "
            f"{', '.join(map(repr, names))})"
        )
    if names.count(column) > 1:
        raise DataError(
            f"{path}: expected one column {column!r}, got {names.count(column)}; rename them or "
            f"choose columns by position"
        )
    return names.index(column)


def select(
    path: str,
    columns: Sequence[str] | Sequence[int] | None,
    label: str | int | None,
    names: Sequence[str] | None,
    width: int,
) -> tuple[list[int], int | None]:
    """Positions of the event's columns and of the label's; DataError where they cannot be told."""
    at = None if label is None else find(path, label, names, width)
    if columns is None:
        chosen = [position for position in range(width) if position != at]
    else:
        chosen = [find(path, column, names, width) for column in columns]
    if len(set(chosen)) < len(chosen):
        raise DataError(f"{path}: columns names a column twice in {columns!r}; name each one once")
    if at in chosen:
        raise DataError(
            f"{path}: {title(chosen[chosen.index(at)], names)} is both the label and part of the "
            f"event; take it out of columns"
        )
    if not chosen:
        raise DataError(f"{path}: no column is left for the event beside the label {label!r}")
    return chosen, at
