"""Trees of leaps: what the No-U-Turn sampler grows, for all chains at once.

All chains grow at the same pace, so which leaves are joined when is the same for all of them and known
beforehand: ``leaf`` and ``joined`` are pure and follow no value of a tensor. Whether a chain's tree
still grows is a mask beside it; a leaf that comes after its end is computed and not used.
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
    """E(x), (batch,)"""
    gradient: Tensor
    """∇E(x), (batch, *event)"""


class Tree(NamedTuple):
    """Consecutive points of a trajectory, their momenta in the direction of travel."""

    first: Phase
    last: Phase
    choice: Choice
    """One of the points, drawn in proportion to their weights."""
    log_weight: Tensor
    """Logarithm of the sum of the points' weights exp(H₀ − H), (batch,)."""
    sound: Tensor
    """Whether no point diverged and no dyadic part turned round, (batch,)."""


class Tally(NamedTuple):
    """What became of the leaves so far, each (batch,)."""

    growing: Tensor
    """Whether the trajectory still grows."""
    leaves: Tensor
    """How many leaves came while it did."""
    acceptance: Tensor
    """Sum of their min(1, exp(H₀ − H))."""
    diverged: Tensor
    """Whether one of them diverged."""

    def and_with(self, tree: Tree) -> Tally:
        """With a further leaf, which ends growth where it diverged."""
        acceptance = tree.log_weight.clamp(max=0).exp() * self.growing
        return Tally(
            self.growing & tree.sound,
            self.leaves + self.growing,
            self.acceptance + acceptance,
            self.diverged | (self.growing & ~tree.sound),
        )


def leaf(energy: Energy, start: Phase, origin: Tensor, step_size: Tensor, limit: float) -> Tree:
    """The point one leap after ``start``, as a tree; ``origin`` is H₀ (batch,)."""
    end, energies = leapfrog(energy, start, step_size, 1)
    # What is not finite has no weight, and diverges.
    none = -torch.inf
    log_weight = (origin - hamiltonian(energies, end.momentum)).nan_to_num(none, none, none)
    choice = Choice(end.x, energies, end.gradient)
    return Tree(end, end, choice, log_weight, log_weight >= -limit)


def joined(left: Tree, right: Tree, uniform: Tensor) -> Tree:
    """Two trees of equal size as one, ``right`` being where ``left`` leads to."""
    later = uniform < (right.log_weight - left.log_weight).sigmoid()
    chosen = later.to(left.log_weight.dtype)
    far = wide(chosen, left.choice.x)
    return Tree(
        left.first,
        right.last,
        # At weights of 0 and 1 this is a choice between finite numbers, faster than `where`. What is
        # not finite spoils the choice of its own chain alone, whose tree is unsound and never used.
        Choice(
            left.choice.x.lerp(right.choice.x, far),
            left.choice.energy.lerp(right.choice.energy, chosen),
            left.choice.gradient.lerp(right.choice.gradient, far),
        ),
        torch.logaddexp(left.log_weight, right.log_weight),
        left.sound & right.sound & straight(left.first, left.last, right.first, right.last),
    )


def straight(first: Phase, middle: Phase, after: Phase, last: Phase) -> Tensor:
    """Whether a trajectory, from ``first`` to ``middle`` and on from ``after`` to ``last``, has not
    turned round, (batch,); nor has either half with the point of the other that is next to it.

    Where both halves are nearly half a period, the whole is a period and a leap, which looks straight.
    """
    least = _apart(first, last)
    if first is not middle:
        least = torch.minimum(least, torch.minimum(_apart(first, after), _apart(middle, last)))
    return least > 0


def _apart(first: Phase, last: Phase) -> Tensor:
    """The lesser of ρ·p at both ends, positive where they move apart, (batch,).

    ρ, the momenta that led from one to the other, sums to their distance.
    """
    rho = last.x - first.x
    return torch.minimum(inner(rho, first.momentum), inner(rho, last.momentum))


def turned(front: Phase, back: Phase, reverse: Tensor) -> tuple[Phase, Phase]:
    """The two ends of trajectories, changed over where ``reverse`` (batch,) says so."""
    other = wide(reverse.to(front.x.dtype), front.x)
    pairs = list(zip(front, back, strict=True))
    return (
        Phase(*(f.lerp(b, other) for f, b in pairs)),
        Phase(*(b.lerp(f, other) for f, b in pairs)),
    )


def taken_from(found: Choice, taken: Tensor, kept: Choice) -> Choice:
    """``found`` where ``taken`` (batch,) says so, else ``kept``."""
    far = wide(taken, kept.x)
    return Choice(
        torch.where(far, found.x, kept.x),
        torch.where(taken, found.energy, kept.energy),
        torch.where(far, found.gradient, kept.gradient),
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
    """The tree of the 2^k leaps that follow ``start``, k being the number of ``uniforms`` (batch,), and
    the tally after it, in which growth ends where a dyadic part of the tree has turned round.

    Which point is chosen hangs on one join at each level, those that have it below them, so one
    uniform number serves all joins of a level.
    """
    stack: list[Tree] = []
    for index in range(1 << len(uniforms)):
        tree = leaf(energy, start, origin, step_size, limit)
        tally = tally.and_with(tree)
        start = tree.last
        # As in counting by twos: each one at the end of the index is a join that this leaf completes.
        level = 0
        while index >> level & 1:
            tree = joined(stack.pop(), tree, uniforms[level])
            level += 1
        stack.append(tree)
        tally = tally._replace(growing=tally.growing & tree.sound)
    return stack[-1], tally
