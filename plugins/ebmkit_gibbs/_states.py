"""What discrete states look like, and how they are told from continuous points."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ebmkit import UserError, offered, tracing


def categories_of(own: int | None, energy: Any) -> int | None:
    """Number of categories of each variable, by the sampler's field or the energy's own word; None
    for binary ones.

    Raises:
        UserError: the two contradict each other.
    """
    said: int | None = offered(energy, "categories")
    if own is not None and said is not None and own != said:
        raise UserError(
            f"categories: the energy is of {said} categories, got {own}; leave categories out"
        )
    if own is not None and said is None and offered(energy, "discrete"):
        raise UserError(
            f"categories: the energy is of states of zeros and ones, got {own}; leave categories out"
        )
    return said if own is None else own


def check_states(x: Tensor, categories: int | None, sampler: str) -> None:
    """Raise UserError where x (batch, *event) holds no states: zeros and ones, one-hot along the last
    axis where there are categories. Values are looked at only where nothing is being traced."""
    if categories is not None and (x.ndim < 2 or x.shape[-1] != categories):
        raise UserError(
            f"{sampler}: expected states one-hot along a last axis of {categories} categories, got "
            f"events of shape {tuple(x.shape[1:])}; reshape the data, or state other categories"
        )
    if tracing():
        return
    right = (x == 0) | (x == 1)
    if not bool(right.all()):
        wrong = x[~right].flatten()[0].item()
        raise UserError(
            f"{sampler}: expected states of zeros and ones, got {wrong:g}; choose data of discrete "
            "states without noise, or a sampler of continuous ones"
        )
    if categories is not None and not bool((x.sum(-1) == 1).all()):
        raise UserError(
            f"{sampler}: expected states one-hot along the last axis, got a row that holds not "
            "exactly one 1"
        )


def flat(x: Tensor) -> Tensor:
    """Events (batch, *event) as rows (batch, numbers in an event), an empty batch too."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def by_variable(x: Tensor, categories: int) -> Tensor:
    """Events (batch, *event) as (batch, variables, categories), an empty batch too."""
    return x.reshape(len(x), math.prod(x.shape[1:-1]), categories)


def widened(per_chain: Tensor, like: Tensor) -> Tensor:
    """A tensor (batch,) that broadcasts against (batch, *event)."""
    return per_chain.view(-1, *[1] * (like.ndim - 1))


def one_hot(index: Tensor, like: Tensor, categories: int) -> Tensor:
    """Indices (…) as one-hot vectors (…, categories) in the dtype of ``like``."""
    return (torch.arange(categories, device=like.device) == index[..., None]).to(like.dtype)
