"""Batches from what a user has at hand, and the order in which a finite set is gone through."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import attrs
import torch
from torch import Tensor

from ebmkit.errors import DataError
from ebmkit.protocols import Batch, Dataset

_VALIDATED_ON = 1000


@attrs.frozen(eq=False)
class Points:
    """A tensor of points (size, *event) as a finite dataset; ``draw`` takes rows with replacement."""

    x: Tensor = attrs.field()

    @x.validator
    def _check(self, _: Any, value: Tensor) -> None:
        if value.ndim < 2 or not len(value):
            raise DataError(
                f"expected data of shape (size, *event) with at least one row, got {tuple(value.shape)}"
            )
        if not value.is_floating_point():
            raise DataError(f"expected data of a floating dtype, got {value.dtype}")
        if not value.isfinite().all():
            row = int((~value.isfinite().flatten(1).all(1)).nonzero()[0])
            raise DataError(f"data row {row} is not finite")

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    @property
    def n_samples(self) -> int:
        return len(self.x)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Tensor:
        return self.x[index]

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        rows = torch.randint(len(self.x), (size,), generator=generator, device=generator.device)
        return Batch(self.x.to(generator.device)[rows])


def as_batch(value: Any) -> Batch:
    """A Batch from a Batch, a tensor of points, or a pair (points, condition) as a DataLoader
    gives them.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(value, Batch):
        return value
    if isinstance(value, Tensor):
        return Batch(value)
    if isinstance(value, list | tuple) and len(value) in (1, 2):
        if all(isinstance(item, Tensor) for item in value):
            return Batch(*value)
    raise DataError(
        "expected a batch: a tensor (batch, *event), a pair (points, condition) or an ebmkit.Batch, "
        f"got {type(value).__name__}"
    )


def finite_by_row(x: Tensor) -> Tensor:
    """Whether all numbers of a row are finite, (batch,)."""
    finite = x.isfinite()
    return finite if finite.ndim < 2 else finite.flatten(1).all(1)


def take(batch: Batch, rows: Tensor) -> Batch:
    """The rows of a batch, on the rows' device."""
    condition = None if batch.condition is None else batch.condition.to(rows.device)[rows]
    return Batch(batch.x.to(rows.device)[rows], condition)


def to_judge(dataset: Dataset, n: int, *, generator: torch.Generator) -> Batch:
    """At most ``n`` rows that the dataset holds out, on the generator's device, or else ``n`` of its
    draws."""
    held_out: Batch | None = getattr(dataset, "held_out_batch", None)
    if held_out is None or not len(held_out.x):
        return dataset.draw(n, generator=generator)
    rows = torch.randperm(len(held_out.x), generator=generator, device=generator.device)[:n]
    return take(held_out, rows)


def to_validate(dataset: Dataset, *, generator: torch.Generator) -> Batch:
    """All rows that the dataset keeps apart to validate on, on the generator's device; of an endless
    dataset without such rows, 1,000 draws.

    Raises:
        DataError: the dataset is finite and keeps no rows apart.
    """
    kept: Batch | None = getattr(dataset, "validation_batch", None)
    if kept is not None and len(kept.x):
        return take(kept, torch.arange(len(kept.x), device=generator.device))
    if getattr(dataset, "n_samples", None) is not None:
        raise DataError(
            f"dataset {type(dataset).__name__} is finite and keeps no rows apart to validate on; set "
            "dataset.validation = 0.1, where it has that field, leave its n_samples out, or give it a "
            "validation_batch"
        )
    return dataset.draw(_VALIDATED_ON, generator=generator)


def with_noise(batch: Batch, scale: float, *, generator: torch.Generator) -> Batch:
    """The batch with normal noise of standard deviation ``scale`` added to its points; nothing is
    drawn where that is 0."""
    if not scale:
        return batch
    x = batch.x
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return batch._replace(x=x + scale * noise)


class Feed:
    """The positives of a training run: fresh draws of an endless set, epochs of a finite one.

    A finite set is gone through in a new order each epoch; rows that do not fill the last batch
    of an epoch are left for other epochs. Of several ``processes`` each takes its share of each batch's
    rows, in an order that all have from ``order_generator``.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        generator: torch.Generator,
        labels: bool,
        order_generator: torch.Generator | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.generator = generator
        self.order_generator = generator if order_generator is None else order_generator
        self.rank = rank
        self.processes = processes
        self.labels = labels
        self.rows: int | None = getattr(dataset, "n_samples", None)
        self.order: Tensor | None = None
        self.position = 0

    def draw(self) -> Batch:
        """The next batch, on the generator's device."""
        if self.rows is None or not isinstance(self.dataset, Sized):
            batch = self.dataset.draw(self.batch_size, generator=self.generator)
        else:
            batch = self._next_rows()
        device = self.generator.device
        condition = batch.condition if self.labels else None
        return Batch(batch.x.to(device), None if condition is None else condition.to(device))

    def _next_rows(self) -> Batch:
        assert self.rows is not None
        joined = self.batch_size * self.processes
        if self.order is None or self.position + joined > self.rows:
            generator = self.order_generator
            self.order = torch.randperm(
                self.rows, generator=generator, device=generator.device
            ).cpu()
            self.position = 0
        start = self.position + self.batch_size * self.rank
        index = self.order[start : start + self.batch_size]
        self.position += joined
        dataset: Any = self.dataset
        return as_batch(dataset[index])
