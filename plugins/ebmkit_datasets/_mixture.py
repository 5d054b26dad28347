"""Isotropic Gaussians of one width about given centres: choosing one, and their log density."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Numbers held at a time for one block of points: 1 MiB of float64, which fits a core's cache.
_BLOCK = 2**17
# A term this far below the largest adds less than rounding does; exp of numbers farther down is
# several times slower, because its results are subnormal.
_NEGLIGIBLE = -100.0


def in_blocks(function: Callable[[Tensor], Tensor], x: Tensor, terms: int) -> Tensor:
    """function(x) (batch,), a block of rows at a time, where one row takes ``terms`` numbers."""
    blocks = torch.split(x, max(1, _BLOCK // terms))
    if x.requires_grad:
        return torch.cat([function(block) for block in blocks])
    # Small results kept between large temporaries would pin the memory of those: one buffer, made
    # beforehand, holds all of them.
    result = torch.empty_like(x[:, 0])
    for block, place in zip(blocks, torch.split(result, len(blocks[0])), strict=True):
        place.copy_(function(block))
    return result


def log_sum_exp(terms: Tensor, dim: int) -> Tensor:
    """log Σ exp(terms) over one dimension, for terms of which the largest is finite."""
    largest = terms.detach().amax(dim, keepdim=True)
    total = (terms - largest).clamp(min=_NEGLIGIBLE).exp().sum(dim)
    return total.log() + largest.squeeze(dim)


def circle(n_centres: int, radius: float) -> Tensor:
    """Evenly spaced centres (n_centres, 2) on a circle, the first on the positive first axis."""
    angle = torch.arange(n_centres, dtype=torch.float64) * (2 * math.pi / n_centres)
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1)


def choose(weights: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Indices (size,) drawn with the given relative weights (n,), on the generator's device."""
    bounds = weights.cumsum(0)
    u = torch.rand(size, generator=generator, device=generator.device, dtype=torch.float64)
    inner = (bounds[:-1] / bounds[-1]).to(u.device)
    return torch.bucketize(u, inner, right=True)


def draw_mixture(
    centres: Tensor,
    weights: Tensor,
    std: float,
    size: int,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Tensor:
    """Points (size, 2) of Σ_k w_k N(m_k, σ²I) / Σ_k w_k."""
    index = choose(weights, size, generator)
    noise = torch.randn(size, 2, generator=generator, device=generator.device, dtype=dtype)
    return centres.to(noise)[index] + std * noise


def mixture_log_density(x: Tensor, centres: Tensor, weights: Tensor, std: float) -> Tensor:
    """log Σ_k w_k N(x; m_k, σ²I) (batch,) of x (batch, 2), centres (n, 2), weights (n,)."""
    centres, weights = centres.to(x), weights.to(x)
    variance = std**2
    # −|x − m|²/2σ² = −|x|²/2σ² + x·m/σ² − |m|²/2σ²: the middle term is one matrix product.
    offset = weights.log() - centres.square().sum(1) / (2 * variance)
    slope = centres.T / variance

    def block(part: Tensor) -> Tensor:
        peak = log_sum_exp(torch.addmm(offset, part, slope), 1)
        return peak - part.square().sum(1) / (2 * variance)

    return in_blocks(block, x, len(centres)) - math.log(2 * math.pi * variance)
