"""Metropolis-adjusted Langevin algorithm."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import and_, gt, lt, optional
from torch import Tensor

from ebmkit import (
    Energy,
    Metrics,
    Scheduler,
    doc,
    energy_and_gradient,
    finite,
    log_uniform,
    normals,
    scheduled,
)
from ebmkit_langevin._arithmetic import squared_norms


class MALAState(NamedTuple):
    """Where the chains are, and what the next step needs of it."""

    x: Tensor
    """(batch, *event)"""
    energy: Tensor
    """E(x), (batch,)"""
    gradient: Tensor
    """∇E(x), (batch, *event)"""
    log_factor: Tensor
    """Logarithm of the adapted factor on the step size, without dimensions."""
    steps: Tensor
    """Steps adapted so far, without dimensions."""


class MALANoise(NamedTuple):
    """The random numbers of one step."""

    normal: Tensor
    """(batch, *event)"""
    pair: Tensor
    """Standard normal, (batch, 2); a uniform number is made of them."""


@attrs.frozen
class MALA:
    """Metropolis-adjusted Langevin algorithm: a Langevin proposal, accepted or refused exactly.

    y = x − ε ∇E(x) + √(2ε) z is accepted with probability min(1, exp(E(x) − E(y)) q(x | y) / q(y | x)),
    where q(y | x) is the normal density of mean x − ε ∇E(x) and variance 2ε. The distribution of the
    chains x (batch, *event) is exactly p(x) ∝ exp(−E(x)) at any ε. A proposal whose energy or force
    is not finite is refused, so hard walls are allowed.

    With ``target_acceptance`` the step size is ε times a factor f that follows the chains' mean
    acceptance α by log f ← log f + (α − target) / t^0.6 at step t; its changes fade, so the limit
    stays exact.

    Source: Exponential convergence of Langevin distributions and their discrete approximations
    (Roberts and Tweedie, 1996); A tutorial on adaptive MCMC (Andrieu and Thoms, 2008).
    """

    exact: ClassVar[bool] = True
    reversible: ClassVar[bool] = True

    step_size: float | Scheduler = field(
        default=0.01,
        validator=scheduled(gt(0)),
        metadata=doc("ε, in squared units of x; the first value where it is adapted"),
    )
    target_acceptance: float | None = field(
        default=None,
        validator=optional(and_(finite, gt(0), lt(1))),
        metadata=doc(
            "acceptance that the step size is adapted to, 0.574 being usual; off if unset"
        ),
    )

    def init(self, energy: Energy, x: Tensor) -> MALAState:
        energies, gradient = energy_and_gradient(energy, x)
        zero = torch.zeros((), device=x.device, dtype=x.dtype)
        return MALAState(x, energies, gradient, zero, zero)

    def restart(self, state: MALAState, energy: Energy, x: Tensor) -> MALAState:
        fresh = self.init(energy, x)
        return fresh._replace(log_factor=state.log_factor, steps=state.steps)

    def draw(self, state: MALAState, *, generator: torch.Generator) -> MALANoise:
        return MALANoise(*(one for (one,) in self.draw_steps(state, 1, generator=generator)))

    def draw_steps(self, state: MALAState, steps: int, *, generator: torch.Generator) -> MALANoise:
        x = state.x
        size = x.numel()
        rows = normals(steps, (size + 2 * len(x),), generator=generator, like=x)
        return MALANoise(
            rows[:, :size].view(steps, *x.shape), rows[:, size:].view(steps, len(x), 2)
        )

    def step(
        self, energy: Energy, state: MALAState, noise: MALANoise, *, step_size: float | Tensor
    ) -> tuple[MALAState, Metrics]:
        epsilon = step_size * state.log_factor.exp()
        move = (2 * epsilon).sqrt() * noise.normal - epsilon * state.gradient
        proposal = state.x + move
        energies, gradient = energy_and_gradient(energy, proposal)
        # −log q(x | y) + log q(y | x), the squared normal z of the way there being known.
        back = squared_norms(epsilon * gradient - move) / (4 * epsilon)
        there = squared_norms(noise.normal) / 2
        log_ratio = state.energy - energies + there - back
        # A comparison with NaN is false: what is not finite is refused.
        accepted = log_uniform(noise.pair) < log_ratio
        probability = log_ratio.clamp(max=0).exp()
        acceptance = torch.where(probability.isnan(), 0, probability).mean()
        wide = accepted.view(-1, *[1] * (state.x.ndim - 1))
        log_factor, steps = state.log_factor, state.steps
        if self.target_acceptance is not None and len(state.x):  # no chains have no mean
            steps = steps + 1
            log_factor = log_factor + (acceptance - self.target_acceptance) / steps.pow(0.6)
        new = MALAState(
            torch.where(wide, proposal, state.x),
            torch.where(accepted, energies, state.energy),
            torch.where(wide, gradient, state.gradient),
            log_factor,
            steps,
        )
        return new, {"acceptance_rate": acceptance, "step_size": epsilon}
