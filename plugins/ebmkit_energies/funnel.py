"""Neal's funnel."""

from __future__ import annotations

import math

import attrs
import torch
from attrs import field
from torch import Tensor

from ebmkit import doc
from ebmkit_energies._analytic import Analytic
from ebmkit_energies._events import flattened, positive


@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class Funnel(Analytic):
    """Neal's funnel, wide at one end and narrow at the other, with its exact normaliser.

    E(x) = x₀² / (2σ²) + Σᵢ (xᵢ² exp(−x₀) + x₀) / 2,  i = 1 … d − 1

    x (batch, *event) of d ≥ 2 numbers: x₀ is normal of standard deviation σ ``scale``, and given x₀
    the others are independent and normal of variance exp(x₀).

    Raises ValueError where an event has one number only, or another shape than ``event_shape``.

    Source: Slice Sampling (Neal, 2003).
    """

    scale: float = field(
        default=3.0,
        validator=positive,
        metadata=doc("standard deviation σ of the first coordinate, > 0"),
    )

    @torch.no_grad()
    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E (batch,) and ∇E (batch, *event), detached."""
        rows = flattened(x, self.event_shape, self)
        self._check(rows.shape[1])
        first, shrink, others = _standardised(rows)
        squares = others.square().sum(1, keepdim=True)
        outer = rows.shape[1] - 1
        energies = first.square() / (2 * self.scale**2) + (squares + outer * first) / 2
        along = first / self.scale**2 + (outer - squares) / 2
        gradient = torch.cat([along, others * shrink], 1)
        return energies.squeeze(1), gradient.view(x.shape)

    def log_partition(self) -> Tensor:
        """log ∫ exp(−E(x)) dx = log σ + d/2 log 2π, without dimensions.

        Raises:
            EvaluationError: without ``event_shape`` the number d is not known.
        """
        return torch.tensor(self._log_volume(self._size()), dtype=torch.float64)

    def log_density(self, x: Tensor) -> Tensor:
        """Log density in nats (batch,) of points (batch, *event)."""
        energies: Tensor = self(x)
        return -energies - self._log_volume(math.prod(x.shape[1:]))

    def _log_volume(self, size: int) -> float:
        return math.log(self.scale) + size / 2 * math.log(2 * math.pi)

    def _check(self, size: int) -> None:
        if size < 2:
            raise ValueError(
                f"Funnel: expected events of at least 2 numbers, got {size}; choose data of two "
                "dimensions or more"
            )

    def _energies(self, x: Tensor) -> Tensor:
        first, _, others = _standardised(x)
        outer = x.shape[1] - 1
        squares = others.square().sum(1, keepdim=True)
        return (first.square() / (2 * self.scale**2) + (squares + outer * first) / 2).squeeze(1)


def _standardised(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x₀ (batch, 1), exp(−x₀/2) (batch, 1), and the others times that."""
    first = rows[:, :1]
    # Half the exponent before the square: exp(−x₀) itself overflows in single precision at −89.
    shrink = (-first / 2).exp()
    return first, shrink, rows[:, 1:] * shrink
