"""f′, f″ and f‴ of functions made of pieces; where a slope jumps, those almost everywhere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ebmkit.calculus.chain_rule import piecewise, smooth
from ebmkit.calculus.kinks import report_kink


def _elu_slopes(
    x: Tensor, alpha: float, scale: float, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    curve = scale * alpha * beta * torch.exp(beta * x.clamp(max=0))
    up = x > 0
    flat = torch.zeros_like(x)
    return (
        torch.where(up, scale, curve),
        torch.where(up, flat, beta * curve),
        torch.where(up, flat, beta * beta * curve),
    )


@piecewise(functional.selu, "selu")
def _selu(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _elu_slopes(x, 1.6732632423543772, 1.0507009873554805, 1.0)


@smooth(functional.elu, "elu")
def _elu(x: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    if alpha != 1:
        report_kink("elu with alpha other than 1")
    return _elu_slopes(x, alpha, 1.0, 1.0)


@smooth(functional.celu, "celu")
def _celu(x: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    return _elu_slopes(x, alpha, 1.0, 1 / alpha)


def _straight(slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    flat = torch.zeros_like(slope)
    return slope, flat, flat


@piecewise(torch.relu, "relu")
def _relu(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _straight((x > 0).to(x.dtype))


@piecewise(functional.relu6, "relu6")
def _relu6(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _straight(((x > 0) & (x < 6)).to(x.dtype))


@piecewise(functional.leaky_relu, "leaky_relu")
def _leaky_relu(x: Tensor, negative_slope: float = 0.01) -> tuple[Tensor, Tensor, Tensor]:
    return _straight(torch.where(x > 0, torch.ones_like(x), negative_slope))


@piecewise(torch.abs, "abs")
def _abs(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _straight(x.sign())


@piecewise(functional.hardtanh, "hardtanh")
def _hardtanh(
    x: Tensor, min_val: float = -1.0, max_val: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    return _straight(((x > min_val) & (x < max_val)).to(x.dtype))


@piecewise(torch.clamp, "clamp", "clip")
def _clamp(
    x: Tensor,
    min: float | None = None,
    max: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    inside = torch.ones_like(x, dtype=torch.bool)
    if min is not None:
        inside = inside & (x >= min)
    if max is not None:
        inside = inside & (x <= max)
    return _straight(inside.to(x.dtype))


@smooth(functional.softsign, "softsign")
def _softsign(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r = 1 / (1 + x.abs())
    return r**2, -2 * x.sign() * r**3, 6 * r**4
