"""Events from a file of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import torch
from attrs import field, validators
from torch import Tensor

from ebmkit import DataError, doc, whole
from ebmkit_datasets._csv import read_csv
from ebmkit_datasets._discrete import check_states, one_hot
from ebmkit_datasets._npy import read_npy
from ebmkit_datasets._rounding import dequantised
from ebmkit_datasets._rows import Rows, Table, check_classes
from ebmkit_datasets._whitening import cholesky_factor

_ROWS = 2**14


def _column(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise ValueError(f"{attribute.name}: expected a column, by name or position, got {value!r}")


@attrs.frozen(kw_only=False)
class Array(Rows):
    """Rows of a npy, npz or csv file, read when they are first needed.

    x = row, or with ``standardise`` x = (row − m)/s, m and s the mean and standard deviation of
    the training rows, or with ``whiten`` x = L⁻¹(row − m), L Lᵀ their covariance, L lower triangular

    x (batch, *event): a row of a csv file, or of an array of two dimensions, gives one number for
    each column; a row of an array of more dimensions is an event of shape array.shape[1:]. The
    condition is the label (batch,) int64. ``restored`` gives points, as samples, in the file's units
    again, and ``event_names`` what the file calls their columns. A csv file may begin with a row of
    names, which is one with text in it. Positions of columns count from 0.

    With ``discrete`` the numbers are bits 0 or 1, or with ``categories`` = q whole numbers 0, …, q − 1
    that become one-hot rows, so that events are (columns, q): what samplers of discrete states move.

    Raises DataError, with the path, the row and the column, where the file is missing or of
    another kind, where a cell is no finite number that fits torch's default dtype, where a row has
    more or fewer cells than the first, where a column or key does not exist, where a column to be
    standardised is constant, where the covariance to be whitened by is singular, and where a number
    is no such state as ``discrete`` says. Raises ValueError where discrete data are to be rescaled.
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
        validator=_column,
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
    whiten: bool = field(
        default=False,
        metadata=doc("give the columns zero mean and the identity as covariance"),
    )
    dequantise: bool = field(
        default=False,
        metadata=doc(
            "undo rounding by uniform noise of ± the median gap between a column's distinct values, "
            "drawn once from `seed`"
        ),
    )
    separator: Literal[",", ";", "\t"] = field(
        default=",",
        validator=validators.in_((",", ";", "\t")),
        metadata=doc("what separates the cells of a csv file"),
    )

    discrete: bool = field(
        default=False,
        validator=validators.instance_of(bool),
        metadata=doc("whether the numbers are states, 0 or 1 or of ``categories``"),
    )
    categories: int | None = field(
        default=None,
        validator=validators.optional(validators.and_(whole, validators.ge(2))),
        metadata=doc("q of discrete numbers 0, …, q − 1, which become one-hot; none for bits"),
    )

    @staticmethod
    def examples(folder: Path) -> Sequence[Mapping[str, Any]]:
        """Configurations to try it in, of files that are written into a folder."""
        generator = torch.Generator().manual_seed(0)
        table, images = folder / "table.csv", folder / "images.npy"
        x = torch.randn(60, 2, generator=generator).tolist()
        lines = [f"{a},{b},{row % 3}" for row, (a, b) in enumerate(x)]
        table.write_text("\n".join(["height,width,kind", *lines]), encoding="utf-8")
        np.save(images, torch.randint(4, (60, 2, 2), generator=generator).numpy())
        apart = {"held_out": 0.2, "validation": 0.1}
        return (
            {"path": str(table), "label": "kind", "standardise": True, **apart},
            {"path": str(images), "dequantise": True, "whiten": True},
            {"path": str(images), "discrete": True, "categories": 4, **apart},
        )

    def __attrs_post_init__(self) -> None:
        if self.categories is not None and not self.discrete:
            raise ValueError(
                f"categories: expected none where the data are continuous, got {self.categories}; set "
                "discrete = true"
            )
        for name in ("standardise", "whiten", "dequantise"):
            if self.discrete and getattr(self, name):
                raise ValueError(
                    f"{name}: expected false where the data are discrete, whose numbers stay as they "
                    f"are; leave {name} out, or discrete"
                )
        if self.whiten and self.standardise:
            raise ValueError(
                "whiten: expected one of whiten and standardise, got both; whitened columns have "
                "unit standard deviation already, so leave standardise out"
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event; reads the file."""
        shape = tuple(self._table.events.shape[1:])
        return shape if self.categories is None else (*shape, self.categories)

    @property
    def n_classes(self) -> int | None:
        """One more than the largest label in the file; None without ``label``."""
        labels = self._table.labels
        return None if labels is None else int(labels.max()) + 1

    @property
    def event_names(self) -> tuple[str, ...] | None:
        """Names of the columns that make the event, in its order; None where the file has none."""
        return self._table.names

    @property
    def condition_name(self) -> str | None:
        """Name of the label's column or array; None where there is none, or it has no name."""
        return self._table.label_name

    def restored(self, x: Tensor | np.ndarray) -> Tensor:
        """Points (batch, *event) as the file has them: rescaling undone, one-hot rows as numbers.

        They may be a numpy array, as ``ebmkit sample --rescaled`` writes it.
        """
        x = torch.as_tensor(x)
        if self.categories is not None:
            return x.argmax(-1)
        if not (self.standardise or self.whiten):
            return x
        mean, std = self._moments
        rows = x.detach().cpu().double()
        if self.whiten:
            rows = (rows.flatten(1) @ self._factor.T).reshape(rows.shape)
        return (rows * std + mean).to(x)

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
                table = read_npy(self.path, self.key, self.columns, self.label, largest)
            elif self.key is not None:
                raise DataError(f"{path}: key is for npz files, got {self.key!r}; leave it out")
            else:
                table = read_csv(self.path, self.columns, self.label, largest, self.separator)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        check_classes(self.path, table)
        if self.discrete:
            check_states(self.path, table, self.categories)
        if not self.dequantise:
            return table
        generator = torch.Generator().manual_seed(self.seed)
        events = dequantised(table.events, generator=generator)
        if events.abs().max() > largest:
            raise DataError(
                f"{path}: with the noise of dequantise a number grows beyond {largest:.3g}, the "
                "largest of torch's default dtype; set dequantise = false, or rescale the data"
            )
        return table._replace(events=events)

    def _rescaled(self, events: Tensor) -> Tensor:
        if self.categories is not None:
            return one_hot(events, self.categories)
        if not (self.standardise or self.whiten):
            return events
        mean, std = self._moments
        x = (events - mean) / std
        if self.whiten:
            rows = x.flatten(1).T
            x = torch.linalg.solve_triangular(self._factor, rows, upper=False).T.reshape(x.shape)
        return x

    @cached_property
    def _factor(self) -> Tensor:
        """The Cholesky factor (d, d) of the training rows' correlations, in float64."""
        events, _, titles = self._table[:3]
        mean, std = self._moments
        rows = ((events[self._split[0]].double() - mean) / std).flatten(1)
        shape = self.event_shape
        names = titles or [
            f"entry {tuple(int(i) for i in torch.unravel_index(torch.tensor(place), shape))}"
            for place in range(rows.shape[1])
        ]
        return cholesky_factor(self.path, rows, names)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (*event) of the training rows, in float64."""
        events, _, titles = self._table[:3]
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
                f"it out with columns, or set {'whiten' if self.whiten else 'standardise'} = false"
            ) from None
        return torch.as_tensor(mean), std
