"""What the three losses share: their state, regularisation, and the numbers that they report."""

from __future__ import annotations

import math
from typing import NamedTuple

import attrs
from torch import Tensor

from ebmkit import Metrics, Model, UserError, offered


class NoState(NamedTuple):
    """Nothing is carried from one training step to the next."""


@attrs.frozen
class Terms:
    """One number a row, and what regularises it."""

    rows: Tensor
    """The loss of each row (batch,)."""
    energies: Tensor
    """(batch,)"""
    squared_scores: Tensor
    """‖s‖² of each row (batch,)."""

    def total(
        self, energy_regularisation: float, score_regularisation: float
    ) -> tuple[Tensor, Metrics]:
        """mean loss + α mean E² + β mean ‖s‖², and metrics."""
        loss = self.rows.mean()
        rows = self.rows.detach()
        metrics = {"score_norm": self.squared_scores.detach().sqrt().mean()}
        if len(rows) > 1:
            # One row says nothing of how rows scatter.
            metrics["loss_standard_error"] = rows.std() / math.sqrt(len(rows))
        if energy_regularisation:
            loss = loss + energy_regularisation * self.energies.square().mean()
        if score_regularisation:
            loss = loss + score_regularisation * self.squared_scores.mean()
        return loss, metrics


def refuse_discrete(model: Model, loss: str) -> None:
    """Raise UserError where the model is of discrete states."""
    if offered(model, "discrete"):
        raise UserError(
            f"{loss}: expected a model of continuous points, got {type(model).__name__}, which is of "
            "discrete states and has no score; choose a loss that compares the data with samples"
        )


def squares(x: Tensor, *, batch_dims: int = 1) -> Tensor:
    """‖x‖² of each event of x (batch, *event), whose event may be a single number."""
    squared = x.square()
    event_dims = tuple(range(batch_dims, x.ndim))
    return squared.sum(event_dims) if event_dims else squared
