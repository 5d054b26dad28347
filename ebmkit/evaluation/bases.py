"""Distributions with a known normaliser, from which annealing starts."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import attrs
import torch
from attrs import field
from torch import Tensor

from ebmkit.errors import EvaluationError
from ebmkit.layers import offered

WIDENED = 1.2
"""Variance of a Gaussian base relative to that of the data."""
_FULL_UP_TO = 512
"""Numbers in an event up to which a Gaussian base has a full covariance."""
_FLOOR = 1e-3
"""Least variance of a Gaussian base, relative to the mean variance of the data."""


class States(NamedTuple):
    """Of what kind points are."""

    discrete: bool
    """Whether they are of zeros and ones."""
    categories: int | None = None
    """Categories of one-hot rows along the last axis; None for bits."""

    @classmethod
    def of(cls, *parts: Any) -> States:
        """As a model and its samplers say, the first that does."""
        said = [offered(part, "categories") for part in parts]
        return cls(
            any(bool(offered(part, "discrete")) for part in parts),
            next((categories for categories in said if categories is not None), None),
        )


class Base(Protocol):
    """An energy that can be drawn from and whose normaliser is known; of discrete states with
    ``probabilities``."""

    def __call__(self, x: Tensor) -> Tensor:
        """Energies (batch,) of points (batch, *event), in their dtype."""
        ...

    def log_partition(self) -> Tensor:
        """log ∫ exp(−E), or log Σ exp(−E) over discrete states, in float64."""
        ...

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E(x) (batch,) and ∇E(x) (batch, *event)."""
        ...

    def draw(self, n: int, *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """``n`` independent points (n, *event) on the generator's device."""
        ...


@attrs.frozen(eq=False)
class GaussianBase:
    """A Gaussian: E(x) = ½ ‖L⁻¹(x − μ)‖², covariance L Lᵀ, log Z = d/2 log 2π + Σᵢ log Lᵢᵢ."""

    mean: Tensor = field()
    """μ (*event), float64"""
    factor: Tensor = field()
    """L (d, d), lower triangular, float64"""
    inverse: Tensor = field(init=False)

    @inverse.default
    def _inverse(self) -> Tensor:
        eye = torch.eye(len(self.factor), dtype=self.factor.dtype, device=self.factor.device)
        inverse: Tensor = torch.linalg.solve_triangular(self.factor, eye, upper=False)
        return inverse

    @classmethod
    def of(cls, data: Tensor) -> GaussianBase:
        """With the mean of data (n, *event) and its covariance, somewhat widened.

        The covariance is drawn towards its diagonal, the more so the fewer rows there are to a
        number, and is the diagonal alone for events of more than 512 numbers.
        """
        x = data.flatten(1).double()
        n, d = x.shape
        mean = x.mean(0)
        away = x - mean
        variance = away.square().mean(0)
        # A column that never changes still gets a width: the energy may well give it one.
        floor = _FLOOR * float(variance.mean()) or 1.0
        variance = variance.clamp(min=floor)
        if d > _FULL_UP_TO:
            factor = variance.sqrt().diag()
        else:
            kept = n / (n + d)
            covariance = kept * (away.T @ away) / n
            covariance.diagonal().copy_(variance)
            factor = torch.linalg.cholesky(covariance)
        return cls(mean.view(data.shape[1:]), math.sqrt(WIDENED) * factor)

    def __call__(self, x: Tensor) -> Tensor:
        return self._standard(x).square().sum(1) / 2

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self._standard(x)
        return z.square().sum(1) / 2, (z @ self.inverse.to(x.dtype)).view_as(x)

    def log_partition(self) -> Tensor:
        return len(self.factor) / 2 * math.log(2 * math.pi) + self.factor.diagonal().log().sum()

    def draw(self, n: int, *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        shape = (n, len(self.factor))
        z = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
        return (self.mean + (z @ self.factor.T).view(n, *self.mean.shape)).to(dtype)

    def _standard(self, x: Tensor) -> Tensor:
        return (x - self.mean.to(x.dtype)).flatten(1) @ self.inverse.to(x.dtype).T


@attrs.frozen(eq=False)
class BernoulliBase:
    """Independent numbers 0 or 1: E(x) = −Σᵢ aᵢ xᵢ, log Z = Σᵢ log(1 + exp aᵢ)."""

    logits: Tensor = field()
    """a (*event), float64"""

    @property
    def probabilities(self) -> Tensor:
        """Of ones, (*event); what a model's ``bridge`` is given."""
        return self.logits.sigmoid()

    @classmethod
    def of(cls, data: Tensor) -> BernoulliBase:
        """With the means of data (n, *event) of 0 and 1, with one row of each added.

        Raises:
            EvaluationError: the data hold other numbers.
        """
        if not bool(((data == 0) | (data == 1)).all()):
            raise EvaluationError(
                "the data of a discrete model must be 0 and 1 to anneal from, or one-hot in a model "
                "with categories"
            )
        ones = data.double().sum(0) + 1
        return cls((ones / (len(data) + 2 - ones)).log())

    def __call__(self, x: Tensor) -> Tensor:
        return -(x * self.logits.to(x.dtype)).flatten(1).sum(1)

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), -self.logits.to(x.dtype).expand_as(x)

    def log_partition(self) -> Tensor:
        return torch.nn.functional.softplus(self.logits).sum()

    def draw(self, n: int, *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        shape = (n, *self.logits.shape)
        u = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        return (u < self.logits.sigmoid()).to(dtype)


@attrs.frozen(eq=False)
class CategoricalBase:
    """Independent one-hot rows: E(x) = −Σᵢₖ aᵢₖ xᵢₖ, log Z = Σᵢ log Σₖ exp aᵢₖ."""

    logits: Tensor = field()
    """a (*event), float64; categories on the last axis"""

    @property
    def probabilities(self) -> Tensor:
        """Of ones, (*event); what a model's ``bridge`` is given."""
        return self.logits.softmax(-1)

    @classmethod
    def of(cls, data: Tensor) -> CategoricalBase:
        """With the frequencies of one-hot data (n, *event), with one row of each category added.

        Raises:
            EvaluationError: the data are not one-hot on their last axis.
        """
        if data.ndim < 2 or not bool(
            (((data == 0) | (data == 1)).all()) & (data.sum(-1) == 1).all()
        ):
            raise EvaluationError(
                "the data of a model with categories must be one-hot on their last axis to anneal from"
            )
        return cls((data.double().sum(0) + 1).log())

    def __call__(self, x: Tensor) -> Tensor:
        return -(x * self.logits.to(x.dtype)).flatten(1).sum(1)

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), -self.logits.to(x.dtype).expand_as(x)

    def log_partition(self) -> Tensor:
        return self.logits.logsumexp(-1).sum()

    def draw(self, n: int, *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        below = self.probabilities.cumsum(-1)[..., :-1]
        shape = (n, *below.shape[:-1], 1)
        u = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        # A number above the last sum, which may be a rounding below 1, falls to the last category.
        drawn = (u >= below).sum(-1)
        return torch.nn.functional.one_hot(drawn, self.logits.shape[-1]).to(dtype)


def base_for(states: States, data: Tensor) -> Base:
    """The base for points of such states, fitted to data (n, *event): a Gaussian, and where they are
    discrete independent bits or categoricals.

    Raises:
        EvaluationError: the data are not of such states, or not finite.
    """
    if not bool(data.isfinite().all()) or not len(data):
        raise EvaluationError("a base to anneal from needs rows of data that are finite")
    if not states.discrete:
        return GaussianBase.of(data)
    return (BernoulliBase if states.categories is None else CategoricalBase).of(data)
