"""Rastrigin's egg box in a bowl."""

from __future__ import annotations

import math

import attrs
from attrs import field, validators
from torch import Tensor

from ebmkit import doc, finite
from ebmkit_energies._analytic import Analytic


@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class Rastrigin(Analytic):
    """Rastrigin's egg box in a bowl: a well near every point of whole coordinates.

    E(x) = a d + Σᵢ xᵢ² − a cos(2π xᵢ)

    x (batch, *event) of d numbers; a ``a``. The minimum is 0, at 0.

    Raises ValueError where points have other events than ``event_shape``.

    Source: Systems of Extremal Control (Rastrigin, 1974).
    """

    a: float = field(
        default=10.0,
        validator=validators.and_(finite, validators.ge(0)),
        metadata=doc("depth a of the wells, ≥ 0"),
    )

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E (batch,) and ∇E = 2x + 2π a sin 2πx (batch, *event)."""
        rows = self._rows(x)
        waves = (x * (2 * math.pi)).sin() * (2 * math.pi * self.a)
        return self._energies(rows), waves.add_(x, alpha=2)

    def _energies(self, x: Tensor) -> Tensor:
        # a − a cos 2πx = 2a sin² πx keeps its digits where both terms are nearly equal.
        return (x.square() + (x * math.pi).sin().square() * (2 * self.a)).sum(1)
