"""Trees of leaps: what the No-U-Turn sampler grows, for all chains at once.

All chains grow at the same pace, so which points are joined when is the same for all of them and known
beforehand: nothing here follows a value of a tensor. Whether a chain's tree still grows is a mask
beside it; a point that comes after its end is computed and not used. Events are rows of numbers here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ebmkit_hamiltonian._leapfrog import Phase

Force = Callable[[Tensor], tuple[Tensor, Tensor]]
"""E (batch,) and ∇E (batch, size) of points (batch, size)."""


class Tree(NamedTuple):
    """Consecutive points of a trajectory, their momenta in the direction of travel: the first of them,
    the last, and one drawn in proportion to their weights exp(H₀ − H).

    Two large tensors go round a loop faster than many small ones.
    """

    points: Tensor
    """x, p and ∇E(x) of the first point, the last and the drawn one, (3, 3, batch, size)"""
    numbers: Tensor
    """Logarithm of the sum of all points' weights, and E of the drawn one, (2, batch)"""

    @classmethod
    def of(cls, start: Phase, energies: Tensor) -> Tree:
        """Trees of one point each, where H is H₀."""
        points = torch.stack(start)
        return cls(
            torch.stack((points, points, points), 1),
            torch.stack((torch.zeros_like(energies), energies)),
        )


class Tally(NamedTuple):
    """What became of the leaps so far, each (batch,)."""

    growing: Tensor
    """Whether the trajectory still grows."""
    leaps: Tensor
    """How many came while it did."""
    acceptance: Tensor
    """Sum of their min(1, exp(H₀ − H))."""
    diverged: Tensor
    """Whether one of them diverged."""

    def and_with(self, log_weights: Tensor, sound: Tensor, end: Tensor) -> Tally:
        """With further leaps: H₀ − H after them, and whether they did not diverge, both (leaps, batch);
        and which of them is the last that counts, (batch,), as many as there are where growth goes
        on."""
        counted = (_counting(end, len(sound)) <= end) & self.growing
        return Tally(
            self.growing & (end == len(sound)),
            self.leaps + counted.sum(0),
            self.acceptance + torch.where(counted, log_weights.clamp(max=0).exp(), 0).sum(0),
            self.diverged | (counted & ~sound).any(0),
        )


def grown(
    force: Force,
    start: Phase,
    origin: Tensor,
    step_size: Tensor,
    limit: float,
    tally: Tally,
    choose: Sequence[Tensor],
) -> tuple[Tree, Tally]:
    """The tree of the 2^k leaps that follow ``start``, and the tally after it, in which growth ends at
    a leap that diverged, or that completed a dyadic part of the tree which has turned round.

    ``origin`` is H₀ (batch,); ``choose`` are the logarithms of k uniform numbers (batch,). Which point
    is drawn hangs on one join at each level, those that have it below them, so one number serves all
    joins of a level. They are made level by level, all of a level at once.
    """
    points, energies, hamiltonians = leapt(force, start, step_size, 1 << len(choose))
    leaps, batch = energies.shape
    # What is not finite has no weight, and diverges.
    none = -torch.inf
    log_weights = total = (origin - hamiltonians).nan_to_num(none, none, none)
    sound = log_weights >= -limit
    numbers = _counting(energies, leaps)
    end = torch.where(sound, leaps, numbers).amin(0)
    drawn = torch.arange(leaps, device=origin.device)[:, None].expand(leaps, batch)
    for level, uniform in enumerate(choose):
        size, both = 1 << level, 2 << level
        ends = [Phase(*(part[i::both] for part in points)) for i in (0, size - 1, size, both - 1)]
        goes_on = straight(*ends) if level else straight(ends[0], ends[0], ends[3], ends[3])
        end = torch.minimum(end, torch.where(goes_on, leaps, numbers[both - 1 :: both]).amin(0))
        left, right = total[::2], total[1::2]
        total = torch.logaddexp(left, right)
        drawn = torch.where(uniform < right - total, drawn[1::2], drawn[::2])
    rows = drawn[0] * batch + torch.arange(batch, device=origin.device)
    kept = [one for part in points for one in (part[0], part[-1], part.flatten(0, 1)[rows])]
    tree = Tree(
        torch.stack(kept).view(3, 3, *start.x.shape),
        torch.stack((total[0], energies.flatten()[rows])),
    )
    return tree, tally.and_with(log_weights, sound, end)


def leapt(
    force: Force, start: Phase, step_size: Tensor, leaps: int
) -> tuple[Phase, Tensor, Tensor]:
    """The points after each of so many leaps (leaps, batch, size), and E and H there (leaps, batch).

    Three tensors: compiled, one of them all takes half as long again to be made and read.
    """
    x, half = start.x, torch.addcmul(start.momentum, start.gradient, step_size, value=-0.5)
    points: tuple[list[Tensor], ...] = [], [], []
    energies, hamiltonians = [], []
    for _ in range(leaps):
        x = torch.addcmul(x, half, step_size)
        energy, gradient = force(x)
        momentum = torch.addcmul(half, gradient, step_size, value=-0.5)
        half = torch.addcmul(half, gradient, step_size, value=-1)
        for column, found in zip(points, (x, momentum, gradient), strict=True):
            column.append(found)
        energies.append(energy)
        # H already here: compiled code would take it from the momenta again at each of its uses.
        hamiltonians.append(torch.add(energy, _inner(momentum, momentum), alpha=0.5))
    return Phase(*map(torch.stack, points)), torch.stack(energies), torch.stack(hamiltonians)


def joined(left: Tree, right: Tree, later: Tensor) -> tuple[Tree, Tensor]:
    """Two trees as one, ``right`` being where ``left`` leads to, its drawn point that of ``right``
    where ``later`` (batch,) says so; and whether it has not turned round, (batch,)."""
    (total, energies), (added, others) = left.numbers, right.numbers
    chosen = torch.where(later[:, None], right.points[:, 2], left.points[:, 2])
    tree = Tree(
        torch.stack((left.points[:, 0], right.points[:, 1], chosen), 1),
        torch.stack((torch.logaddexp(total, added), torch.where(later, others, energies))),
    )
    ends = (Phase(*points[:, i]) for points in (left.points, right.points) for i in (0, 1))
    return tree, straight(*ends)


def straight(first: Phase, middle: Phase, after: Phase, last: Phase) -> Tensor:
    """Whether trajectories (…, batch, size), from ``first`` to ``middle`` and on from ``after`` to
    ``last``, have not turned round, (…, batch); nor has either half with the point of the other that is
    next to it.

    Where both halves are nearly half a period, the whole is a period and a leap, which looks straight.
    """
    least = _apart(first, last)
    if first is not middle:
        least = torch.minimum(least, torch.minimum(_apart(first, after), _apart(middle, last)))
    return least > 0


def _apart(first: Phase, last: Phase) -> Tensor:
    """The lesser of ρ·p at both ends, positive where they move apart.

    ρ, the momenta that led from one to the other, sums to their distance.
    """
    rho = last.x - first.x
    return torch.minimum(_inner(rho, first.momentum), _inner(rho, last.momentum))


def turned(tree: Tree, reverse: Tensor) -> Tree:
    """The trees as they are passed in the other direction where ``reverse`` (batch,) says so."""
    first, last, drawn = tree.points.unbind(1)
    x, momentum, gradient = torch.stack((last, first, drawn), 1)
    back = torch.stack((x, -momentum, gradient))
    return tree._replace(points=torch.where(reverse[:, None], back, tree.points))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)


def _counting(like: Tensor, count: int) -> Tensor:
    """0, 1, … (count, 1)"""
    return torch.arange(count, device=like.device, dtype=like.dtype)[:, None]
