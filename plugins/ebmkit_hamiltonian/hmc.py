"""Hamiltonian Monte Carlo."""

from __future__ import annotations

from typing import NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import and_, ge, gt, lt
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
    whole,
)
from ebmkit_hamiltonian._leapfrog import Phase, hamiltonian, leapfrog, wide


class HMCState(NamedTuple):
    """Where the chains are, and what the next step needs of it."""

    x: Tensor
    """(batch, *event)"""
    energy: Tensor
    """E(x), (batch,)"""
    gradient: Tensor
    """∇E(x), (batch, *event)"""
    hamiltonian: Tensor
    """H where the last trajectory began, its momentum just drawn, (batch,); before the first E(x)."""


class HMCNoise(NamedTuple):
    """The random numbers of one step."""

    momentum: Tensor
    """(batch, *event), standard normal"""
    pair: Tensor
    """Standard normal, (batch, 2); a uniform number is made of them."""
    stretch: Tensor | None
    """Standard normal, (2,), for the factor on the step size; None without jitter."""


@attrs.frozen
class HMC:
    """Hamiltonian Monte Carlo: momenta drawn anew, a leapfrog trajectory, its end accepted exactly.

    L leaps (x, p) → (x', p') at step size ε, each p ← p − ε/2 ∇E(x), x ← x + ε p, p ← p − ε/2 ∇E(x),
    are accepted with probability min(1, exp(H(x, p) − H(x', p'))), where H(x, p) = E(x) + ½ ‖p‖².

    x and p are (batch, *event), p standard normal at the beginning of each step. The distribution of
    the chains is exactly p(x) ∝ exp(−E(x)) at any ε; on a Gaussian the leapfrog is stable below ε = 2σ
    of the narrowest direction. A trajectory along which an energy or a force is not finite is refused,
    so hard walls are allowed. Where ε L is near a period of the motion chains come back to where they
    were; a jitter on ε, the same for all chains, keeps them from doing so step after step. Inside a
    sampler that adapts scales state one of 0.1 to 0.3: rescaled, all directions have the same period,
    and trajectories as long as that lead nowhere. A step takes L gradients.

    Source: MCMC using Hamiltonian dynamics (Neal, 2011).
    """

    step_size: float | Scheduler = field(
        default=0.1,
        validator=scheduled(gt(0)),
        metadata=doc("ε, in units of x; stable below 2σ of the narrowest direction"),
    )
    n_leapfrog: int = field(
        default=10,
        validator=[whole, ge(1)],
        metadata=doc("leaps L of a trajectory, each one gradient"),
    )
    jitter: float = field(
        default=0.0,
        validator=and_(finite, ge(0), lt(1)),
        metadata=doc("ε is spread uniformly over ε (1 ± jitter), anew at each step"),
    )

    exact = True
    reversible = True

    def init(self, energy: Energy, x: Tensor) -> HMCState:
        energies, gradient = energy_and_gradient(energy, x)
        return HMCState(x, energies, gradient, energies)

    def draw(self, state: HMCState, *, generator: torch.Generator) -> HMCNoise:
        momentum, pair, stretch = self.draw_steps(state, 1, generator=generator)
        return HMCNoise(momentum[0], pair[0], None if stretch is None else stretch[0])

    def draw_steps(self, state: HMCState, steps: int, *, generator: torch.Generator) -> HMCNoise:
        x = state.x
        size, pairs = x.numel(), 2 * len(x)
        count = size + pairs + (2 if self.jitter else 0)
        rows = normals(steps, (count,), generator=generator, like=x)
        return HMCNoise(
            rows[:, :size].view(steps, *x.shape),
            rows[:, size : size + pairs].view(steps, len(x), 2),
            rows[:, size + pairs :] if self.jitter else None,
        )

    def step(
        self, energy: Energy, state: HMCState, noise: HMCNoise, *, step_size: float
    ) -> tuple[HMCState, Metrics]:
        before = hamiltonian(state.energy, noise.momentum)
        start = Phase(state.x, noise.momentum, state.gradient)
        epsilon = torch.as_tensor(step_size, device=state.x.device, dtype=state.x.dtype)
        if noise.stretch is not None:
            epsilon = epsilon * (1 + self.jitter * (2 * log_uniform(noise.stretch).exp() - 1))
        end, energies, path = leapfrog(energy, start, epsilon, self.n_leapfrog)
        # A comparison with NaN is false, and 0 times what is not finite is NaN: it is refused.
        log_ratio = before - hamiltonian(energies, end.momentum) + 0 * path
        accepted = log_uniform(noise.pair) < log_ratio
        probability = log_ratio.clamp(max=0).exp()
        moved = wide(accepted, state.x)
        new = HMCState(
            torch.where(moved, end.x, state.x),
            torch.where(accepted, energies, state.energy),
            torch.where(moved, end.gradient, state.gradient),
            before,
        )
        return new, {"acceptance_rate": torch.where(probability.isnan(), 0, probability).mean()}
