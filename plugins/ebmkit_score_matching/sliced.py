"""Score matching along random directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import and_, ge, in_, instance_of
from torch import Tensor

from ebmkit import Batch, Metrics, Model, bind, directional_derivatives, doc, finite, whole
from ebmkit_score_matching._terms import NoState, Terms, refuse_discrete, squares


class Projections(NamedTuple):
    """The directions of one training step."""

    directions: Tensor
    """v (n_projections, batch, *event), with E[v vᵀ] = I."""


@attrs.frozen
class SlicedScoreMatching:
    """Sliced score matching: the trace is estimated along random directions, without bias.

    L(θ) = mean[ ½‖s(x)‖² − mean_v vᵀ∇²E(x) v ] + α mean E(x)² + β mean ‖s(x)‖²,  s = −∇ₓE

    x (batch, *event); v ``n_projections`` directions a row with E[v vᵀ] = I, drawn anew each step.
    This is the variance-reduced form; without ``variance_reduction`` ‖s‖² is estimated along the
    same directions, by mean_v (vᵀs)², which costs one backward pass less and adds noise. Either
    loss has the exact one's mean. The curvature at kinks (ReLU) is missing, as in the exact loss.

    Metrics: ``score_norm`` (mean ‖s‖, or its estimate), ``laplacian`` (mean estimate of ΔE),
    ``loss_standard_error`` (of the mean over the batch, where that has more than one row).

    Raises EnergyError where the energy is not one number a row or cannot be differentiated twice,
    UserError where the model is of discrete states.

    Source: Sliced Score Matching: A Scalable Approach to Density and Score Estimation (Song and
    others, 2019).
    """

    continuous: ClassVar[bool] = True

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"n_projections": 3, "projections": "sphere"},
        {"projections": "gaussian", "variance_reduction": False},
        {"energy_regularisation": 0.1, "score_regularisation": 0.1},
    )

    n_projections: int = field(
        default=1,
        validator=and_(whole, ge(1)),
        metadata=doc("directions a row, ≥ 1; more lower the loss's variance"),
    )
    projections: Literal["rademacher", "gaussian", "sphere"] = field(
        default="rademacher",
        validator=in_(("rademacher", "gaussian", "sphere")),
        metadata=doc(
            "law of the directions: signs, standard normal, or uniform on the sphere of radius √d; "
            "signs see a diagonal Hessian without noise"
        ),
    )
    variance_reduction: bool = field(
        default=True,
        validator=instance_of(bool),
        metadata=doc("whether ‖s‖² is exact rather than estimated along the directions"),
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

    @property
    def estimates(self) -> str | None:
        return "score-matching" if self.consistent else None

    def check(self, model: Model) -> None:
        refuse_discrete(model, "SlicedScoreMatching")

    def init(self, model: Model, batch: Batch, *, generator: torch.Generator) -> NoState:
        self.check(model)
        return NoState()

    def draw(
        self,
        model: Model,
        batch: Batch,
        state: NoState,
        step: int,
        *,
        generator: torch.Generator,
    ) -> tuple[Projections, NoState]:
        x = batch.x
        shape = (self.n_projections, *x.shape)
        if self.projections == "rademacher":
            signs = torch.randint(0, 2, shape, generator=generator, device=x.device)
            return Projections(signs.to(x.dtype).mul_(2).sub_(1)), state
        v = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
        if self.projections == "sphere":
            scale = (math.prod(x.shape[1:]) / squares(v, batch_dims=2)).sqrt()
            v *= scale.reshape(*scale.shape, *[1] * (x.ndim - 1))
        return Projections(v), state

    def __call__(self, model: Model, batch: Batch, draws: Projections) -> tuple[Tensor, Metrics]:
        energy = bind(model, batch.condition)
        x, v = batch.x.detach(), draws.directions
        taken = directional_derivatives(energy, x, v, gradient=self.variance_reduction)
        if taken.gradient is not None:
            squared = squares(taken.gradient)
        else:
            squared = taken.first.square().mean(0)
        laplacian = taken.second / len(v)
        terms = Terms(0.5 * squared - laplacian, taken.energies, squared)
        loss, metrics = terms.total(self.energy_regularisation, self.score_regularisation)
        return loss, {"laplacian": laplacian.detach().mean(), **metrics}
