"""Gibbs with gradients."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import and_, ge, optional
from torch import Tensor

from ebmkit import Energy, Metrics, doc, energy_and_gradient, whole
from ebmkit_gibbs._states import by_variable, categories_of, check_states, flat, one_hot, widened


class GibbsWithGradientsState(NamedTuple):
    """Where the chains are, and what the next step needs of it."""

    x: Tensor
    """(batch, *event)"""
    energy: Tensor
    """E(x), (batch,)"""
    gradient: Tensor
    """∇E(x), (batch, *event)"""


class GibbsWithGradientsNoise(NamedTuple):
    """The random numbers of one step."""

    exponential: Tensor
    """(batch, *event)"""
    uniform: Tensor
    """(batch,)"""


@attrs.frozen
class GibbsWithGradients:
    """Gibbs with gradients (GWG): the gradient proposes which variable changes, exactly accepted.

    q(y | x) = softmax(d(x) / 2) over the neighbours y of x, d(x) = ∇E(x)·(x − y) ≈ E(x) − E(y)

    The neighbours y differ from x (batch, *event) in one variable: a bit flipped, or where there are
    categories, one-hot along the last axis, another category. y is accepted with probability
    min(1, exp(E(x) − E(y)) q(x | y) / q(y | x)), so p(x) ∝ exp(−E(x)) stays exactly as it is. The
    energy has to be differentiable between the states; where it is linear there, the proposal is
    near the best of this kind. A proposal whose energy or force is not finite is refused.

    Raises UserError where chains start at other states.

    Source: Oops I Took A Gradient: Scalable Sampling for Discrete Distributions (Grathwohl, Swersky,
    Hashemi, Duvenaud and Maddison, 2021).
    """

    discrete: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    categories: int | None = field(
        default=None,
        validator=optional(and_(whole, ge(2))),
        metadata=doc("categories, for a network that does not say; the energy's own, or binary"),
    )

    def check(self, energy: Energy) -> None:
        categories_of(self.categories, energy)

    def init(self, energy: Energy, x: Tensor) -> GibbsWithGradientsState:
        check_states(x, categories_of(self.categories, energy), "GibbsWithGradients")
        return GibbsWithGradientsState(x, *energy_and_gradient(energy, x))

    def draw(
        self, state: GibbsWithGradientsState, *, generator: torch.Generator
    ) -> GibbsWithGradientsNoise:
        x = state.x
        exponential = torch.empty_like(x, device=generator.device)
        return GibbsWithGradientsNoise(
            exponential.exponential_(generator=generator),
            torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype),
        )

    def step(
        self, energy: Energy, state: GibbsWithGradientsState, noise: GibbsWithGradientsNoise
    ) -> tuple[GibbsWithGradientsState, Metrics]:
        x, categories = state.x, categories_of(self.categories, energy)
        there = _log_proposals(x, state.gradient, categories)
        # The first of independent exponential clocks that run at these rates.
        chosen = (there - flat(noise.exponential).log()).argmax(1, keepdim=True)
        proposal, undo = _changed(x, chosen, categories)
        energies, gradient = energy_and_gradient(energy, proposal)
        back = _log_proposals(proposal, gradient, categories)
        log_ratio = (
            state.energy - energies + (back.gather(1, undo) - there.gather(1, chosen)).squeeze(1)
        )
        # A comparison with NaN is false: what is not finite is refused.
        accepted = noise.uniform.log() < log_ratio
        probability = log_ratio.clamp(max=0).exp()
        wide = widened(accepted, x)
        new = GibbsWithGradientsState(
            torch.where(wide, proposal, x),
            torch.where(accepted, energies, state.energy),
            torch.where(wide, gradient, state.gradient),
        )
        return new, {"acceptance_rate": torch.where(probability.isnan(), 0, probability).mean()}


def _log_proposals(x: Tensor, gradient: Tensor, categories: int | None) -> Tensor:
    """log q of each change (batch, numbers in an event): of bits flipped, or of categories set."""
    if categories is None:
        gain = flat((2 * x - 1) * gradient)
    else:
        gain = (x * gradient).sum(-1, keepdim=True) - gradient
        gain = flat(gain.masked_fill(x == 1, -torch.inf))
    return (gain / 2).log_softmax(1)


def _changed(x: Tensor, chosen: Tensor, categories: int | None) -> tuple[Tensor, Tensor]:
    """x after the chosen change, and the change that leads back, each (batch, 1)."""
    if categories is None:
        here = torch.arange(math.prod(x.shape[1:]), device=x.device) == chosen
        return torch.where(here.view(x.shape), 1 - x, x), chosen
    rows = by_variable(x, categories)
    site, category = chosen // categories, chosen % categories
    here = torch.arange(rows.shape[1], device=x.device) == site
    was = (rows * here[..., None]).sum(1).argmax(1, keepdim=True)
    changed = torch.where(here[..., None], one_hot(category, x, categories), rows)
    return changed.view(x.shape), site * categories + was
