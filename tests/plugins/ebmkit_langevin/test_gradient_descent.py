"""Gradient descent: its exact recursion on a bowl, and the modes that it finds."""

from __future__ import annotations

import pytest
import torch
from ebmkit_langevin.gradient_descent import GradientDescent
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ebmkit

laws = settings(deadline=None, max_examples=40, derandomize=True)


def two_wells(x: Tensor) -> Tensor:
    return (x.square() - 1).square().sum(1)


def run(sampler: GradientDescent, energy: ebmkit.Energy, x: Tensor, steps: int) -> Tensor:
    return ebmkit.sample(
        sampler, energy, x, steps=steps, generator=torch.Generator(), trajectory=True
    )


@laws
@given(epsilon=st.floats(0.01, 1.5), beta=st.floats(0, 0.95), curvature=st.floats(0.1, 1))
def test_on_a_bowl_the_points_are_those_of_the_recursion(
    epsilon: float, beta: float, curvature: float
) -> None:
    # x'' = x' − ε k x' + β (x' − x), as the docstring says it.
    x = torch.tensor([[1.0, -3.0]], dtype=torch.float64)
    path = run(
        GradientDescent(epsilon, beta), lambda x: curvature * x.square().sum(1) / 2, x, steps=12
    )
    before, here = x, x
    for point in path:
        before, here = here, here - epsilon * curvature * here + beta * (here - before)
        torch.testing.assert_close(point, here)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_each_point_finds_the_mode_of_its_side(momentum: float) -> None:
    x = torch.tensor([[0.3, 1.3], [-0.2, 0.7], [-1.3, -0.4]])
    # Each is lower than the barrier, which momentum then cannot carry it over.
    found = run(GradientDescent(0.02, momentum), two_wells, x, steps=400)[-1]
    torch.testing.assert_close(found, x.sign())


def test_small_steps_without_momentum_never_lead_uphill() -> None:
    # E'' ≤ 12·1.5² − 4 = 23 on this stretch, so steps of 1/23 are small.
    x = torch.linspace(-1.5, 1.5, 41, dtype=torch.float64)[:, None]
    path = torch.cat([x[None], run(GradientDescent(1 / 23), two_wells, x, steps=30)])
    energies = torch.stack([two_wells(point) for point in path])
    assert (energies.diff(dim=0) <= 1e-15).all()


@pytest.mark.parametrize(("epsilon", "converges"), [(3.5, True), (3.7, False)])
def test_the_bound_on_the_step_size_is_that_of_the_docstring(
    epsilon: float, converges: bool
) -> None:
    # 2(1 + β) σ² = 3.6.
    x = torch.ones(1, 1, dtype=torch.float64)
    end = run(GradientDescent(epsilon, 0.8), lambda x: x.square().sum(1) / 2, x, steps=600)[-1]
    assert (end.abs().item() < 1e-3) == converges


def test_nothing_is_drawn() -> None:
    sampler, g = GradientDescent(), torch.Generator().manual_seed(3)
    before = g.get_state()
    state = sampler.init(two_wells, torch.ones(2, 1))
    assert sampler.draw(state, generator=g) == ()
    assert torch.equal(g.get_state(), before)


def test_new_points_start_at_rest() -> None:
    sampler = GradientDescent(0.1, 0.9)
    state = sampler.init(two_wells, torch.full((2, 1), 0.5))
    noise = sampler.draw(state, generator=torch.Generator())
    moving, _ = sampler.step(two_wells, state, noise, step_size=0.1, momentum=0.9)
    assert moving.move.ne(0).all()
    assert sampler.init(two_wells, moving.x).move.eq(0).all()
