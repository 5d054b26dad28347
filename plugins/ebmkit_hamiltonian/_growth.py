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

    def begun(self, reverse: Tensor) -> Growth:
        """With a doubling begun, the other way where ``reverse`` (batch,) says so."""
        return Growth(
            turned(self.tree, reverse), self.tally, self.doublings + self.tally.growing
        )

    def doubled(self, tree: Tree, tally: Tally, accept: Tensor) -> Growth:
        """With the tree of a doubling, and the tally after it."""
        later = tally.growing & (accept < tree.numbers[0] - self.tree.numbers[0])
        whole, goes_on = joined(self.tree, tree, later)
        return Growth(whole, tally.only(goes_on), self.doublings)


class Pieces(NamedTuple):
    """A doubling that is put together of pieces."""

    index: Tensor
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
        # A momentum is as likely as its opposite: the first doubling need not choose.
        ways = [~growing, *draws.reverse[:LEVELS - 1]]
        for depth, reverse in zip(range(min(LEVELS, most)), ways):
            growth = growth.begun(reverse)
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

        depth = torch.full((), LEVELS, device=none.device)
        return while_loop(goes_on, body, (depth, growth))[1]

    def piece(self, before: Growth | Pieces, levels: int) -> tuple[Tree, Tally]:
        """The tree of the 2^levels leaps that follow the last ones."""
        last, choose = Phase(*before.tree.points[:, 1]), self.draws.choose[:levels].unbind()
        return grown(
            self.force, last, self.origin, self.step_size, self.limit, before.tally, choose
        )

    def pieces(self, growth: Growth, levels: Tensor) -> tuple[Tree, Tally]:
        """The tree of 2^levels pieces, for ``levels`` without dimensions; less where no chain grows."""
        tree, tally, _ = growth
        places = torch.arange(max(len(self.draws.accept) - LEVELS - 1, 1), device=levels.device)

        def goes_on(pieces: Pieces) -> Tensor:
            return (pieces.index >> levels == 0) & pieces.tally.growing.any()

        def body(before: Pieces) -> Pieces:
            index, waiting = before.index, before.waiting
            tree, tally = self.piece(before, LEVELS)

            # As in counting by twos: each one at the end of the index is a join that this completes.
            def completes(carried: tuple[Tensor, Tree, Tally]) -> Tensor:
                return (index >> carried[0]) & 1 == 1

            def join(carried: tuple[Tensor, Tree, Tally]) -> tuple[Tensor, Tree, Tally]:
                level, right, tally = carried
                left = Tree(*(_at(part, level) for part in waiting))
                weights = left.numbers[0], right.numbers[0]
                uniform = _at(self.draws.choose, level + LEVELS)
                later = uniform < weights[1] - torch.logaddexp(*weights)
                tree, goes_on = joined(left, right, later)
                return level + 1, tree, tally.only(goes_on)

            level = torch.zeros_like(index)
            level, tree, tally = while_loop(completes, join, (level, tree, tally))
            waiting = Tree(*(
                torch.where((places == level).view(-1, *[1] * new.ndim), new, old)
                for new, old in zip(tree, waiting, strict=True)
            ))
            return Pieces(index + 1, tree, tally, waiting)

        waiting = Tree(*(part.new_zeros((len(places), *part.shape)) for part in tree))
        pieces = while_loop(
            goes_on, body, Pieces(torch.zeros_like(levels), tree, tally, waiting)
        )
        return pieces.tree, pieces.tally


def _at(x: Tensor, index: Tensor) -> Tensor:
    """One of the parts of x, whose number has no dimensions."""
    return x.index_select(0, index.view(1)).squeeze(0)
