"""Concentric circles."""

from __future__ import annotations

import math

import attrs
import torch
from attrs import field, validators
from torch import Tensor

from ebmkit import doc
from ebmkit_datasets._mixture import in_blocks, log_sum_exp
from ebmkit_datasets._planar import Planar, positive


@attrs.frozen(kw_only=False)
class Rings(Planar):
    """Concentric circles with Gaussian noise, each as likely as the others.

    p(x) = (1/K) Σ_k exp(−(ρ² + r_k²)/2σ²) I₀(ρ r_k/σ²) / 2πσ²,  ρ = |x|

    x (batch, 2); r_k ``radii``, K of them; σ ``noise``, isotropic; I₀ the modified Bessel function.

    Source: Mathematical analysis of random noise (Rice, 1945), for the distance from a circle's
    centre
    """

    radii: list[float] = field(
        factory=lambda: [1.0, 2.0, 3.0],
        validator=[validators.min_len(1), validators.deep_iterable(positive)],
        metadata=doc("radius of each circle, > 0"),
    )
    noise: float = field(
        default=0.1, validator=positive, metadata=doc("standard deviation σ of the noise, > 0")
    )

    def _draw(self, size: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        device = generator.device
        ring = torch.randint(len(self.radii), (size,), generator=generator, device=device)
        angle = 2 * math.pi * torch.rand(size, generator=generator, device=device, dtype=dtype)
        z = torch.randn(size, 2, generator=generator, device=device, dtype=dtype)
        radius = torch.tensor(self.radii, device=device, dtype=dtype)[ring]
        circle = torch.stack([angle.cos(), angle.sin()], dim=1)
        return radius[:, None] * circle + self.noise * z

    def _log_density(self, x: Tensor) -> Tensor:
        radii = x.new_tensor(self.radii)
        variance = self.noise**2

        def block(part: Tensor) -> Tensor:
            rho = torch.linalg.vector_norm(part, dim=1)[:, None]
            # i0e(z) = exp(−z) I₀(z): what is left of the exponent is −(ρ − r)²/2σ².
            bessel = torch.special.i0e(rho * radii / variance).log()
            return log_sum_exp(bessel - (rho - radii).square() / (2 * variance), 1)

        return in_blocks(block, x, len(radii)) - math.log(2 * math.pi * variance * len(radii))
