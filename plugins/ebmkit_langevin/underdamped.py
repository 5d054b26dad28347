"""Underdamped (kinetic) Langevin dynamics by the BAOAB splitting."""

from __future__ import annotations

from typing import NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import gt
from torch import Tensor

from ebmkit import Energy, Metrics, Scheduler, doc, energy_and_gradient, normals, scheduled
from ebmkit_langevin._arithmetic import plus


class UnderdampedLangevinState(NamedTuple):
    """Where the chains are and how they move."""

    x: Tensor
    """(batch, *event)"""
    velocity: Tensor
    """v, (batch, *event); 0 before the first step"""
    gradient: Tensor
    """∇E(x), (batch, *event)"""
    moving: Tensor
    """0 before the first step and 1 after it, without dimensions."""


@attrs.frozen
class UnderdampedLangevin:
    """Underdamped Langevin dynamics with unit mass, by the BAOAB splitting.

    dx = v dt, dv = −∇E(x) dt − γv dt + √(2γ) dW in steps of

    v ← v − h/2 ∇E(x);  x ← x + h/2 v;  v ← c v + √(1 − c²) z;  x ← x + h/2 v;  v ← v − h/2 ∇E(x)

    h is the step size, γ the friction, c = exp(−γh), z standard normal of x's shape (batch, *event).
    As h → 0 the distribution of x tends to p(x) ∝ exp(−E(x)); at a finite h it is biased of order h²,
    and on a Gaussian not at all, whatever h and γ. Chains run away where h ≥ 2σ of the narrowest
    direction.

    Velocities of new chains are standard normal, as the dynamics' stationary law has them: z of the
    first step is taken for them, and that step goes without friction and noise (c = 1). Chains that
    started at rest would be cooled first.

    Source: Rational Construction of Stochastic Numerical Methods for Molecular Sampling (Leimkuhler
    and Matthews, 2013).
    """

    bias_order = 2

    step_size: float | Scheduler = field(
        default=0.1,
        validator=scheduled(gt(0)),
        metadata=doc("h, a time, in units of x; below 2σ of the narrowest direction"),
    )
    friction: float | Scheduler = field(
        default=1.0,
        validator=scheduled(gt(0)),
        metadata=doc("γ, > 0, per time; 1 / the widest direction's σ suits"),
    )

    def init(self, energy: Energy, x: Tensor) -> UnderdampedLangevinState:
        _, gradient = energy_and_gradient(energy, x)
        moving = torch.zeros((), device=x.device, dtype=x.dtype)
        return UnderdampedLangevinState(x, torch.zeros_like(x), gradient, moving)

    def draw(self, state: UnderdampedLangevinState, *, generator: torch.Generator) -> Tensor:
        x = state.x
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    def draw_steps(
        self, state: UnderdampedLangevinState, steps: int, *, generator: torch.Generator
    ) -> Tensor:
        return normals(steps, state.x.shape, generator=generator, like=state.x)

    def step(
        self,
        energy: Energy,
        state: UnderdampedLangevinState,
        noise: Tensor,
        *,
        step_size: float | Tensor,
        friction: float | Tensor,
    ) -> tuple[UnderdampedLangevinState, Metrics]:
        half = step_size / 2
        lost = state.moving * (friction * step_size)
        kept, fresh = (-lost).exp(), (-(-2 * lost).expm1()).sqrt()
        velocity = state.velocity.addcmul(noise, 1 - state.moving)
        velocity = plus(velocity, state.gradient, -half)
        x = plus(state.x, velocity, half)
        velocity = (kept * velocity).addcmul_(noise, fresh)
        x = plus(x, velocity, half)
        _, gradient = energy_and_gradient(energy, x)
        velocity = plus(velocity, gradient, -half)
        new = UnderdampedLangevinState(x, velocity, gradient, torch.ones_like(state.moving))
        return new, {}
