"""An energy in rescaled coordinates."""

from __future__ import annotations

import attrs
from torch import Tensor

from ebmkit import Energy, energy_and_gradient, offered


@attrs.frozen(eq=False)
class Rescaled:
    """The energy y -> E(s y), with its gradient s ∇E by a formula where E has one."""

    energy: Energy
    scale: Tensor
    """s, (1, *event)"""

    @property
    def discrete(self) -> bool:
        return bool(offered(self.energy, "discrete"))

    @property
    def categories(self) -> int | None:
        said: int | None = offered(self.energy, "categories")
        return said

    def __call__(self, y: Tensor) -> Tensor:
        return self.energy(self.scale * y)

    def energy_and_gradient(self, y: Tensor) -> tuple[Tensor, Tensor]:
        energies, gradient = energy_and_gradient(self.energy, self.scale * y)
        return energies, self.scale * gradient
