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
    return _logsumexp(torch.stack([x, other]), 0)


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
def _std(x: Jet, *args: Any, **kwargs: Any) -> Any:
    return torch.sqrt(_var(x, *args, **kwargs))


@by_name("norm", "vector_norm", "linalg_vector_norm")
def _norm(x: Jet, p: Any = None, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    p = kwargs.pop("ord", p)
    if p not in (None, 2, 2.0, "fro") or kwargs.get("dtype") is not None:
        raise NoRuleError(f"norm with p={p}")
    squares = (x * x).sum(_dims(dim, x), keepdim=keepdim)
    # At the origin torch takes the norm's derivative as 0; the root's is infinite.
    origin = value(squares) == 0
    return torch.where(origin, 0.0, torch.sqrt(torch.where(origin, 1.0, squares)))


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
