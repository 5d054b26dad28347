"""Rules of products: l of a·b is a_l b + a b_l + 2 Σ_i a_i b_i."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ebmkit.calculus.jet import Jet, NoRuleError, by_name, lifted, plus, values
from ebmkit.calculus.smooth import power

Product = Callable[[Tensor, Tensor], Tensor]


@by_name("mul", "multiply")
def multiply(one: Any, other: Any) -> Any:
    """Elementwise product, of which either side may be constant."""
    if one is other:
        return power(one, 2)
    return _product(torch.mul, one, other)


@by_name("rmul")
def _rmul(x: Any, other: Any) -> Any:
    return multiply(other, x)


@by_name("matmul", "mm", "bmm")
def _matmul(one: Any, other: Any) -> Any:
    # A vector is a row on the left and a column on the right.
    if one.ndim == 1:
        return _matmul(one.unsqueeze(0), other).squeeze(-2 if other.ndim > 1 else -1)
    if other.ndim == 1:
        return _matmul(one, other.unsqueeze(1)).squeeze(-1)
    return _product(torch.matmul, one, other, aligned=False)


@by_name("rmatmul")
def _rmatmul(x: Any, other: Any) -> Any:
    return _matmul(other, x)


@by_name("div", "divide", "true_divide")
def divide(one: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """Elementwise quotient."""
    if rounding_mode is not None:
        raise NoRuleError("div with rounding")
    if isinstance(other, Jet):
        return _product(torch.mul, one, power(other, -1))
    return _product(torch.div, one, other)


@by_name("rdiv", "rtruediv")
def _rdiv(x: Any, other: Any) -> Any:
    return divide(other, x)


@by_name("pow")
def _pow(x: Any, exponent: Any) -> Any:
    if isinstance(exponent, Tensor) and not isinstance(exponent, Jet) and exponent.ndim == 0:
        raise NoRuleError("pow with a tensor as exponent")
    if not isinstance(x, Jet) or not isinstance(exponent, int | float):
        raise NoRuleError("pow with an exponent that is no number")
    return power(x, exponent)


@by_name("addcmul")
def _addcmul(x: Any, one: Any, other: Any, *, value: float = 1) -> Any:
    return x + value * (one * other)


@by_name("einsum")
def _einsum(equation: Any, *operands: Any) -> Any:
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) > 2:
        raise NoRuleError("einsum of more than two operands")
    if len(operands) == 1:
        (x,) = operands
        first = torch.vmap(lambda y: torch.einsum(equation, y))(x.first)
        second = None if x.second is None else torch.einsum(equation, x.second)
        return Jet(torch.einsum(equation, x.value), first, second)
    return _mapped(lambda a, b: torch.einsum(equation, a, b), *operands)


def _product(product: Product, one: Any, other: Any, *, aligned: bool = True) -> Jet:
    """A bilinear function whose operands broadcast over leading axes."""
    result = product(values(one), values(other))

    def first_of(jet: Jet) -> Tensor:
        # Elementwise operands align at their ends; matrices keep their last two axes too.
        return lifted(jet.first, result.ndim if aligned else max(result.ndim, jet.value.ndim))

    if isinstance(one, Jet) and isinstance(other, Jet):
        a, b = first_of(one), first_of(other)
        first = product(a, other.value) + product(one.value, b)
        second: Tensor | None = 2 * product(a, b).sum(0)
        second = plus(second, None if one.second is None else product(one.second, other.value))
        second = plus(second, None if other.second is None else product(one.value, other.second))
    elif isinstance(one, Jet):
        first = product(first_of(one), other)
        second = None if one.second is None else product(one.second, other)
    else:
        first = product(one, first_of(other))
        second = None if other.second is None else product(one, other.second)
    if first.shape[1:] != result.shape:
        first = first.expand(len(first), *result.shape)
    return Jet(result, first, second)


def _mapped(product: Product, one: Any, other: Any) -> Jet:
    """A bilinear function of any layout, mapped over the directions."""
    a, b = values(one), values(other)
    result = product(a, b)
    first: Any = 0
    second: Tensor | None = None
    if isinstance(one, Jet):
        first = torch.vmap(lambda d: product(d, b))(one.first)
        second = None if one.second is None else product(one.second, b)
    if isinstance(other, Jet):
        first = first + torch.vmap(lambda d: product(a, d))(other.first)
        second = plus(second, None if other.second is None else product(a, other.second))
    if isinstance(one, Jet) and isinstance(other, Jet):
        second = plus(second, 2 * torch.vmap(product)(one.first, other.first).sum(0))
    return Jet(result, first, second)
