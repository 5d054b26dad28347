"""A mixture of Gaussians of one width."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from attrs import field, validators
from torch import Tensor

from ebmkit import doc
from ebmkit_energies._analytic import Analytic
from ebmkit_energies._events import matrix, positive, positives


def _points(_: Any, attribute: attrs.Attribute[Any], value: list[list[float]]) -> None:
    matrix(None, attribute, value)
    counts = [len(row) for row in value]
    if not counts or not counts[0] or len(set(counts)) > 1:
        raise ValueError(
            f"{attribute.name}: expected at least one row, all of the same length ≥ 1, got rows of "
            f"{counts} numbers"
        )


@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class GaussianMixture(Analytic):
    """A mixture of isotropic Gaussians of one width, exactly normalised.

    E(x) = −log Σ_k w_k N(x; μ_k, σ²I),  so that ∫ exp(−E(x)) dx = 1

    x (batch, *event) of d numbers; μ_k ``means``, σ ``std``, w_k ``weights`` over their sum. The
    tensors are buffers in float64, ``locations`` (components, d) and ``log_weights`` (components,).

    Raises ValueError where means have different lengths, where there is not one weight for each,
    or where an event has not d numbers.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"means": [[1.0, 2.0], [-2.0, 0.0]], "std": 0.5, "event_shape": [2]},
        {"means": [[0.0] * 4, [1.0] * 4], "weights": [1.0, 3.0], "event_shape": [2, 2]},
    )

    means: list[list[float]] = field(
        validator=_points, metadata=doc("means μ_k, a row of d numbers for each component")
    )
    std: float = field(
        default=1.0,
        validator=positive,
        metadata=doc("standard deviation σ of every component, > 0"),
    )
    weights: list[float] | None = field(
        default=None,
        validator=validators.optional(positives),
        metadata=doc("relative weight w_k of each component, > 0; none for equal weights"),
    )
    locations: Tensor = field(init=False)
    log_weights: Tensor = field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.weights is not None and len(self.weights) != len(self.means):
            raise ValueError(
                f"weights: expected one for each of {len(self.means)} means, got "
                f"{len(self.weights)}; add or remove weights, or leave them out"
            )
        weights = torch.tensor(self.weights or [1.0] * len(self.means), dtype=torch.float64)
        self.register_buffer("locations", torch.tensor(self.means, dtype=torch.float64))
        self.register_buffer("log_weights", weights.log() - weights.sum().log())

    def log_partition(self) -> Tensor:
        """log ∫ exp(−E(x)) dx, which is 0, without dimensions."""
        return self.log_weights.new_zeros(())

    def log_density(self, x: Tensor) -> Tensor:
        """Log density in nats (batch,) of points (batch, *event)."""
        density: Tensor = -self(x)
        return density

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E (batch,) and ∇E = Σ_k r_k (x − μ_k) / σ² (batch, *event), r_k the share of k."""
        rows = self._rows(x)
        away, exponents = self._away_and_exponents(rows)
        shares = exponents.softmax(1) / self.std**2
        gradient = (shares.unsqueeze(1) @ away).squeeze(1)
        return self._constant(rows) - exponents.logsumexp(1), gradient.view(x.shape)

    def _check(self, size: int) -> None:
        if size != len(self.means[0]):
            raise ValueError(
                f"GaussianMixture: expected events of {len(self.means[0])} numbers, as the means "
                f"have, got {size}; state means for the data's events"
            )

    def _energies(self, x: Tensor) -> Tensor:
        return self._constant(x) - self._away_and_exponents(x)[1].logsumexp(1)

    def _constant(self, x: Tensor) -> float:
        return x.shape[1] / 2 * math.log(2 * math.pi * self.std**2)

    def _away_and_exponents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x − μ_k (batch, components, d), and log w_k − ‖x − μ_k‖² / (2σ²) (batch, components)."""
        # Differences rather than ‖x‖² − 2x·μ + ‖μ‖²: far from 0 the latter loses its digits.
        away = x.unsqueeze(1) - self.locations.to(x.dtype)
        return away, self.log_weights.to(x.dtype) - away.square().sum(2) / (2 * self.std**2)
