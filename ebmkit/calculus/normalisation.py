"""Rules of normalisation layers, written in terms of others."""

from __future__ import annotations

from typing import Any

import torch

from ebmkit.calculus.jet import Jet, NoRuleError, by_name


@by_name("layer_norm")
def _layer_norm(
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
    y = _normalised(x.reshape(rows, num_groups, -1), (-1,), eps).reshape(x.shape)
    shape = (channels, *[1] * (x.dim() - 2))
    return _affine(
        y,
        None if weight is None else weight.reshape(shape),
        None if bias is None else bias.reshape(shape),
    )


@by_name("instance_norm")
def _instance_norm(
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


def _normalised(x: Any, dims: tuple[int, ...], eps: float) -> Any:
    centred = x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)


def _affine(y: Any, weight: Any, bias: Any) -> Any:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias
