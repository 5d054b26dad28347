"""Contrastive divergence: short chains that start at the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import and_, ge
from torch import Tensor

from ebmkit import (
    Batch,
    Metrics,
    Model,
    Sampler,
    State,
    bind,
    doc,
    finite,
    run_chain,
    whole,
)
from ebmkit_contrastive_divergence._energies import Draws, compare


class CDState(NamedTuple):
    """What is carried from one training step to the next."""

    chains: State | None
    """The sampler's last state, whose adaptation (a step size) goes on."""


@attrs.frozen
class ContrastiveDivergence:
    """Contrastive divergence (CD-k): negatives are the ends of k-step chains that start at the data.

    L(θ) = mean E(x⁺) − mean E(x⁻) + α (mean E(x⁺)² + mean E(x⁻)²), with x⁺ the batch (batch, *event)
    and x⁻ the chains' ends, held fixed. Its gradient is a biased estimate of the log likelihood's;
    the bias shrinks as k grows. Conditional models keep each row's condition along its chain.

    Raises DivergenceError where a chain is not finite.

    Source: Training Products of Experts by Minimizing Contrastive Divergence (Hinton, 2002); the
    energy regularisation: Implicit Generation and Modeling with Energy-Based Models (Du and
    Mordatch, 2019).
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"k_steps": 2, "energy_regularisation": 0.01},
    )

    sampler: Sampler = field(metadata=doc("what moves the chains"))
    k_steps: int = field(
        default=10, validator=and_(whole, ge(1)), metadata=doc("steps of each chain")
    )
    energy_regularisation: float = field(
        default=0.0,
        validator=and_(finite, ge(0)),
        metadata=doc("α, weight of the mean squared energies; 0 is off"),
    )

    @property
    def consistent(self) -> bool:
        return getattr(self.sampler, "exact", False) and not self.energy_regularisation

    def init(self, model: Model, batch: Batch, *, generator: torch.Generator) -> CDState:  # noqa: ARG002
        return CDState(None)

    def draw(
        self, model: Model, batch: Batch, state: CDState, step: int, *, generator: torch.Generator
    ) -> tuple[Draws, CDState]:
        chain = run_chain(
            self.sampler,
            bind(model, batch.condition),
            batch.x,
            steps=self.k_steps,
            generator=generator,
            training_step=step,
            previous=state.chains,
        )
        kept = chain.state if hasattr(self.sampler, "restart") else None
        return Draws(chain.x, batch.condition, chain.metrics), CDState(kept)

    def __call__(self, model: Model, batch: Batch, draws: Draws) -> tuple[Tensor, Metrics]:
        return compare(model, batch, draws, self.energy_regularisation)
