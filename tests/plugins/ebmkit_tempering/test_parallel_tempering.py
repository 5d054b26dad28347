"""Parallel tempering leaves the joint distribution of its replicas as it is, and crosses barriers.

Every statistical comparison is at five standard errors: a false alarm has probability below 6e-7.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import attrs
import pytest
import torch
from ebmkit_tempering._replicas import Tempered
from ebmkit_tempering.parallel_tempering import ParallelTempering
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import ebmkit
from ebmkit import UserError
from ebmkit.chains import run_chain
from ebmkit.clocks import scheduled_names

LEVELS = torch.tensor([0.3, -0.5, 1.1], dtype=torch.float64)
"""Energies of the three states of a small system."""
BETAS = [1.0, 0.6, 0.25]
JOINT = torch.tensor(list(itertools.product(range(3), repeat=3)))


def levels(x: Tensor) -> Tensor:
    """Energies of states x (batch, 1) of {0, 1, 2}; a second number is a label."""
    return LEVELS[x[:, 0].long()]


def joint_density(betas: list[float]) -> Tensor:
    """Of all joint states in lexicographic order."""
    densities = [(-beta * LEVELS).softmax(0) for beta in betas]
    return functools.reduce(lambda a, b: (a[:, None] * b).flatten(), densities)


class Place(NamedTuple):
    x: Tensor


class Stay:
    """Moves nothing, so that a step is the exchange alone."""

    def init(self, energy: Any, x: Tensor) -> Place:
        return Place(x)

    def draw(self, state: Place, *, generator: torch.Generator) -> None:
        return None

    def step(self, energy: Any, state: Place, noise: None) -> tuple[Place, dict[str, Tensor]]:
        return state, {}


class StayEach(Stay):
    def restart(self, state: Place, energy: Any, x: Tensor) -> Place:
        return Place(x)


class Cached(NamedTuple):
    x: Tensor
    energy: Tensor


class Hop:
    """Metropolis sampler on {0, 1, 2} that trusts the energy in its state."""

    def init(self, energy: Any, x: Tensor) -> Cached:
        return Cached(x, energy(x))

    def draw(self, state: Cached, *, generator: torch.Generator) -> Tensor:
        return torch.rand(len(state.x), 2, generator=generator, dtype=state.x.dtype)

    def step(self, energy: Any, state: Cached, noise: Tensor) -> tuple[Cached, dict[str, Tensor]]:
        way = torch.where(noise[:, :1] < 0.5, 1, 2)
        y = (state.x + way) % 3
        there = energy(y)
        accepted = noise[:, 1].log() < state.energy - there
        new = Cached(
            torch.where(accepted[:, None], y, state.x), torch.where(accepted, there, state.energy)
        )
        return new, {"acceptance_rate": (state.energy - there).clamp(max=0).exp().mean()}


class HopEach(Hop):
    """The same with adaptation, were there any."""

    def restart(self, state: Cached, energy: Any, x: Tensor) -> Cached:
        return self.init(energy, x)


@attrs.frozen
class Walk:
    """Random-walk Metropolis sampler in space."""

    width: float

    def init(self, energy: Any, x: Tensor) -> Cached:
        return Cached(x, energy(x))

    def draw(self, state: Cached, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = state.x
        return torch.randn(x.shape, generator=generator, dtype=x.dtype), torch.rand(
            len(x), generator=generator, dtype=x.dtype
        )

    def step(
        self, energy: Any, state: Cached, noise: Any, *, width: float
    ) -> tuple[Cached, dict[str, Tensor]]:
        y = state.x + width * noise[0]
        there = energy(y)
        accepted = noise[1].log() < state.energy - there
        wide = accepted.view(-1, *[1] * (y.ndim - 1))
        return (
            Cached(torch.where(wide, y, state.x), torch.where(accepted, there, state.energy)),
            {},
        )


def mala(step_size: float, **kwargs: Any) -> Any:
    return ebmkit.create("sampler", "mala", step_size=step_size, **kwargs)


def points(state: Any) -> Tensor:
    """(batch, replicas, *event)"""
    if len(state.replicas) == 1:
        return state.replicas[0].x
    return torch.stack([replica.x for replica in state.replicas], 1)


def placed(sampler: ParallelTempering, energy: Any, at: Tensor) -> Any:
    """The state of replicas at (batch, replicas, *event)."""
    state = sampler.init(energy, at[:, 0])
    if len(state.replicas) == 1:
        flat = sampler.sampler.init(
            Tempered(energy, state.inverse_temperature.flatten()), at.flatten(0, 1)
        )
        fields = {n: t.unflatten(0, at.shape[:2]) for n, t in flat._asdict().items()}
        return state._replace(replicas=(type(flat)(**fields),))
    energies = [Tempered(energy, beta) for beta in sampler.ladder]
    each = zip(energies, at.unbind(1), strict=True)
    return state._replace(replicas=tuple(sampler.sampler.init(e, x) for e, x in each))


def exchange_matrix(sampler: ParallelTempering, n: int) -> Tensor:
    """P(joint state after an exchange | before), exact to 1e-12: the numbers below which each pair
    exchanges are found by bisection, whatever happened to the pair before."""
    states = torch.tensor(list(itertools.product(range(3), repeat=n)))
    labels = torch.arange(n).expand(len(states), n)
    start = placed(sampler, levels, torch.stack([states, labels], 2).double())
    total = torch.zeros(len(states), len(states), dtype=torch.float64)
    place = 3 ** torch.arange(n - 1, -1, -1)

    def after(uniform: Tensor) -> Tensor:
        noise = sampler.draw(start, generator=torch.Generator())._replace(uniform=uniform)
        return points(sampler.step(levels, start, noise)[0]).long()

    for choices in itertools.product((True, False), repeat=n - 1):
        uniform = torch.ones(len(states), n - 1, dtype=torch.float64)
        weight = torch.ones(len(states), dtype=torch.float64)
        for pair, wanted in enumerate(choices):
            uniform[:, pair] = 1
            without = after(uniform)[..., 1]
            low, high = torch.zeros_like(weight), torch.ones_like(weight)
            for _ in range(45):
                uniform[:, pair] = (low + high) / 2
                exchanged = (after(uniform)[..., 1] != without).any(1)
                low = torch.where(exchanged, uniform[:, pair], low)
                high = torch.where(exchanged, high, uniform[:, pair])
            weight = weight * (low if wanted else 1 - low)
            uniform[:, pair] = 0 if wanted else 1
        rows = torch.arange(len(states))
        total.index_put_((rows, (after(uniform)[..., 0] * place).sum(1)), weight, accumulate=True)
    return total


@pytest.mark.parametrize("inner", [Stay(), StayEach()])
def test_an_exchange_of_two_is_in_detailed_balance(inner: Any) -> None:
    sampler = ParallelTempering(inner, inverse_temperatures=[1.0, 0.3])
    matrix, density = exchange_matrix(sampler, 2), joint_density([1.0, 0.3])
    flow = density[:, None] * matrix
    assert (matrix.sum(1) - 1).abs().max() < 1e-10
    assert (flow - flow.T).abs().max() < 1e-10
    # Second route: the formula.
    difference = 0.7 * (LEVELS[:, None] - LEVELS)
    chance = difference.clamp(max=0).exp().fill_diagonal_(0)
    for a, b in itertools.product(range(3), repeat=2):
        if a != b:
            assert float(matrix[3 * a + b, 3 * b + a]) == pytest.approx(
                float(chance[a, b]), abs=1e-10
            )


@pytest.mark.parametrize("inner", [Stay(), StayEach()])
def test_the_joint_distribution_is_stationary_under_exchanges(inner: Any) -> None:
    sampler = ParallelTempering(inner, inverse_temperatures=BETAS)
    matrix, density = exchange_matrix(sampler, 3), joint_density(BETAS)
    assert (matrix.sum(1) - 1).abs().max() < 1e-10
    assert (density @ matrix - density).abs().max() < 1e-10
    assert (matrix - torch.eye(27)).abs().max() > 0.5


def hop_matrix(beta: float) -> Tensor:
    chance = (beta * (LEVELS[:, None] - LEVELS)).clamp(max=0).exp() / 2
    chance.fill_diagonal_(0)
    return chance + torch.diag(1 - chance.sum(1))


@pytest.mark.parametrize("swap_every", [1, 2, 3])
@pytest.mark.parametrize("inner", [Hop(), HopEach()])
def test_a_step_is_the_product_of_the_exact_kernels(inner: Any, swap_every: int) -> None:
    # Two steps from one joint state, so that what the inner states hold after exchanges counts.
    sampler = ParallelTempering(inner, inverse_temperatures=BETAS, swap_every=swap_every)
    n, g = 60_000, torch.Generator().manual_seed(1)
    first = JOINT[7]
    state = placed(sampler, levels, first.double().expand(n, 3)[..., None].contiguous())
    for _ in range(2):
        state, metrics = sampler.step(levels, state, sampler.draw(state, generator=g))
    assert 0 < metrics["acceptance_rate"] < 1 and 0 < metrics["swap_rate"] < 1
    hops = [hop_matrix(beta).matrix_power(swap_every) for beta in BETAS]
    once = functools.reduce(torch.kron, hops) @ exchange_matrix(
        ParallelTempering(Stay(), inverse_temperatures=BETAS), 3
    )
    expected = once.matrix_power(2)[7]
    codes = (points(state)[..., 0].long() * torch.tensor([9, 3, 1])).sum(1)
    found = torch.bincount(codes, minlength=27) / n
    assert ((found - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt() + 1e-12).all()
    assert torch.equal(state.x, points(state)[:, 0])


@pytest.mark.parametrize("swap_every", [1, 2, 3])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("inner", [Stay(), StayEach()])
def test_each_pair_of_neighbours_is_proposed_in_each_step(
    inner: Any, n: int, swap_every: int
) -> None:
    sampler = ParallelTempering(inner, n_replicas=n, swap_every=swap_every)

    def flat(x: Tensor) -> Tensor:
        return 0 * x[:, 0]

    start = placed(sampler, flat, torch.arange(float(n)).view(1, n, 1))
    for pair in range(n - 1):
        # At equal energies a number of 1 refuses and a smaller one accepts.
        uniform = torch.ones(1, n - 1)
        uniform[0, pair] = 0.999
        noise = sampler.draw(start, generator=torch.Generator())._replace(uniform=uniform)
        expected = list(range(n))
        expected[pair], expected[pair + 1] = pair + 1, pair
        after, metrics = sampler.step(flat, start, noise)
        assert points(after).flatten().tolist() == expected
        assert metrics["swap_rate"] == 1


def test_all_pairs_in_one_step() -> None:
    sampler = ParallelTempering(Stay(), n_replicas=5)
    start = placed(sampler, lambda x: 0 * x[:, 0], torch.arange(5.0).view(1, 5, 1))
    noise = sampler.draw(start, generator=torch.Generator())._replace(uniform=torch.zeros(1, 4))
    after, _ = sampler.step(lambda x: 0 * x[:, 0], start, noise)
    assert points(after).flatten().tolist() == [1, 3, 0, 4, 2]


def two_modes(x: Tensor) -> Tensor:
    """30 % at −4 and 70 % at 4, of variance 0.25."""
    log = torch.stack([math.log(w) - 2 * (x[:, 0] - c).square() for w, c in ((0.3, -4), (0.7, 4))])
    return -log.logsumexp(0) + 2 * x[:, 1:].square().sum(1)


@pytest.mark.parametrize("inner", [Walk(1.2), mala(0.2, target_acceptance=0.6)])
def test_weights_of_two_modes_that_the_inner_sampler_cannot_cross(inner: Any) -> None:
    n, x = 2000, torch.tensor([[-4.0, 0.0]]).repeat(2000, 1)
    alone = run_chain(inner, two_modes, x, steps=300, generator=torch.Generator().manual_seed(2))
    assert (alone.x[:, 0] < 0).all()
    sampler = ParallelTempering(inner, inverse_temperatures=[1, 0.35, 0.1, 0.025], swap_every=2)
    chain = run_chain(sampler, two_modes, x, steps=300, generator=torch.Generator().manual_seed(3))
    right = (chain.x[:, 0] > 0).double()
    assert abs(float(right.mean()) - 0.7) < 5 * math.sqrt(0.21 / n)
    away = chain.x[:, 0] - 8 * right + 4
    assert abs(float(away.square().mean()) - 0.25) < 5 * 0.25 * math.sqrt(2 / n)
    assert abs(float(chain.x[:, 1].square().mean()) - 0.25) < 5 * 0.25 * math.sqrt(2 / n)
    assert 0.2 < chain.metrics["swap_rate"] < 0.9


@pytest.mark.parametrize("inner", [Walk(1.5), mala(0.7)])
def test_replicas_have_the_densities_of_their_temperatures(inner: Any) -> None:
    n, betas = 8000, [1.0, 0.5, 0.2]
    sampler = ParallelTempering(inner, inverse_temperatures=betas)
    chain = run_chain(
        sampler,
        lambda x: x.square().sum(1) / 2,
        torch.zeros(n, 2),
        steps=80,
        generator=torch.Generator().manual_seed(4),
    )
    assert len(chain.state.replicas) == (1 if isinstance(inner, Walk) else 3)
    for beta, x in zip(betas, points(chain.state).double().unbind(1), strict=True):
        assert (x.mean(0).abs() < 5 * math.sqrt(1 / beta / n)).all()
        assert ((x.square().mean(0) - 1 / beta).abs() < 5 / beta * math.sqrt(2 / n)).all()


class Moving(NamedTuple):
    x: Tensor
    momentum: Tensor
    steps: Tensor


class Drift:
    """Has a momentum of its own for each row, and counts of steps for all."""

    def init(self, energy: Any, x: Tensor) -> Moving:
        return Moving(x, torch.zeros_like(x), torch.zeros(7))

    def draw(self, state: Moving, *, generator: torch.Generator) -> Tensor:
        return torch.randn(state.x.shape, generator=generator)

    def step(self, energy: Any, state: Moving, noise: Tensor) -> tuple[Moving, dict[str, Tensor]]:
        momentum = state.momentum + noise
        return Moving(state.x + momentum, momentum, state.steps + 1), {}


def test_each_replica_has_a_state_of_its_own_and_keeps_it_unless_it_moves() -> None:
    sampler = ParallelTempering(Drift(), n_replicas=4)
    g = torch.Generator().manual_seed(5)

    def energy(x: Tensor) -> Tensor:
        return x.square().flatten(1).sum(1)

    x = torch.randn(6, 3, generator=g)
    state = sampler.init(energy, x)
    noise = sampler.draw(state, generator=g)
    still, _ = sampler.step(energy, state, noise._replace(uniform=torch.full((6, 3), math.inf)))
    momentum = still.replicas[0].momentum
    assert momentum.shape == (6, 4, 3)
    assert torch.equal(momentum.flatten(0, 1), noise.inner[0][0])
    assert len(momentum.flatten().unique()) == 72
    after, _ = sampler.step(energy, state, noise)
    moved = (points(after) != points(still)).any(2)
    assert 0 < moved.sum() < 24
    assert torch.equal(after.replicas[0].momentum[~moved], momentum[~moved])
    assert (after.replicas[0].momentum[moved] == 0).all()
    assert after.replicas[0].steps.tolist() == [1] * 7


def test_a_step_size_is_adapted_at_each_temperature() -> None:
    sampler = ParallelTempering(
        mala(0.1, target_acceptance=0.6), inverse_temperatures=[1, 0.3, 0.1]
    )
    g = torch.Generator().manual_seed(6)
    chain = run_chain(
        sampler,
        lambda x: x.square().sum(1),
        torch.randn(200, 3, generator=g),
        steps=200,
        generator=g,
    )
    factors = [float(replica.log_factor.exp()) for replica in chain.state.replicas]
    # In squared units of x step sizes go as temperatures.
    assert factors[1] / factors[0] == pytest.approx(1 / 0.3, rel=0.2)
    assert factors[2] / factors[0] == pytest.approx(1 / 0.1, rel=0.2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("inner", [Stay(), StayEach()])
def test_what_is_not_finite_is_not_exchanged(inner: Any, bad: float) -> None:
    sampler = ParallelTempering(inner, n_replicas=3)

    def energy(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] == 1, bad, 0.0)

    for place in range(3):
        at = torch.zeros(1, 3, 1)
        at[0, place] = 1
        state = placed(sampler, energy, at)
        noise = sampler.draw(state, generator=torch.Generator())
        after, metrics = sampler.step(energy, state, noise._replace(uniform=torch.zeros(1, 2)))
        assert torch.equal(points(after), at)
        # The pair of the other two, where they are neighbours, has equal energies.
        assert metrics["swap_rate"] == (0.0 if place == 1 else 0.5)


@pytest.mark.parametrize("inner", [Walk(0.5), mala(0.1), mala(0.1, target_acceptance=0.6)])
def test_a_chain_is_determined_and_goes_on_where_it_stopped(inner: Any) -> None:
    sampler = ParallelTempering(inner, n_replicas=3, swap_every=2)
    keywords = {name: getattr(inner, name) for name in scheduled_names(inner)}

    def run(state: Any, steps: int, g: torch.Generator) -> Any:
        for _ in range(steps):
            state, _ = sampler.step(two_modes, state, sampler.draw(state, generator=g), **keywords)
        return state

    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(7))
    g = torch.Generator().manual_seed(8)
    whole = run(sampler.init(two_modes, x), 6, g)
    g = torch.Generator().manual_seed(8)
    half = run(sampler.init(two_modes, x), 2, g)
    kept = [tensor.clone() for tensor in leaves(half)]
    again = run(half, 4, g)
    assert all(map(torch.equal, leaves(whole), leaves(again)))
    assert all(map(torch.equal, kept, leaves(half)))
    assert not torch.equal(again.x, x)


def leaves(tree: Any) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [t for part in tree for t in leaves(part)]


@pytest.mark.parametrize("inner", [Walk(0.5), mala(0.1), mala(0.1, target_acceptance=0.6)])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_step_is_traced_into_a_graph(inner: Any, batch: int) -> None:
    sampler = ParallelTempering(inner, n_replicas=4, swap_every=2)
    keywords = {name: torch.tensor(getattr(inner, name)) for name in scheduled_names(inner)}
    g = torch.Generator().manual_seed(9)
    state = sampler.init(two_modes, torch.randn(batch, 2, generator=g))

    def step(state: Any, noise: Any, keywords: dict[str, Tensor]) -> Any:
        return sampler.step(two_modes, state, noise, **keywords)

    state, _ = step(state, sampler.draw(state, generator=g), keywords)
    noise = sampler.draw(state, generator=g)
    graph = make_fx(step, tracing_mode="fake")(state, noise, keywords)
    for _ in range(3):
        traced, eager = graph(state, noise, keywords), step(state, noise, keywords)
        torch.testing.assert_close(leaves(traced[0]), leaves(eager[0]))
        torch.testing.assert_close(traced[1], eager[1])
        state, noise = eager[0], sampler.draw(eager[0], generator=g)


@given(
    batch=st.integers(0, 4),
    event=st.sampled_from([(), (3,), (1, 8, 8), (4, 2)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    n=st.integers(2, 5),
    adapts=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_shapes_and_dtypes_are_kept(
    batch: int, event: tuple[int, ...], dtype: torch.dtype, n: int, adapts: bool
) -> None:
    inner = mala(0.1) if adapts else Walk(0.5)
    sampler = ParallelTempering(inner, n_replicas=n)
    keywords = {name: getattr(inner, name) for name in scheduled_names(inner)}
    if adapts and not event:
        event = (1,)

    def energy(x: Tensor) -> Tensor:
        return x.square().reshape(len(x), math.prod(event)).sum(1)

    g = torch.Generator().manual_seed(10)
    x = torch.randn(batch, *event, generator=g, dtype=dtype)
    state = sampler.init(energy, x)
    assert torch.equal(state.x, x)
    for _ in range(2):
        state, metrics = sampler.step(energy, state, sampler.draw(state, generator=g), **keywords)
    state = sampler.restart(state, energy, state.x)
    assert state.x.shape == x.shape
    assert all(t.dtype == dtype and not t.requires_grad for t in leaves(state))
    assert points(state).shape == (batch, n, *event)
    assert metrics["swap_rate"].shape == ()


def test_no_gradient_of_the_parameters_is_kept() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))
    for inner, keywords in ((Drift(), {}), (mala(0.1), {"step_size": 0.1})):
        sampler = ParallelTempering(inner, n_replicas=3)
        g = torch.Generator().manual_seed(11)
        state = sampler.init(net, torch.randn(5, 2, generator=g))
        state, metrics = sampler.step(net, state, sampler.draw(state, generator=g), **keywords)
        assert not any(t.requires_grad for t in [*leaves(state), *metrics.values()])


@pytest.mark.parametrize("beta", [0.3, torch.tensor([0.2, 0.5, 1.0, 0.1])])
def test_the_tempered_energy_and_its_gradient(beta: float | Tensor) -> None:
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(12))
    tempered = Tempered(two_modes, beta)
    torch.testing.assert_close(tempered(x), beta * two_modes(x))
    leaf = x.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(tempered(leaf).sum(), leaf)
    energies, gradient = tempered.energy_and_gradient(x)
    torch.testing.assert_close(energies, tempered(x))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("inner", [Walk(0.8), mala(0.3)])
def test_a_condition_goes_with_its_chain(inner: Any) -> None:
    def energy(x: Tensor, condition: Tensor) -> Tensor:
        return 2 * (x - condition[:, None]).square().sum(1)

    n = 2000
    condition = torch.linspace(-3, 3, n)
    sampler = ParallelTempering(inner, n_replicas=3, lowest=0.2)
    chain = run_chain(
        sampler,
        functools.partial(energy, condition=condition),
        torch.zeros(n, 1),
        steps=100,
        generator=torch.Generator().manual_seed(13),
    )
    away = chain.x[:, 0] - condition
    assert abs(float(away.mean())) < 5 * 0.5 / math.sqrt(n)
    assert abs(float(away.square().mean()) - 0.25) < 5 * 0.25 * math.sqrt(2 / n)


def test_new_chains_keep_replicas_and_what_was_adapted() -> None:
    sampler = ParallelTempering(mala(0.1, target_acceptance=0.6), n_replicas=3)
    g = torch.Generator().manual_seed(14)
    state = run_chain(sampler, two_modes, torch.randn(6, 2), steps=5, generator=g).state
    x = torch.randn(6, 2, generator=g)
    again = sampler.restart(state, two_modes, x)
    assert torch.equal(points(again)[:, 1:], points(state)[:, 1:])
    assert torch.equal(again.x, x)
    fewer = sampler.restart(state, two_modes, x[:4])
    assert torch.equal(points(fewer), x[:4, None].expand(4, 3, 2))
    bound = sampler.restart(state, functools.partial(two_modes), x)
    assert torch.equal(points(bound), x[:, None].expand(6, 3, 2))
    for new in (again, fewer, bound):
        for replica, old in zip(new.replicas, state.replicas, strict=True):
            assert replica.log_factor == old.log_factor != 0


def test_an_inner_sampler_without_adaptation_begins_again() -> None:
    sampler = ParallelTempering(Walk(0.5), n_replicas=3)
    g = torch.Generator().manual_seed(15)
    state = run_chain(sampler, two_modes, torch.randn(6, 2), steps=5, generator=g).state
    again = sampler.restart(state, two_modes, state.x + 1)
    assert torch.equal(points(again)[:, 1:], points(state)[:, 1:])
    expected = two_modes(points(again).flatten(0, 1)).view(6, 3) * again.inverse_temperature
    torch.testing.assert_close(again.replicas[0].energy, expected)


class Tuned(StayEach):
    discrete = True
    traceable = False

    def tune(self, state: Place, energy: Any) -> Place:
        return Place(state.x + 1)

    def settle(self, state: Place) -> Place:
        return Place(2 * state.x)

    def check(self, energy: Any) -> None:
        if not getattr(energy, "discrete", False):
            raise UserError("expected discrete states")


def test_what_the_inner_sampler_offers_is_passed_on() -> None:
    sampler = ParallelTempering(Tuned(), n_replicas=3)
    state = sampler.init(two_modes, torch.zeros(4, 2))
    assert (points(sampler.tune(state, two_modes)) == 1).all()
    assert (points(sampler.settle(sampler.tune(state, two_modes))) == 2).all()
    assert sampler.discrete and not sampler.traceable
    with pytest.raises(UserError, match="expected discrete states"):
        sampler.check(two_modes)
    discrete = functools.partial(Sites().__call__)
    with pytest.raises(UserError, match="expected discrete states"):
        sampler.check(discrete)
    sampler.check(Sites())
    plain = ParallelTempering(Walk(0.5))
    state = plain.init(two_modes, torch.zeros(4, 2))
    assert plain.tune(state, two_modes) is state and plain.settle(state) is state
    plain.check(two_modes)
    assert not plain.discrete and plain.traceable
    assert scheduled_names(plain) == ("width",)


class Sites:
    """Two sites of {0, 1} with a bond; at β the bond alone is weaker, so that this is not βE."""

    discrete = True
    n_uniforms = 2

    def __init__(self, beta: float = 1.0) -> None:
        self.bond = 1.5 * beta

    def __call__(self, x: Tensor) -> Tensor:
        return 0.4 * x[:, 0] - self.bond * x[:, 0] * x[:, 1]

    def bridge(self, inverse_temperature: float, base: None) -> Sites:
        return Sites(inverse_temperature)

    def sweep(self, x: Tensor, uniforms: Tensor) -> Tensor:
        first = (uniforms[:, 0] < (self.bond * x[:, 1] - 0.4).sigmoid()).to(x.dtype)
        second = (uniforms[:, 1] < (self.bond * first).sigmoid()).to(x.dtype)
        return torch.stack([first, second], 1)


class Sweep:
    """A Gibbs sampler that needs the energy's sweep."""

    discrete = True

    def init(self, energy: Any, x: Tensor) -> Place:
        return Place(x)

    def draw(self, state: Place, *, generator: torch.Generator) -> Tensor:
        return torch.rand(len(state.x), 2, generator=generator)

    def step(self, energy: Any, state: Place, noise: Tensor) -> tuple[Place, dict[str, Tensor]]:
        return Place(ebmkit.offered(energy, "sweep")(state.x, noise)), {}


def test_discrete_energies_are_swept_at_those_of_their_bridge() -> None:
    n, betas = 40_000, [1.0, 0.5, 0.1]
    sampler = ParallelTempering(Sweep(), inverse_temperatures=betas)
    chain = run_chain(
        sampler,
        Sites(),
        torch.zeros(n, 2),
        steps=15,
        generator=torch.Generator().manual_seed(16),
    )
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2)))
    expected = functools.reduce(
        lambda a, b: (a[:, None] * b).flatten(), [(-Sites(b)(every)).softmax(0) for b in betas]
    )
    codes = (points(chain.state).flatten(1).long() * 2 ** torch.arange(5, -1, -1)).sum(1)
    found = torch.bincount(codes, minlength=64) / n
    assert ((found - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt()).all()
    assert 0.5 < chain.metrics["swap_rate"] < 1


@given(n=st.integers(2, 20), lowest=st.floats(1e-3, 0.99))
def test_a_geometric_ladder(n: int, lowest: float) -> None:
    ladder = ParallelTempering(Stay(), n_replicas=n, lowest=lowest).ladder
    assert len(ladder) == n and ladder[0] == 1 and ladder[-1] == pytest.approx(lowest)
    ratios = [b / a for a, b in itertools.pairwise(ladder)]
    assert max(ratios) - min(ratios) < 1e-9


def test_the_ladder_that_is_stated() -> None:
    assert ParallelTempering(Stay(), inverse_temperatures=[1, 0.5]).ladder == (1, 0.5)
    assert len(ParallelTempering(Stay()).ladder) == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inverse_temperatures": [1.0]}, "inverse_temperatures"),
        ({"inverse_temperatures": [0.9, 0.5]}, "strictly decreasing order from 1"),
        ({"inverse_temperatures": [1.0, 1.0]}, "strictly decreasing order from 1"),
        ({"inverse_temperatures": [1.0, 0.2, 0.5]}, "strictly decreasing order from 1"),
        ({"inverse_temperatures": [1.0, 0.0]}, "strictly decreasing order from 1"),
        ({"inverse_temperatures": [1.0, math.nan]}, "finite"),
        ({"inverse_temperatures": [1.0, 0.5], "n_replicas": 2}, "n_replicas: expected none"),
        ({"inverse_temperatures": [1.0, 0.5], "lowest": 0.5}, "lowest: expected none"),
        ({"n_replicas": 1}, "n_replicas"),
        ({"n_replicas": 2.0}, "whole"),
        ({"lowest": 1.0}, "lowest"),
        ({"lowest": 0.0}, "lowest"),
        ({"lowest": math.nan}, "finite"),
        ({"swap_every": 0}, "swap_every"),
        ({"swap_every": 1.5}, "whole"),
    ],
)
def test_what_is_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParallelTempering(Stay(), **fields)


def test_it_is_found_by_name() -> None:
    found = ebmkit.create("sampler", "parallel-tempering", sampler=mala(0.1), n_replicas=3)
    x = ebmkit.sample(
        found, two_modes, torch.zeros(4, 2), steps=3, generator=torch.Generator().manual_seed(17)
    )
    assert x.shape == (4, 2) and bool(x.isfinite().all())
