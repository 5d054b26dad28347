"""A Gaussian with mean and covariance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from attrs import field, validators
from torch import Tensor, nn

from ebmkit import doc, finite
from ebmkit_energies._analytic import Analytic
from ebmkit_energies._events import matrix


def _covariance(_: Any, attribute: attrs.Attribute[Any], value: list[list[float]]) -> None:
    matrix(None, attribute, value)
    name, size = attribute.name, len(value)
    if not size or any(len(row) != size for row in value):
        raise ValueError(
            f"{name}: expected a symmetric positive definite matrix, as many rows as columns, got "
            f"rows of {[len(row) for row in value]} numbers"
        )
    found = torch.tensor(value, dtype=torch.float64, device="cpu")
    rounding = 1e-12 * float(found.abs().max())
    if not torch.allclose(found, found.T, rtol=1e-8, atol=rounding):
        raise ValueError(
            f"{name}: expected a symmetric positive definite matrix, got one that is "
            f"not symmetric: {value!r}"
        )
    if torch.linalg.cholesky_ex(found).info:
        raise ValueError(
            f"{name}: expected a symmetric positive definite matrix, got one that is "
            f"not positive definite: {value!r}"
        )


@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class Gaussian(Analytic):
    """A Gaussian of given mean and covariance, with its exact normaliser; trainable if wanted.

    E(x) = ½ (x − μ)ᵀ Σ⁻¹ (x − μ) = ½ ‖Lᵀ(x − μ)‖²,  Σ⁻¹ = L Lᵀ

    x (batch, *event) of d numbers; μ (d,) ``mean``, Σ (d, d) ``covariance``. The tensors are
    ``location`` = μ and ``factor`` = L, lower triangular: buffers in float64, or with ``trainable``
    parameters in torch's default dtype that start there. With r = x − μ the energy's gradients are
    −L Lᵀ r in μ and the lower triangle of r rᵀ L in L; what stands above the diagonal is not read.

    Raises ValueError where the covariance is not symmetric positive definite or not of the mean's
    size, or where an event has not d numbers.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"mean": [0.5, 1.0], "covariance": [[2.0, 0.5], [0.5, 1.0]], "event_shape": [2]},
        {"mean": [0.5, 1.0, 0.0, -1.0], "trainable": True, "event_shape": [2, 2]},
    )

    mean: list[float] = field(
        validator=[validators.min_len(1), validators.deep_iterable(finite)],
        metadata=doc("mean μ, one number for each in an event"),
    )
    covariance: list[list[float]] | None = field(
        default=None,
        validator=validators.optional(_covariance),
        metadata=doc("covariance Σ by rows, symmetric positive definite; none for the identity"),
    )
    trainable: bool = field(
        default=False,
        validator=validators.instance_of(bool),
        metadata=doc("whether mean and factor are parameters that training changes"),
    )
    location: Tensor = field(init=False)
    factor: Tensor = field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        size = len(self.mean)
        if self.covariance is not None and len(self.covariance) != size:
            raise ValueError(
                f"covariance: expected {size} rows, one for each number of mean, got "
                f"{len(self.covariance)}"
            )
        location = torch.tensor(self.mean, dtype=torch.float64)
        factor = torch.eye(size, dtype=torch.float64)
        if self.covariance is not None:
            covariance = torch.tensor(self.covariance, dtype=torch.float64)
            precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
            factor = torch.linalg.cholesky(precision)
        if self.trainable:
            dtype = torch.get_default_dtype()
            self.location = nn.Parameter(location.to(dtype))
            self.factor = nn.Parameter(factor.to(dtype))
        else:
            self.register_buffer("location", location)
            self.register_buffer("factor", factor)

    def log_partition(self) -> Tensor:
        """log ∫ exp(−E(x)) dx = d/2 log 2π − Σᵢ log |Lᵢᵢ|, without dimensions."""
        half = len(self.mean) / 2 * math.log(2 * math.pi)
        return half - self.factor.diagonal().abs().log().sum()

    def log_density(self, x: Tensor) -> Tensor:
        """Log density in nats (batch,) of points (batch, *event)."""
        energies: Tensor = self(x)
        return -energies - self.log_partition().to(x.dtype)

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E (batch,) and ∇E = L Lᵀ (x − μ) (batch, *event)."""
        rows = self._rows(x)
        factor = self.factor.to(x.dtype).tril()
        whitened = (rows - self.location.to(x.dtype)) @ factor
        gradient = whitened @ factor.T
        return whitened.square().sum(1) / 2, gradient.view(x.shape)

    def _check(self, size: int) -> None:
        if size != len(self.mean):
            raise ValueError(
                f"Gaussian: expected events of {len(self.mean)} numbers, as mean has, got {size}; "
                "state a mean for the data's events"
            )

    def _energies(self, x: Tensor) -> Tensor:
        away = x - self.location.to(x.dtype)
        return (away @ self.factor.to(x.dtype).tril()).square().sum(1) / 2
