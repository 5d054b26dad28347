"""Copies of a model that are no part of its training: the weights' moving average, and what is kept."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


@torch.no_grad()
def average(averaged: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Move an average towards the weights after a step."""
    # A young average leans on the present weights, not on those it began with.
    weight = max(1 - decay, 9 / (step + 10))
    ours: list[Tensor] = list(averaged.parameters())
    theirs: list[Tensor] = list(module.parameters())
    torch._foreach_lerp_(ours, theirs, weight)
    for mine, other in zip(averaged.buffers(), module.buffers(), strict=True):
        mine.copy_(other)


def copied(module: nn.Module) -> nn.Module:
    """A copy whose weights get no gradients."""
    # What a hook such as spectral_norm's has computed cannot be copied with its history.
    computed = {
        id(value): value.detach().clone()
        for inner in module.modules()
        for value in vars(inner).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, computed).requires_grad_(False)
