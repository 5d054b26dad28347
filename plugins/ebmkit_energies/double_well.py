"""Two wells in each coordinate."""

from __future__ import annotations

import attrs
from attrs import field
from torch import Tensor

from ebmkit import doc
from ebmkit_energies._analytic import Analytic
from ebmkit_energies._events import positive


@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class DoubleWell(Analytic):
    """Two wells in each coordinate, at −1 and 1, with a barrier between them.

    E(x) = h Σᵢ (xᵢ² − 1)²

    x (batch, *event); h ``barrier_height``. Events of d numbers have 2^d minima of 0, at xᵢ = ±1;
    a path from one to a neighbour climbs h.

    Raises ValueError where points have other events than ``event_shape``.
    """

    barrier_height: float = field(
        default=2.0, validator=positive, metadata=doc("height h of the barrier at 0, > 0")
    )

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E (batch,) and ∇E = 4h x (x² − 1) (batch, *event)."""
        rows = self._rows(x)
        above = rows.square() - 1
        gradient = above * rows * (4 * self.barrier_height)
        return above.square().sum(1) * self.barrier_height, gradient.view(x.shape)

    def _energies(self, x: Tensor) -> Tensor:
        return (x.square() - 1).square().sum(1) * self.barrier_height
