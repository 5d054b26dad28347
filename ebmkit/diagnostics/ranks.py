"""Order statistics of traces (numbers, chains, draws), each number's over all its values."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normal_scores(values: Tensor) -> Tensor:
    """Φ⁻¹((rank − 3/8) / (S + 1/4)) of all S values of a number, ties having their mean rank."""
    flat = values.flatten(1).contiguous()
    ordered = flat.sort(1).values
    # Of equal values the ranks are first + 1 … last: their mean is (first + last + 1) / 2.
    first = torch.searchsorted(ordered, flat, right=False)
    last = torch.searchsorted(ordered, flat, right=True)
    rank = (first + last + 1).to(values.dtype) / 2
    scores: Tensor = torch.special.ndtri((rank - 0.375) / (flat.shape[1] + 0.25))
    return scores.reshape(values.shape)


def median(values: Tensor) -> Tensor:
    """(numbers, 1, 1), the mean of the middle two where they are even in number."""
    ordered = values.flatten(1).sort(1).values
    size = ordered.shape[1]
    middle = (ordered[:, (size - 1) // 2] + ordered[:, size // 2]) / 2
    return middle[:, None, None]


def quantile(values: Tensor, q: float) -> Tensor:
    """(numbers, 1, 1), linear between the order statistics around (S − 1) q."""
    ordered = values.flatten(1).sort(1).values
    size = ordered.shape[1]
    # In the very order of operations that ArviZ has by way of SciPy: between two equal values the
    # result may be off by its last digit, which decides whether these lie at or below it.
    place = size * q + (1 - q)
    below = math.floor(min(max(place, 1), size - 1))
    weight = min(max(place - below, 0), 1)
    between = (1 - weight) * ordered[:, below - 1] + weight * ordered[:, below]
    return between[:, None, None]
