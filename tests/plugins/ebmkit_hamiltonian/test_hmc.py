"""HMC leaves its target exactly as it is, whatever step size and length.

Every statistical comparison is at five standard errors: a false alarm has probability below 6e-7.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ebmkit_hamiltonian._leapfrog import leapfrog
from ebmkit_hamiltonian.hmc import HMC, HMCNoise
from torch import Tensor
from torch.distributions import Exponential, Normal

import ebmkit
from ebmkit.chains import run_chain

CENTRES = torch.tensor([[-1.5, 0.0], [1.0, 0.8]])
WEIGHTS = torch.tensor([0.35, 0.65])
STD = 0.6
COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 2.0]], dtype=torch.float64)
PRECISION = torch.linalg.inv(COVARIANCE)
SURE = torch.tensor(10.0)
"""A pair of such makes the uniform number exp(−100), at which all that can be is accepted."""


def mixture(x: Tensor) -> Tensor:
    distances = (x[:, None] - CENTRES.to(x)).square().sum(-1)
    return -torch.logsumexp(WEIGHTS.to(x).log() - distances / (2 * STD**2), 1)


def mixture_draw(n: int, generator: torch.Generator) -> Tensor:
    rows = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    return CENTRES[rows] + STD * torch.randn(n, 2, generator=generator)


def correlated(x: Tensor) -> Tensor:
    return ((x @ PRECISION.to(x)) * x).sum(1) / 2


def assert_correlated(x: Tensor) -> None:
    """That the points' means and covariances are those of `correlated`."""
    n, variances = len(x), COVARIANCE.diagonal()
    assert (x.mean(0).abs() < 5 * (variances / n).sqrt()).all()
    spread = ((variances[:, None] * variances + COVARIANCE**2) / n).sqrt()
    assert ((x.T @ x / n - COVARIANCE).abs() < 5 * spread).all()


@pytest.mark.parametrize("jitter", [0.0, 0.4])
@pytest.mark.parametrize(("step_size", "n_leapfrog"), [(0.2, 7), (0.6, 3), (1.0, 2)])
def test_leaves_a_mixture_invariant(step_size: float, n_leapfrog: int, jitter: float) -> None:
    n = 30_000
    g = torch.Generator().manual_seed(1)
    sampler = HMC(step_size=step_size, n_leapfrog=n_leapfrog, jitter=jitter)
    chain = run_chain(sampler, mixture, mixture_draw(n, g), steps=20, generator=g)
    assert 0.2 < chain.metrics["acceptance_rate"] < 1
    fresh = mixture_draw(400_000, g).double()
    x = chain.x.double()
    for power in (1, 2, 3):
        values, expected = x**power, fresh**power
        error = (values.var(0) / n + expected.var(0) / len(expected)).sqrt()
        assert ((values.mean(0) - expected.mean(0)).abs() < 5 * error).all()


@pytest.mark.parametrize("step_size", [0.3, 0.9, 1.3])
def test_leaves_a_correlated_gaussian_invariant(step_size: float) -> None:
    g = torch.Generator().manual_seed(2)
    normal = torch.randn(30_000, 2, generator=g, dtype=torch.float64)
    x = normal @ torch.linalg.cholesky(COVARIANCE).T
    chain = run_chain(HMC(step_size=step_size, n_leapfrog=3), correlated, x, steps=20, generator=g)
    assert_correlated(chain.x)


def test_moments_of_a_gaussian_from_a_far_start() -> None:
    chain = run_chain(
        HMC(step_size=0.4, n_leapfrog=5, jitter=0.3),
        correlated,
        torch.full((20_000, 2), 30.0, dtype=torch.float64),
        steps=60,
        generator=torch.Generator().manual_seed(3),
    )
    assert_correlated(chain.x)


@pytest.mark.parametrize("outside", [math.nan, math.inf])
def test_a_wall_does_not_bias_the_variance(outside: float) -> None:
    # The normal on (−2, 2): variance 1 − 2·2·φ(2) / (2Φ(2) − 1) = 0.7737. A NaN wall has a NaN force,
    # an infinite one none: trajectories that pass through it and come back are refused too.
    def energy(x: Tensor) -> Tensor:
        inside = (x.abs() < 2).all(1)
        free = x.square().sum(1) / 2
        return (
            free * torch.where(inside, 1.0, outside)
            if math.isnan(outside)
            else (torch.where(inside, free, outside))
        )

    n = 40_000
    x = ebmkit.sample(
        HMC(step_size=0.5, n_leapfrog=4),
        energy,
        torch.zeros(n, 1),
        steps=40,
        generator=torch.Generator().manual_seed(4),
    ).double()
    normal = Normal(0.0, 1.0)
    density, mass = normal.log_prob(torch.tensor(2.0)).exp(), 2 * normal.cdf(torch.tensor(2.0)) - 1
    expected = float(1 - 4 * density / mass)
    assert expected == pytest.approx(0.7737, abs=1e-3)
    spread = float((x**2).var().sqrt())
    assert abs(float((x**2).mean()) - expected) < 5 * spread / math.sqrt(n)
    assert (x.abs() < 2).all()


@pytest.mark.parametrize("inside", [math.nan, math.inf, 0.0])
def test_a_wall_on_the_way_is_not_passed(inside: float) -> None:
    # Without a force two leaps of 1 lead from −1 over 0, where the wall is, to 1.
    def energy(x: Tensor) -> Tensor:
        return torch.where(x.abs().sum(1) < 0.5, inside, 0.0 * x.sum(1))

    x = torch.full((1, 1), -1.0)
    sampler = HMC(step_size=1.0, n_leapfrog=2)
    noise = HMCNoise(torch.ones(1, 1), SURE.expand(1, 2), None)
    after, metrics = sampler.step(energy, sampler.init(energy, x), noise, step_size=1.0)
    passes = inside == 0
    assert after.x.item() == (1.0 if passes else -1.0)
    assert metrics["acceptance_rate"] == float(passes)


def test_acceptance_is_the_metropolis_ratio_of_the_hamiltonian() -> None:
    # Second route: the trajectory written out, with both half kicks of each leap.
    g = torch.Generator().manual_seed(5)
    x = torch.randn(200, 2, generator=g, dtype=torch.float64)
    epsilon = 0.9
    sampler = HMC(step_size=epsilon, n_leapfrog=3)
    state = sampler.init(mixture, x)
    noise = sampler.draw(state, generator=g)
    after, metrics = sampler.step(mixture, state, noise, step_size=epsilon)

    y, p = x, noise.momentum
    for _ in range(3):
        p = p + epsilon / 2 * ebmkit.score(mixture, y)
        y = y + epsilon * p
        p = p + epsilon / 2 * ebmkit.score(mixture, y)
    # Half the sum of two squared standard normal numbers is exponential.
    uniform = 1 - Exponential(1.0).cdf(noise.pair.square().sum(1) / 2)
    before = mixture(x) + noise.momentum.square().sum(1) / 2
    log_ratio = before - mixture(y) - p.square().sum(1) / 2
    accepted = uniform.log() < log_ratio
    assert 10 < accepted.sum() < 190
    torch.testing.assert_close(after.x, torch.where(accepted[:, None], y, x))
    torch.testing.assert_close(after.energy, mixture(after.x))
    torch.testing.assert_close(after.gradient, -ebmkit.score(mixture, after.x))
    torch.testing.assert_close(after.hamiltonian, before)
    torch.testing.assert_close(
        metrics["acceptance_rate"], log_ratio.clamp(max=0).exp().mean(), rtol=1e-9, atol=1e-9
    )


def test_detailed_balance() -> None:
    # π(x) N(p) α(x → y) = π(y) N(q) α(y → x), where the way back begins with −q.
    g = torch.Generator().manual_seed(6)
    sampler = HMC(step_size=0.9, n_leapfrog=2)
    uneven = 0
    for _ in range(20):
        x, p = torch.randn(2, 1, 2, generator=g, dtype=torch.float64)
        noise = HMCNoise(p, SURE.to(p).expand(1, 2), None)
        there, metrics = sampler.step(mixture, sampler.init(mixture, x), noise, step_size=0.9)
        y = there.x
        # The two half-way momenta sum to (y − x) / ε.
        q = (y - x) / 0.9 - p + 0.9 / 2 * (ebmkit.score(mixture, y) - ebmkit.score(mixture, x))
        noise = noise._replace(momentum=-q)
        back, returning = sampler.step(mixture, sampler.init(mixture, y), noise, step_size=0.9)
        torch.testing.assert_close(back.x, x)
        left = -mixture(x) - p.square().sum(1) / 2 + metrics["acceptance_rate"].log()
        right = -mixture(y) - q.square().sum(1) / 2 + returning["acceptance_rate"].log()
        torch.testing.assert_close(left, right)
        uneven += bool(metrics["acceptance_rate"] < 0.95)
    assert uneven


def test_jitter_spreads_the_step_size_uniformly_and_is_one_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    g = torch.Generator().manual_seed(7)
    sampler = HMC(jitter=0.25, n_leapfrog=1)
    state = sampler.init(mixture, torch.zeros(3, 2))
    seen: list[Tensor] = []

    def walked(energy: Any, start: Any, step_size: Tensor, leaps: int) -> Any:
        seen.append(step_size)
        return leapfrog(energy, start, step_size, leaps)

    monkeypatch.setattr("ebmkit_hamiltonian.hmc.leapfrog", walked)
    for _ in range(4000):
        sampler.step(mixture, state, sampler.draw(state, generator=g), step_size=1.0)
    assert all(stretch.ndim == 0 for stretch in seen)
    stretches = torch.stack(seen).double()
    assert (stretches >= 0.75).all() and (stretches <= 1.25).all()
    assert abs(stretches.mean() - 1) < 5 * 0.25 / math.sqrt(3 * 4000)
    # The variance of u² for u uniform on (−1, 1) is 4/45.
    assert abs(((stretches - 1) / 0.25).square().mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / 4000)
    assert seen[0].dtype == torch.float32
    assert HMC().draw(state, generator=g).stretch is None


def test_without_jitter_a_whole_period_leads_back_and_with_it_does_not() -> None:
    # cos φ = 1 − ε²/2 with φ = 2π / 8: eight leaps of the harmonic leapfrog are one period.
    epsilon = math.sqrt(2 - 2 * math.cos(2 * math.pi / 8))
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    for jitter, moves in ((0.0, False), (0.3, True)):
        sampler = HMC(step_size=epsilon, n_leapfrog=8, jitter=jitter)
        g = torch.Generator().manual_seed(8)
        chain = run_chain(sampler, lambda x: x.square().sum(1) / 2, x, steps=3, generator=g)
        assert torch.allclose(chain.x, x) is not moves


def test_a_step_takes_as_many_gradients_as_leaps() -> None:
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return mixture(x)

    g = torch.Generator().manual_seed(9)
    run_chain(HMC(n_leapfrog=6), counted, torch.zeros(4, 2), steps=5, generator=g)
    assert calls == 1 + 5 * 6


def test_chains_that_are_not_finite_stay_and_count_as_refused() -> None:
    sampler = HMC(step_size=0.3)
    x = torch.tensor([[math.nan, 0.0], [0.5, 0.5]])
    state = sampler.init(mixture, x)
    noise = sampler.draw(state, generator=torch.Generator().manual_seed(10))
    after, metrics = sampler.step(
        mixture, state, noise._replace(pair=SURE.expand(2, 2)), step_size=0.3
    )
    torch.testing.assert_close(after.x[0], x[0], equal_nan=True)
    assert not torch.equal(after.x[1], x[1])
    assert 0 < metrics["acceptance_rate"] <= 0.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": math.nan}, "finite"),
        ({"step_size": "0.1"}, "scheduler"),
        ({"n_leapfrog": 0}, "n_leapfrog"),
        ({"n_leapfrog": 2.0}, "whole"),
        ({"jitter": 1.0}, "jitter"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": math.inf}, "finite"),
    ],
)
def test_refuses_what_is_out_of_range(arguments: dict[str, object], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        HMC(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("tensor", [False, True])
def test_traces_into_a_graph_of_the_same_numbers(tensor: bool) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    g = torch.Generator().manual_seed(11)
    sampler = HMC(n_leapfrog=3, jitter=0.2)
    state = sampler.init(mixture, torch.randn(6, 2, generator=g))
    noise = sampler.draw(state, generator=g)
    step_size = torch.tensor(0.8) if tensor else 0.8

    def step(state, noise, step_size):  # type: ignore[no-untyped-def]
        return sampler.step(mixture, state, noise, step_size=step_size)

    graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(state, noise, step_size)
    traced, _ = graph(state, noise, step_size)
    plain, _ = step(state, noise, step_size)
    other = noise._replace(momentum=-noise.momentum, pair=noise.pair.flip(0))
    for found, expected in (
        (traced, plain),
        (graph(state, other, step_size)[0], step(state, other, step_size)[0]),
    ):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
