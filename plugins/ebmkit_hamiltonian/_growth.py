"""Trajectories that grow by doubling, for all chains at once, until none grows any more."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ebmkit import while_loop
from ebmkit_hamiltonian._leapfrog import Phase
from ebmkit_hamiltonian._tree import Force, Tally, Tree, grown, joined, turned

LEVELS = 3
"""Trees of at most 2^LEVELS leaps are grown in one piece; larger ones are put together of pieces, and
end where no chain grows any more."""


class Draws(NamedTuple):
    """Random numbers of trajectories; uniform ones as their logarithms."""

    reverse: Tensor
    """Whether a doubling goes the other way than the one before it, (doublings − 1, batch)."""
    accept: Tensor
    """Which doublings the next point is drawn from, (doublings, batch), uniform."""
    choose: Tensor
    """Which half of the points at each level of a doubling, (doublings, batch), uniform."""


class Growth(NamedTuple):
    """Trajectories while they grow, at their last points."""

    tree: Tree
    tally: Tally
    doublings: Tensor
    """How many were begun, (batch,)."""

    def begun(self, reverse: Tensor | None) -> Growth:
        """With a doubling begun, the other way where ``reverse`` (batch,) says so."""
        tree = self.tree if reverse is None else turned(self.tree, reverse)
        return Growth(tree, self.tally, self.doublings + self.tally.growing)

    def doubled(self, tree: Tree, tally: Tally, accept: Tensor) -> Growth:
        """With the tree of a doubling, and the tally after it."""
        later = tally.growing & (accept < tree.numbers[0] - self.tree.numbers[0])
        whole, goes_on = joined(self.tree, tree, later)
        tally = tally._replace(growing=tally.growing & goes_on)
        return Growth(whole, tally, self.doublings)


class Pieces(NamedTuple):
    """A doubling that is put together of pieces."""

    number: Tensor
    """How many there are, without dimensions."""
    tree: Tree
    """What the last one is part of."""
    tally: Tally
    waiting: Tree
    """Trees of 1, 2, 4, ... pieces to which what follows is joined, (levels, ...)."""


class Course(NamedTuple):
    """What trajectories follow."""

    force: Force
    step_size: Tensor
    """ε, without dimensions."""
    origin: Tensor
    """H₀, (batch,)."""
    limit: float
    """H − H₀ at which a trajectory has diverged."""
    draws: Draws

    def followed(self, start: Phase, energies: Tensor) -> Growth:
        """The trajectories that lead from ``start``, grown until they end."""
        draws, most = self.draws, len(self.draws.accept)
        none = torch.zeros_like(energies)
        growing = torch.ones_like(none, dtype=torch.bool)
        growth = Growth(Tree.of(start, energies), Tally(growing, none, none, ~growing), none)
        for depth in range(min(LEVELS, most)):
            # A momentum is as likely as its opposite: the first doubling need not choose.
            growth = growth.begun(draws.reverse[depth - 1] if depth else None)
            growth = growth.doubled(*self.piece(growth, depth), draws.accept[depth])
        if most <= LEVELS:
            return growth

        def goes_on(carried: tuple[Tensor, Growth]) -> Tensor:
            depth, growth = carried
            return (depth < most) & growth.tally.growing.any()

        def body(carried: tuple[Tensor, Growth]) -> tuple[Tensor, Growth]:
            depth, growth = carried
            growth = growth.begun(_at(draws.reverse, depth - 1))
            tree, tally = self.pieces(growth, depth - LEVELS)
            return depth + 1, growth.doubled(tree, tally, _at(draws.accept, depth))

        levels = torch.full((), LEVELS, device=none.device)
        return while_loop(goes_on, body, (levels, growth))[1]

    def piece(self, before: Growth | Pieces, levels: int) -> tuple[Tree, Tally]:
        """The tree of the 2^levels leaps that follow the last ones."""
        last, choose = Phase(*before.tree.points[:, 1]), self.draws.choose[:levels].unbind()
        return grown(
            self.force, last, self.origin, self.step_size, self.limit, before.tally, choose
        )

    def pieces(self, growth: Growth, levels: Tensor) -> tuple[Tree, Tally]:
        """The tree of 2^levels pieces, ``levels`` being without dimensions; of fewer where no chain
        grows any more."""
        most = max(len(self.draws.accept) - LEVELS - 1, 1)
        places = torch.arange(most, device=levels.device)

        def goes_on(before: Pieces) -> Tensor:
            return (before.number >> levels == 0) & before.tally.growing.any()

        def body(before: Pieces) -> Pieces:
            tree, tally = self.piece(before, LEVELS)
            level, tree, growing = self.completed(before, tree, tally.growing)
            waiting = (
                torch.where((places == level).view(-1, *[1] * new.ndim), new, old)
                for new, old in zip(tree, before.waiting, strict=True)
            )
            tally = tally._replace(growing=growing)
            return Pieces(before.number + 1, tree, tally, Tree(*waiting))

        none = torch.zeros_like(levels)
        waiting = Tree(*(part.new_zeros(most, *part.shape) for part in growth.tree))
        after = while_loop(goes_on, body, Pieces(none, growth.tree, growth.tally, waiting))
        return after.tree, after.tally

    def completed(self, before: Pieces, tree: Tree, growing: Tensor) -> tuple[Tensor, Tree, Tensor]:
        """The largest tree that a piece completes, how many levels of pieces it has, and which chains
        still grow then."""
        number, waiting = before.number, before.waiting

        # As in counting by twos: each one at the end of the number is a join.
        def goes_on(carried: tuple[Tensor, Tree, Tensor]) -> Tensor:
            return (number >> carried[0]) & 1 == 1

        def body(carried: tuple[Tensor, Tree, Tensor]) -> tuple[Tensor, Tree, Tensor]:
            level, right, growing = carried
            left = Tree(*(_at(part, level) for part in waiting))
            weights = left.numbers[0], right.numbers[0]
            uniform = _at(self.draws.choose, level + LEVELS)
            whole, straight = joined(left, right, uniform < weights[1] - torch.logaddexp(*weights))
            return level + 1, whole, growing & straight

        return while_loop(goes_on, body, (torch.zeros_like(number), tree, growing))


def _at(x: Tensor, index: Tensor) -> Tensor:
    """One of the parts of x, its number being a tensor without dimensions."""
    return x.index_select(0, index.view(1)).squeeze(0)
