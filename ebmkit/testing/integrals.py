"""Integrals and sums of densities, which laws compare formulas with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_NODES = 5
_AT_ONCE = 200_000

LogFunction = Callable[[Tensor], Tensor]
"""Points (n, d) of float64 -> logarithms (n,) of a function that is nowhere negative."""


class Integral(NamedTuple):
    """log ∫ f, and how sure it is."""

    log: float
    error: float
    """Estimated error relative to the integral; that of cells that could not be split any more."""


def integral(
    function: LogFunction,
    low: Tensor,
    high: Tensor,
    *,
    cells: int = 24,
    error: float = 1e-5,
    most: int = 3_000_000,
) -> Integral:
    """log ∫ f over a box (d,), by Gauss–Legendre rules on cells that are split where their rule and
    that of their parts differ most, from at most so many points."""
    d = len(low)
    ticks = torch.cartesian_prod(*[torch.arange(cells, dtype=torch.float64)] * d).view(-1, d)
    size = (high - low) / cells
    corners = low + ticks * size
    found = _rule(function, corners, size)
    done: list[Tensor] = []
    doubt = 0.0
    evaluated = len(corners) * _NODES**d
    while True:
        half = size / 2
        offsets = torch.tensor(list(itertools.product((0.0, 1.0), repeat=d)), dtype=torch.float64)
        parts = (corners[:, None] + offsets * half).flatten(0, 1)
        evaluated += len(parts) * _NODES**d
        fine = _rule(function, parts, half).view(len(corners), -1)
        better = fine.logsumexp(1)
        total = torch.cat([*done, better]).logsumexp(0)
        if not math.isfinite(float(total)):
            return Integral(float(total), math.inf)
        off = ((better - total).exp() - (found - total).exp()).abs()
        # Cells whose errors together are within what is allowed are done, the largest are split.
        order = off.argsort()
        kept = order[off[order].cumsum(0) <= error / 8]
        open_ = torch.ones(len(off), dtype=torch.bool)
        open_[kept] = False
        done.append(better[~open_])
        doubt += float(off[~open_].sum())
        left = int(open_.sum())
        if not left or evaluated + left * (2 * _NODES**d) * 2**d > most:
            doubt += float(off[open_].sum())
            return Integral(float(torch.cat([*done, better[open_]]).logsumexp(0)), doubt)
        found = fine[open_].flatten()
        corners = parts.view(len(off), -1, d)[open_].flatten(0, 1)
        size = half


def _rule(function: LogFunction, corners: Tensor, size: Tensor) -> Tensor:
    """log ∫ f over each cell (n,)."""
    d = corners.shape[1]
    node, weight = _legendre(_NODES)
    nodes = torch.cartesian_prod(*[node] * d).view(-1, d)
    weights = torch.cartesian_prod(*[weight.log()] * d).view(-1, d).sum(1) + size.log().sum()
    rules = []
    for some in torch.split(corners, max(_AT_ONCE // len(nodes), 1)):
        points = (some[:, None] + nodes * size).flatten(0, 1)
        logs = function(points).double().view(len(some), -1)
        rules.append((logs + weights).logsumexp(1))
    return torch.cat(rules)


def _legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss–Legendre rule on [0, 1], by the eigenvalues of its recurrence."""
    k = torch.arange(1, n, dtype=torch.float64)
    beside = k / (4 * k.square() - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return (values + 1) / 2, vectors[0].square()


def stretched(function: LogFunction) -> LogFunction:
    """The function of u with x = sinh u and its factor: the integral over u in [−9, 9] is that over
    x within ±4,000."""

    def of(u: Tensor) -> Tensor:
        factor: Tensor = u.cosh().log().sum(1)
        return function(u.sinh()).double() + factor

    return of


def chi_square(counts: Tensor, expected: Tensor) -> tuple[float, float]:
    """The statistic Σ (counts − expected)² / expected over cells of at least ten expected, the rarer
    ones as one, and the probability that it is as large by chance."""
    rare = expected < 10
    if rare.any():
        counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
        if float(expected[-1]) < 10 and len(expected) > 1:
            counts = torch.cat([counts[:-2], counts[-2:].sum()[None]])
            expected = torch.cat([expected[:-2], expected[-2:].sum()[None]])
    statistic = float(((counts - expected).square() / expected.clamp(min=1e-300)).sum())
    freedom = max(len(expected) - 1, 1)
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return statistic, float(torch.special.gammaincc(half[0], half[1]))


def states(event_shape: tuple[int, ...], categories: int | None) -> Tensor:
    """All states (n, *event) of float64: bits, or one-hot along the last axis."""
    if categories is None:
        size, options = math.prod(event_shape), torch.eye(2, dtype=torch.float64)[:, 1:]
    else:
        size = math.prod(event_shape[:-1])
        options = torch.eye(categories, dtype=torch.float64)
    places = torch.cartesian_prod(*[torch.arange(len(options))] * size).view(-1, size)
    return options[places].view(len(places), *event_shape)


def n_states(event_shape: tuple[int, ...], categories: int | None) -> float:
    if categories is None:
        return 2.0 ** math.prod(event_shape)
    return float(categories) ** math.prod(event_shape[:-1])
