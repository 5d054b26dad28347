"""Trees of leaps: what the No-U-Turn sampler grows, for all chains at once.

All chains grow at the same pace, so that which leaves are joined when is the same for all of them and
known beforehand: nothing here depends on a value. Whether a chain still grows is a mask beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ebmkit import Energy
from ebmkit_hamiltonian._leapfrog import Phase, hamiltonian, inner, leapfrog, wide


class Choice(NamedTuple):
    """A point chosen from a tree."""

    x: Tensor
    """(batch, *event)"""
    energy: Tensor
    """(batch,)"""
    gradient: Tensor
    """(batch, *event)"""


class Tree(NamedTuple):
    """Consecutive points of a trajectory, momenta in the direction of travel."""

    first: Phase
    last: Phase
    choice: Choice
    """One of the points, each chosen with probability in proportion to its weight."""
    log_weight: Tensor
    """Logarithm of the sum of the points' weights exp(H₀ − H), (batch,)."""
    sound: Tensor
    """Whether no point diverged and no part of the tree turned round, (batch,)."""


class Tally(NamedTuple):
    """How chains fare in a step."""

    growing: Tensor
    """Whether the trajectory is still growing, (batch,)."""
    diverged: Tensor
    """Whether it diverged while it grew, (batch,)."""
    acceptance: Tensor
    """Sum of min(1, exp(H₀ − H)) over its leaves, (batch,)."""
    leaves: Tensor
    """How many these are, (batch,)."""


def leaf(
    energy: Energy, start: Phase, origin: Tensor, step_size: Tensor, limit: float, tally: Tally
) -> tuple[Tree, Tally]:
    """The point one leap after ``start``, as a tree; ``origin`` is H₀ (batch,)."""
    end, energies, _ = leapfrog(energy, start, step_size, 1)
    inf = torch.inf
    # What is not finite has no weight, and diverges.
    error = (hamiltonian(energies, end.momentum) - origin).nan_to_num(inf, inf, inf)
    log_weight = -error
    sound = error <= limit
    growing, diverged, acceptance, leaves = tally
    tally = Tally(
        growing & sound,
        diverged | (growing > sound),
        acceptance + growing * log_weight.clamp(max=0).exp(),
        leaves + growing,
    )
    return Tree(end, end, Choice(end.x, energies, end.gradient), log_weight, sound), tally


def joined(left: Tree, right: Tree, uniform: Tensor) -> Tree:
    """Two trees of equal size as one, ``right`` being where ``left`` leads to."""
    later = uniform < (right.log_weight - left.log_weight).sigmoid()
    chosen = later.to(left.log_weight.dtype)
    far = wide(chosen, left.choice.x)
    return Tree(
        left.first,
        right.last,
        # At weights 0 and 1 this is a choice between finite numbers, and faster than one. What is not
        # finite makes only its own chain's choice worthless, which, being unsound, is never used.
        Choice(
            left.choice.x.lerp(right.choice.x, far),
            left.choice.energy.lerp(right.choice.energy, chosen),
            left.choice.gradient.lerp(right.choice.gradient, far),
        ),
        torch.logaddexp(left.log_weight, right.log_weight),
        left.sound & right.sound & straight(left.first, right.last),
    )


def taken_from(found: Choice, taken: Tensor, kept: Choice) -> Choice:
    """``found`` where ``taken`` (batch,) says so, else ``kept``."""
    far = wide(taken, kept.x)
    return Choice(
        torch.where(far, found.x, kept.x),
        torch.where(taken, found.energy, kept.energy),
        torch.where(far, found.gradient, kept.gradient),
    )


def straight(first: Phase, last: Phase) -> Tensor:
    """Whether a trajectory has not turned round: its ends move apart, (batch,).

    ρ·p > 0 at both ends, where ρ, the sum of the momenta that led from end to end, is their distance.
    """
    rho = last.x - first.x
    return torch.minimum(inner(rho, first.momentum), inner(rho, last.momentum)) > 0


def turned(front: Phase, back: Phase, reverse: Tensor) -> tuple[Phase, Phase]:
    """The two ends of trajectories, changed over where ``reverse`` (batch,) says so."""
    other = wide(reverse.to(front.x.dtype), front.x)
    pairs = list(zip(front, back, strict=True))
    return (
        Phase(*(f.lerp(b, other) for f, b in pairs)),
        Phase(*(b.lerp(f, other) for f, b in pairs)),
    )


def grown(
    energy: Energy,
    start: Phase,
    origin: Tensor,
    step_size: Tensor,
    limit: float,
    tally: Tally,
    uniforms: Sequence[Tensor],
) -> tuple[Tree, Tally]:
    """The tree of the 2^k leaps that follow ``start``, k being the number of ``uniforms``.

    Which of a tree's points is chosen hangs on one join at each level, those above it, so one uniform
    number (batch,) a level serves all joins at that level. Growth ends early once no chain grows.
    """
    stack: list[Tree] = []
    for index in range(1 << len(uniforms)):
        tree, tally = leaf(energy, start, origin, step_size, limit, tally)
        start = tree.last
        # The ones at the end of the index: joins that this leaf completes, as in counting by twos.
        level = 0
        while index >> level & 1:
            tree = joined(stack.pop(), tree, uniforms[level])
            level += 1
        stack.append(tree)
        tally = tally._replace(growing=tally.growing & tree.sound)
        if not bool(tally.growing.any()):
            break
    return stack[-1], tally
