"""Rosenbrock's curved valley."""

from __future__ import annotations

import attrs
import torch
from attrs import field
from torch import Tensor

from ebmkit import doc, finite
from ebmkit_energies._analytic import Analytic
from ebmkit_energies._events import positive


@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class Rosenbrock(Analytic):
    """Rosenbrock's curved valley, narrow across and nearly flat along.

    E(x) = Σᵢ b (xᵢ₊₁ − xᵢ²)² + (a − xᵢ)²,  i = 1 … d − 1

    x (batch, *event) of d ≥ 2 numbers; a ``a``, b ``b``. In two dimensions the minimum is 0, at
    (a, a²); with a = 1 it is 0 at (1, …, 1) in any dimension.

    Raises ValueError where an event has one number only, or another shape than ``event_shape``.

    Source: An Automatic Method for Finding the Greatest or Least Value of a Function
    (Rosenbrock, 1960).
    """

    a: float = field(default=1.0, validator=finite, metadata=doc("place a of the minimum"))
    b: float = field(
        default=100.0, validator=positive, metadata=doc("steepness b across the valley, > 0")
    )

    def _check(self, size: int) -> None:
        if size < 2:
            raise ValueError(
                f"Rosenbrock: expected events of at least 2 numbers, got {size}; choose data of "
                "two dimensions or more"
            )

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E (batch,) and ∇E (batch, *event)."""
        rows = self._rows(x)
        here, following = rows[:, :-1], rows[:, 1:]
        across, along = following - here.square(), self.a - here
        energies = (self.b * across.square() + along.square()).sum(1)
        slope = 2 * self.b * across
        gradient = torch.zeros_like(rows)
        gradient[:, :-1] = slope * here * -2 - 2 * along
        gradient[:, 1:] += slope
        return energies, gradient.view(x.shape)

    def _energies(self, x: Tensor) -> Tensor:
        here, following = x[:, :-1], x[:, 1:]
        across, along = following - here.square(), self.a - here
        return (self.b * across.square() + along.square()).sum(1)
