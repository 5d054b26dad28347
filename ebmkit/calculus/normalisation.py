"""Rules of normalisation layers, written in terms of others."""

from __future__ import annotations

import math
from typing import Any

import torch

from ebmkit.calculus.jet import Jet, NoRuleError, by_name, register_rule


@by_name("layer_norm")
def layer_norm(
    x: Jet, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    dims = tuple(range(-len(tuple(normalized_shape)), 0))
    y = _normalised(x, dims, eps)
    return _affine(y, weight, bias)


@by_name("rms_norm")
def _rms_norm(x: Jet, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    dims = tuple(range(-len(tuple(normalized_shape)), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _affine(x * torch.rsqrt((x * x).mean(dims, keepdim=True) + eps), weight, None)


@by_name("group_norm")
def _group_norm(
    x: Jet, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    rows, channels = x.shape[:2]
    grouped = x.reshape(rows, num_groups, math.prod(x.shape[1:]) // num_groups)
    y = _normalised(grouped, (-1,), eps).reshape(x.shape)
    shape = (channels, *[1] * (x.dim() - 2))
    return _affine(
        y,
        None if weight is None else weight.reshape(shape),
        None if bias is None else bias.reshape(shape),
    )


@by_name("instance_norm")
def instance_norm(
    x: Jet,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not use_input_stats or running_mean is not None:
        raise NoRuleError("instance_norm with running statistics")
    return _group_norm(x, x.shape[1], weight, bias, eps)


@by_name("batch_norm")
def _batch_norm(
    x: Jet,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if training or running_mean is None:
        raise NoRuleError("batch_norm in training mode, which makes rows depend on each other")
    shape = (1, -1, *[1] * (x.dim() - 2))
    scale = torch.rsqrt(running_var + eps).reshape(shape)
    y = (x - running_mean.reshape(shape)) * scale
    return _affine(
        y,
        None if weight is None else weight.reshape(shape),
        None if bias is None else bias.reshape(shape),
    )


def _native(rule: Any, names: tuple[str, ...]) -> Any:
    """The rule of torch's own function beneath that of torch.nn.functional: other order, one name."""

    def native(x: Any, *args: Any) -> Any:
        given = dict(zip(names, args, strict=True))
        given.pop("cudnn_enabled")
        return rule(x, **given)

    return native


_STATISTICS = ("weight", "bias", "running_mean", "running_var")
register_rule(
    torch.batch_norm,
    _native(_batch_norm, (*_STATISTICS, "training", "momentum", "eps", "cudnn_enabled")),
)
native_instance_norm = _native(
    instance_norm, (*_STATISTICS, "use_input_stats", "momentum", "eps", "cudnn_enabled")
)
register_rule(torch.instance_norm, native_instance_norm)


def _normalised(x: Any, dims: tuple[int, ...], eps: float) -> Any:
    centred = x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)


def _affine(y: Any, weight: Any, bias: Any) -> Any:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias
