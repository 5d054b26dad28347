"""What steps of chains are computed with, a step size being a number or a tensor."""

from __future__ import annotations

import math

from torch import Tensor


def plus(x: Tensor, direction: Tensor, factor: float | Tensor) -> Tensor:
    """x + factor · direction, a new tensor."""
    if isinstance(factor, Tensor):
        return x.addcmul(direction, factor)
    return x.add(direction, alpha=factor)


def plus_(x: Tensor, direction: Tensor, factor: float | Tensor) -> Tensor:
    """x + factor · direction, written into x."""
    if isinstance(factor, Tensor):
        return x.addcmul_(direction, factor)
    return x.add_(direction, alpha=factor)


def root(value: float | Tensor) -> float | Tensor:
    """The square root."""
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)


def squared_norms(x: Tensor) -> Tensor:
    """Squared Euclidean norms (batch,) of events (batch, *event)."""
    squares = x.square()
    return squares.flatten(1).sum(1) if x.ndim > 1 else squares
