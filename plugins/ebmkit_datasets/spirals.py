"""A two-armed spiral."""

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


@attrs.frozen(kw_only=False)
class Spirals(Planar):
    """Two spiral arms that meet at the origin, with Gaussian noise.

    p(x) = ∫₀¹ 2v · ½[N(x; γ(v), σ²I) + N(x; −γ(v), σ²I)] dv,
    γ(v) = R v (cos 2πTv, sin 2πTv)

    x (batch, 2); R ``radius``, T ``turns``, σ ``noise``. With v = √u, u uniform on [0, 1], points
    lie nearly evenly along the arms. The integral is taken by composite Gauss–Legendre quadrature.

    Source: FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models
    (Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, 2019)
    """

    radius: float = field(
        default=3.0, validator=positive, metadata=doc("distance R of the arms' ends from 0, > 0")
    )
    turns: float = field(default=1.5, validator=positive, metadata=doc("turns T of each arm, > 0"))
    noise: float = field(
        default=0.1, validator=positive, metadata=doc("standard deviation σ of the noise, > 0")
    )

    def _arm(self, v: Tensor) -> Tensor:
        angle = 2 * math.pi * self.turns * v
        return self.radius * v[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)

    def _draw(self, size: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        device = generator.device
        v = torch.rand(size, generator=generator, device=device, dtype=dtype).sqrt()
        first = torch.randint(2, (size, 1), generator=generator, device=device) == 1
        z = torch.randn(size, 2, generator=generator, device=device, dtype=dtype)
        arm = self._arm(v)
        return torch.where(first, arm, -arm) + self.noise * z

    def _log_density(self, x: Tensor) -> Tensor:
        # The arm's speed R√(1 + a²v²) is at most R(1 + av): even steps in c = v + av²/2 bound the
        # length of every panel, and the first, where the arm turns most, may turn by a radian.
        a = 2 * math.pi * self.turns
        end = 1 + a / 2
        panels = math.ceil(max(self.radius * end / (PANEL * self.noise), a * end, 2))
        c = torch.linspace(0, end, panels + 1, dtype=torch.float64)
        v, weight = along(((1 + 2 * a * c).sqrt() - 1) / a)
        arm, weight = self._arm(v), weight * v
        return mixture_log_density(
            x, torch.cat([arm, -arm]), torch.cat([weight, weight]), self.noise
        )
