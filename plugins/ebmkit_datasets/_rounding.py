"""Noise that makes rounded numbers continuous."""

from __future__ import annotations

import torch
from torch import Tensor


def dequantised(events: Tensor, *, generator: torch.Generator) -> Tensor:
    """Events (rows, *event) in float64 with uniform noise on each entry, on either side as wide as
    the median gap between the distinct values that the entry takes over the rows."""
    columns = events.double().flatten(1)
    gaps = torch.stack([_gap(column) for column in columns.T])
    noise = torch.rand(columns.shape, generator=generator, dtype=torch.float64)
    return (columns + gaps * (2 * noise - 1)).reshape(events.shape)


def _gap(column: Tensor) -> Tensor:
    distinct = torch.unique(column)
    return distinct.diff().median() if len(distinct) > 1 else column.new_zeros(())
