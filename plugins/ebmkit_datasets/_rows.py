"""What every labelled or unlabelled table of events has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import NamedTuple

import attrs
import torch
from attrs import field, validators
from torch import Tensor

from ebmkit import Batch, DataError, doc, finite, whole

MOST_CLASSES = 2**16
"""Classes that data of fewer rows may have."""


class Table(NamedTuple):
    """All rows of a source, in its order, on the CPU."""

    events: Tensor
    """(rows, *event), in the dtype that the source keeps them in"""
    labels: Tensor | None
    """(rows,) int64, or None"""
    columns: list[str] | None = None
    """What to call each entry of a one-dimensional event in a message."""
    names: tuple[str, ...] | None = None
    """What the source itself calls them, where it does."""
    label_name: str | None = None
    """What the source calls the labels, where it does."""


def check_classes(path: str, table: Table) -> None:
    """DataError where there are many more classes than rows, for each gets weights of its own."""
    if table.labels is None:
        return
    row = int(table.labels.argmax())
    label, most = int(table.labels[row]), max(len(table.labels), MOST_CLASSES)
    if label >= most:
        raise DataError(
            f"{path}: row {row} (counted from 0, without names): expected a class label below "
            f"{most:,} in {len(table.labels):,} rows, got {label}; number them from 0 without gaps"
        )


@attrs.frozen(kw_only=False)
class Rows(ABC):
    """Rows that training draws with replacement, and rows kept apart from it; abstract."""

    held_out: float = field(
        default=0.0,
        kw_only=True,
        validator=validators.and_(finite, validators.ge(0.0), validators.lt(1.0)),
        metadata=doc("fraction of the rows kept apart for evaluation, in [0, 1)"),
    )
    validation: float = field(
        default=0.0,
        kw_only=True,
        validator=validators.and_(finite, validators.ge(0.0), validators.lt(1.0)),
        metadata=doc("fraction of the rows kept apart to validate on while training, in [0, 1)"),
    )
    seed: int = field(
        default=0,
        kw_only=True,
        validator=validators.and_(whole, validators.ge(0), validators.lt(2**63)),
        metadata=doc("seed of the choice of rows kept apart, ≥ 0"),
    )

    @property
    @abstractmethod
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""

    @property
    @abstractmethod
    def n_classes(self) -> int | None:
        """Number of classes; None where the rows have no labels."""

    @abstractmethod
    def _read(self) -> Table:
        """The rows; DataError where they cannot be had."""

    @abstractmethod
    def _rescaled(self, events: Tensor) -> Tensor:
        """Float64 events (batch, *event) as they are served."""

    @property
    def n_samples(self) -> int:
        """Number of training rows."""
        return len(self._split[0])

    @property
    def held_out_batch(self) -> Batch | None:
        """The rows kept apart for evaluation, on the CPU; None where ``held_out`` is 0."""
        return Batch(*self._take(self._split[1])) if self.held_out else None

    @property
    def validation_batch(self) -> Batch | None:
        """The rows kept apart to validate on, on the CPU; None where ``validation`` is 0."""
        return Batch(*self._take(self._split[2])) if self.validation else None

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        """``size`` training rows drawn with replacement, on the generator's device."""
        index = torch.randint(self.n_samples, (size,), generator=generator, device=generator.device)
        x, labels = self._take(self._split[0][index.cpu()])
        device = generator.device
        return Batch(x.to(device), None if labels is None else labels.to(device))

    def __len__(self) -> int:
        return self.n_samples

    def __getitem__(self, index: int | slice | Tensor) -> Tensor | Batch:
        """Training rows in torch's default dtype; a Batch where they have labels."""
        x, labels = self._take(self._split[0][index])
        return x if labels is None else Batch(x, labels)

    @cached_property
    def _table(self) -> Table:
        try:
            return self._read()
        except DataError as error:
            # attrs fills a cached property while an AttributeError is being handled, which is no
            # part of what went wrong.
            raise error from error.__cause__

    @cached_property
    def _split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Indices of the training rows, the held-out rows and the validation rows, each in the
        source's order. Which rows are held out does not depend on ``validation``."""
        n_rows = len(self._table.events)
        shares = {"held_out": self.held_out, "validation": self.validation}
        counts = [max(1, round(share * n_rows)) if share else 0 for share in shares.values()]
        if sum(counts) >= n_rows:
            used = {name: share for name, share in shares.items() if share}
            said = " and ".join(f"{name} = {share}" for name, share in used.items())
            raise DataError(
                f"{type(self).__name__}: {said} of {n_rows} rows "
                f"{'leaves' if len(used) == 1 else 'leave'} none to train on; lower "
                f"{' or '.join(used)} or add rows"
            ) from None
        order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(self.seed))
        sizes = [*counts, n_rows - sum(counts)]
        held_out, validated, trained = torch.split(order, sizes)
        return trained.sort().values, held_out.sort().values, validated.sort().values

    def _take(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        events, labels = self._table[:2]
        x = events[index].to(torch.float64)
        single = index.ndim == 0
        x = self._rescaled(x[None])[0] if single else self._rescaled(x)
        return x.to(torch.get_default_dtype()), None if labels is None else labels[index]
