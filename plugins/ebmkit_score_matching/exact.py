"""Score matching with the exact Laplacian."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import and_, ge
from torch import Tensor

from ebmkit import Batch, Metrics, Model, bind, directional_derivatives, doc, finite
from ebmkit_score_matching._terms import NoState, Terms, refuse_discrete


class NoDraws(NamedTuple):
    """Nothing is drawn."""


@attrs.frozen
class ScoreMatching:
    """Score matching, exact: half the squared score plus the trace of its Jacobian.

    L(θ) = mean[ ½‖s(x)‖² + tr ∇ₓs(x) ] + α mean E(x)² + β mean ‖s(x)‖²,  s = −∇ₓE

    x (batch, *event), events of any shape; the trace is −ΔE, the whole sum over the event's
    coordinates. Up to a constant of the data the first term is ½ E‖s − ∇ log p_data‖² without a
    regularisation. Time and memory are about those of one pass with as many directions as the event
    has coordinates. Where the energy has kinks (ReLU) the curvature at the kinks is missing from the
    trace, and a warning says so.

    Metrics: ``score_norm`` (mean ‖s‖), ``laplacian`` (mean ΔE), ``loss_standard_error`` (of the
    mean over the batch, where that has more than one row).

    Raises EnergyError where the energy is not one number a row or cannot be differentiated twice,
    UserError where the model is of discrete states.

    Source: Estimation of Non-Normalized Statistical Models by Score Matching (Hyvärinen, 2005).
    """

    continuous: ClassVar[bool] = True

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"energy_regularisation": 0.1, "score_regularisation": 0.1},
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
        refuse_discrete(model, "ScoreMatching")

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
    ) -> tuple[NoDraws, NoState]:
        return NoDraws(), state

    def __call__(self, model: Model, batch: Batch, draws: NoDraws) -> tuple[Tensor, Metrics]:
        taken = directional_derivatives(bind(model, batch.condition), batch.x.detach())
        squared, laplacian = taken.first.square().sum(0), taken.second
        terms = Terms(0.5 * squared - laplacian, taken.energies, squared)
        loss, metrics = terms.total(self.energy_regularisation, self.score_regularisation)
        return loss, {"laplacian": laplacian.detach().mean(), **metrics}
