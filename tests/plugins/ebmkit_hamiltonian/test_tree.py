"""Trees of leaps: grown in slices they are those of a loop over one chain and one leap at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from ebmkit_hamiltonian._leapfrog import Phase, leapfrog
from ebmkit_hamiltonian._tree import Force, Tally, Tree, grown, joined, leapt, straight, turned
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

import ebmkit


def bumpy(x: Tensor) -> Tensor:
    return x.square().sum(1) / 2 + x.sum(1).sin()


def banana(x: Tensor) -> Tensor:
    return x[:, 0].square() / 8 + (x[:, 1] - x[:, 0].square() / 2 + 2).square() / 2


def double_well(x: Tensor) -> Tensor:
    return (x[:, 0].square() - 1).square() * 2 + x[:, 1].square() / 2


def walled(x: Tensor) -> Tensor:
    return torch.where(x[:, 0] < 0.6, x.square().sum(1) / 2, torch.nan)


def force_of(energy: Callable[[Tensor], Tensor]) -> Force:
    return lambda x: ebmkit.energy_and_gradient(energy, x)


def started(energy: Callable[[Tensor], Tensor], batch: int, seed: int) -> tuple[Phase, Tensor]:
    """Where chains start, and their H₀."""
    g = torch.Generator().manual_seed(seed)
    x, p = torch.randn(2, batch, 2, generator=g, dtype=torch.float64)
    x = x.clamp(max=0.5)
    energies, gradient = ebmkit.energy_and_gradient(energy, x)
    return Phase(x, p, gradient), energies + p.square().sum(1) / 2


def uniforms(levels: int, batch: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(levels, batch, generator=g, dtype=torch.float64).log()


def fresh(batch: int) -> Tally:
    none = torch.zeros(batch, dtype=torch.float64)
    growing = torch.ones(batch, dtype=torch.bool)
    return Tally(growing, none, none, ~growing)


class _Part(NamedTuple):
    """What the loop below knows of a dyadic part of a tree: its points' numbers, and the drawn one."""

    points: list[int]
    drawn: int
    log_weight: float


class _Slow:
    """A tree of one chain by its definition: leaps one after another, joins as they are due."""

    def __init__(
        self,
        energy: Callable[[Tensor], Tensor],
        start: Phase,
        origin: float,
        step_size: float,
        choose: list[float],
        limit: float,
    ) -> None:
        self.line: list[tuple[Tensor, Tensor]] = []
        self.leaps, self.acceptance, self.diverged, self.growing = 0, 0.0, False, True
        x, p, _ = start
        stack: list[_Part] = []
        for number in range(1 << len(choose)):
            p = p - step_size / 2 * self.gradient(energy, x)
            x = x + step_size * p
            p = p - step_size / 2 * self.gradient(energy, x)
            self.line.append((x, p))
            change = origin - float(energy(x[None])[0]) - float(p.square().sum()) / 2
            change = change if math.isfinite(change) else -math.inf
            if self.growing:
                self.leaps += 1
                self.acceptance += math.exp(min(0.0, change))
                self.diverged = not change >= -limit
                self.growing = not self.diverged
            stack.append(_Part([number], number, change))
            while len(stack) > 1 and len(stack[-1].points) == len(stack[-2].points):
                right, left = stack.pop(), stack.pop()
                level = len(left.points).bit_length() - 1
                most = max(left.log_weight, right.log_weight)
                weights = [
                    math.exp(part.log_weight - most) if most > -math.inf else 0.0
                    for part in (left, right)
                ]
                later = math.exp(choose[level]) * sum(weights) < weights[1]
                total = most + math.log(sum(weights)) if sum(weights) else most
                drawn = (right if later else left).drawn
                stack.append(_Part(left.points + right.points, drawn, total))
                if self.has_turned(left.points, right.points):
                    self.growing = False
        (self.whole,) = stack

    @staticmethod
    def gradient(energy: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return ebmkit.energy_and_gradient(energy, x[None])[1][0]

    def has_turned(self, left: list[int], right: list[int]) -> bool:
        for a, b in ((left[0], right[-1]), (left[0], right[0]), (left[-1], right[-1])):
            (x, p), (y, q) = self.line[a], self.line[b]
            if not (float((y - x) @ p) > 0 and float((y - x) @ q) > 0):
                return True
        return False


@settings(deadline=None, max_examples=60)
@given(
    energy=st.sampled_from([bumpy, banana, double_well, walled]),
    seed=st.integers(0, 10_000),
    levels=st.integers(0, 4),
    limit=st.sampled_from([0.05, 1000.0]),
    step_size=st.floats(0.05, 1.8),
)
def test_a_tree_grown_in_slices_is_that_of_one_leap_at_a_time(
    energy: Callable[[Tensor], Tensor], seed: int, levels: int, limit: float, step_size: float
) -> None:
    batch = 8
    start, origin = started(energy, batch, seed)
    choose = uniforms(levels, batch, seed)
    before = fresh(batch)
    ended = torch.arange(batch) == 3
    before = before._replace(growing=~ended, leaps=before.leaps + 2, acceptance=before.leaps + 0.5)
    epsilon = torch.tensor(step_size, dtype=torch.float64)
    tree, tally = grown(force_of(energy), start, origin, epsilon, limit, before, choose.unbind())
    assert tree.points.shape == (3, 3, batch, 2) and tree.numbers.shape == (2, batch)
    for row in range(batch):
        own = Phase(*(part[row] for part in start))
        slow = _Slow(energy, own, float(origin[row]), step_size, choose[:, row].tolist(), limit)
        on = not ended[row]
        assert tally.growing[row] == (on and slow.growing)
        assert tally.leaps[row] == 2 + on * slow.leaps
        assert float(tally.acceptance[row]) == pytest.approx(0.5 + on * slow.acceptance)
        assert tally.diverged[row] == (on and slow.diverged)
        if not slow.growing:
            continue  # such a tree is never used
        for place, number in enumerate((0, -1, slow.whole.drawn)):
            x, p = slow.line[number]
            torch.testing.assert_close(tree.points[0, place, row], x)
            torch.testing.assert_close(tree.points[1, place, row], p)
        drawn = tree.points[0, 2]
        gradients = [slow.gradient(energy, x) for x in tree.points[0, :, row]]
        torch.testing.assert_close(tree.points[2, :, row], torch.stack(gradients))
        assert float(tree.numbers[0, row]) == pytest.approx(slow.whole.log_weight)
        torch.testing.assert_close(tree.numbers[1, row], energy(drawn)[row])


def weighing(energies: list[float]) -> Force:
    """A force of nothing, with such energies after one leap after another."""
    left = list(energies)
    return lambda x: (torch.full_like(x[:, 0], left.pop(0)), torch.zeros_like(x))


def on_a_line(batch: int) -> Phase:
    """Chains that go on by the step size a leap, from 0."""
    one = torch.ones(batch, 1, dtype=torch.float64)
    return Phase(0 * one, one, 0 * one)


@given(
    weights=st.lists(st.floats(0.0, 4.0), min_size=4, max_size=4), shift=st.floats(-300.0, 300.0)
)
def test_each_point_is_drawn_by_its_weight(weights: list[float], shift: float) -> None:
    # All pairs of 200 × 200 evenly spread numbers, so that shares are right to two cells of the grid.
    side = 200
    grid = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    low, high = (part.flatten().log() for part in torch.meshgrid(grid, grid, indexing="ij"))
    batch, step_size = side**2, torch.tensor(1.0, dtype=torch.float64)
    force = weighing([-w for w in weights])
    # H is E + ½ on the way.
    origin = torch.full((batch,), 0.5 + shift, dtype=torch.float64)
    tree, tally = grown(
        force, on_a_line(batch), origin, step_size, 1000.0, fresh(batch), (low, high)
    )
    drawn = tree.points[0, 2].flatten().long() - 1
    shares = torch.bincount(drawn, minlength=4) / batch
    expected = torch.tensor(weights).softmax(0)
    assert (shares - expected).abs().max() < 2 / side
    assert tally.growing.all()
    total = torch.tensor(weights, dtype=torch.float64).logsumexp(0) + shift
    torch.testing.assert_close(tree.numbers[0, 0], total)
    energies = -torch.tensor(weights, dtype=torch.float64)
    assert torch.equal(tree.numbers[1], energies[drawn])


@pytest.mark.parametrize("nothing", [math.inf, math.nan])
def test_a_point_without_weight_is_never_drawn(nothing: float) -> None:
    u = torch.tensor([1e-300, 0.5, 1 - 2**-53], dtype=torch.float64).log()
    step_size = torch.tensor(1.0, dtype=torch.float64)
    for energies, expected in (([0.0, nothing], 1), ([nothing, 0.0], 2)):
        tree, tally = grown(
            weighing(energies), on_a_line(3), 0 * u, step_size, 1000.0, fresh(3), (u,)
        )
        assert (tree.points[0, 2] == expected).all() and (tree.numbers[1] == 0).all()
        assert tally.diverged.all() and not tally.growing.any()
        assert (tally.leaps == 3 - expected).all()


def test_a_drawn_point_is_one_of_the_tree_s_to_the_bit() -> None:
    start, origin = started(bumpy, 500, 1)
    force, step_size = force_of(bumpy), torch.tensor(0.4, dtype=torch.float64)
    points, energies, _ = leapt(force, start, step_size, 8)
    tree, _ = grown(
        force, start, origin, step_size, 1000.0, fresh(500), uniforms(3, 500, 2).unbind()
    )
    same = (torch.stack(points) == tree.points[:, 2, None]).all(3).all(0)
    assert (same.sum(0) == 1).all()
    assert torch.equal(energies.T[same.T], tree.numbers[1])
    # Every one of the points is drawn by some chain.
    assert same.any(1).all()


def test_a_leap_is_the_leapfrog_s_and_weighs_by_the_change_of_the_hamiltonian() -> None:
    start, origin = started(bumpy, 6, 5)
    step_size = torch.tensor(0.8, dtype=torch.float64)
    tree, tally = grown(force_of(bumpy), start, origin, step_size, 0.05, fresh(6), ())
    end = leapfrog(bumpy, start, step_size, 1)[0]
    torch.testing.assert_close(tree.points, torch.stack([torch.stack(end)] * 3, 1))
    change = origin - bumpy(end.x) - end.momentum.square().sum(1) / 2
    torch.testing.assert_close(tree.numbers, torch.stack((change, bumpy(end.x))))
    assert torch.equal(tally.growing, change >= -0.05)
    assert tally.growing.any() and not tally.growing.all()


def some_trees(batch: int, seed: int) -> Tree:
    g = torch.Generator().manual_seed(seed)
    points = torch.randn(3, 3, batch, 3, generator=g, dtype=torch.float64)
    return Tree(points, torch.randn(2, batch, generator=g, dtype=torch.float64))


def test_a_joined_tree_is_straight_where_it_has_not_turned() -> None:
    left, right = some_trees(60, 1), some_trees(60, 2)
    later = torch.arange(60) % 3 == 0
    whole, goes_on = joined(left, right, later)
    assert torch.equal(whole.points[:, 0], left.points[:, 0])
    assert torch.equal(whole.points[:, 1], right.points[:, 1])
    drawn = torch.where(later[:, None], right.points[:, 2], left.points[:, 2])
    assert torch.equal(whole.points[:, 2], drawn)
    total = (left.numbers[0].exp() + right.numbers[0].exp()).log()
    torch.testing.assert_close(whole.numbers[0], total)
    energies = torch.where(later, right.numbers[1], left.numbers[1])
    assert torch.equal(whole.numbers[1], energies)
    (x0, x1), (p0, p1) = left.points[0, :2], left.points[1, :2]
    (x2, x3), (p2, p3) = right.points[0, :2], right.points[1, :2]
    ahead = torch.ones(60, dtype=torch.bool)
    for a, b, p, q in ((x0, x3, p0, p3), (x0, x2, p0, p2), (x1, x3, p1, p3)):
        ahead &= (((b - a) * p).sum(1) > 0) & (((b - a) * q).sum(1) > 0)
    assert torch.equal(goes_on, ahead)


def test_straight_is_ahead_at_both_ends_and_with_the_next_point() -> None:
    one, back = torch.ones(1, 1), -torch.ones(1, 1)
    # Ahead at one end alone is not enough, whichever end it is.
    for first, last, expected in ((one, one, True), (back, one, False), (one, back, False)):
        start, end = Phase(0 * one, first, one), Phase(one, last, one)
        assert straight(start, start, end, end).item() is expected
    # A half that turns with the next point of the other is enough, though the whole looks straight.
    ends = [Phase(at * one, one, one) for at in (0.0, 2.0, 3.0, 5.0)]
    assert straight(*ends).item() is True
    assert straight(ends[0], ends[1], ends[2]._replace(x=-one), ends[3]).item() is False
    assert straight(ends[0], ends[1]._replace(x=6 * one), ends[2], ends[3]).item() is False


def test_what_is_not_drawn_may_be_anything() -> None:
    kept = some_trees(2, 3)
    found = Tree(kept.points * math.nan, kept.numbers * math.inf)
    whole, _ = joined(kept, found, torch.tensor([False, True]))
    assert torch.equal(whole.points[:, 2, 0], kept.points[:, 2, 0])
    assert whole.numbers[1, 0] == kept.numbers[1, 0]
    assert whole.points[:, 2, 1].isnan().all()


def test_trees_turn_where_it_is_said() -> None:
    tree = some_trees(4, 4)
    reverse = torch.tensor([True, False, True, False])
    after = turned(tree, reverse)
    assert torch.equal(after.points[:, :, ~reverse], tree.points[:, :, ~reverse])
    assert torch.equal(after.numbers, tree.numbers)
    signs = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)[:, None, None]
    for place, other in ((0, 1), (1, 0)):
        back = signs * tree.points[:, other]
        assert torch.equal(after.points[:, place][:, reverse], back[:, reverse])
    assert torch.equal(after.points[::2, 2], tree.points[::2, 2])


def test_trees_of_one_point_are_that_point() -> None:
    start, _ = started(bumpy, 5, 6)
    tree = Tree.of(start, bumpy(start.x))
    assert torch.equal(tree.points, torch.stack([torch.stack(start)] * 3, 1))
    assert torch.equal(tree.numbers, torch.stack((0 * bumpy(start.x), bumpy(start.x))))


def test_growth_is_a_graph_of_the_same_numbers() -> None:
    start, origin = started(bumpy, 6, 6)
    tally, choose = fresh(6), uniforms(2, 6, 7)
    step_size = torch.tensor(0.4, dtype=torch.float64)

    def both(*arguments: Tensor) -> list[Tensor]:
        x, p, gradient, origin, step_size, *choose = arguments
        start = Phase(x, p, gradient)
        found = grown(force_of(bumpy), start, origin, step_size, 0.2, tally, choose)
        whole = joined(found[0], found[0], found[1].growing)
        return pytree.tree_leaves((found, whole))

    make = make_fx(both, tracing_mode="fake", _allow_non_fake_inputs=True)
    graph = make(*start, origin, step_size, *choose)
    again, other = started(bumpy, 6, 8)
    assert (choose != choose.flip(1)).all()
    for arguments in (
        (*start, origin, step_size, *choose),
        (*again, other, step_size / 2, *choose.flip(1)),
    ):
        pairs = list(zip(both(*arguments), graph(*arguments), strict=True))
        assert len(pairs) == 9
        assert all(torch.equal(a, b) for a, b in pairs)


def test_numbers_made_of_normal_pairs_are_uniform() -> None:
    # Kolmogorov's distance of n uniform numbers is above 2.75 / √n with probability below 6e-7.
    n = 100_000
    g = torch.Generator().manual_seed(9)
    pairs = torch.randn(n, 2, generator=g, dtype=torch.float64)
    found = ebmkit.log_uniform(pairs).exp().sort().values
    even = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    assert (found - even).abs().max() < 2.75 / math.sqrt(n)
