"""Gradient descent, which finds modes and samples nothing."""

from __future__ import annotations

from typing import NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import and_, ge, gt, lt
from torch import Tensor

from ebmkit import Energy, Metrics, Scheduler, doc, energy_and_gradient, scheduled
from ebmkit_langevin._arithmetic import plus_


class GradientDescentState(NamedTuple):
    """Where the points are and where they come from."""

    x: Tensor
    """(batch, *event)"""
    move: Tensor
    """The last step x − x before it, (batch, *event); 0 before the first."""


class NoNoise(NamedTuple):
    """The random numbers of a step that needs none."""


@attrs.frozen
class GradientDescent:
    """Gradient descent with momentum, x' = x − ε ∇E(x) + β (x − x before): no sampler of p(x).

    ε is the step size and β the momentum. The points x (batch, *event) go downhill to modes of
    p(x) ∝ exp(−E(x)), each to one near it, and stay there: what is left has not the density p. Where E
    is a bowl of curvatures 1/σ² they converge for ε < 2(1 + β) σ² of the narrowest direction; without
    momentum and with ε ≤ σ² no step leads uphill. Nothing is drawn at random.

    Source: Some methods of speeding up the convergence of iteration methods (Polyak, 1964).
    """

    stationary = False

    step_size: float | Scheduler = field(
        default=0.01,
        validator=scheduled(gt(0)),
        metadata=doc("ε, in squared units of x; below 2(1 + β) σ² of the narrowest direction"),
    )
    momentum: float | Scheduler = field(
        default=0.0,
        validator=scheduled(and_(ge(0), lt(1))),
        metadata=doc("β, the part of the last step that is kept, in [0, 1); 0 for none"),
    )

    def init(self, energy: Energy, x: Tensor) -> GradientDescentState:  # noqa: ARG002
        return GradientDescentState(x, torch.zeros_like(x))

    def draw(
        self,
        state: GradientDescentState,  # noqa: ARG002
        *,
        generator: torch.Generator,  # noqa: ARG002
    ) -> NoNoise:
        return NoNoise()

    def step(
        self,
        energy: Energy,
        state: GradientDescentState,
        noise: NoNoise,  # noqa: ARG002
        *,
        step_size: float | Tensor,
        momentum: float | Tensor,
    ) -> tuple[GradientDescentState, Metrics]:
        _, gradient = energy_and_gradient(energy, state.x)
        move = plus_(state.move * momentum, gradient, -step_size)
        return GradientDescentState(state.x + move, move), {}
