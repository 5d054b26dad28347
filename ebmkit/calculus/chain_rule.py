"""The chain rule of functions that act on each number alone: (y, J, l) -> (f, f′J, f′l + f″ Σ J²)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_leaves

from ebmkit.calculus.jet import Jet, NoRuleError, by_name, overwrite, register_rule, shared
from ebmkit.calculus.kinks import report_kink

Slopes = Callable[..., tuple[Tensor, Tensor, Tensor]]
"""f′, f″ and f‴ of a tensor (and of the function's own parameters)."""


def elementwise(function: Any, slopes: Slopes) -> None:
    """Register the rule of an elementwise function by its first three derivatives.

    ``slopes(x, *args, **kwargs)`` takes what the function takes, with a plain tensor for the jet,
    and returns f′, f″, f‴ of x's shape; the third is what the parameters' gradients need.
    """
    register_rule(function, rule_of(function, slopes))


def chained(jet: Jet, result: Tensor, slopes: Slopes) -> Jet:
    """The jet of f(y), from f(y) and its derivatives at y."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        # Inside of vmap or func.grad, plain operations, which torch knows how to transform.
        f1, f2, _ = slopes(jet.value)
        curvature = f2 * _squares(jet.first)
        second = curvature if jet.second is None else curvature + f1 * jet.second
        return Jet(result, f1 * jet.first, second)
    with torch.no_grad():
        f1, f2, f3 = slopes(jet.value)
    lower = _Chain.apply(jet.value, jet.first, jet.second, f1, f2, f3)  # type: ignore[no-untyped-call]
    return Jet(result, *lower)


class _Chain(torch.autograd.Function):
    """The chain rule's two lower lines as one node of autograd's graph: its backward needs the
    inputs and f‴ alone, where composed operations would keep several arrays of J's size."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        first: Tensor,
        second: Tensor | None,
        f1: Tensor,
        f2: Tensor,
        f3: Tensor,
    ) -> tuple[Tensor, Tensor]:
        # Where all rows share J, its squares are summed once.
        alike = shared(first)
        squares = _squares(first[:, :1] if alike else first)
        curvature = f2 * squares
        if second is not None:
            curvature = curvature.addcmul(f1, second)
        ctx.save_for_backward(first, second, f1, f2, f3, squares)
        return f1 * first, curvature.expand_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_first: Tensor, to_second: Tensor) -> Any:
        first, second, f1, f2, f3, squares = ctx.saved_tensors
        needs_value, needs_first, needs_second, *_ = ctx.needs_input_grad
        from_value = from_first = from_second = None
        if needs_value:
            from_value = f2 * torch.einsum("n...,n...->...", to_first, first)
            inner = f3 * squares
            if second is not None:
                inner = inner.addcmul(f2, second)
            from_value = from_value.addcmul(to_second, inner)
        if needs_first:
            from_first = (2 * f2 * to_second) * first
            from_first.addcmul_(to_first, f1)
        if needs_second:
            from_second = f1 * to_second
        return from_value, from_first, from_second, None, None, None


def _squares(first: Tensor) -> Tensor:
    return torch.einsum("n...,n...->...", first, first)


def rule_of(function: Any, slopes: Slopes) -> Callable[..., Jet]:
    def rule(x: Any, *args: Any, **kwargs: Any) -> Jet:
        others = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        if not isinstance(x, Jet) or any(isinstance(a, Jet) for a in others):
            raise NoRuleError(f"{function.__name__} with an argument that depends on x")
        if any(a.requires_grad for a in others):
            raise NoRuleError(f"{function.__name__} with an argument that is trained")
        inplace = kwargs.pop("inplace", False)
        # f itself stays an ordinary operation, so that a score can be taken of it as well.
        result = function(x.value, *args, **kwargs)
        if result.shape != x.value.shape:
            raise NoRuleError(f"{function.__name__} with an argument that broadcasts")
        after = chained(x, result, lambda y: slopes(y, *args, **kwargs))
        return overwrite(x, after, function.__name__) if inplace else after

    return rule


def smooth(function: Any, *names: str) -> Callable[[Slopes], Slopes]:
    def remember(slopes: Slopes) -> Slopes:
        by_name(*names)(rule_of(function, slopes))
        return slopes

    return remember


def piecewise(function: Any, *names: str) -> Callable[[Slopes], Slopes]:
    """As ``smooth``, for functions whose slope jumps: derivatives are those almost everywhere."""

    def remember(slopes: Slopes) -> Slopes:
        along = rule_of(function, slopes)

        def rule(x: Jet, *args: Any, **kwargs: Any) -> Jet:
            report_kink(names[0])
            return along(x, *args, **kwargs)

        by_name(*names)(rule)
        return slopes

    return remember
