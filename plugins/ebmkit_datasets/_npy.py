"""Arrays of numbers in NumPy's npy and npz files."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from ebmkit import DataError
from ebmkit.errors import did_you_mean
from ebmkit_datasets._arrays import AnyArray, Arrays
from ebmkit_datasets._columns import select, title
from ebmkit_datasets._rows import Table

_FLOATS = (("f", 2), ("f", 4), ("f", 8))
_BLOCK = 2**20


def read_npy(
    path: str,
    key: str | None,
    columns: Sequence[str] | Sequence[int] | None,
    label: str | int | None,
    largest: float,
) -> Table:
    """The events and labels of an npy or npz file; DataError names the array, row and column.

    Numbers must be finite and at most ``largest`` in size. Pickled objects are refused.
    """
    where, events, labels = _load(path, key, label)
    if events.ndim < 2 or events.size == 0:
        raise DataError(
            f"{where}: expected rows of numbers, of shape (rows, ...), got shape {events.shape}"
            + ("; save it as (rows, 1)" if events.ndim == 1 and events.size else "")
        )
    titles = None
    if events.ndim == 2:
        at = label if isinstance(label, int) else None
        chosen, at = select(where, columns, at, None, events.shape[1])
        titles = [title(position, None) for position in chosen]
        labels = labels if at is None else events[:, at]
        events = events[:, chosen] if len(chosen) < events.shape[1] or columns else events
    elif columns is not None or isinstance(label, int):
        raise DataError(
            f"{where}: expected shape (rows, columns) for columns or label to choose from, got "
            f"shape {events.shape}; leave them out, or save the labels as an array of their own"
        )
    events = _kept(events)
    _check_size(where, events, titles, largest)
    return Table(
        torch.from_numpy(events),
        None if labels is None else _labels(where, labels, len(events)),
        titles,
        label_name=label if isinstance(label, str) else None,
    )


def _load(
    path: str, key: str | None, label: str | int | None
) -> tuple[str, AnyArray, AnyArray | None]:
    """What to call the array of events in a message, that array, and an array of labels if any."""
    with open(path, "rb") as file:
        arrays = Arrays(path, file)
        if arrays.single:
            if key is not None or isinstance(label, str):
                option = "key" if key is not None else "label"
                raise DataError(
                    f"{path}: {option} names an array of an npz file, and this file holds a "
                    f"single array; leave {option} out, or give a position as the label"
                )
            return path, arrays.only(), None
        name = key if key is not None else _only(path, arrays.names, label)
        labels = _member(path, arrays, label) if isinstance(label, str) else None
        return f"{path}[{name!r}]", _member(path, arrays, name), labels


def _only(path: str, names: Collection[str], label: str | int | None) -> str:
    names = [name for name in names if name != label]
    if len(names) != 1:
        raise DataError(
            f"{path}: expected one array of events, got {len(names)} "
            f"({', '.join(map(repr, names))}); choose one with key"
        )
    return names[0]


def _member(path: str, arrays: Arrays, name: str) -> AnyArray:
    if name not in arrays.names:
        raise DataError(
            f"{path}: no array {name!r}{did_you_mean(name, arrays.names)} (its arrays: "
            f"{', '.join(map(repr, arrays.names))})"
        )
    return arrays.member(name)


def _kept(events: AnyArray) -> AnyArray:
    """In the byte order, memory order and one of the dtypes that torch can index and convert."""
    small = events.dtype == np.uint8 or (events.dtype.kind, events.dtype.itemsize) in _FLOATS
    dtype = events.dtype.newbyteorder("=") if small else np.dtype(np.float64)
    with np.errstate(over="ignore"):
        # A number that does not fit becomes infinite and is found by the next check.
        return np.ascontiguousarray(events, dtype=dtype)


def _check_size(where: str, events: AnyArray, titles: list[str] | None, largest: float) -> None:
    rows = max(1, _BLOCK // events[0].size)
    for start in range(0, len(events), rows):
        block = events[start : start + rows]
        bad = ~(np.abs(block) <= np.float64(largest))
        if bad.any():
            row, *entry = (int(place) for place in np.argwhere(bad)[0])
            column = f"entry {tuple(entry)}" if titles is None else titles[entry[0]]
            raise DataError(
                f"{where}: row {start + row} (counted from 0), {column}: expected a finite number "
                f"of size at most {largest:.2g}, got {block[(row, *entry)]}; mend or remove the row"
            )


def _labels(where: str, labels: AnyArray, n_rows: int) -> Tensor:
    if labels.shape != (n_rows,):
        raise DataError(
            f"{where}: expected one class label a row, of shape ({n_rows},), got shape "
            f"{labels.shape}"
        )
    bad = ~((labels >= 0) & (labels < 2**53) & (np.floor(labels) == labels))
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{where}: row {row} (counted from 0): expected a class label, an integer ≥ 0, got "
            f"{labels[row]}; number the classes from 0"
        )
    return torch.from_numpy(labels.astype(np.int64))
