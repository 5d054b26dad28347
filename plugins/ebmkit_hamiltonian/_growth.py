"""Trajectories that grow by doubling, for all chains at once.

Nothing here follows a value of a tensor but ``doubled_far``, which looks now and then whether any
chain still grows: the functions that it is made of are compiled each by itself.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ebmkit import Energy, traceable
from ebmkit_hamiltonian._leapfrog import Phase, hamiltonian
from ebmkit_hamiltonian._tree import (
    Choice,
    Tally,
    Tree,
    grown,
    joined,
    straight,
    taken_from,
    turned,
)

LEVELS = 3
"""Doublings of at most 2^LEVELS leaps are one piece each; larger ones are put together of pieces, and
end where no chain grows any more."""


class Draws(NamedTuple):
    """Random numbers of a trajectory."""

    reverse: Tensor
    """Whether a doubling goes the other way than the one before it, (batch, doublings − 1)."""
    accept: Tensor
    """Which doublings the next point is taken from, (batch, doublings), uniform."""
    choose: Tensor
    """Which half of the points at each level of a doubling, (batch, doublings), uniform."""


class Growth(NamedTuple):
    """Trajectories while they grow."""

    front: Phase
    """The end that was grown last, its momentum leading on from there."""
    back: Phase
    """The other end, likewise."""
    choice: Choice
    """The point drawn so far."""
    log_weight: Tensor
    """Logarithm of the sum of the points' weights, (batch,)."""
    tally: Tally
    doublings: Tensor
    """How many were begun, (batch,)."""

    @classmethod
    def begun(cls, choice: Choice, momentum: Tensor) -> Growth:
        """Trajectories of one point each."""
        none = torch.zeros_like(choice.energy)
        growing = torch.ones_like(none, dtype=torch.bool)
        return cls(
            Phase(choice.x, momentum, choice.gradient),
            Phase(choice.x, -momentum, choice.gradient),
            choice,
            none,
            Tally(growing, none, none, ~growing),
            none,
        )


@traceable
def opened(
    energy: Energy,
    choice: Choice,
    momentum: Tensor,
    step_size: Tensor,
    draws: Draws,
    *,
    limit: float,
    doublings: int,
) -> tuple[Growth, Tensor]:
    """Trajectories from their points on after so many doublings, and H₀ (batch,)."""
    origin = hamiltonian(choice.energy, momentum)
    growth = Growth.begun(choice, momentum)
    for depth in range(doublings):
        growth = doubled(energy, growth, origin, step_size, draws, limit=limit, depth=depth)
    return growth, origin


@traceable
def doubled(
    energy: Energy,
    growth: Growth,
    origin: Tensor,
    step_size: Tensor,
    draws: Draws,
    *,
    limit: float,
    depth: int,
) -> Growth:
    """The trajectories after one more doubling, of no more leaps than a piece has."""
    growth = _reversed(growth, draws.reverse[:, depth - 1] if depth else None)
    uniforms = draws.choose[:, :depth].unbind(1)
    tree, tally = grown(energy, growth.front, origin, step_size, limit, growth.tally, uniforms)
    return _with(growth, tree, tally, draws.accept[:, depth], later=depth > 0)


def doubled_far(
    energy: Energy,
    growth: Growth,
    origin: Tensor,
    step_size: Tensor,
    draws: Draws,
    *,
    limit: float,
    depth: int,
) -> Growth:
    """The trajectories after one doubling of more leaps than a piece has."""
    growth = begin(energy, growth, draws.reverse[:, depth - 1])
    start, tally = growth.front, growth.tally
    stack: list[Tree] = []
    for index in range(1 << (depth - LEVELS)):
        uniforms = draws.choose[:, :LEVELS]
        tree, tally = piece(energy, start, origin, step_size, tally, uniforms, limit=limit)
        start = tree.last
        level = LEVELS
        while index >> level - LEVELS & 1:
            tree, tally = join(energy, stack.pop(), tree, tally, draws.choose[:, level])
            level += 1
        stack.append(tree)
        if not bool(tally.growing.any()):
            break
    return finish(energy, growth, stack[-1], tally, draws.accept[:, depth])


@traceable
def begin(energy: Energy, growth: Growth, reverse: Tensor) -> Growth:  # noqa: ARG001
    return _reversed(growth, reverse)


@traceable
def piece(
    energy: Energy,
    start: Phase,
    origin: Tensor,
    step_size: Tensor,
    tally: Tally,
    uniforms: Tensor,
    *,
    limit: float,
) -> tuple[Tree, Tally]:
    return grown(energy, start, origin, step_size, limit, tally, uniforms.unbind(1))


@traceable
def join(
    energy: Energy,  # noqa: ARG001
    left: Tree,
    right: Tree,
    tally: Tally,
    uniform: Tensor,
) -> tuple[Tree, Tally]:
    tree = joined(left, right, uniform)
    return tree, tally._replace(growing=tally.growing & tree.sound)


@traceable
def finish(
    energy: Energy,  # noqa: ARG001
    growth: Growth,
    tree: Tree,
    tally: Tally,
    accept: Tensor,
) -> Growth:
    return _with(growth, tree, tally, accept, later=True)


def _reversed(growth: Growth, reverse: Tensor | None) -> Growth:
    """A doubling begun; None is for the first, a momentum being as likely as its opposite."""
    growth = growth._replace(doublings=growth.doublings + growth.tally.growing)
    if reverse is None:
        return growth
    front, back = turned(growth.front, growth.back, reverse)
    return growth._replace(front=front, back=back)


def _with(growth: Growth, tree: Tree, tally: Tally, accept: Tensor, *, later: bool) -> Growth:
    """The trajectories with a tree grown on to their front; ``later`` than the first doubling."""
    odds = (tree.log_weight - growth.log_weight).exp()
    taken = tally.growing & (accept < odds)
    front, back = growth.front, growth.back
    tail = back._replace(momentum=-back.momentum) if later else front
    growing = tally.growing & straight(tail, front, tree.first, tree.last)
    return Growth(
        tree.last,
        back,
        taken_from(tree.choice, taken, growth.choice),
        torch.logaddexp(growth.log_weight, tree.log_weight),
        tally._replace(growing=growing),
        growth.doublings,
    )
