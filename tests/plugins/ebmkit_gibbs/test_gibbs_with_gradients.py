"""Gibbs with gradients: its transition probabilities written out plainly, and what they leave as it is.

Every statistical comparison is at five standard errors: a false alarm has probability below 6e-7.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import pytest
import torch
from ebmkit_energies.ising import Ising
from ebmkit_energies.potts import Potts
from ebmkit_energies.rbm import RBM
from ebmkit_gibbs.gibbs_with_gradients import (
    GibbsWithGradients,
    GibbsWithGradientsNoise,
    GibbsWithGradientsState,
)
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import ebmkit
from ebmkit.chains import run_chain


def rough(x: Tensor) -> Tensor:
    """Far from linear between its states, so that most proposals may be refused."""
    rows = x.flatten(1)
    weight = torch.linspace(-2, 2.5, rows.shape[1], dtype=x.dtype)
    return 1.5 * (rows @ weight).sin() + (rows @ weight.flip(0).cos()).square()


def rbm() -> RBM:
    model = RBM((2, 2), 3, weight_scale=1.2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.visible_bias += torch.tensor([0.5, -0.8, 0.2, 0.0])
    return model.double()


CASES: dict[str, tuple[Any, tuple[int, ...], int | None]] = {
    "rough-binary": (rough, (2, 2), None),
    "rough-bit": (rough, (1,), None),
    "rough-categories": (rough, (2, 3), 3),
    "rbm": (rbm(), (2, 2), None),
    "ising": (Ising((4,), 0.6, 0.3, periodic=True), (4,), None),
    "potts": (Potts((2, 3), 0.9, [0.2, -0.4, 0.0]), (2, 3), 3),
}
every_case = pytest.mark.parametrize("name", CASES)


def every_state(event_shape: tuple[int, ...], categories: int | None) -> Tensor:
    sites = math.prod(event_shape) // (categories or 1)
    numbers = torch.tensor(list(itertools.product(range(categories or 2), repeat=sites)))
    if categories is not None:
        numbers = torch.nn.functional.one_hot(numbers, categories)
    return numbers.double().view(-1, *event_shape)


def places(x: Tensor, states: Tensor) -> Tensor:
    same = (x.flatten(1)[:, None] == states.flatten(1)).all(2)
    assert (same.sum(1) == 1).all()
    return same.double().argmax(1)


def transitions(energy: Any, states: Tensor, categories: int | None) -> Tensor:
    """P(y | x) for all pairs of states, as the paper states it, pair by pair."""
    gradients = ebmkit.energy_and_gradient(energy, states)[1].flatten(1)
    log_p = [-float(e) for e in energy(states).detach()]
    flat = states.flatten(1)
    # Two states are neighbours where they differ in one bit, or in the two bits of one category.
    differ = 1 if categories is None else 2
    n = len(states)
    q = torch.zeros(n, n, dtype=torch.float64)
    for x in range(n):
        for y in range(n):
            if int((flat[x] != flat[y]).sum()) == differ:
                # ∇ log p(x) · (y − x), what a first-order Taylor series says of log p(y) − log p(x).
                gain = -float(gradients[x] @ (flat[y] - flat[x]))
                q[x, y] = math.exp(gain / 2)
    q /= q.sum(1, keepdim=True)
    matrix = torch.zeros_like(q)
    for x in range(n):
        for y in range(n):
            if q[x, y]:
                ratio = math.exp(log_p[y] - log_p[x]) * float(q[y, x] / q[x, y])
                matrix[x, y] = q[x, y] * min(1.0, ratio)
        matrix[x, x] = 1 - matrix[x].sum()
    return matrix


@every_case
def test_transition_probabilities_and_detailed_balance(name: str) -> None:
    energy, shape, categories = CASES[name]
    states = every_state(shape, categories)
    matrix = transitions(energy, states, categories)
    p = (-energy(states).detach()).softmax(0)
    flow = p[:, None] * matrix
    torch.testing.assert_close(flow, flow.T, rtol=1e-12, atol=1e-14)
    n = 40_000
    sampler = GibbsWithGradients(categories=categories)
    g = torch.Generator().manual_seed(1)
    state = sampler.init(energy, states.repeat_interleave(n, 0))
    noise = sampler.draw(state, generator=g)
    after, metrics = sampler.step(energy, state, noise)
    torch.testing.assert_close(after.energy, energy(after.x).detach())
    torch.testing.assert_close(after.gradient, ebmkit.energy_and_gradient(energy, after.x)[1])
    reached = places(after.x, states).view(len(states), n)
    found = torch.zeros_like(matrix)
    found.scatter_add_(1, reached, torch.ones_like(reached, dtype=torch.float64))
    error = (matrix.clamp(0, 1) * (1 - matrix).clamp(0, 1) / n).sqrt()
    assert ((found / n - matrix).abs() <= 5 * error + 1 / n).all()
    # Each proposal differs from where it starts, so the share that moves is the acceptance.
    moved = (1 - matrix.diagonal()).mean()
    error = float((moved * (1 - moved) / (n * len(states))).sqrt())
    assert abs(float(metrics["acceptance_rate"] - moved)) <= 5 * error + 1e-9


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_run_frequencies(name: str, dtype: torch.dtype) -> None:
    energy, shape, categories = CASES[name]
    if isinstance(energy, RBM):
        energy = rbm().to(dtype)
    states = every_state(shape, categories).to(dtype)
    chains = 10_000
    chain = run_chain(
        GibbsWithGradients(categories=categories),
        energy,
        states[:1].expand(chains, *shape),
        steps=150,
        generator=torch.Generator().manual_seed(2),
    )
    assert chain.x.dtype == dtype
    p = (-energy(states).detach()).softmax(0).double()
    found = places(chain.x, states).bincount(minlength=len(states)) / chains
    assert ((found - p).abs() <= 5 * (p * (1 - p) / chains).sqrt() + 1 / chains).all()


def test_where_the_energy_is_linear_every_bit_flips_at_its_own_rate() -> None:
    # E = a·x: d is exact, so the acceptance is the ratio of the two sums of proposals alone.
    a = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)

    def linear(x: Tensor) -> Tensor:
        return x @ a

    x = torch.zeros(60_000, 3, dtype=torch.float64)
    sampler = GibbsWithGradients()
    state = sampler.init(linear, x)
    noise = sampler.draw(state, generator=torch.Generator().manual_seed(3))
    noise = noise._replace(uniform=torch.full_like(noise.uniform, 1e-300))
    after, _ = sampler.step(linear, state, noise)
    expected = (-a / 2).exp() / (-a / 2).exp().sum()
    error = (expected * (1 - expected) / len(x)).sqrt()
    assert ((after.x.mean(0) - expected).abs() < 5 * error).all()


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
@pytest.mark.parametrize("categories", [None, 3])
def test_walls_are_never_entered_and_do_not_bias(bad: float, categories: int | None) -> None:
    # One state of all is forbidden, by an energy and a force that are not finite there.
    shape = (3,) if categories is None else (2, 3)
    states = every_state(shape, categories)

    def walled(x: Tensor) -> Tensor:
        forbidden = (x == states[-1]).flatten(1).all(1)
        return rough(x) * torch.where(forbidden, bad, 1.0).abs()

    chains = 10_000
    chain = run_chain(
        GibbsWithGradients(categories=categories),
        walled,
        states[:1].expand(chains, *shape),
        steps=150,
        generator=torch.Generator().manual_seed(4),
    )
    assert 0.1 < chain.metrics["acceptance_rate"] < 1
    p = (-rough(states[:-1])).softmax(0)
    found = places(chain.x, states).bincount(minlength=len(states))
    assert found[-1] == 0
    found = found[:-1] / chains
    assert ((found - p).abs() <= 5 * (p * (1 - p) / chains).sqrt() + 1 / chains).all()


def test_chains_that_start_where_nothing_is_finite_are_seen() -> None:
    def broken(x: Tensor) -> Tensor:
        return rough(x) * torch.where(x[:, 0] == 1, torch.nan, 1.0)

    x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    with pytest.raises(ebmkit.DivergenceError, match="2 of 3 chains"):
        run_chain(
            GibbsWithGradients(),
            broken,
            x,
            steps=20,
            generator=torch.Generator().manual_seed(5),
        )


def test_each_row_keeps_its_condition() -> None:
    def pulled(x: Tensor, condition: Tensor) -> Tensor:
        return 20 * (x - condition[:, None]).square().sum(1)

    condition = torch.tensor([0.0, 1.0]).repeat(20)
    x = ebmkit.sample(
        GibbsWithGradients(),
        functools.partial(pulled, condition=condition),
        torch.tensor([[1.0, 0.0, 1.0]]).repeat(40, 1),
        steps=30,
        generator=torch.Generator().manual_seed(6),
    )
    assert torch.equal(x, condition[:, None].expand(40, 3))


def test_points_that_are_no_states_are_refused() -> None:
    with pytest.raises(ebmkit.UserError, match=r"GibbsWithGradients: .*zeros and ones, got 0\.3"):
        GibbsWithGradients().init(rough, torch.tensor([[0.3, 1.0]]))
    with pytest.raises(ebmkit.UserError, match="not exactly one 1"):
        GibbsWithGradients(categories=2).init(rough, torch.ones(1, 2, 2))
    with pytest.raises(ebmkit.UserError, match="the energy is of 3 categories, got 2"):
        GibbsWithGradients(categories=2).check(Potts((2, 3)))


@every_case
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_a_step_is_pure_and_can_be_traced(name: str, batch: int) -> None:
    energy, shape, categories = CASES[name]
    x = every_state(shape, categories).repeat(5, *[1] * len(shape))[:batch]
    sampler = GibbsWithGradients(categories=categories)
    state = sampler.init(energy, x)
    noise = sampler.draw(state, generator=torch.Generator().manual_seed(7))
    kept = [t.clone() for t in (*state, *noise)]

    def step(*tensors: Tensor) -> tuple[Tensor, ...]:
        after, _ = sampler.step(
            energy, GibbsWithGradientsState(*tensors[:3]), GibbsWithGradientsNoise(*tensors[3:])
        )
        return tuple(after)

    traced = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*state, *noise)
    for one, other in zip(traced(*state, *noise), step(*state, *noise), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(a, b) for a, b in zip((*state, *noise), kept, strict=True))
    assert step(*state, *noise)[0].shape == (batch, *shape)


def test_draws_follow_their_generator_and_touch_no_other() -> None:
    before = torch.random.get_rng_state()
    x = torch.zeros(4, 3, dtype=torch.float64)
    state = GibbsWithGradientsState(x, x.sum(1), x)
    one, same, other = (
        GibbsWithGradients().draw(state, generator=torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    )
    assert one.exponential.shape == (4, 3)
    assert one.uniform.shape == (4,)
    assert one.exponential.dtype == one.uniform.dtype == torch.float64
    assert torch.equal(one.exponential, same.exponential)
    assert not torch.equal(one.exponential, other.exponential)
    assert torch.equal(torch.random.get_rng_state(), before)
