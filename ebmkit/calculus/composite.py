"""Rules of functions written in terms of others, and of what only looks at values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ebmkit.calculus.jet import Jet, NoRuleError, RandomError, by_name, value, values
from ebmkit.calculus.kinks import report_kink


def _passing(name: str, function: Any) -> None:
    def rule(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = values((args, kwargs))
        return function(*args, **kwargs)

    by_name(name)(rule)


# Comparisons, shapes and fresh constants have no derivative: they are those of the value.
for _name in (
    *("gt", "ge", "lt", "le", "eq", "ne", "isfinite", "isnan", "isinf", "argmax", "argmin"),
    *("size", "dim", "numel", "stride", "is_contiguous", "is_floating_point", "is_complex"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "sign"),
    *("get_device", "element_size", "ndimension", "nelement"),
):
    _passing(_name, getattr(torch.Tensor, _name))
for _name in ("zeros_like", "ones_like", "full_like", "empty_like"):
    _passing(_name, getattr(torch, _name))
_passing("len", torch.Tensor.__len__)


@by_name("detach")
def _detach(x: Jet) -> Tensor:
    x.aliased = True  # a change in place of x would have to show here
    return x.value.detach()


def _attribute(name: str) -> None:
    by_name(f"Tensor.{name}")(lambda x: getattr(x.value, name))


for _name in (
    *("shape", "dtype", "device", "ndim", "layout", "is_nested", "is_cuda", "is_cpu", "is_mps"),
    *("is_sparse", "is_quantized", "is_meta", "requires_grad"),
):
    _attribute(_name)


def _dims(dim: Any, x: Any) -> Any:
    return tuple(range(x.dim())) if dim is None else dim


@by_name("softmax")
def softmax(x: Jet, dim: Any = None, *rest: Any, dtype: Any = None, _stacklevel: int = 3) -> Any:
    if dim is None or dtype is not None or rest:
        raise NoRuleError("softmax without dim, or with dtype")
    e = torch.exp(x - x.value.detach().amax(dim, keepdim=True))
    return e / e.sum(dim, keepdim=True)


@by_name("log_softmax")
def _log_softmax(
    x: Jet, dim: Any = None, *rest: Any, dtype: Any = None, _stacklevel: int = 3
) -> Any:
    if dim is None or dtype is not None or rest:
        raise NoRuleError("log_softmax without dim, or with dtype")
    return x - _logsumexp(x, dim, keepdim=True)


@by_name("logsumexp")
def _logsumexp(x: Jet, dim: Any = None, keepdim: bool = False) -> Any:
    dim = _dims(dim, x)
    # The largest is a constant here: it cancels.
    top = x.value.detach().amax(dim, keepdim=True)
    top = torch.where(top.isfinite(), top, 0)
    total = torch.log(torch.exp(x - top).sum(dim, keepdim=True)) + top
    return total if keepdim else total.squeeze(dim)


@by_name("logaddexp")
def _logaddexp(x: Any, other: Any) -> Any:
    return x - functional.logsigmoid(x - other)


@by_name("var")
def _var(
    x: Jet,
    dim: Any = None,
    *rest: Any,
    correction: float = 1,
    unbiased: bool | None = None,
    keepdim: bool = False,
) -> Any:
    if isinstance(dim, bool) or rest:
        raise NoRuleError("var with unbiased as a positional argument")
    correction = correction if unbiased is None else int(unbiased)
    dim = _dims(dim, x)
    centred = x - x.mean(dim, keepdim=True)
    squares = (centred * centred).sum(dim, keepdim=keepdim)
    count = value(x).numel() / max(squares.numel(), 1)
    return squares / (count - correction)


@by_name("std")
def std(x: Any, *args: Any, **kwargs: Any) -> Any:
    """The root of the variance."""
    return _root(_var(x, *args, **kwargs))


def _root(squares: Any) -> Any:
    """A root as torch's norms take it: at 0 its derivative is 0, not infinite."""
    origin = value(squares) == 0
    return torch.where(origin, 0.0, torch.sqrt(torch.where(origin, 1.0, squares)))


@by_name("norm", "vector_norm", "linalg_vector_norm", "linalg_norm")
def norm(x: Any, p: Any = None, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    """The root of the summed squares over an axis, or several."""
    p = kwargs.pop("ord", p)
    of_matrix = p == 2 and isinstance(dim, list | tuple) and len(dim) == 2
    if p not in (None, 2, 2.0, "fro") or of_matrix or kwargs.get("dtype") is not None:
        raise NoRuleError(f"norm with p={p}")
    return _root((x * x).sum(_dims(dim, x), keepdim=keepdim))


@by_name("normalize")
def normalize(x: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Any:
    """x over its norm."""
    return x / _at_least(norm(x, p, dim, keepdim=True), eps)


@by_name("cosine_similarity")
def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """The cosine of the angle between x1 and x2."""
    one, other = (_at_least(norm(x, 2, dim, keepdim=True), eps) for x in (x1, x2))
    return ((x1 / one) * (x2 / other)).sum(dim)


@by_name("pairwise_distance")
def pairwise_distance(
    x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Any:
    """The norm of x1 − x2."""
    return norm(x1 - x2 + eps, p, -1, keepdim)


def _at_least(x: Any, eps: float) -> Any:
    # A guard against division by zero, not a kink of the energy.
    return torch.where(value(x) > eps, x, torch.full_like(value(x), eps))


def _random(name: str) -> None:
    def rule(*args: Any, **kwargs: Any) -> Any:
        raise RandomError(name)

    by_name(name)(rule)


for _name in ("rand_like", "randn_like", "randint_like", "bernoulli", "normal", "multinomial"):
    _random(_name)


@by_name("mish")
def _mish(x: Jet, inplace: bool = False) -> Any:
    _out_of_place("mish", inplace)
    return x * torch.tanh(functional.softplus(x))


@by_name("hardswish")
def _hardswish(x: Jet, inplace: bool = False) -> Any:
    _out_of_place("hardswish", inplace)
    return x * functional.relu6(x + 3) / 6


@by_name("hardsigmoid")
def _hardsigmoid(x: Jet, inplace: bool = False) -> Any:
    _out_of_place("hardsigmoid", inplace)
    return functional.relu6(x + 3) / 6


@by_name("glu")
def _glu(x: Jet, dim: int = -1) -> Any:
    gated, gate = x.chunk(2, dim)
    return gated * torch.sigmoid(gate)


def _out_of_place(name: str, inplace: bool) -> None:
    if inplace:
        raise NoRuleError(f"{name}(inplace=True)")


@by_name("dropout", "alpha_dropout", "feature_dropout", "dropout1d", "dropout2d")
def _dropout(x: Jet, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    if training and p > 0:
        raise RandomError("dropout in training mode")
    return x


@by_name("maximum", "max")
def _maximum(x: Any, other: Any = None) -> Any:
    if not isinstance(other, Tensor):
        raise NoRuleError("max along an axis")
    report_kink("maximum")
    return torch.where(value(x) >= value(other), x, other)


@by_name("minimum", "min")
def _minimum(x: Any, other: Any = None) -> Any:
    if not isinstance(other, Tensor):
        raise NoRuleError("min along an axis")
    report_kink("minimum")
    return torch.where(value(x) <= value(other), x, other)
