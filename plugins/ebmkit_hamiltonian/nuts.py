"""The No-U-Turn sampler."""

from __future__ import annotations

import math
from typing import NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import and_, ge, gt
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
from ebmkit_hamiltonian._growth import Course, Draws
from ebmkit_hamiltonian._leapfrog import Phase, hamiltonian


class NUTSState(NamedTuple):
    """Where the chains are, and what the next step needs of it."""

    x: Tensor
    """(batch, *event)"""
    energy: Tensor
    """E(x), (batch,)"""
    gradient: Tensor
    """∇E(x), (batch, *event)"""
    hamiltonian: Tensor
    """H where the last trajectory began, its momentum just drawn, (batch,); before the first E(x)."""


class NUTSNoise(NamedTuple):
    """The random numbers of one step."""

    momentum: Tensor
    """(batch, *event), standard normal"""
    ways: Tensor
    """(max_depth − 1, batch), standard normal; a doubling goes the other way than the one before it
    where it is negative."""
    pairs: Tensor
    """(2, max_depth, batch, 2), standard normal, uniform numbers being made of pairs: which doublings
    the next point is taken from, and which half of the points at each level of a doubling."""


@attrs.frozen
class NUTS:
    """The No-U-Turn sampler: leapfrog trajectories that grow until they turn round.

    With p standard normal and H(x, p) = E(x) + ½ ‖p‖², a trajectory is doubled, forwards or backwards
    in time at random, until it has turned round: ρ·p ≤ 0 at one of its ends, ρ being the sum of the
    momenta from end to end. A doubling in which a dyadic part has turned round, or a point has H − H₀
    beyond a threshold, is discarded and is the last. Of each doubling a point is drawn with weights
    exp(−H), and it replaces the one drawn so far with probability min(1, w′ / w), w′ and w being the
    sums of weights in the doubling and before it.

    x and p are (batch, *event); each chain has its own tree. The distribution of the chains is exactly
    p(x) ∝ exp(−E(x)) at any ε. What is not finite counts as diverged, so hard walls are allowed, and a
    chain that starts at such an energy stays where it is. The momenta in ρ are those half-way between
    points, so that ε ρ is the distance of the ends; where two halves are joined, each one together
    with the next point of the other must not have turned round either. A step takes at most
    2^max_depth − 1 gradients; chains that have turned round wait for the others.

    Metrics: ``acceptance_rate``, min(1, exp(H₀ − H)) as its mean over a tree's leaves; ``tree_depth``,
    doublings begun; both as means over chains; ``divergences``, how many chains diverged.

    Source: The No-U-Turn sampler (Hoffman and Gelman, 2014); A conceptual introduction to Hamiltonian
    Monte Carlo (Betancourt, 2017).
    """

    exact = True
    reversible = True

    step_size: float | Scheduler = field(
        default=0.1,
        validator=scheduled(gt(0)),
        metadata=doc("ε, in units of x; stable below 2σ of the narrowest direction"),
    )
    max_depth: int = field(
        default=10,
        validator=[whole, ge(1)],
        metadata=doc("doublings of a trajectory at most"),
    )
    divergence_threshold: float = field(
        default=1000.0,
        validator=and_(finite, gt(0)),
        metadata=doc("error of H, in nats, at which a trajectory counts as diverged"),
    )

    def init(self, energy: Energy, x: Tensor) -> NUTSState:
        energies, gradient = energy_and_gradient(energy, x)
        return NUTSState(x, energies, gradient, energies)

    def draw(self, state: NUTSState, *, generator: torch.Generator) -> NUTSNoise:
        return NUTSNoise(*(one for (one,) in self.draw_steps(state, 1, generator=generator)))

    def draw_steps(self, state: NUTSState, steps: int, *, generator: torch.Generator) -> NUTSNoise:
        x, depth = state.x, self.max_depth
        sizes = x.numel(), (depth - 1) * len(x), 4 * depth * len(x)
        rows = normals(steps, (sum(sizes),), generator=generator, like=x)
        momentum, ways, pairs = torch.split(rows, list(sizes), 1)
        return NUTSNoise(
            momentum.view(steps, *x.shape),
            ways.view(steps, depth - 1, len(x)),
            pairs.view(steps, 2, depth, len(x), 2),
        )

    def step(
        self, energy: Energy, state: NUTSState, noise: NUTSNoise, *, step_size: float
    ) -> tuple[NUTSState, Metrics]:
        shape, rows = state.x.shape, (len(state.x), math.prod(state.x.shape[1:]))

        def force(x: Tensor) -> tuple[Tensor, Tensor]:
            energies, gradient = energy_and_gradient(energy, x.view(shape))
            return energies, gradient.reshape(rows)

        before = hamiltonian(state.energy, noise.momentum)
        course = Course(
            force,
            torch.as_tensor(step_size, dtype=before.dtype, device=before.device),
            before,
            self.divergence_threshold,
            Draws(noise.ways < 0, *log_uniform(noise.pairs)),
        )
        start = (state.x, noise.momentum, state.gradient)
        growth = course.followed(Phase(*(part.reshape(rows) for part in start)), state.energy)
        x, _, gradient = growth.tree.points[:, 2]
        tally = growth.tally
        new = NUTSState(x.view(shape), growth.tree.numbers[1], gradient.view(shape), before)
        return new, {
            "acceptance_rate": (tally.acceptance / tally.leaps).mean(),
            "tree_depth": growth.doublings.mean(),
            "divergences": tally.diverged.sum().to(before.dtype),
        }
