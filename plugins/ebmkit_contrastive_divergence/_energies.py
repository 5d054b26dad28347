"""The loss that both variants share once their negatives are drawn."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ebmkit import Batch, Metrics, Model, bind


class Draws(NamedTuple):
    """The negatives of one training step."""

    negatives: Tensor
    """(negatives, *event)"""
    condition: Tensor | None
    """What each negative was conditioned on, or None."""
    metrics: Metrics
    """What the chains told on the way."""


def compare(
    model: Model, batch: Batch, draws: Draws, energy_regularisation: float
) -> tuple[Tensor, Metrics]:
    """mean E(positives) − mean E(negatives) + α mean of both squares, and metrics."""
    # One pass over both halves costs less than two.
    x = torch.cat([batch.x, draws.negatives])
    condition = None
    if batch.condition is not None and draws.condition is not None:
        condition = torch.cat([batch.condition, draws.condition])
    energies = bind(model, condition)(x)
    positives, negatives = energies[: len(batch.x)], energies[len(batch.x) :]
    mean_positive, mean_negative = positives.mean(), negatives.mean()
    loss = mean_positive - mean_negative
    metrics = {
        "energy_positives": mean_positive.detach(),
        "energy_negatives": mean_negative.detach(),
        "energy_gap": -loss.detach(),
    }
    if energy_regularisation:
        squares = positives.square().mean() + negatives.square().mean()
        loss = loss + energy_regularisation * squares
    return loss, metrics | draws.metrics
