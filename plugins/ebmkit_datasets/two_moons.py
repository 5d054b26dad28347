"""Two interleaving half circles."""

from __future__ import annotations

import math

import attrs
import torch
from attrs import field
from torch import Tensor

from ebmkit import doc
from ebmkit_datasets._curve import legendre
from ebmkit_datasets._mixture import in_blocks, log_sum_exp
from ebmkit_datasets._planar import Planar, positive

_NODES = 20
_DEPTH = 34.0
"""The integrand is followed down to exp(−_DEPTH) of its peak, below the rounding of float64."""
_TINY = 1e-300


@attrs.frozen(kw_only=False)
class TwoMoons(Planar):
    """Two interleaving half circles with Gaussian noise.

    p(x) = ½ q(x₁, x₂) + ½ q(1 − x₁, ½ − x₂),
    q(u) = (1/π) ∫₀^π N(u; (cos t, sin t), σ²I) dt

    x (batch, 2); the upper moon is (cos t, sin t) and the lower (1 − cos t, ½ − sin t), t uniform
    on [0, π]; σ ``noise``. The integral is taken by Gauss–Legendre quadrature about its peak.

    Source: Scikit-learn: Machine Learning in Python (Pedregosa et al., 2011)
    """

    noise: float = field(
        default=0.05, validator=positive, metadata=doc("standard deviation σ of the noise, > 0")
    )

    def _draw(self, size: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        device = generator.device
        t = math.pi * torch.rand(size, generator=generator, device=device, dtype=dtype)
        upper = torch.randint(2, (size,), generator=generator, device=device) == 1
        z = torch.randn(size, 2, generator=generator, device=device, dtype=dtype)
        first = torch.where(upper, t.cos(), 1 - t.cos())
        second = torch.where(upper, t.sin(), 0.5 - t.sin())
        return torch.stack([first, second], dim=1) + self.noise * z

    def _log_density(self, x: Tensor) -> Tensor:
        return in_blocks(self._block, x, 4 * _NODES)

    def _block(self, x: Tensor) -> Tensor:
        mirrored = x.new_tensor([1.0, 0.5]) - x
        half_circles = self._log_integral(torch.stack([x.T, mirrored.T], dim=1))
        return log_sum_exp(half_circles, 0) - math.log(4 * math.pi**2 * self.noise**2)

    def _log_integral(self, u: Tensor) -> Tensor:
        """log ∫₀^π exp(−|u − (cos t, sin t)|²/2σ²) dt (...) of u (2, ...)."""
        t, log_weight = _nodes(u.detach(), self.noise)
        # |u − (cos t, sin t)|² = |u|² + 1 − 2 u·(cos t, sin t), the last term alone in the sum.
        slope = u / self.noise**2
        terms = torch.addcmul(slope[0] * t.cos(), slope[1], t.sin()) + log_weight
        outside = (u.square().sum(0) + 1) / (2 * self.noise**2)
        return log_sum_exp(terms.flatten(0, 1), 0) - outside


def _nodes(u: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Angles in [0, π] and log weights (_NODES, 2, ...) for the integrand seen from u (2, ...).

    With u at radius ρ and angle φ, and κ = ρ/σ², the integrand is exp(−κ(1 − cos(t − φ))) up to a
    factor. Where φ lies in [0, π] it falls on both sides of t = φ; otherwise it falls from t = 0
    and from t = π inwards, where the angle to φ is −φ and π + φ. These are the two sides.
    """
    phi = torch.atan2(u[1], u[0])
    one, zero = torch.ones_like(phi), torch.zeros_like(phi)
    facing = phi >= 0
    origin = torch.where(facing, torch.stack([phi, phi]), torch.stack([zero, math.pi * one]))
    direction = torch.where(facing, torch.stack([-one, one]), torch.stack([one, -one]))
    start = torch.where(facing, torch.stack([zero, zero]), torch.stack([-phi, math.pi + phi]))
    room = torch.where(
        facing, torch.stack([phi, math.pi - phi]), torch.stack([math.pi + phi, -phi])
    )

    # From an angle a the integrand has fallen by exp(−_DEPTH) at the angle b with
    # sin²(b/2) = sin²(a/2) + _DEPTH/2κ; sin((b − a)/2) follows without cancellation.
    near = (start / 2).sin().square()
    rise = _DEPTH * noise**2 / (2 * torch.hypot(u[0], u[1]))
    rise = torch.minimum(rise, 1 - near)
    far = (near + rise).clamp(max=1.0)
    sines = (far * (1 - near)).sqrt() + (near * (1 - far)).sqrt()
    half = (rise / sines.clamp(min=_TINY)).clamp(max=1.0).asin()
    reach = torch.minimum(2 * half, room)

    node, weight = (values.to(u).view(-1, *(1,) * u.ndim) for values in legendre(_NODES))
    return origin + direction * reach * node, reach.log() + weight.log()
