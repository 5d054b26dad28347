"""What the three losses share: their state, regularisation, and the numbers that they report."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import attrs
from attrs import field
from attrs.validators import and_, ge
from torch import Tensor

from ebmkit import Metrics, doc, finite


class NoState(NamedTuple):
    """Nothing is carried from one training step to the next."""


def energy_regularisation() -> Any:
    return field(
        default=0.0,
        validator=and_(finite, ge(0)),
        metadata=doc("α, weight of the mean squared energy; 0 is off"),
    )


def score_regularisation() -> Any:
    return field(
        default=0.0,
        validator=and_(finite, ge(0)),
        metadata=doc("β, weight of the mean ‖s‖²; 0 is off"),
    )


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
