"""Rules of attention, written in terms of others."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ebmkit.calculus.composite import softmax
from ebmkit.calculus.jet import NoRuleError, RandomError, by_name


@by_name("scaled_dot_product_attention")
def _attention(
    query: Any,
    key: Any,
    values_: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if dropout_p > 0:
        raise RandomError("dropout in attention")
    if enable_gqa:
        raise NoRuleError("scaled_dot_product_attention with grouped queries")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    weights = (query * scale) @ key.transpose(-1, -2)
    if is_causal:
        later = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).triu(1)
        weights = weights.masked_fill(later, -math.inf)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            weights = weights.masked_fill(~attn_mask, -math.inf)
        else:
            weights = weights + attn_mask
    return softmax(weights, -1) @ values_


@by_name("multi_head_attention_forward")
def _multi_head(query: Any, key: Any, values_: Any, *args: Any, **kwargs: Any) -> Any:
    names = (
        *("embed_dim", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v"),
        *("add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias", "training"),
        *("key_padding_mask", "need_weights", "attn_mask", "use_separate_proj_weight"),
        *("q_proj_weight", "k_proj_weight", "v_proj_weight", "static_k", "static_v"),
        *("average_attn_weights", "is_causal"),
    )
    given: dict[str, Any] = dict(zip(names, args, strict=False)) | kwargs
    refused = [
        name for name in ("bias_k", "bias_v", "static_k", "static_v") if given.get(name) is not None
    ]
    if given.get("dropout_p") and given.get("training"):
        raise RandomError("dropout in attention")
    if given.get("add_zero_attn"):
        refused.append("add_zero_attn")
    if refused:
        raise NoRuleError(f"multi_head_attention_forward with {', '.join(refused)}")
    heads = given["num_heads"]
    if given.get("use_separate_proj_weight"):
        weights = [given[f"{which}_proj_weight"] for which in "qkv"]
    else:
        weights = given["in_proj_weight"].chunk(3)
    bias = given.get("in_proj_bias")
    biases = [None] * 3 if bias is None else bias.chunk(3)

    def split(x: Any, weight: Tensor, b: Any) -> Any:
        # (length, batch, embedding) -> (batch, heads, length, embedding / heads)
        y = functional.linear(x, weight, b)
        return y.reshape(*y.shape[:2], heads, -1).permute(1, 2, 0, 3)

    q, k, v = (
        split(x, w, b) for x, w, b in zip((query, key, values_), weights, biases, strict=True)
    )
    mask = given.get("attn_mask")
    if mask is not None and mask.dim() == 3:
        mask = mask.reshape(-1, heads, *mask.shape[1:])
    padding = given.get("key_padding_mask")
    if padding is not None:
        padding = padding[:, None, None, :]
        mask = padding if mask is None else _both(mask, padding, q.dtype)
    if mask is not None and mask.dtype == torch.bool:
        mask = ~mask
    mixed = _attention(q, k, v, mask)
    mixed = mixed.permute(2, 0, 1, 3)
    mixed = mixed.reshape(*mixed.shape[:2], -1)
    mixed = functional.linear(mixed, given["out_proj_weight"], given.get("out_proj_bias"))
    if given.get("need_weights", True):
        raise NoRuleError("multi_head_attention_forward with need_weights=True")
    return mixed, None


def _both(mask: Tensor, padding: Tensor, dtype: torch.dtype) -> Tensor:
    """Two masks in one, each of booleans that hide or of numbers that are added."""
    if mask.dtype == padding.dtype == torch.bool:
        return mask | padding

    def added(x: Tensor) -> Tensor:
        if x.dtype != torch.bool:
            return x
        return torch.zeros(x.shape, dtype=dtype, device=x.device).masked_fill(x, -math.inf)

    return added(mask) + added(padding)
