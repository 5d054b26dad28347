"""A spring to the origin."""

from __future__ import annotations

import attrs
from attrs import field
from torch import Tensor

from ebmkit import doc
from ebmkit_energies._analytic import Analytic
from ebmkit_energies._events import positive


@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class Harmonic(Analytic):
    """A spring to the origin: an isotropic Gaussian of variance 1/k.

    E(x) = ½ k ‖x‖²

    x (batch, *event); k ``stiffness``. The minimum is 0, at 0.

    Raises ValueError where points have other events than ``event_shape``.
    """

    stiffness: float = field(
        default=1.0, validator=positive, metadata=doc("stiffness k, the inverse variance, > 0")
    )

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E (batch,) and ∇E = k x (batch, *event)."""
        rows = self._rows(x)
        return self._energies(rows), x * self.stiffness

    def _energies(self, x: Tensor) -> Tensor:
        return x.square().sum(1) * (self.stiffness / 2)
