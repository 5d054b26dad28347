"""Gibbs sampling of binary and categorical states."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import and_, ge, optional
from torch import Tensor

from ebmkit import Energy, Metrics, doc, offered, whole
from ebmkit_gibbs._states import by_variable, categories_of, check_states, flat, one_hot, widened


class GibbsState(NamedTuple):
    """Where the chains are."""

    x: Tensor
    """(batch, *event)"""
    uniforms: Tensor
    """No numbers, (0, n): of how many uniform ones a sweep is made."""


@attrs.frozen
class Gibbs:
    """Gibbs sampling: one step draws every variable once, each from its conditional distribution.

    p(xᵢ = k | x₋ᵢ) = exp(−E(x with xᵢ = k)) / Σₗ exp(−E(x with xᵢ = l))

    x (batch, *event) is of zeros and ones, for variables of several categories one-hot along the last
    axis. Where the energy offers a ``sweep`` of its own, as an RBM does by blocks, a step is that;
    else the variables are drawn one after the other in their order, at one evaluation of the energy
    for each value a variable might change to, and one more. p(x) ∝ exp(−E(x)) stays exactly as it is.

    A conditional that is NaN makes its variable NaN, so that the chain is known to have failed; a
    state of energy +∞ has probability 0.

    Raises UserError where chains start at other states.

    Source: Stochastic Relaxation, Gibbs Distributions, and the Bayesian Restoration of Images (Geman
    and Geman, 1984).
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

    def init(self, energy: Energy, x: Tensor) -> GibbsState:
        categories = categories_of(self.categories, energy)
        check_states(x, categories, "Gibbs")
        n = math.prod(x.shape[1:]) // (categories or 1)
        if offered(energy, "sweep") is not None:
            n = offered(energy, "n_uniforms")
        return GibbsState(x, x.new_empty((0, n)))

    def draw(self, state: GibbsState, *, generator: torch.Generator) -> Tensor:
        x = state.x
        shape = (len(x), state.uniforms.shape[1])
        return torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)

    def step(self, energy: Energy, state: GibbsState, noise: Tensor) -> tuple[GibbsState, Metrics]:
        x = state.x
        sweep = offered(energy, "sweep")
        categories = categories_of(self.categories, energy)
        with torch.no_grad():
            if sweep is not None:
                after = sweep(x, noise)
            elif categories is None:
                after = _binary(energy, x, noise)
            else:
                after = _categorical(energy, x, noise, categories)
        per_change = 1 if categories is None else 2
        changed = (after != x).to(x.dtype).mean() * (categories or 1) / per_change
        return GibbsState(after, state.uniforms), {"changed": changed}


def _binary(energy: Energy, x: Tensor, uniforms: Tensor) -> Tensor:
    shape, rows = x.shape, flat(x)
    energies = energy(x)
    for i in range(rows.shape[1]):
        here = rows[:, i]
        flipped = rows.select_scatter(1 - here, 1, i)
        others = energy(flipped.view(shape))
        rise = torch.where(here == 1, energies - others, others - energies)
        p = (-rise).sigmoid().to(x.dtype)
        drawn = torch.where(p.isnan(), p, (uniforms[:, i] < p).to(x.dtype))
        rows = rows.select_scatter(drawn, 1, i)
        energies = torch.where(drawn == here, energies, others)
    return rows.view(shape)


def _categorical(energy: Energy, x: Tensor, uniforms: Tensor, q: int) -> Tensor:
    shape, rows = x.shape, by_variable(x, q)
    energies = energy(x)
    for i in range(rows.shape[1]):
        here = rows[:, i]
        # By how much the category is moved on, round the circle; no rows are added, for what the
        # energy is conditioned on belongs to those that are there.
        moved = [
            energy(rows.select_scatter(here.roll(by, 1), 1, i).view(shape)) for by in range(1, q)
        ]
        by_move = torch.stack([energies, *moved], 1)
        current = here.argmax(1, keepdim=True)
        move_to = (torch.arange(q, device=x.device) - current) % q
        weights = (-by_move.gather(1, move_to)).softmax(1)
        sums = weights.cumsum(1)
        # Of the whole sum, which is not quite 1: a category of probability 0 is never drawn.
        chosen = (uniforms[:, i, None] * sums[:, -1:] >= sums[:, :-1]).sum(1)
        nan = weights.isnan().any(1)
        drawn = torch.where(widened(nan, here), torch.nan, one_hot(chosen, x, q))
        rows = rows.select_scatter(drawn, 1, i)
        energies = by_move.gather(1, (chosen[:, None] - current) % q).squeeze(1)
        energies = torch.where(nan, torch.nan, energies)
    return rows.view(shape)
