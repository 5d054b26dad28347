"""Blades that are bent around the centre."""

from __future__ import annotations

import math

import attrs
import torch
from attrs import field, validators
from torch import Tensor

from ebmkit import doc, finite, whole
from ebmkit_datasets._mixture import in_blocks, log_sum_exp
from ebmkit_datasets._planar import Planar, positive

# Farther out the twist grows no more: exp of a large radius has no angle left in floating point.
_RIGID = 5.0


@attrs.frozen(kw_only=False)
class Pinwheel(Planar):
    """A pinwheel: Gaussian blades around the centre, each twisted the more the farther out.

    x = s Q(2πk/K + τ exp(min(ρ, 5))) f,  f ~ N((1, 0), diag(σ_r², σ_t²)),  ρ = |f|,
    p(x) = (1/K s²) Σ_k N(Q(−2πk/K − τ exp(min(ρ, 5))) x/s; (1, 0), diag(σ_r², σ_t²)),  ρ = |x|/s

    x (batch, 2); Q(a) rotates by a; k = 0 … K−1 each as likely, K ``arms``; τ ``rate``; s
    ``scale``; σ_r ``radial_std``, σ_t ``tangential_std``. A rotation by an angle that depends on
    the radius alone keeps radius and area, so the second line is exact.

    Source: Composing graphical models with neural networks for structured representations and
    fast inference (Johnson, Duvenaud, Wiltschko, Datta, Adams, 2016)
    """

    arms: int = field(
        default=5,
        validator=validators.and_(whole, validators.ge(1), validators.le(10_000)),
        metadata=doc("number of blades K, 1 to 10,000"),
    )
    radial_std: float = field(
        default=0.3, validator=positive, metadata=doc("standard deviation σ_r along a blade, > 0")
    )
    tangential_std: float = field(
        default=0.1, validator=positive, metadata=doc("standard deviation σ_t across a blade, > 0")
    )
    rate: float = field(
        default=0.25,
        validator=finite,
        metadata=doc("twist τ in radians at the centre; 0 for straight blades"),
    )
    scale: float = field(
        default=2.0,
        validator=positive,
        metadata=doc("distance s of the blades' middle from 0, > 0"),
    )

    def _turned(self, f: Tensor, blade: Tensor, sign: float) -> Tensor:
        """f (batch, 2) turned by ± the angle that blade (batch,) has at the radius |f|."""
        radius = torch.linalg.vector_norm(f, dim=1).clamp(max=_RIGID)
        angle = sign * (2 * math.pi / self.arms * blade + self.rate * radius.exp())
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([cos * f[:, 0] - sin * f[:, 1], sin * f[:, 0] + cos * f[:, 1]], dim=1)

    def _draw(self, size: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        device = generator.device
        blade = torch.randint(self.arms, (size,), generator=generator, device=device)
        z = torch.randn(size, 2, generator=generator, device=device, dtype=dtype)
        f = torch.stack([1 + self.radial_std * z[:, 0], self.tangential_std * z[:, 1]], dim=1)
        return self.scale * self._turned(f, blade, 1.0)

    def _log_density(self, x: Tensor) -> Tensor:
        def block(part: Tensor) -> Tensor:
            exponents = []
            for k in range(self.arms):
                f = self._turned(part / self.scale, part.new_tensor(float(k)), -1.0)
                along = ((f[:, 0] - 1) / self.radial_std).square()
                across = (f[:, 1] / self.tangential_std).square()
                exponents.append(-(along + across) / 2)
            return log_sum_exp(torch.stack(exponents), 0)

        area = 2 * math.pi * self.radial_std * self.tangential_std * self.scale**2
        return in_blocks(block, x, 8 * self.arms) - math.log(self.arms * area)
