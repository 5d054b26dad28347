"""Gibbs sampling leaves its target exactly as it is, by enumeration of small state spaces.

Every statistical comparison is at five standard errors: a false alarm has probability below 6e-7.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ebmkit_energies.ising import Ising
from ebmkit_energies.potts import Potts
from ebmkit_energies.rbm import RBM
from ebmkit_gibbs.gibbs import Gibbs, GibbsState
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import ebmkit
from ebmkit.chains import run_chain


def every_state(event_shape: tuple[int, ...], categories: int | None = None) -> Tensor:
    sites = math.prod(event_shape) // (categories or 1)
    numbers = torch.tensor(list(itertools.product(range(categories or 2), repeat=sites)))
    if categories is not None:
        numbers = torch.nn.functional.one_hot(numbers, categories)
    return numbers.double().view(-1, *event_shape)


def places(x: Tensor, states: Tensor) -> Tensor:
    """Which of all states each row of x is."""
    powers = 2.0 ** torch.arange(states.flatten(1).shape[1])
    assert ((x == 0) | (x == 1)).all()
    known, order = (states.flatten(1) @ powers.to(states)).sort()
    reached = x.flatten(1) @ powers.to(x)
    found = torch.searchsorted(known, reached.to(known)).clamp(max=len(known) - 1)
    assert torch.equal(known[found], reached.to(known))
    return order[found]


def target(energy: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    with torch.no_grad():
        return (-energy(states)).softmax(0)


def rough(x: Tensor) -> Tensor:
    """A network's energy, of states of eight numbers or fewer, that is far from linear."""
    rows = x.flatten(1)
    weight = torch.linspace(-2, 2.5, rows.shape[1], dtype=x.dtype)
    return 1.5 * (rows @ weight).sin() + (rows @ weight.flip(0).cos()).square()


def rbm() -> RBM:
    model = RBM((2, 2), 3, weight_scale=1.2, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        model.visible_bias += torch.tensor([0.5, -0.8, 0.2, 0.0])
        model.hidden_bias += torch.tensor([-0.3, 0.9, 0.1])
    return model


CASES: dict[str, tuple[Any, tuple[int, ...], int | None]] = {
    "scan-binary": (rough, (2, 2), None),
    "scan-categories": (rough, (2, 3), 3),
    "rbm": (rbm(), (2, 2), None),
    "ising-open": (Ising((2, 2), 0.6, 0.3), (2, 2), None),
    "ising-odd-ring": (Ising((3,), -0.7, 0.4, periodic=True), (3,), None),
    "ising-ring": (Ising((4,), 0.5, -0.2, periodic=True), (4,), None),
    "potts-open": (Potts((3, 2), 0.9, [0.2, -0.4]), (3, 2), 2),
    "potts-odd-ring": (Potts((3, 3), -1.1, [0.0, 0.3, -0.2], periodic=True), (3, 3), 3),
}
every_case = pytest.mark.parametrize("name", CASES)


def by_enumeration(energy: Any, states: Tensor, groups: list[list[int]]) -> Tensor:
    """The transition matrix of a sweep that draws groups of numbers, one group after the other, each
    from its conditional distribution: rows are where it starts."""
    p = target(energy, states)
    flat = states.flatten(1)
    matrix = torch.eye(len(states), dtype=torch.float64)
    for group in groups:
        others = [i for i in range(flat.shape[1]) if i not in group]
        same = (flat[:, None, others] == flat[None, :, others]).all(2).double()
        matrix = matrix @ (same * p / (same @ p)[:, None])
    return matrix


def expected_transitions(name: str) -> Tensor:
    energy, shape, categories = CASES[name]
    states = every_state(shape, categories)
    q = categories or 1
    sites = [list(range(s, s + q)) for s in range(0, math.prod(shape), q)]
    if name == "rbm":
        # Both layers summed out by hand: p(v' | v) = Σₕ p(h | v) p(v' | h).
        hidden = every_state((3,))
        on_h = energy.hidden_probabilities(states)
        on_v = energy.visible_probabilities(hidden).flatten(1)
        flat = states.flatten(1)
        down = (on_h[:, None] * hidden + (1 - on_h[:, None]) * (1 - hidden)).prod(2)
        up = (on_v[:, None] * flat + (1 - on_v[:, None]) * (1 - flat)).prod(2)
        return down @ up
    if name.startswith(("ising", "potts")):
        order = {
            "ising-open": [[0, 3], [1, 2]],
            "ising-odd-ring": [[0], [1], [2]],
            "ising-ring": [[0, 2], [1, 3]],
            "potts-open": [[0, 2], [1]],
            "potts-odd-ring": [[0], [1], [2]],
        }[name]
        groups = [[i for site in block for i in sites[site]] for block in order]
        return by_enumeration(energy, states, groups)
    return by_enumeration(energy, states, sites)


@every_case
def test_transition_probabilities_and_stationarity(name: str) -> None:
    energy, shape, categories = CASES[name]
    states = every_state(shape, categories)
    matrix = expected_transitions(name)
    p = target(energy, states)
    torch.testing.assert_close(p @ matrix, p, rtol=1e-12, atol=1e-12)
    n = 20_000
    sampler = Gibbs(categories=categories)
    g = torch.Generator().manual_seed(1)
    state = sampler.init(energy, states.repeat_interleave(n, 0))
    after, metrics = sampler.step(energy, state, sampler.draw(state, generator=g))
    found = torch.zeros_like(matrix)
    reached = places(after.x, states).view(len(states), n)
    found.scatter_add_(1, reached, torch.ones_like(reached, dtype=torch.float64))
    error = (matrix * (1 - matrix) / n).sqrt()
    # Where the expected count is a few, five standard errors is no bound; one more count is.
    assert ((found / n - matrix).abs() <= 5 * error + 1 / n).all()
    q = categories or 1
    variables = (math.prod(shape)) // q
    moved = (after.x != state.x).reshape(len(after.x), variables, q).any(2)
    torch.testing.assert_close(metrics["changed"], moved.double().mean())


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_run_frequencies(name: str, dtype: torch.dtype) -> None:
    energy, shape, categories = CASES[name]
    states = every_state(shape, categories)
    chains = 20_000
    if isinstance(energy, RBM):
        energy = rbm().to(dtype)
    start = states[:1].to(dtype).expand(chains, *shape)
    chain = run_chain(
        Gibbs(categories=categories),
        energy,
        start,
        steps=60,
        generator=torch.Generator().manual_seed(2),
    )
    assert chain.x.dtype == dtype
    p = target(energy, states.to(dtype)).double()
    found = places(chain.x, states.to(dtype)).bincount(minlength=len(states)) / chains
    assert ((found - p).abs() <= 5 * (p * (1 - p) / chains).sqrt() + 1 / chains).all()


def scan_by_hand(energy: Any, x: Tensor, uniforms: Tensor, categories: int | None) -> Tensor:
    """The sweep of one chain, in the plainest words."""
    rows = x.clone().view(-1) if categories is None else x.clone().view(-1, categories)
    for i, u in enumerate(uniforms):
        weights = []
        values = [0.0, 1.0] if categories is None else list(torch.eye(categories, dtype=x.dtype))
        for value in values:
            rows[i] = value
            weights.append(math.exp(-float(energy(rows.view(x.shape)[None]))))
        if categories is None:
            rows[i] = float(u < weights[1] / sum(weights))
            continue
        total, chosen = 0.0, -1
        while total <= u:
            chosen += 1
            total += weights[chosen] / sum(weights)
        rows[i] = values[chosen]
    return rows.view(x.shape)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    shape=st.sampled_from(
        [((3,), None), ((1, 2, 2), None), ((2, 3), 3), ((2, 1, 4), 4), ((2,), 2)]
    ),
    batch=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_a_sweep_is_the_scan_written_out(
    shape: tuple[tuple[int, ...], int | None], batch: int, seed: int
) -> None:
    event, categories = shape
    g = torch.Generator().manual_seed(seed)
    states = every_state(event, categories)
    x = states[torch.randint(len(states), (batch,), generator=g)]
    sampler = Gibbs(categories=categories)
    state = sampler.init(rough, x)
    noise = sampler.draw(state, generator=g)
    assert noise.shape == (batch, math.prod(event) // (categories or 1))
    kept = x.clone()
    after, _ = sampler.step(rough, state, noise)
    assert torch.equal(x, kept)
    assert after.x.shape == x.shape
    for row in range(batch):
        assert torch.equal(after.x[row], scan_by_hand(rough, x[row], noise[row], categories))


def test_each_row_keeps_its_condition() -> None:
    def pulled(x: Tensor, condition: Tensor) -> Tensor:
        assert len(condition) == len(x)
        return -40 * (x[:, :, 0].sum(1) * condition + x[:, :, 1].sum(1) * (1 - condition))

    condition = torch.tensor([0.0, 1.0]).repeat(50)
    energy = functools.partial(pulled, condition=condition)
    x = torch.eye(3)[torch.full((100, 4), 2)]
    x = ebmkit.sample(
        Gibbs(categories=3), energy, x, steps=1, generator=torch.Generator().manual_seed(3)
    )
    assert torch.equal(x[..., 0].mean(1), condition)
    assert torch.equal(x[..., 1].mean(1), 1 - condition)


class Swept:
    """An energy with a sweep of its own, that is told by what it leaves."""

    n_uniforms = 5
    discrete = True

    def __call__(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        raise AssertionError("the sweep needs no energies")

    def sweep(self, x: Tensor, uniforms: Tensor, condition: Tensor | None = None) -> Tensor:
        assert uniforms.shape == (len(x), 5)
        return x if condition is None else condition[:, None].expand_as(x)


def test_an_energys_own_sweep_is_used_with_its_condition() -> None:
    energy, x = Swept(), torch.zeros(3, 2)
    chain = run_chain(Gibbs(), energy, x, steps=2, generator=torch.Generator().manual_seed(4))
    assert torch.equal(chain.x, x)
    assert chain.metrics["changed"] == 0
    bound = functools.partial(energy, condition=torch.ones(3))
    chain = run_chain(Gibbs(), bound, x, steps=2, generator=torch.Generator().manual_seed(4))
    assert torch.equal(chain.x, torch.ones(3, 2))
    assert chain.metrics["changed"] == 0.5


@pytest.mark.parametrize("categories", [None, 3])
def test_forbidden_states_are_left_and_never_entered(categories: int | None) -> None:
    # The last value of the first variable has energy +∞, and so has the start.
    def walled(x: Tensor) -> Tensor:
        forbidden = x.flatten(1)[:, 0 if categories is None else 2] == 1
        return torch.where(forbidden, torch.inf, 0.3 * x.flatten(1)[:, -1])

    states = every_state((2,) if categories is None else (2, 3), categories).float()
    start = states[-1:].expand(2_000, *states.shape[1:])
    sampler = Gibbs(categories=categories)
    g = torch.Generator().manual_seed(5)
    for steps in (1, 30):
        chain = run_chain(sampler, walled, start, steps=steps, generator=g)
        assert not walled(chain.x).isinf().any()


@pytest.mark.parametrize("categories", [None, 3])
def test_a_conditional_that_is_nan_is_seen(categories: int | None) -> None:
    def broken(x: Tensor) -> Tensor:
        # NaN for chains whose first number is 0, whatever their other numbers are.
        return torch.where(x.flatten(1)[:, 0] == 0, torch.nan, 1.0) * 0

    states = every_state((2,) if categories is None else (2, 3), categories).float()
    with pytest.raises(ebmkit.DivergenceError, match=f"{len(states)} of {len(states)} chains"):
        run_chain(
            Gibbs(categories=categories),
            broken,
            states,
            steps=1,
            generator=torch.Generator().manual_seed(6),
        )


@pytest.mark.parametrize("name", ["rbm", "ising-open", "potts-open"])
def test_parameters_that_are_nan_are_seen(name: str) -> None:
    energy, shape, categories = CASES[name]
    energy = {"rbm": rbm, "ising-open": lambda: Ising((2, 2)), "potts-open": lambda: Potts((3, 2))}[
        name
    ]()
    tensor = energy.weight if name == "rbm" else energy.strength
    with torch.no_grad():
        tensor.fill_(torch.nan)
    states = every_state(shape, categories)
    with pytest.raises(ebmkit.DivergenceError, match=f"{len(states)} of {len(states)} chains"):
        run_chain(Gibbs(), energy, states, steps=1, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(
    ("x", "categories", "words"),
    [
        (torch.tensor([[0.0, 0.5]]), None, "zeros and ones, got 0.5"),
        (torch.tensor([[0.0, torch.nan]]), None, "zeros and ones, got nan"),
        (torch.tensor([[-1.0, 1.0]]), None, "zeros and ones, got -1"),
        (torch.tensor([[[1.0, 1.0]]]), 2, "not exactly one 1"),
        (torch.zeros(1, 3, 2), 2, "not exactly one 1"),
        (torch.zeros(1, 4), 3, r"last axis of 3 categories, got events of shape \(4,\)"),
    ],
)
def test_points_that_are_no_states_are_refused(
    x: Tensor, categories: int | None, words: str
) -> None:
    with pytest.raises(ebmkit.UserError, match=words):
        Gibbs(categories=categories).init(rough, x)


def test_categories_are_the_energys_and_may_not_contradict_it() -> None:
    potts = Potts((2, 3))
    with pytest.raises(ebmkit.UserError, match="the energy is of 3 categories, got 2"):
        Gibbs(categories=2).check(potts)
    for sampler in (Gibbs(), Gibbs(categories=3)):
        sampler.check(potts)
        assert sampler.init(potts, every_state((2, 3), 3)).uniforms.shape == (0, 2)
    for wrong in (1, 2.0, True):
        with pytest.raises(ValueError, match="categories"):
            Gibbs(categories=wrong)


@every_case
def test_a_step_is_pure_and_can_be_traced(name: str) -> None:
    energy, shape, categories = CASES[name]
    states = every_state(shape, categories)
    sampler = Gibbs(categories=categories)
    state = sampler.init(energy, states)
    noise = sampler.draw(state, generator=torch.Generator().manual_seed(8))

    def step(x: Tensor, uniforms: Tensor, noise: Tensor) -> Tensor:
        return sampler.step(energy, GibbsState(x, uniforms), noise)[0].x

    traced = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*state, noise)
    assert torch.equal(traced(*state, noise), step(*state, noise))
    assert torch.equal(step(*state, noise), step(*state, noise))


def test_draws_follow_their_generator_and_touch_no_other() -> None:
    before = torch.random.get_rng_state()
    state = GibbsState(torch.zeros(4, 3, dtype=torch.float64), torch.zeros(0, 7))
    one, same, other = (
        Gibbs().draw(state, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert one.shape == (4, 7)
    assert one.dtype == torch.float64
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)
