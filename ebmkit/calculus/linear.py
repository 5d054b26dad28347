"""Rules of linear functions: they act alike on value, first and second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from ebmkit.calculus.jet import Jet, NoRuleError, by_name, jets_in, lifted, plus, shared, values

# Linear in the one jet that they are given; what else they take are sizes, axes and indices.
_LINEAR: dict[str, Callable[..., Any]] = {
    name: getattr(torch.Tensor, name)
    for name in (
        *("sum", "mean", "cumsum", "trace", "diagonal", "diag_embed", "tril", "triu"),
        *("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "ravel"),
        *("expand_as", "view_as", "reshape_as", "broadcast_to", "permute", "transpose", "movedim"),
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


def _through(function: Callable[[Tensor], Any], x: Jet) -> Any:
    """A linear function of the jet, which may return several."""
    mapped = function(x.value)
    if x.first.shape[0] == 0:
        first = pytree.tree_map(lambda y: y.new_zeros((0, *y.shape)), mapped)
    else:
        first = torch.vmap(function)(x.first)
    second = None if x.second is None else function(x.second)
    if isinstance(mapped, Tensor):
        return Jet(mapped, first, second)
    rows = [mapped, first, [None] * len(mapped) if second is None else second]
    return type(mapped)(Jet(*parts) for parts in zip(*rows, strict=True))


@by_name("linear")
def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    if not isinstance(x, Jet) or jets_in(weight, bias):
        raise NoRuleError("linear with weights that depend on x")
    if shared(x.first):
        first = functional.linear(x.first[:, :1], weight)
        first = first.expand(len(first), len(x.value), *first.shape[2:])
    else:
        first = functional.linear(x.first, weight)
    second = None if x.second is None else functional.linear(x.second, weight)
    return Jet(functional.linear(x.value, weight, bias), first, second)


def _convolution(function: Callable[..., Tensor]) -> Callable[..., Jet]:
    def rule(x: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Jet:
        if not isinstance(x, Jet) or jets_in(weight, bias):
            raise NoRuleError(f"{function.__name__} with weights that depend on x")

        def convolve(y: Tensor) -> Tensor:
            return function(y, weight, None, *args, **kwargs)

        first = x.first[:, :1] if shared(x.first) else x.first
        count, rows = first.shape[:2]
        first = convolve(first.reshape(count * rows, *first.shape[2:]))
        first = first.reshape(count, rows, *first.shape[1:])
        return Jet(
            function(x.value, weight, bias, *args, **kwargs),
            first.expand(count, len(x.value), *first.shape[2:]),
            None if x.second is None else convolve(x.second),
        )

    return rule


for _function in (
    *(functional.conv1d, functional.conv2d, functional.conv3d),
    *(functional.conv_transpose1d, functional.conv_transpose2d),
):
    by_name(_function.__name__)(_convolution(_function))


@by_name("add")
def _add(x: Any, other: Any, *, alpha: float = 1) -> Jet:
    return combine(lambda a, b: torch.add(a, b, alpha=alpha), x, other)


@by_name("radd")
def _radd(x: Any, other: Any) -> Jet:
    return _add(other, x)


@by_name("sub", "subtract")
def _sub(x: Any, other: Any, *, alpha: float = 1) -> Jet:
    return combine(lambda a, b: torch.sub(a, b, alpha=alpha), x, other)


@by_name("rsub")
def _rsub(x: Any, other: Any) -> Jet:
    return combine(lambda a, b: torch.sub(b, a), x, other)


def combine(function: Callable[[Any, Any], Tensor], one: Any, other: Any) -> Jet:
    """A sum or difference, of which either side may be constant."""
    left, right = values((one, other))
    result = function(left, right)
    a, b = isinstance(one, Jet), isinstance(other, Jet)
    zero = torch.zeros((), dtype=result.dtype, device=result.device)
    firsts = [lifted(j.first, result.ndim) if isinstance(j, Jet) else zero for j in (one, other)]
    if a and b:
        first = function(*firsts)
        if one.second is None and other.second is None:
            second = None
        else:
            zeros = torch.zeros_like(result)
            second = function(
                zeros if one.second is None else one.second,
                zeros if other.second is None else other.second,
            )
    else:
        jet = one if a else other
        # The constant side adds nothing, but it may widen and it may set the sign.
        first = firsts[0] if a else function(zero, firsts[1])
        second = jet.second if a or jet.second is None else function(zero, jet.second)
    shape = result.shape
    return Jet(
        result,
        first.expand(len(first), *shape),
        None if second is None else second.expand(shape),
    )


def _join(function: Callable[..., Tensor]) -> Callable[..., Jet]:
    def rule(tensors: Any, *args: Any, **kwargs: Any) -> Jet:
        whole = function([values(t) for t in tensors], *args, **kwargs)
        count = len(jets_in(tensors)[0].first)

        def first(t: Any) -> Tensor:
            if isinstance(t, Jet):
                return t.first
            return t.new_zeros(()).expand(count, *t.shape)

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
    mask = values(condition)
    result = torch.where(mask, values(x), values(other))

    def kept(t: Any, here: Tensor) -> tuple[Tensor, Tensor | None]:
        t = t if isinstance(t, Jet) else None
        if t is None:
            return torch.zeros((1, *result.shape), dtype=result.dtype, device=result.device), None
        first = torch.where(here, lifted(t.first, result.ndim), 0)
        return first, None if t.second is None else torch.where(here, t.second, 0)

    (one, second_one), (other_first, second_other) = kept(x, mask), kept(other, ~mask)
    return Jet(result, one + other_first, plus(second_one, second_other))


@by_name("masked_fill")
def _masked_fill(x: Any, mask: Any, value: Any) -> Jet:
    return _where(mask, torch.as_tensor(value, dtype=x.dtype, device=x.device), x)


@by_name("pad")
def _pad(x: Jet, pad: Any, mode: str = "constant", value: float | None = None) -> Any:
    def padded(y: Tensor, fill: float | None) -> Tensor:
        return functional.pad(y, pad, mode, fill)

    jet = _through(lambda y: padded(y, 0.0 if mode == "constant" else None), x)
    return Jet(padded(x.value, value), jet.first, jet.second)


def _mirrored(x: Jet) -> Any:
    return _through(lambda y: y.transpose(-1, -2), x)


by_name("Tensor.T", "Tensor.mT", "Tensor.H", "Tensor.mH")(_mirrored)
