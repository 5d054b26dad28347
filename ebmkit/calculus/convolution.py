"""Rules of convolutions, which take the directions as more rows of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from ebmkit.calculus.jet import Jet, NoRuleError, by_name, jets_in, shared


def _convolution(function: Callable[..., Tensor]) -> Callable[..., Any]:
    def rule(x: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Jet) or jets_in(weight, bias):
            raise NoRuleError(f"{function.__name__} with weights that depend on x")

        if x.ndim < weight.ndim:  # one event without a batch around it
            return rule(x.unsqueeze(0), weight, bias, *args, **kwargs).squeeze(0)

        def convolve(y: Tensor) -> Tensor:
            return function(y, weight, None, *args, **kwargs)

        first = x.first[:, :1] if shared(x.first) else x.first
        count, rows = first.shape[:2]
        first = convolve(first.reshape(count * rows, *first.shape[2:]))
        first = first.reshape(count, rows, *first.shape[1:])
        result = function(x.value, weight, bias, *args, **kwargs)
        return Jet(
            result,
            first.expand(count, len(x.value), *first.shape[2:]),
            None if x.second is None else convolve(x.second),
        )

    return rule


for _function in (
    *(functional.conv1d, functional.conv2d, functional.conv3d),
    *(functional.conv_transpose1d, functional.conv_transpose2d),
):
    by_name(_function.__name__)(_convolution(_function))
