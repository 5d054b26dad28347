"""Order statistics of traces (numbers, chains, draws), each number's over all its values."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normal_scores(values: Tensor) -> Tensor:
    """Φ⁻¹((rank − 3/8) / (S + 1/4)) of all S values of a number, ties having their mean rank."""
    flat = values.flatten(1)
    ordered, places = flat.sort(1)
    size = flat.shape[1]
    counted = torch.arange(size, device=flat.device)
    # Of each place among the sorted: where the run of equal values begins that it lies in, and where it
    # ends. Their ranks are first + 1 … last + 1, of mean (first + last) / 2 + 1.
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = torch.ones_like(begins)
    ends[:, :-1] = begins[:, 1:]
    first = torch.where(begins, counted, 0).cummax(1).values
    last = torch.where(ends, counted, size).flip(1).cummin(1).values.flip(1)
    rank = (first + last).to(values.dtype) / 2 + 1
    scores = torch.special.ndtri((rank - 0.375) / (size + 0.25))
    return torch.empty_like(scores).scatter_(1, places, scores).reshape(values.shape)


def median(values: Tensor) -> Tensor:
    """(numbers, 1, 1), the mean of the middle two where they are even in number."""
    ordered = values.flatten(1).sort(1).values
    size = ordered.shape[1]
    middle = (ordered[:, (size - 1) // 2] + ordered[:, size // 2]) / 2
    return middle[:, None, None]


def quantiles(values: Tensor, at: tuple[float, ...]) -> list[Tensor]:
    """(numbers, 1, 1) for each q, linear between the order statistics around (S − 1) q."""
    ordered = values.flatten(1).sort(1).values
    return [_quantile(ordered, q) for q in at]


def _quantile(ordered: Tensor, q: float) -> Tensor:
    size = ordered.shape[1]
    # In the very order of operations that ArviZ has by way of SciPy: between two equal values the
    # result may be off by its last digit, which decides whether these lie at or below it.
    place = size * q + (1 - q)
    below = math.floor(min(max(place, 1), size - 1))
    weight = min(max(place - below, 0), 1)
    between = (1 - weight) * ordered[:, below - 1] + weight * ordered[:, below]
    return between[:, None, None]
