"""Events from a file of numbers."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import attrs
import torch
from attrs import field, validators
from torch import Tensor

from ebmkit import DataError, doc
from ebmkit_datasets._csv import read_csv
from ebmkit_datasets._npy import read_npy
from ebmkit_datasets._rows import Rows, Table

_ROWS = 2**14


@attrs.frozen(kw_only=False)
class Array(Rows):
    """Rows of a npy, npz or csv file, read when they are first needed.

    x = row, or with ``standardise`` x = (row − m)/s, m and s the mean and standard deviation of
    the training rows

    x (batch, *event): a row of a csv file, or of an array of two dimensions, gives one number for
    each column; a row of an array of more dimensions is an event of shape array.shape[1:]. The
    condition is the label (batch,) int64. A csv file may begin with a row of names, which is one
    with text in it. Positions of columns count from 0.

    Raises DataError, with the path, the row and the column, where the file is missing or of
    another kind, where a cell is no finite number that fits torch's default dtype, where a row has
    more or fewer cells than the first, where a column or key does not exist, and where a column to
    be standardised is constant.
    """

    path: str = field(
        validator=validators.min_len(1),
        metadata=doc("npy, npz or csv file; relative to the current directory"),
    )
    columns: list[str] | list[int] | None = field(
        default=None,
        validator=validators.optional(validators.min_len(1)),
        metadata=doc("columns of the event, by name or position; none for all but the label"),
    )
    label: str | int | None = field(
        default=None,
        metadata=doc(
            "column of class labels 0, 1, …, by name or position, or array of an npz file"
        ),
    )
    key: str | None = field(
        default=None, metadata=doc("array of an npz file; none where it holds one beside the label")
    )
    standardise: bool = field(
        default=False, metadata=doc("give each column zero mean and unit standard deviation")
    )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event; reads the file."""
        return tuple(self._table.events.shape[1:])

    @property
    def n_classes(self) -> int | None:
        """One more than the largest label in the file; None without ``label``."""
        labels = self._table.labels
        return None if labels is None else int(labels.max()) + 1

    def _read(self) -> Table:
        path = Path(self.path)
        suffix = path.suffix.lower()
        if suffix not in (".npy", ".npz", ".csv"):
            raise DataError(
                f"{path}: expected a file that ends in .npy, .npz or .csv, got {suffix!r}; convert "
                f"it or rename it"
            )
        if not path.is_file():
            raise DataError(
                f"{path}: no such file; paths are relative to the current directory, {Path.cwd()}"
            )
        largest = torch.finfo(torch.get_default_dtype()).max
        try:
            if suffix != ".csv":
                return read_npy(self.path, self.key, self.columns, self.label, largest)
            if self.key is not None:
                raise DataError(f"{path}: key is for npz files, got {self.key!r}; leave it out")
            return read_csv(self.path, self.columns, self.label, largest)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}") from error

    def _rescaled(self, events: Tensor) -> Tensor:
        if not self.standardise:
            return events
        mean, std = self._moments
        return (events - mean) / std

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (*event) of the training rows, in float64."""
        events, _, titles = self._table
        blocks = torch.split(self._split[0], _ROWS)
        mean = sum(events[rows].double().sum(0) for rows in blocks) / self.n_samples
        square = sum((events[rows].double() - mean).square().sum(0) for rows in blocks)
        std = torch.as_tensor(square / self.n_samples).sqrt()
        lowest = torch.stack([events[rows].amin(0) for rows in blocks]).amin(0)
        highest = torch.stack([events[rows].amax(0) for rows in blocks]).amax(0)
        constant = (lowest == highest) | ~((std > 0) & (std < math.inf))
        if constant.any():
            entry = tuple(int(place) for place in constant.nonzero()[0])
            column = f"entry {entry}" if titles is None else titles[entry[0]]
            raise DataError(
                f"{self.path}: {column} is constant, at {events[self._split[0][0]][entry]}, in the "
                f"{self.n_samples} training rows and has no standard deviation to divide by; leave "
                f"it out with columns, or set standardise = false"
            ) from None
        return torch.as_tensor(mean), std
