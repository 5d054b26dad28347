"""A banana-shaped density."""

from __future__ import annotations

import math

import attrs
import torch
from attrs import field
from torch import Tensor

from ebmkit import doc, finite
from ebmkit_energies._analytic import Analytic
from ebmkit_energies._events import flattened, positive


@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class Banana(Analytic):
    """A banana: a Gaussian, long in one direction, bent along a parabola; with its exact normaliser.

    E(x) = x₁² / (2σ²) + ½ (x₂ − b (x₁² − σ²))² + ½ Σᵢ xᵢ²,  i = 3 … d

    x (batch, *event) of d ≥ 2 numbers; σ ``scale``, b ``curvature``. x₁ is normal of standard
    deviation σ, x₂ given x₁ normal of mean b (x₁² − σ²) and variance 1, and the others are standard
    normal. All means are 0, and x₂ has the variance 1 + 2 b² σ⁴.

    Raises ValueError where an event has one number only, or another shape than ``event_shape``.

    Source: Adaptive proposal distribution for random walk Metropolis algorithm (Haario, Saksman and
    Tamminen, 1999).
    """

    scale: float = field(
        default=10.0,
        validator=positive,
        metadata=doc("standard deviation σ along the banana, > 0"),
    )
    curvature: float = field(
        default=0.03, validator=finite, metadata=doc("curvature b; 0.1 is strongly bent")
    )

    @torch.no_grad()
    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E (batch,) and ∇E (batch, *event), detached."""
        rows = flattened(x, self.event_shape, self)
        self._check(rows.shape[1])
        first, straight = self._straightened(rows)
        along = first / self.scale**2 - 2 * self.curvature * first * straight[:, :1]
        energies = (first.square() / self.scale**2).squeeze(1) + straight.square().sum(1)
        return energies / 2, torch.cat([along, straight], 1).view(x.shape)

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
                f"Banana: expected events of at least 2 numbers, got {size}; choose data of two "
                "dimensions or more"
            )

    def _energies(self, x: Tensor) -> Tensor:
        first, straight = self._straightened(x)
        return ((first.square() / self.scale**2).squeeze(1) + straight.square().sum(1)) / 2

    def _straightened(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """x₁ (batch, 1), and (x₂ − b (x₁² − σ²), x₃ …) (batch, d − 1)."""
        first, second = rows[:, :1], rows[:, 1:2]
        bent = second - self.curvature * (first.square() - self.scale**2)
        return first, torch.cat([bent, rows[:, 2:]], 1)
