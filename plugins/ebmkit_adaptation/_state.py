"""What an adapted sampler keeps from step to step, and what is wrong where it cannot be adapted."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ebmkit import State, UserError


class AdaptationError(UserError, ValueError):
    """A sampler that cannot be adapted."""


class AdaptiveState(NamedTuple):
    """Where the chains are, the inner sampler's state, and what is adapted; tensors without
    dimensions unless stated."""

    x: Tensor
    """(batch, *event)"""
    inner: State
    """The inner sampler's state at y = x / s."""
    log_step: Tensor
    """log ε of the next step."""
    log_average: Tensor
    """Average of log ε, weighted towards the present."""
    centre: Tensor
    """μ, towards which log ε is drawn."""
    shortfall: Tensor
    """H, average of target minus acceptance."""
    steps: Tensor
    """Steps since the scales were last renewed."""
    total: Tensor
    """Steps adapted so far."""
    due: Tensor
    """Steps after which ``restart`` renews the scales."""
    scale: Tensor
    """s, (1, *event)"""
    seen: Tensor
    """Points seen since the scales were last renewed."""
    mean: Tensor
    """Their mean, (1, *event)."""
    squares: Tensor
    """Their sum of squared distances to it, (1, *event)."""
    adapting: Tensor
    """Whether adaptation goes on, bool."""
