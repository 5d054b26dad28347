"""Distributions whose draws and cumulative distribution functions are known exactly.

Events are independent numbers of one law each, scaled: whatever the event's shape, every number of a
chain can be compared with its law. Energies take a noise level where a sampler gives them one, and are
the same at all levels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor


@attrs.frozen
class Target:
    """One law for all numbers of an event, in units of ``scale``."""

    name: str
    potential: Callable[[Tensor], Tensor]
    """−log density of a number up to a constant, elementwise; inf where it cannot be."""
    quantiles: Callable[[], tuple[Tensor, Tensor]]
    """Points and the distribution function at them, between which it is interpolated."""
    scale: float = 1.0

    noise_conditional: ClassVar[bool] = True

    def __call__(self, x: Tensor, *, noise_level: Any = None) -> Tensor:  # noqa: ARG002
        """E(x), (batch,)."""
        return self.potential(x / self.scale).flatten(1).sum(1)

    def draws(self, size: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Exact draws (size, *shape) of float64."""
        u = torch.rand(size, *shape, generator=generator, dtype=torch.float64)
        points, levels = self.quantiles()
        at = torch.searchsorted(levels, u).clamp(1, len(levels) - 1)
        low, high = levels[at - 1], levels[at]
        share = (u - low) / (high - low).clamp(min=1e-300)
        return self.scale * torch.lerp(points[at - 1], points[at], share)

    def moment(self, function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """Mean and standard deviation of a function of one number in units of the scale."""
        points, levels = self.quantiles()
        middle, weight = (points[1:] + points[:-1]) / 2, levels.diff()
        values = function(middle)
        mean = float((weight * values).sum())
        return mean, math.sqrt(max(float((weight * values.square()).sum()) - mean**2, 0.0))


def _table(potential: Callable[[Tensor], Tensor], low: float, high: float) -> Any:
    @functools.cache
    def quantiles() -> tuple[Tensor, Tensor]:
        points = torch.linspace(low, high, 40_001, dtype=torch.float64)
        middle = (points[1:] + points[:-1]) / 2
        density = (-potential(middle)).exp()
        levels = torch.cat([density.new_zeros(1), density.cumsum(0)])
        return points, levels / levels[-1]

    return quantiles


def _normal(z: Tensor) -> Tensor:
    return z.square() / 2


def _mixture(z: Tensor) -> Tensor:
    """Of two normal laws, ¼ at −1.5 and ¾ at 1, so near that chains pass between them."""
    return -torch.logaddexp(math.log(0.25) - (z + 1.5).square(), math.log(0.75) - (z - 1).square())


def _quartic(z: Tensor) -> Tensor:
    return z.square().square() / 4


def _logistic(z: Tensor) -> Tensor:
    """No Gaussian, of a force that is bounded, so that large steps do not run away from it."""
    return 2 * torch.nn.functional.softplus(-2 * z.abs()) + 2 * z.abs()


def _truncated(z: Tensor) -> Tensor:
    """Standard normal between −1 and 2; neither energy nor force beyond."""
    return torch.where((z > -1) & (z < 2), z.square() / 2, torch.inf)


GAUSSIAN = Target("Gaussian", _normal, _table(_normal, -9, 9))
MIXTURE = Target("mixture of two Gaussians", _mixture, _table(_mixture, -8, 8))
QUARTIC = Target("quartic", _quartic, _table(_quartic, -5, 5))
LOGISTIC = Target("logistic", _logistic, _table(_logistic, -12, 12))
TRUNCATED = Target("truncated Gaussian", _truncated, _table(_truncated, -1, 2))
