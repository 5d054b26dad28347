"""Trees of leaps: points are chosen by weight, and leaf and join are graphs."""

from __future__ import annotations

import math

import torch
from ebmkit_hamiltonian._leapfrog import Phase, hamiltonian
from ebmkit_hamiltonian._tree import Choice, Tree, joined, leaf, straight, taken_from, turned
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

import ebmkit


def bumpy(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1) / 2 + x.flatten(1).sum(1).sin()


def phase(x: Tensor, momentum: Tensor) -> Phase:
    return Phase(x, momentum, ebmkit.energy_and_gradient(bumpy, x)[1])


def some(batch: int, seed: int) -> tuple[Phase, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, p = torch.randn(2, batch, 3, generator=g, dtype=torch.float64)
    return phase(x, p), hamiltonian(bumpy(x), p)


def _points(log_weights: list[float], batch: int) -> list[Tree]:
    """Trees of one point each, on a straight line, all chains alike."""
    p = torch.ones(batch, 1, dtype=torch.float64)
    sound = torch.ones(batch, dtype=torch.bool)
    return [
        Tree(
            Phase(i * p, p, p),
            Phase(i * p, p, p),
            Choice(i * p, i * p[:, 0], -i * p),
            log_weight * p[:, 0],
            sound,
        )
        for i, log_weight in enumerate(log_weights)
    ]


@given(
    weights=st.lists(st.floats(0.0, 4.0), min_size=4, max_size=4), shift=st.floats(-300.0, 300.0)
)
def test_each_point_is_chosen_by_its_weight(weights: list[float], shift: float) -> None:
    # All pairs of 200 × 200 evenly spread numbers, so that shares are right to two cells of the grid.
    side = 200
    grid = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    low, high = (part.flatten() for part in torch.meshgrid(grid, grid, indexing="ij"))
    a, b, c, d = _points([w + shift for w in weights], side**2)
    tree = joined(joined(a, b, low), joined(c, d, low), high)
    shares = torch.bincount(tree.choice.x.flatten().long(), minlength=4) / side**2
    expected = torch.tensor(weights).softmax(0)
    assert (shares - expected).abs().max() < 2 / side
    assert tree.sound.all()
    total = torch.tensor(weights, dtype=torch.float64).logsumexp(0) + shift
    torch.testing.assert_close(tree.log_weight[0], total)
    assert torch.equal(tree.choice.energy, tree.choice.x[:, 0])
    assert torch.equal(tree.choice.gradient, -tree.choice.x)


def test_a_point_without_weight_is_never_chosen() -> None:
    u = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    heavy, light = _points([0.0, -math.inf], 3)
    assert torch.equal(joined(heavy, light, u).choice.x, heavy.choice.x)
    assert torch.equal(joined(light, heavy, u).choice.x, heavy.choice.x)


def test_a_choice_is_one_of_the_two_to_the_bit() -> None:
    g = torch.Generator().manual_seed(1)
    left, right = _points([0.0, 0.0], 500)
    values = torch.randn(2, 500, 1, generator=g) * 10.0 ** torch.randint(
        -20, 20, (500, 1), generator=g
    )
    left, right = (
        tree._replace(choice=Choice(value, value[:, 0], value))
        for tree, value in zip((left, right), values.double(), strict=True)
    )
    u = torch.rand(500, generator=g, dtype=torch.float64)
    chosen = joined(left, right, u).choice
    expected = torch.where(u[:, None] < 0.5, right.choice.x, left.choice.x)
    assert torch.equal(chosen.x, expected)
    assert torch.equal(chosen.energy, expected[:, 0]) and torch.equal(chosen.gradient, expected)


def test_a_tree_is_sound_where_both_halves_are_and_it_has_not_turned() -> None:
    g = torch.Generator().manual_seed(2)
    halves = []
    for sound in ([True, True, False, True], [True, False, True, True]):
        x, p = torch.randn(2, 4, 3, generator=g, dtype=torch.float64)
        z = phase(x, p)
        zero = torch.zeros(4, dtype=torch.float64)
        halves.append(Tree(z, z, Choice(x, zero, x), zero, torch.tensor(sound)))
    left, right = halves
    rho = right.last.x - left.first.x
    ahead = (rho * left.first.momentum).sum(1), (rho * right.last.momentum).sum(1)
    away = (ahead[0] > 0) & (ahead[1] > 0)
    u = torch.full((4,), 0.5, dtype=torch.float64)
    assert torch.equal(straight(left.first, left.last, right.first, right.last), away)
    assert torch.equal(joined(left, right, u).sound, left.sound & right.sound & away)
    # Ahead at one end alone is not enough, whichever end it is.
    one, back = torch.ones(1, 1), -torch.ones(1, 1)
    for first, last, expected in ((one, one, True), (back, one, False), (one, back, False)):
        start, end = Phase(0 * one, first, one), Phase(one, last, one)
        assert straight(start, start, end, end).item() is expected
    # A half that turns with the next point of the other is enough, though the whole looks straight.
    ends = [Phase(at * one, one, one) for at in (0.0, 2.0, 3.0, 5.0)]
    assert straight(*ends).item() is True
    assert straight(ends[0], ends[1], ends[2]._replace(x=-one), ends[3]).item() is False
    assert straight(ends[0], ends[1]._replace(x=6 * one), ends[2], ends[3]).item() is False


def test_ends_change_over_where_it_is_said() -> None:
    front, _ = some(4, 3)
    back, _ = some(4, 4)
    reverse = torch.tensor([True, False, True, False])
    ahead, behind = turned(front, back, reverse)
    for a, b, f, k in zip(ahead, behind, front, back, strict=True):
        assert torch.equal(a, torch.where(reverse[:, None], k, f))
        assert torch.equal(b, torch.where(reverse[:, None], f, k))


def test_what_is_not_taken_may_be_anything() -> None:
    x = torch.ones(2, 3)
    kept, found = Choice(x, x[:, 0], x), Choice(x * math.nan, x[:, 0] * math.inf, x * math.nan)
    after = taken_from(found, torch.tensor([False, False]), kept)
    assert all(torch.equal(a, b) for a, b in zip(after, kept, strict=True))
    after = taken_from(kept, torch.tensor([True, False]), found)
    assert after.x[0].isfinite().all() and after.x[1].isnan().all()


def test_a_leaf_weighs_by_the_change_of_the_hamiltonian() -> None:
    start, origin = some(6, 5)
    step_size = torch.tensor(0.8, dtype=torch.float64)
    tree = leaf(bumpy, start, origin, step_size, 0.05)
    after = hamiltonian(bumpy(tree.last.x), tree.last.momentum)
    torch.testing.assert_close(tree.log_weight, origin - after)
    assert torch.equal(tree.sound, after - origin <= 0.05)
    assert tree.sound.any() and not tree.sound.all()


def test_leaf_and_join_are_graphs_of_the_same_numbers() -> None:
    start, origin = some(6, 6)
    step_size = torch.tensor(0.4, dtype=torch.float64)
    u = torch.rand(6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)

    def two(start: Phase, origin: Tensor, step_size: Tensor, u: Tensor) -> Tree:
        left = leaf(bumpy, start, origin, step_size, 1000.0)
        return joined(left, leaf(bumpy, left.last, origin, step_size, 1000.0), u)

    graph = make_fx(two, tracing_mode="fake")(start, origin, step_size, u)
    again, other = some(6, 8)
    for arguments in ((start, origin, step_size, u), (again, other, step_size / 2, 1 - u)):
        expected = pytree.tree_leaves(two(*arguments))
        found = pytree.tree_leaves(graph(*arguments))
        assert len(found) == 11
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
