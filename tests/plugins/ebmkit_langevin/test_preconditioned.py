"""Preconditioned Langevin: its law at a held preconditioner, and how that is adapted.

Every statistical comparison is at five standard errors: a false alarm has probability below 6e-7.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ebmkit_langevin.langevin import Langevin
from ebmkit_langevin.preconditioned import PreconditionedLangevin, PreconditionedLangevinState
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ebmkit
from ebmkit.chains import run_chain

laws = settings(deadline=None, max_examples=40, derandomize=True)
SIGMA = torch.tensor([0.05, 1.0, 20.0])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(x: Tensor) -> Tensor:
    return (x / SIGMA.to(x)).square().sum(1) / 2


def held(x: Tensor, square: Tensor, steps: float = 5.0) -> PreconditionedLangevinState:
    """A state whose adaptation has ended at v = ``square``."""
    zero = torch.zeros((), dtype=x.dtype)
    return PreconditionedLangevinState(x, square.to(x), zero + steps, zero)


def run(
    sampler: Any, energy: Any, state: Any, steps: int, g: torch.Generator, **values: float
) -> Any:
    values = values or {"step_size": sampler.step_size}
    for _ in range(steps):
        state, _ = sampler.step(energy, state, sampler.draw(state, generator=g), **values)
    return state


def preconditioner(sampler: PreconditionedLangevin, state: Any) -> Tensor:
    result: Tensor = 1 / (sampler.damping + state.square[0].double().pow(sampler.power))
    return result


@laws
@given(
    sigma=st.floats(0.1, 10),
    square=st.floats(0, 10),
    damping=st.floats(1e-3, 1),
    power=st.floats(0.1, 1),
    ratio=st.floats(0.01, 1.9),
)
def test_the_variance_at_a_held_preconditioner_is_as_derived(
    sigma: float, square: float, damping: float, power: float, ratio: float
) -> None:
    # x' = a x + b z, read off at (x, z) = (1, 0) and (0, 1), has variance b² / (1 − a²).
    sampler = PreconditionedLangevin(damping=damping, power=power)
    g = 1 / (damping + square**power)
    epsilon = ratio * sigma**2 / g
    x, z = (torch.eye(2, dtype=torch.float64)[:, i : i + 1] for i in range(2))
    state = held(x, torch.full((1, 1), square))
    after, _ = sampler.step(
        lambda x: x.square().sum(1) / (2 * sigma**2), state, z, step_size=epsilon
    )
    a, b = after.x.squeeze(1).tolist()
    assert a == pytest.approx(1 - epsilon * g / sigma**2, abs=1e-6)
    expected = sigma**2 / (1 - epsilon * g / (2 * sigma**2))
    assert b**2 / (1 - a**2) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_adapted_chains_have_the_variance_of_the_preconditioner_that_they_found(
    power: float,
) -> None:
    # The widest direction at p = ½ is forgotten at the rate εG/σ² = ε/σ, so it starts in place.
    n, epsilon = 20_000, {0.5: 0.04, 1.0: 0.4}[power]
    sampler = PreconditionedLangevin(epsilon, damping=1e-12, power=power)
    x = SIGMA * torch.randn(n, 3, generator=generator(1))
    state = run(sampler, gaussian, sampler.init(gaussian, x), 150, generator(2))
    g, variance = preconditioner(sampler, state), SIGMA.double().square()
    expected = variance / (1 - epsilon * g / (2 * variance))
    if power == 1:
        # v = Var x / σ⁴ at the fixed point: Var x = σ² (1 + ε/2), the same in every direction.
        torch.testing.assert_close(expected, variance * 1.2, rtol=0.02, atol=0)
    else:
        expected[2] = variance[2]  # has not moved yet, and is biased by 1e-3 of it in the end
    found = state.x.double().var(0)
    assert ((found - expected).abs() < expected * (5 * math.sqrt(2 / n) + 2e-3)).all()


def test_fishers_preconditioner_forgets_every_direction_at_one_rate() -> None:
    # From 3σ away in each, and with p = 1: narrow and wide ones come home together.
    n, epsilon = 20_000, 0.2
    sampler = PreconditionedLangevin(epsilon, damping=1e-12, power=1.0)
    state = sampler.init(gaussian, 3 * SIGMA.expand(n, 3))
    state = run(sampler, gaussian, state, 150, generator(3))
    variance = SIGMA.double().square() * (1 + epsilon / 2)
    x = state.x.double()
    assert (x.mean(0).abs() < 5 * (variance / n).sqrt()).all()
    assert ((x.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / n) + 0.02).all()


def mixture(x: Tensor) -> Tensor:
    centres = torch.tensor([-1.2, 1.6], dtype=x.dtype)
    weights = torch.tensor([0.3, 0.7], dtype=x.dtype)
    return -torch.logsumexp(weights.log() - (x - centres).square() / (2 * 0.36), -1)


def test_moments_on_a_mixture_match_the_transition_kernel_while_adapting() -> None:
    n, epsilon = 40_000, 0.15
    sampler = PreconditionedLangevin(epsilon)
    state = sampler.init(mixture, torch.randn(n, 1, generator=generator(4)))
    state = run(sampler, mixture, state, 250, generator(5))
    step = float(epsilon * preconditioner(sampler, state))
    grid = torch.linspace(-7, 7, 701, dtype=torch.float64)[:, None]
    drift = grid - step * ebmkit.energy_and_gradient(mixture, grid)[1]
    kernel = torch.exp(-((grid.T - drift).square()) / (4 * step))
    kernel /= kernel.sum(1, keepdim=True)
    for _ in range(14):
        kernel = kernel @ kernel
    for power in (1, 2, 3):
        values = state.x.double().squeeze(1) ** power
        expected = (kernel[0] / kernel[0].sum() * grid.squeeze(1) ** power).sum()
        assert abs(values.mean() - expected) < 5 * values.std() / math.sqrt(n)


def test_one_held_number_is_langevin_with_another_step_size() -> None:
    x = torch.randn(6, 1, generator=generator(6), dtype=torch.float64)
    z = torch.randn(6, 1, generator=generator(7), dtype=torch.float64)
    sampler = PreconditionedLangevin(damping=0.5, power=0.5)
    after, _ = sampler.step(mixture, held(x, torch.full((1, 1), 4.0)), z, step_size=0.3)
    plain = Langevin()
    expected, _ = plain.step(mixture, plain.init(mixture, x), z, step_size=0.12, noise_scale=1.0)
    torch.testing.assert_close(after.x, expected.x)


@pytest.mark.parametrize("forgetting", [0.6, 1.0])
def test_the_mean_square_is_the_fading_average_over_chains_and_steps(forgetting: float) -> None:
    sampler = PreconditionedLangevin(1e-3, forgetting=forgetting)
    state = sampler.init(gaussian, torch.randn(7, 3, generator=generator(8), dtype=torch.float64))
    g = generator(9)
    expected, squares = torch.full((3,), torch.nan, dtype=torch.float64), []
    for step in range(1, 9):
        squares.append((state.x / SIGMA.double() ** 2).square().mean(0))
        expected = (
            squares[-1] if step == 1 else expected + (squares[-1] - expected) / step**forgetting
        )
        state = run(sampler, gaussian, state, 1, g)
        torch.testing.assert_close(state.square, expected[None])
        assert state.steps == step
    if forgetting == 1:
        torch.testing.assert_close(state.square[0], torch.stack(squares).mean(0))


def test_all_chains_share_one_preconditioner() -> None:
    # A chain's step depends on the others through their mean alone: their order is no matter.
    sampler = PreconditionedLangevin(0.1)
    x, z = torch.randn(2, 8, 3, generator=generator(10), dtype=torch.float64)
    order = torch.randperm(8, generator=generator(11))
    one, _ = sampler.step(gaussian, sampler.init(gaussian, x), z, step_size=0.1)
    two, _ = sampler.step(gaussian, sampler.init(gaussian, x[order]), z[order], step_size=0.1)
    torch.testing.assert_close(one.x[order], two.x)
    torch.testing.assert_close(one.square, two.square)
    assert one.square.shape == (1, 3)


def test_new_chains_keep_what_was_adapted() -> None:
    sampler = PreconditionedLangevin()
    x = torch.randn(7, 3, generator=generator(12))
    first = run_chain(sampler, gaussian, x, steps=5, generator=generator(13))
    again = run_chain(
        sampler, gaussian, x[:4], steps=3, generator=generator(14), previous=first.state
    )
    assert again.state.steps == 8
    restarted = sampler.restart(first.state, gaussian, x[:4])
    assert torch.equal(restarted.square, first.state.square)
    assert torch.equal(restarted.x, x[:4])


def test_a_settled_preconditioner_stays_as_it_is() -> None:
    sampler = PreconditionedLangevin()
    x = torch.randn(7, 3, generator=generator(15))
    state = run(sampler, gaussian, sampler.init(gaussian, x), 5, generator(16))
    settled = sampler.settle(state)
    after = run(sampler, gaussian, settled, 5, generator(17))
    assert torch.equal(after.square, state.square)
    assert after.steps == 5
    assert not torch.equal(after.x, state.x)
    assert run(sampler, gaussian, state, 5, generator(17)).steps == 10


def test_one_that_is_settled_before_its_first_step_is_plain_langevin() -> None:
    x, z = torch.randn(2, 7, 3, generator=generator(18), dtype=torch.float64)
    sampler, plain = PreconditionedLangevin(damping=0.5), Langevin()
    state = sampler.settle(sampler.init(gaussian, x))
    after, _ = sampler.step(gaussian, state, z, step_size=0.3)
    expected, _ = plain.step(gaussian, plain.init(gaussian, x), z, step_size=0.2, noise_scale=1.0)
    torch.testing.assert_close(after.x, expected.x)


def test_no_chains_leave_the_preconditioner_as_it_is() -> None:
    sampler = PreconditionedLangevin()
    x = torch.randn(7, 3, generator=generator(19))
    state = run(sampler, gaussian, sampler.init(gaussian, x), 2, generator(20))
    after = run(sampler, gaussian, sampler.restart(state, gaussian, x[:0]), 2, generator(21))
    assert torch.equal(after.square, state.square)
    assert after.steps == 2
