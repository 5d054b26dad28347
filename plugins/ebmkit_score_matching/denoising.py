"""Score matching of data with noise added to it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import and_, ge, in_, optional
from torch import Tensor

from ebmkit import (
    Batch,
    Metrics,
    Model,
    Scheduler,
    UserError,
    bind,
    doc,
    energy_and_gradient,
    finite,
    is_scheduled,
)
from ebmkit_score_matching._terms import NoState, Terms, refuse_discrete, squares


class NoiseError(UserError, ValueError):
    """Noise of a size, or for a model, that denoising score matching cannot use."""


class Noise(NamedTuple):
    """The noise of one training step."""

    noise: Tensor
    """z (batch, *event), standard normal."""
    sigma: Tensor
    """σ of each row (batch,)."""


def positive_noise(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Validator: a number > 0, a list of at least one, or a scheduler."""
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError(f"{attribute.name}: expected at least one level, got an empty list")
        for level in value:
            _positive(attribute, level)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _positive(attribute, value)
    elif not callable(value):
        raise TypeError(
            f"{attribute.name} must be a number, a list of numbers, or a scheduler, got {value!r}"
        )


def _positive(attribute: attrs.Attribute[Any], value: Any) -> None:
    finite(None, attribute, value)
    if value <= 0:
        raise ValueError(f"{attribute.name}: expected σ > 0, got {value}")


@attrs.frozen
class DenoisingScoreMatching:
    """Denoising score matching: the score at noisy data points back to the data.

    L(θ) = mean[ ½ λ(σ) ‖s(x̃) + z/σ‖² ] + α mean E(x̃)² + β mean ‖s(x̃)‖²,  x̃ = x + σz,  s = −∇ₓE

    x (batch, *event), z standard normal. The best s is the score of the data convolved with noise of
    standard deviation σ, for ∇ log p(x̃ | x) = −z/σ. ``sigma`` is a number, a schedule on the
    training clock, or a list of levels: then each row draws one of them, each as likely, and the
    model has to be noise-conditional (``noise-conditional-mlp``, ``conv``) and is told it. First
    derivatives of E suffice.

    Metrics: ``score_norm`` (mean ‖s‖), ``sigma`` (mean), ``loss_standard_error`` (of the mean over
    the batch, where that has more than one row).

    Raises NoiseError where a schedule gives σ ≤ 0, and where a list of levels meets a model that is
    not noise-conditional; EnergyError where the energy is not one number a row; UserError where the
    model is of discrete states.

    Source: A Connection Between Score Matching and Denoising Autoencoders (Vincent, 2011); levels
    and weights: Generative Modeling by Estimating Gradients of the Data Distribution (Song and
    Ermon, 2019).
    """

    continuous: ClassVar[bool] = True

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"sigma": [0.3, 1.0]},
        {"sigma": 0.5, "energy_regularisation": 0.1, "score_regularisation": 0.1},
    )

    sigma: float | list[float] | Scheduler = field(
        default=0.1,
        validator=positive_noise,
        metadata=doc("σ, units of x, > 0: a number, a schedule, or a list of levels"),
    )
    weighting: Literal["none", "sigma-squared"] | None = field(
        default=None,
        validator=optional(in_(("none", "sigma-squared"))),
        metadata=doc(
            "λ(σ): 1 or σ², which makes levels weigh alike; by default σ² for a list and 1 otherwise"
        ),
    )
    energy_regularisation: float = field(
        default=0.0,
        validator=and_(finite, ge(0)),
        metadata=doc("α, weight of the mean squared energy; 0 is off"),
    )
    score_regularisation: float = field(
        default=0.0,
        validator=and_(finite, ge(0)),
        metadata=doc("β, weight of the mean ‖s‖²; 0 is off"),
    )

    @property
    def consistent(self) -> bool:
        return not (self.energy_regularisation or self.score_regularisation)

    def check(self, model: Model) -> None:
        refuse_discrete(model, "DenoisingScoreMatching")
        self._check_levels(model)
        levels, lowest = self._levels(), getattr(model, "lowest_level", None)
        if levels and lowest is not None and not min(levels) <= lowest <= max(levels):
            raise NoiseError(
                f"DenoisingScoreMatching.sigma: levels from {max(levels)} to {min(levels)} do not "
                f"train the level at which {type(model).__name__} is judged where none is said, its "
                f"lowest_level {lowest}; set the model's lowest_level = {min(levels)}"
            )

    def _check_levels(self, model: Model) -> None:
        levels = self._levels()
        if levels and not _noise_conditional(model):
            raise NoiseError(
                f"DenoisingScoreMatching.sigma is a list of {len(levels)} levels and "
                f"{type(model).__name__} is not noise-conditional: it takes no noise_level; choose "
                "the model noise-conditional-mlp or conv with noise_conditional = true, or one sigma"
            )

    def init(self, model: Model, batch: Batch, *, generator: torch.Generator) -> NoState:
        refuse_discrete(model, "DenoisingScoreMatching")
        self._check_levels(model)
        return NoState()

    def draw(
        self,
        model: Model,
        batch: Batch,
        state: NoState,
        step: int,
        *,
        generator: torch.Generator,
    ) -> tuple[Noise, NoState]:
        x = batch.x
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        if levels := self._levels():
            values = torch.tensor(levels, device=x.device, dtype=x.dtype)
            which = torch.randint(len(levels), (len(x),), generator=generator, device=x.device)
            return Noise(noise, values[which]), state
        return Noise(noise, x.new_full((len(x),), self._sigma_at(step))), state

    def _levels(self) -> list[float]:
        """The levels of which each row draws one; empty where all rows have the same σ."""
        return list(self.sigma) if isinstance(self.sigma, list | tuple) else []

    def _sigma_at(self, step: int) -> float:
        said: Any = self.sigma
        sigma: float = said(step) if is_scheduled(said) else said
        if not 0 < sigma < math.inf:
            raise NoiseError(
                f"DenoisingScoreMatching.sigma: the schedule gives {sigma} at step {step}, expected "
                "a finite number > 0; end it above 0"
            )
        return sigma

    def __call__(self, model: Model, batch: Batch, draws: Noise) -> tuple[Tensor, Metrics]:
        x, condition = batch.x, batch.condition
        sigma = draws.sigma.reshape(-1, *[1] * (x.ndim - 1))
        energy: Any = bind(model, condition)
        if _noise_conditional(model):
            energy = functools.partial(energy, noise_level=draws.sigma)
        energies, gradient = energy_and_gradient(energy, x + sigma * draws.noise, create_graph=True)
        weighting = self.weighting or ("sigma-squared" if self._levels() else "none")
        # With λ = σ² the residual is σ s + z, which divides by nothing however small σ is.
        if weighting == "sigma-squared":
            residual = draws.noise - sigma * gradient
        else:
            residual = draws.noise / sigma - gradient
        terms = Terms(
            0.5 * squares(residual),
            energies,
            squares(gradient),
        )
        loss, metrics = terms.total(self.energy_regularisation, self.score_regularisation)
        return loss, {"sigma": draws.sigma.mean(), **metrics}


def _noise_conditional(model: Model) -> bool:
    # Data-parallel wrappers show no attribute of the model inside them.
    bare = model if hasattr(model, "noise_conditional") else getattr(model, "module", model)
    return getattr(bare, "noise_conditional", None) is True
