"""Langevin dynamics with a diagonal preconditioner that all chains adapt together."""

from __future__ import annotations

from typing import NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import and_, gt, le
from torch import Tensor

from ebmkit import Energy, Metrics, Scheduler, doc, energy_and_gradient, finite, normals, scheduled


class PreconditionedLangevinState(NamedTuple):
    """Where the chains are, and what they have learnt of the energy's slopes."""

    x: Tensor
    """(batch, *event)"""
    square: Tensor
    """v, the mean of (∇E)², (1, *event); 1 before the first step."""
    steps: Tensor
    """Steps adapted so far, without dimensions."""
    adapting: Tensor
    """1, and 0 once the adaptation has ended, without dimensions."""


@attrs.frozen
class PreconditionedLangevin:
    """Preconditioned Langevin dynamics, x' = x − ε G ∇E(x) + √(2εG) z, with G = 1 / (λ + v^p).

    ε is the step size, z standard normal of x's shape (batch, *event). v (*event) is the mean of
    (∇E)², number by number, over all chains and steps: v ← v + (mean over chains of (∇E)² − v) / t^κ at
    step t. All chains share one G, whose changes fade, so that the equation needs no term for G's own
    slope (one of a chain's own last steps would need it): in the limit the law of the chains is that
    of Langevin dynamics at a fixed G, biased of order ε, on a Gaussian of variance σ² to
    σ² / (1 − εG / (2σ²)) in each direction. While G still changes there is a bias of order 1/t^κ
    besides, the smaller the more chains there are; after a warm-up G is held.

    With p = ½ G is RMSprop's, and chains far out are not slowed down. With p = 1 and λ = 0 G is the
    inverse of the Fisher information, for E[(∇E)²] = E[∇²E] under p(x): ε then has no units, and every
    direction of a Gaussian is forgotten at the same rate.

    Source: Preconditioned Stochastic Gradient Langevin Dynamics for Deep Neural Networks (Li and
    others, 2016); Optimal Preconditioning and Fisher Adaptive Langevin Sampling (Titsias, 2023); A
    tutorial on adaptive MCMC (Andrieu and Thoms, 2008).
    """

    bias_order = 1

    step_size: float | Scheduler = field(
        default=0.01,
        validator=scheduled(gt(0)),
        metadata=doc("ε, in units of x to the power 2 − 2p; εG below 2σ² in every direction"),
    )
    damping: float = field(
        default=1e-5,
        validator=and_(finite, gt(0)),
        metadata=doc("λ, > 0, in units of v^p: bounds G by 1/λ where the energy is flat"),
    )
    power: float = field(
        default=0.5,
        validator=and_(finite, gt(0), le(1)),
        metadata=doc("p in (0, 1]; ½ is RMSprop's, 1 the inverse Fisher information"),
    )
    forgetting: float = field(
        default=0.6,
        validator=and_(finite, gt(0.5), le(1)),
        metadata=doc("κ in (½, 1]: how fast adaptation fades; 1 is the plain mean of all steps"),
    )

    def init(self, energy: Energy, x: Tensor) -> PreconditionedLangevinState:  # noqa: ARG002
        # The first step's weight is 1, so nothing is left of these ones after it.
        square = x.new_ones((1, *x.shape[1:]))
        zero = torch.zeros((), device=x.device, dtype=x.dtype)
        return PreconditionedLangevinState(x, square, zero, zero + 1)

    def restart(
        self,
        state: PreconditionedLangevinState,
        energy: Energy,  # noqa: ARG002
        x: Tensor,
    ) -> PreconditionedLangevinState:
        return state._replace(x=x)

    def settle(self, state: PreconditionedLangevinState) -> PreconditionedLangevinState:
        return state._replace(adapting=torch.zeros_like(state.adapting))

    def draw(self, state: PreconditionedLangevinState, *, generator: torch.Generator) -> Tensor:
        x = state.x
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    def draw_steps(
        self, state: PreconditionedLangevinState, steps: int, *, generator: torch.Generator
    ) -> Tensor:
        return normals(steps, state.x.shape, generator=generator, like=state.x)

    def step(
        self,
        energy: Energy,
        state: PreconditionedLangevinState,
        noise: Tensor,
        *,
        step_size: float | Tensor,
    ) -> tuple[PreconditionedLangevinState, Metrics]:
        x, square, steps = state.x, state.square, state.steps
        _, gradient = energy_and_gradient(energy, x)
        if len(x):  # no chains have no mean
            steps = steps + state.adapting
            # Held steps may be none: the maximum keeps 0 · 0^−κ from being NaN.
            weight = state.adapting * steps.clamp(min=1).pow(-self.forgetting)
            square = square + weight * (_mean_square(gradient, square) - square)
        preconditioner = step_size / (self.damping + square.pow(self.power))
        moved = x.addcmul(preconditioner, gradient, value=-1)
        moved.addcmul_((2 * preconditioner).sqrt(), noise)
        new = PreconditionedLangevinState(moved, square, steps, state.adapting)
        return new, {}


def _mean_square(gradient: Tensor, otherwise: Tensor) -> Tensor:
    """Mean square over chains, (1, *event). A chain of no finite force has none to tell, and what all
    share must outlive it."""
    finite = gradient.isfinite().flatten(1).all(1) if gradient.ndim > 1 else gradient.isfinite()
    told = finite.view(-1, *[1] * (gradient.ndim - 1))
    total = torch.where(told, gradient.square(), 0).sum(0, keepdim=True)
    return torch.where(finite.any(), total / finite.sum().clamp(min=1), otherwise)
