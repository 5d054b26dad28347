"""Eight equal Gaussians on a circle."""

from __future__ import annotations

import attrs
import torch
from attrs import field
from torch import Tensor

from ebmkit import doc
from ebmkit_datasets._mixture import circle, draw_mixture, mixture_log_density
from ebmkit_datasets._planar import Planar, positive


@attrs.frozen(kw_only=False)
class EightGaussians(Planar):
    """Eight equal Gaussians on a circle, well apart: a test of finding every mode.

    p(x) = ⅛ Σ_k N(x; m_k, σ²I),  m_k = R (cos πk/4, sin πk/4),  k = 0 … 7

    x (batch, 2); R ``radius``, σ ``std``.

    Source: Unrolled Generative Adversarial Networks (Metz, Poole, Pfau, Sohl-Dickstein, 2016)
    """

    radius: float = field(
        default=2.0, validator=positive, metadata=doc("distance R of the means from 0, > 0")
    )
    std: float = field(
        default=0.2, validator=positive, metadata=doc("standard deviation σ of each Gaussian, > 0")
    )

    def _draw(self, size: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        centres = circle(8, self.radius)
        weights = torch.full((8,), 1 / 8, dtype=torch.float64)
        return draw_mixture(centres, weights, self.std, size, generator, dtype)

    def _log_density(self, x: Tensor) -> Tensor:
        weights = torch.full((8,), 1 / 8, dtype=torch.float64)
        return mixture_log_density(x, circle(8, self.radius), weights, self.std)
