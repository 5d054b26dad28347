"""Gaussians on a circle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from attrs import field, validators
from torch import Tensor

from ebmkit import doc, whole
from ebmkit_datasets._mixture import circle, draw_mixture, mixture_log_density
from ebmkit_datasets._planar import Planar, Validator, positive

_all_positive: Validator = validators.deep_iterable(positive)


@attrs.frozen(kw_only=False)
class GaussianMixture(Planar):
    """Isotropic Gaussians evenly spaced on a circle in the plane.

    p(x) = Σ_k w_k N(x; m_k, σ²I),  m_k = R (cos 2πk/K, sin 2πk/K),  k = 0 … K−1

    x (batch, 2); K ``n_components``, R ``radius``, σ ``std``, w_k ``weights`` over their sum.

    Raises ValueError where ``weights`` does not hold one number for each component.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"n_components": 2, "weights": [1.0, 3.0], "n_samples": 2_500},
    )

    n_components: int = field(
        default=4,
        validator=validators.and_(whole, validators.ge(1), validators.le(10_000)),
        metadata=doc("number of Gaussians K, 1 to 10,000"),
    )
    radius: float = field(
        default=1.0, validator=positive, metadata=doc("distance R of the means from 0, > 0")
    )
    std: float = field(
        default=0.5, validator=positive, metadata=doc("standard deviation σ of each Gaussian, > 0")
    )
    weights: list[float] | None = field(
        default=None,
        validator=validators.optional(_all_positive),
        metadata=doc("relative weight of each Gaussian, > 0; none for equal weights"),
    )

    def __attrs_post_init__(self) -> None:
        if self.weights is not None and len(self.weights) != self.n_components:
            raise ValueError(
                f"weights: expected one number for each of n_components = {self.n_components} "
                f"Gaussians, got {len(self.weights)}; add or remove weights, or leave them out"
            )

    def _weights(self) -> Tensor:
        weights = torch.tensor(self.weights or [1.0] * self.n_components, dtype=torch.float64)
        return weights / weights.sum()

    def _draw(self, size: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        centres = circle(self.n_components, self.radius)
        return draw_mixture(centres, self._weights(), self.std, size, generator, dtype)

    def _log_density(self, x: Tensor) -> Tensor:
        centres = circle(self.n_components, self.radius)
        return mixture_log_density(x, centres, self._weights(), self.std)
