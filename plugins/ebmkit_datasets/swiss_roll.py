"""A slice of the Swiss roll."""

from __future__ import annotations

import math

import attrs
import torch
from attrs import field
from torch import Tensor

from ebmkit import doc
from ebmkit_datasets._curve import PANEL, along
from ebmkit_datasets._mixture import mixture_log_density
from ebmkit_datasets._planar import Planar, positive

_START, _END = 1.5 * math.pi, 4.5 * math.pi


@attrs.frozen(kw_only=False)
class SwissRoll(Planar):
    """A slice of the Swiss roll, one spiral arm, with Gaussian noise.

    p(x) = (1/3π) ∫ N(x; γ(t), σ²I) dt over t from 3π/2 to 9π/2,
    γ(t) = (R / (9π/2)) t (cos t, sin t)

    x (batch, 2); R ``radius``, σ ``noise``. The integral is taken by composite Gauss–Legendre
    quadrature.

    Source: Machine Learning: An Algorithmic Perspective (Marsland, 2009), chapter 6
    """

    radius: float = field(
        default=3.0, validator=positive, metadata=doc("distance R of the outer end from 0, > 0")
    )
    noise: float = field(
        default=0.1, validator=positive, metadata=doc("standard deviation σ of the noise, > 0")
    )

    def _curve(self, t: Tensor) -> Tensor:
        return self.radius / _END * t[:, None] * torch.stack([t.cos(), t.sin()], dim=1)

    def _draw(self, size: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        device = generator.device
        u = torch.rand(size, generator=generator, device=device, dtype=dtype)
        z = torch.randn(size, 2, generator=generator, device=device, dtype=dtype)
        return self._curve(_START + (_END - _START) * u) + self.noise * z

    def _log_density(self, x: Tensor) -> Tensor:
        # Even steps in t² are nearly even along the curve, whose length is ∫ (R/t₁)√(1 + t²) dt.
        # A panel may turn by a radian at most, and turns most at the start: by Δ(t²)/2t₀.
        span = (_END**2 - _START**2) / 2
        length = self.radius / _END * (span + math.log(_END / _START) / 2)
        panels = math.ceil(max(length / (PANEL * self.noise), span / _START))
        squares = torch.linspace(_START**2, _END**2, panels + 1, dtype=torch.float64)
        t, weight = along(squares.sqrt())
        return mixture_log_density(x, self._curve(t), weight / (_END - _START), self.noise)
