"""Energies between a base, whose normaliser is known, and a model."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from attrs import field
from torch import Tensor

from ebmkit.calculus import energy_and_gradient
from ebmkit.evaluation.bases import Base
from ebmkit.layers import offered
from ebmkit.protocols import Energy

_STEEPNESS = 4.0


@attrs.frozen(eq=False)
class Between:
    """The energy (1 − β) E₀(x) + β E(x) between a base E₀ and an energy E."""

    energy: Energy = field()
    base: Base = field()
    inverse_temperature: float = field()
    """β in [0, 1]"""

    def __call__(self, x: Tensor) -> Tensor:
        beta = self.inverse_temperature
        return (1 - beta) * self.base(x) + beta * self.energy(x)

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (batch,) and gradients (batch, *event), detached."""
        beta = self.inverse_temperature
        of_base, base_gradient = self.base.energy_and_gradient(x)
        energies, gradient = energy_and_gradient(self.energy, x)
        return (
            (1 - beta) * of_base + beta * energies,
            (1 - beta) * base_gradient + beta * gradient,
        )

    @property
    def discrete(self) -> bool:
        """Whether states are discrete."""
        return bool(offered(self.energy, "discrete"))

    @property
    def categories(self) -> Any:
        """What the energy says of its categories, if anything."""
        return offered(self.energy, "categories")


@attrs.frozen(eq=False)
class Path:
    """Energies from a base at inverse temperature 0 to an energy at 1.

    In between they are those of a discrete energy's own ``bridge``, given the base's probabilities,
    where it offers one, else the mixture (1 − β) E₀ + β E. A constant that a bridge's energies are
    off by cancels in the weights.
    """

    energy: Energy = field()
    base: Base = field()
    bridge: Any = field(init=False)
    _kept: dict[float, Energy] = field(init=False, factory=dict)

    @bridge.default
    def _bridge(self) -> Any:
        return offered(self.energy, "bridge") if offered(self.energy, "discrete") else None

    def at(self, beta: float) -> Energy:
        """The energy at an inverse temperature."""
        if beta == 0 or beta == 1:
            return self.base if beta == 0 else self.energy
        if beta not in self._kept:
            self._kept[beta] = self._between(beta)
        return self._kept[beta]

    def _between(self, beta: float) -> Energy:
        if self.bridge is None:
            return Between(self.energy, self.base, beta)
        bridge: Energy = self.bridge(beta, getattr(self.base, "probabilities", None))
        return bridge

    def rise(self, x: Tensor, low: float, high: float) -> Tensor:
        """E_high(x) − E_low(x) (batch,) in float64."""
        if self.bridge is None:
            # As a product, for the difference of two energies has rounding that does not shrink.
            return (high - low) * (self._energies(x, 1.0) - self._energies(x, 0.0))
        return self._energies(x, high) - self._energies(x, low)

    def _energies(self, x: Tensor, beta: float) -> Tensor:
        with torch.no_grad():
            return self.base(x.double()) if beta == 0 else self.at(beta)(x).double()


def ladder(steps: int) -> list[float]:
    """Inverse temperatures β₀ = 0 … β_steps = 1, close together at both ends, where distributions
    change fastest: β_t = (s(2t/T − 1) − s(−1)) / (s(1) − s(−1)), s(u) = 1 / (1 + exp(−4u)).
    """
    if steps < 1:
        raise ValueError(f"expected one step or more, got {steps}")

    def s(u: float) -> float:
        return 1 / (1 + math.exp(-_STEEPNESS * u))

    inner = [(s(2 * t / steps - 1) - s(-1)) / (s(1) - s(-1)) for t in range(1, steps)]
    return [0.0, *inner, 1.0]
