"""f′, f″ and f‴ of smooth elementwise functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ebmkit.calculus.chain_rule import chained, smooth
from ebmkit.calculus.jet import Jet


@smooth(functional.silu, "silu")
def _silu(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = x.sigmoid()
    p = s * (1 - s)
    q = 1 - 2 * s
    a = x * q
    return (x * p).add_(s), p * (a + 2), p * (q * (a + 3) - 2 * x * p)


@smooth(torch.tanh, "tanh")
def _tanh(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = x.tanh()
    f1 = 1 - t * t
    return f1, -2 * t * f1, f1 * (6 * t * t - 2)


@smooth(torch.sigmoid, "sigmoid")
def _sigmoid(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = x.sigmoid()
    f1 = s * (1 - s)
    return f1, f1 * (1 - 2 * s), f1 * (1 - 6 * f1)


@smooth(functional.softplus, "softplus")
def _softplus(
    x: Tensor, beta: float = 1.0, threshold: float = 20.0
) -> tuple[Tensor, Tensor, Tensor]:
    s = (beta * x).sigmoid()
    straight = beta * x > threshold
    p = (beta * s * (1 - s)).masked_fill(straight, 0)
    return s.masked_fill(straight, 1), p, beta * p * (1 - 2 * s)


@smooth(functional.logsigmoid, "logsigmoid", "log_sigmoid")
def _log_sigmoid(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = x.sigmoid()
    p = s * (1 - s)
    return 1 - s, -p, -p * (1 - 2 * s)


@smooth(functional.gelu, "gelu")
def _gelu(x: Tensor, approximate: str = "none") -> tuple[Tensor, Tensor, Tensor]:
    if approximate == "tanh":
        return _gelu_tanh(x)
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    below = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return below + x * density, density * (2 - x * x), density * (x**3 - 4 * x)


def _gelu_tanh(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # f = x s(u) with s the logistic function and u = 2c (x + k x³).
    c, k = 2 * math.sqrt(2 / math.pi), 0.044715
    u1, u2, u3 = c * (1 + 3 * k * x * x), 6 * c * k * x, 6 * c * k
    s = torch.sigmoid(c * (x + k * x**3))
    s1 = s * (1 - s)
    s2, s3 = s1 * (1 - 2 * s), s1 * (1 - 6 * s1)
    d1 = s1 * u1
    d2 = s2 * u1 * u1 + s1 * u2
    d3 = s3 * u1**3 + 3 * s2 * u1 * u2 + s1 * u3
    return s + x * d1, 2 * d1 + x * d2, 3 * d2 + x * d3


@smooth(torch.sin, "sin")
def _sin(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.cos(), -x.sin(), -x.cos()


@smooth(torch.cos, "cos")
def _cos(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return -x.sin(), -x.cos(), x.sin()


@smooth(torch.exp, "exp")
def _exp(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    e = x.exp()
    return e, e, e


@smooth(torch.expm1, "expm1")
def _expm1(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _exp(x)


@smooth(torch.log, "log")
def _log(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r = 1 / x
    return r, -r * r, 2 * r**3


@smooth(torch.log1p, "log1p")
def _log1p(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _log(1 + x)


@smooth(torch.erf, "erf")
def _erf(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    f1 = 2 / math.sqrt(math.pi) * torch.exp(-x * x)
    return f1, -2 * x * f1, (4 * x * x - 2) * f1


@smooth(torch.square, "square")
def _square(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return 2 * x, torch.full_like(x, 2), torch.zeros_like(x)


@smooth(torch.sqrt, "sqrt")
def _sqrt(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _pow(x, 0.5)


@smooth(torch.rsqrt, "rsqrt")
def _rsqrt(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _pow(x, -0.5)


@smooth(torch.reciprocal, "reciprocal")
def _reciprocal(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _pow(x, -1)


def power(x: Jet, exponent: float) -> Jet:
    """The rule of x ** a number."""
    return chained(x, x.value**exponent, lambda y: _pow(y, exponent))


def _pow(x: Tensor, a: float) -> tuple[Tensor, Tensor, Tensor]:
    found, factor = [], 1.0
    for order in range(1, 4):
        factor *= a - order + 1
        # 0 · x^(negative) is 0 · ∞ at the origin, and there is no such term.
        found.append(factor * x ** (a - order) if factor else torch.zeros_like(x))
    return found[0], found[1], found[2]
