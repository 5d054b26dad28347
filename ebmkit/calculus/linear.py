"""Rules of linear functions: they act alike on value, first and second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from ebmkit.calculus.jet import (
    Jet,
    NoRuleError,
    by_name,
    jets_in,
    lifted,
    plus,
    register_rule,
    shared,
    values,
)
from ebmkit.loops import tracing

# Linear in the one jet that they are given; what else they take are sizes, axes and indices.
_LINEAR: dict[str, Callable[..., Any]] = {
    name: getattr(torch.Tensor, name)
    for name in (
        *("sum", "mean", "cumsum", "trace", "diagonal", "diag_embed", "tril", "triu"),
        *("reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "ravel"),
        *("expand_as", "reshape_as", "broadcast_to", "permute", "transpose", "movedim"),
        *("swapaxes", "swapdims", "moveaxis", "t", "contiguous", "clone", "narrow", "select"),
        *("index_select", "gather", "take_along_dim", "chunk", "split", "unbind", "roll", "flip"),
        *("repeat", "repeat_interleave", "unfold", "neg", "to", "double", "float", "tensor_split"),
    )
} | {
    "neg": torch.neg,
    "getitem": torch.Tensor.__getitem__,
    "avg_pool1d": functional.avg_pool1d,
    "avg_pool2d": functional.avg_pool2d,
    "avg_pool3d": functional.avg_pool3d,
    "adaptive_avg_pool1d": functional.adaptive_avg_pool1d,
    "adaptive_avg_pool2d": functional.adaptive_avg_pool2d,
    "interpolate": functional.interpolate,
    "pixel_shuffle": functional.pixel_shuffle,
    "pixel_unshuffle": functional.pixel_unshuffle,
}


def _linear_rule(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Jet) or jets_in(args, kwargs):
            # x.expand_as(jet): only the shape of the other matters.
            args, kwargs = values((args, kwargs))
            if not isinstance(x, Jet):
                return function(x, *args, **kwargs)
        return _through(lambda part: function(part, *args, **kwargs), x)

    return rule


for _name, _function in _LINEAR.items():
    by_name(_name)(_linear_rule(_function))


@by_name("view")
def _view(x: Any, *shape: Any) -> Any:
    if any(isinstance(size, torch.dtype) for size in shape):
        raise NoRuleError("view as another dtype")
    # The derivatives may be laid out otherwise than the value, which is all that a view is of.
    return _through(lambda part: part.reshape(*shape), x, x.value.view(*shape))


@by_name("view_as")
def _view_as(x: Any, other: Tensor) -> Any:
    return _view(x, other.shape) if isinstance(x, Jet) else x.view(other.shape)


def _through(function: Callable[[Tensor], Any], x: Jet, mapped: Any = None) -> Any:
    """A linear function of the jet, which may return several; ``mapped`` is that of its value."""
    mapped = function(x.value) if mapped is None else mapped
    parts = pytree.tree_leaves(mapped)
    aliased = any(_one_storage(part, x.value) for part in parts)
    x.aliased = x.aliased or aliased
    if x.first.shape[0] == 0:
        first = pytree.tree_map(lambda y: y.new_zeros((0, *y.shape)), mapped)
    else:
        first = torch.vmap(function)(x.first)
    second = None if x.second is None else function(x.second)
    if isinstance(mapped, Tensor):
        return _marked(Jet(mapped, first, second), aliased)
    rows = [mapped, first, [None] * len(mapped) if second is None else second]
    return type(mapped)(_marked(Jet(*parts), aliased) for parts in zip(*rows, strict=True))


def _marked(jet: Jet, aliased: bool) -> Jet:
    jet.aliased = aliased
    return jet


def _one_storage(one: Tensor, other: Tensor) -> bool:
    try:
        return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # inside of vmap nothing is known of it
        return True


@by_name("linear")
def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    if not isinstance(x, Jet) or jets_in(weight, bias):
        raise NoRuleError("linear with weights that depend on x")
    if x.ndim > 1 and shared(x.first):
        first = functional.linear(x.first[:, :1], weight)
        first = first.expand(len(first), len(x.value), *first.shape[2:])
        second = None if x.second is None else functional.linear(x.second, weight)
        return Jet(functional.linear(x.value, weight, bias), first, second)
    if len(weight) == 1 and tracing():
        # A compiler fuses sums into what comes before them, and products of matrices into nothing.
        def product(y: Tensor) -> Tensor:
            summed: Tensor = (y * weight[0]).sum(-1, keepdim=True)
            return summed

        value = product(x.value)
        return Jet(
            value if bias is None else value + bias,
            product(x.first),
            None if x.second is None else product(x.second),
        )
    value = functional.linear(x.value, weight, bias)
    if x.second is None or not tracing():
        second = None if x.second is None else functional.linear(x.second, weight)
        return Jet(value, functional.linear(x.first, weight), second)
    # One product of matrices where the compiler can write both parts side by side.
    both = functional.linear(torch.cat([x.second.unsqueeze(0), x.first]), weight)
    return Jet(value, both[1:], both[0])


@by_name("add")
def _add(x: Any, other: Any, *, alpha: float = 1) -> Jet:
    return _combine(lambda a, b: torch.add(a, b, alpha=alpha), x, other, (1, alpha))


@by_name("radd")
def _radd(x: Any, other: Any) -> Jet:
    return _combine(torch.add, other, x, (1, 1))


@by_name("sub", "subtract")
def _sub(x: Any, other: Any, *, alpha: float = 1) -> Jet:
    return _combine(lambda a, b: torch.sub(a, b, alpha=alpha), x, other, (1, -alpha))


@by_name("rsub")
def _rsub(x: Any, other: Any, *, alpha: float = 1) -> Jet:
    return _combine(lambda a, b: torch.rsub(a, b, alpha=alpha), x, other, (-alpha, 1))


def _combine(
    function: Callable[[Any, Any], Tensor], one: Any, other: Any, weights: tuple[float, float]
) -> Jet:
    """A weighted sum of two values, of which either may be constant."""
    result = function(*values((one, other)))
    jets = [(j, w) for j, w in zip((one, other), weights, strict=True) if isinstance(j, Jet)]
    firsts = [lifted(jet.first, result.ndim).to(result.dtype) for jet, _ in jets]
    if len(jets) == 2:
        first = torch.add(_scaled(firsts[0], weights[0]), _scaled(firsts[1], weights[1]))
    else:
        first = _scaled(firsts[0], jets[0][1])
    second = None
    for jet, weight in jets:
        if jet.second is not None:
            second = plus(second, _scaled(jet.second, weight).to(result.dtype))
    return Jet(
        result,
        first.expand(len(first), *result.shape),
        None if second is None else second.expand(result.shape),
    )


def _scaled(derivative: Tensor, weight: float) -> Tensor:
    if weight == 1:
        return derivative
    if shared(derivative):
        return (weight * derivative[:, :1]).expand_as(derivative)
    return weight * derivative


def _join(function: Callable[..., Tensor]) -> Callable[..., Jet]:
    def rule(tensors: Any, *args: Any, **kwargs: Any) -> Jet:
        whole: Tensor = function([values(t) for t in tensors], *args, **kwargs)
        count = len(jets_in(tensors)[0].first)

        def first(t: Any) -> Tensor:
            of_jet: Tensor = t.first if isinstance(t, Jet) else t.new_zeros(())
            return of_jet.expand(count, *t.shape)

        firsts = torch.vmap(lambda *parts: function(list(parts), *args, **kwargs))(
            *(first(t) for t in tensors)
        )
        second = None
        if any(j.second is not None for j in jets_in(tensors)):
            seconds = [
                torch.zeros_like(values(t))
                if not isinstance(t, Jet) or t.second is None
                else t.second
                for t in tensors
            ]
            second = function(seconds, *args, **kwargs)
        return Jet(whole, firsts, second)

    return rule


for _name, _function in (
    *(("cat", torch.cat), ("concat", torch.cat), ("concatenate", torch.cat)),
    *(("stack", torch.stack), ("hstack", torch.hstack), ("vstack", torch.vstack)),
):
    by_name(_name)(_join(_function))


@by_name("where")
def _where(condition: Any, x: Any, other: Any) -> Jet:
    if isinstance(condition, Tensor) and condition.dtype != torch.bool:
        condition, x = x, condition  # the method: x.where(condition, other)
    mask = values(condition)
    result = torch.where(mask, values(x), values(other))

    def kept(t: Any, here: Tensor) -> tuple[Tensor, Tensor | None]:
        t = t if isinstance(t, Jet) else None
        if t is None:
            return torch.zeros((1, *result.shape), dtype=result.dtype, device=result.device), None
        first = torch.where(here, lifted(t.first, result.ndim), 0).expand(-1, *result.shape)
        return first, None if t.second is None else torch.where(here, t.second, 0)

    (one, second_one), (other_first, second_other) = kept(x, mask), kept(other, ~mask)
    second = plus(second_one, second_other)
    return Jet(result, one + other_first, None if second is None else second.expand(result.shape))


@by_name("masked_fill")
def _masked_fill(x: Any, mask: Any, value: Any) -> Any:
    return _where(mask, torch.as_tensor(value, dtype=x.dtype, device=x.device), x)


@by_name("pad")
def _pad(x: Jet, pad: Any, mode: str = "constant", value: float | None = None) -> Any:
    def padded(y: Tensor, fill: float | None) -> Tensor:
        return functional.pad(y, pad, mode, fill)

    jet = _through(lambda y: padded(y, 0.0 if mode == "constant" else None), x)
    return Jet(padded(x.value, value), jet.first, jet.second)


@by_name("Tensor.mT", "Tensor.mH", "Tensor.H")
def _mirrored(x: Jet) -> Any:
    return _through(lambda y: y.transpose(-1, -2), x)


@by_name("Tensor.T")
def _reversed(x: Jet) -> Any:
    return _through(lambda y: y.permute(*range(y.ndim - 1, -1, -1)), x)


# Another function than the method of that name.
register_rule(functional.unfold, _linear_rule(functional.unfold))
