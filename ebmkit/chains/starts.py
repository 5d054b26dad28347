"""Where chains start, and start anew."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmkit.data import finite_by_row, take
from ebmkit.protocols import Batch


def starts_among(
    chains: Batch, n: int, condition: Tensor | None = None, *, generator: torch.Generator
) -> Batch:
    """``n`` of the chains that are there, each taken as often as any other, or once more; at conditions
    (n, ...) for each condition so many of the chains that are at it, where there are such."""
    if condition is not None:
        x = starts_among(chains, n, generator=generator).x
        there = chains.condition
        if there is not None and condition.shape == (n, *there.shape[1:]):
            for kind in torch.unique(condition, dim=0):
                own, wanted = (
                    (at == kind).reshape(len(at), -1).all(1).nonzero()[:, 0]
                    for at in (there, condition)
                )
                if len(own):
                    near = take(chains, own)
                    x[wanted] = starts_among(near, len(wanted), generator=generator).x
        return Batch(x, condition)
    size, device = len(chains.x), chains.x.device
    rounds = -(-n // size)
    orders = [torch.randperm(size, generator=generator, device=device) for _ in range(rounds)]
    return take(chains, torch.cat(orders)[:n])


def starts_around(
    data: Batch, n: int, *, generator: torch.Generator, discrete: bool = False
) -> Batch:
    """``n`` normal points with the mean and standard deviation of ``n`` points of data or more, at
    conditions of those. Discrete ones take each number of an event from a row of the data of its own,
    and all numbers of a one-hot last axis from the same."""
    x = data.x
    labels = None if data.condition is None else data.condition[:n]
    if discrete:
        return Batch(_mixed(x, n, generator), labels)
    noise = torch.randn((n, *x.shape[1:]), generator=generator, device=x.device, dtype=x.dtype)
    return Batch(x.mean(0) + x.std(0) * noise, labels)


def finite_rows(x: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    """``n`` of the rows that are finite, drawn with replacement; of all rows where none is."""
    if not n:
        return x[:0]
    weights = finite_by_row(x).to(torch.float32)
    weights = torch.where(weights.sum() > 0, weights, 1.0)
    return x[torch.multinomial(weights, n, replacement=True, generator=generator)]


def rows_like(
    data: Batch, n: int, condition: Tensor | None, *, generator: torch.Generator
) -> Tensor:
    """``n`` finite rows of the data, each at the condition of its chain (n, ...) where there are such
    and the data have one that is."""
    labels = data.condition
    if labels is None or condition is None or len(condition) != n:
        return finite_rows(data.x, n, generator=generator)
    fits = (labels[None] == condition[:, None]).reshape(n, len(labels), -1).all(2)
    weights = (fits & finite_by_row(data.x)).to(torch.float32)
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, 1.0)
    return data.x[torch.multinomial(weights, 1, generator=generator).squeeze(1)]


def _mixed(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    event = x.shape[1:]
    one_hot = len(event) > 1 and bool((x.sum(-1) == 1).all())
    sites = event[:-1] if one_hot else event
    rows = torch.randint(len(x), (n, *sites), generator=generator, device=x.device)
    if one_hot:
        rows = rows.unsqueeze(-1).expand(n, *event)
    return x.gather(0, rows)
