"""Unadjusted Langevin dynamics."""

from __future__ import annotations

from typing import NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import ge, gt
from torch import Tensor

from ebmkit import Energy, Metrics, Scheduler, doc, energy_and_gradient, normals, scheduled
from ebmkit_langevin._arithmetic import plus, plus_, root


class LangevinState(NamedTuple):
    """Where the chains are."""

    x: Tensor
    """(batch, *event)"""


@attrs.frozen
class Langevin:
    """Unadjusted Langevin dynamics, x' = x − ε ∇E(x) + √(2ε) τ z.

    ε is the step size, τ the noise scale and z standard normal of x's shape (batch, *event). As
    ε → 0 with τ = 1 the chains' distribution tends to p(x) ∝ exp(−E(x)); at a finite ε it is biased
    of order ε, on a Gaussian of variance σ² to σ² / (1 − ε / (2σ²)), and chains run away where
    ε > 2σ². τ < 1 samples a colder distribution, p(x)^(1/τ²).

    Source: Exponential convergence of Langevin distributions and their discrete approximations
    (Roberts and Tweedie, 1996).
    """

    bias_order = 1

    step_size: float | Scheduler = field(
        default=0.01,
        validator=scheduled(gt(0)),
        metadata=doc("ε, in squared units of x; below 2σ² of the narrowest direction"),
    )
    noise_scale: float | Scheduler = field(
        default=1.0, validator=scheduled(ge(0)), metadata=doc("τ; 1 samples p(x)")
    )

    def init(self, energy: Energy, x: Tensor) -> LangevinState:  # noqa: ARG002
        return LangevinState(x)

    def draw(self, state: LangevinState, *, generator: torch.Generator) -> Tensor:
        x = state.x
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    def draw_steps(self, state: LangevinState, steps: int, *, generator: torch.Generator) -> Tensor:
        return normals(steps, state.x.shape, generator=generator, like=state.x)

    def step(
        self,
        energy: Energy,
        state: LangevinState,
        noise: Tensor,
        *,
        step_size: float | Tensor,
        noise_scale: float | Tensor,
    ) -> tuple[LangevinState, Metrics]:
        _, gradient = energy_and_gradient(energy, state.x)
        x = plus(state.x, gradient, -step_size)
        after = plus_(x, noise, root(2 * step_size) * noise_scale)
        return LangevinState(after), {}
