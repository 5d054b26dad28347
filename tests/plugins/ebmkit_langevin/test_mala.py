"""MALA leaves its target exactly as it is, whatever the step size.

Every statistical comparison is at five standard errors: a false alarm has probability below 6e-7.
"""

from __future__ import annotations

import math

import pytest
import torch
from ebmkit_langevin.mala import MALA
from torch import Tensor
from torch.distributions import Exponential, Normal

import ebmkit
from ebmkit.chains import run_chain

CENTRES = torch.tensor([[-1.5, 0.0], [1.0, 0.8]])
WEIGHTS = torch.tensor([0.35, 0.65])
STD = 0.6


def mixture(x: Tensor) -> Tensor:
    distances = (x[:, None] - CENTRES.to(x)).square().sum(-1)
    return -torch.logsumexp(WEIGHTS.to(x).log() - distances / (2 * STD**2), 1)


def mixture_draw(n: int, generator: torch.Generator) -> Tensor:
    rows = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    return CENTRES[rows] + STD * torch.randn(n, 2, generator=generator)


@pytest.mark.parametrize("step_size", [0.02, 0.2, 0.8])
def test_leaves_a_mixture_invariant(step_size: float) -> None:
    n = 40_000
    g = torch.Generator().manual_seed(1)
    chain = run_chain(MALA(step_size=step_size), mixture, mixture_draw(n, g), steps=40, generator=g)
    assert 0.02 < chain.metrics["acceptance_rate"] < 1
    fresh = mixture_draw(400_000, g).double()
    x = chain.x.double()
    for power in (1, 2, 3):
        values, expected = x**power, (fresh**power)
        error = (values.var(0) / n + expected.var(0) / len(expected)).sqrt()
        assert ((values.mean(0) - expected.mean(0)).abs() < 5 * error).all()


def test_moments_of_a_gaussian_from_a_far_start() -> None:
    n = 20_000
    variances = torch.tensor([0.25, 4.0])
    x = ebmkit.sample(
        MALA(step_size=0.15),
        lambda x: (x.square() / (2 * variances)).sum(1),
        torch.full((n, 2), 3.0),
        steps=400,
        generator=torch.Generator().manual_seed(2),
    ).double()
    assert (x.mean(0).abs() < 5 * (variances / n).sqrt()).all()
    assert ((x.var(0) - variances).abs() < 5 * variances * math.sqrt(2 / n)).all()


def test_a_wall_with_a_nan_force_does_not_bias_the_variance() -> None:
    # The normal on (−2, 2): variance 1 − 2·2·φ(2) / (2Φ(2) − 1) = 0.7737.
    def energy(x: Tensor) -> Tensor:
        wall = torch.where((x.abs() < 2).all(1), 1.0, torch.nan)
        return wall * x.square().sum(1) / 2

    n = 40_000
    x = ebmkit.sample(
        MALA(step_size=0.4),
        energy,
        torch.zeros(n, 1),
        steps=150,
        generator=torch.Generator().manual_seed(3),
    ).double()
    normal = Normal(0.0, 1.0)
    density, mass = normal.log_prob(torch.tensor(2.0)).exp(), 2 * normal.cdf(torch.tensor(2.0)) - 1
    expected = float(1 - 4 * density / mass)
    assert expected == pytest.approx(0.7737, abs=1e-3)
    spread = float((x**2).var().sqrt())
    assert abs(float((x**2).mean()) - expected) < 5 * spread / math.sqrt(n)
    assert (x.abs() < 2).all()


def test_acceptance_is_the_metropolis_hastings_ratio() -> None:
    # Second route: both proposal densities written out with torch.distributions.
    g = torch.Generator().manual_seed(4)
    x = torch.randn(200, 2, generator=g, dtype=torch.float64)
    epsilon = 0.7
    sampler = MALA(step_size=epsilon)
    state = sampler.init(mixture, x)
    noise = sampler.draw(state, generator=g)
    after, metrics = sampler.step(mixture, state, noise, step_size=epsilon)

    def log_q(to: Tensor, start: Tensor) -> Tensor:
        mean = start - epsilon * ebmkit.energy_and_gradient(mixture, start)[1]
        return Normal(mean, math.sqrt(2 * epsilon)).log_prob(to).sum(1)

    y = x - epsilon * state.gradient + math.sqrt(2 * epsilon) * noise.normal
    log_ratio = mixture(x) - mixture(y) + log_q(x, y) - log_q(y, x)
    # Half the sum of two squared standard normal numbers is exponential.
    uniform = 1 - Exponential(1.0).cdf(noise.pair.square().sum(1) / 2)
    accepted = uniform.log() < log_ratio
    assert 10 < accepted.sum() < 190
    torch.testing.assert_close(after.x, torch.where(accepted[:, None], y, x))
    torch.testing.assert_close(after.energy, mixture(after.x))
    torch.testing.assert_close(
        metrics["acceptance_rate"], log_ratio.clamp(max=0).exp().mean(), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("first", [1e-4, 5.0])
def test_adapts_to_the_target_acceptance(first: float) -> None:
    sampler = MALA(step_size=first, target_acceptance=0.6)
    g = torch.Generator().manual_seed(5)
    x = mixture_draw(500, g)
    warm = run_chain(sampler, mixture, x, steps=500, generator=g)
    after = run_chain(sampler, mixture, warm.x, steps=200, generator=g, previous=warm.state)
    assert after.metrics["acceptance_rate"] == pytest.approx(0.6, abs=0.03)
    assert after.state.steps == 700


def test_without_a_target_nothing_is_adapted() -> None:
    chain = run_chain(
        MALA(step_size=0.3),
        mixture,
        torch.zeros(50, 2),
        steps=20,
        generator=torch.Generator().manual_seed(6),
    )
    assert chain.state.log_factor == 0
    assert chain.metrics["step_size"] == pytest.approx(0.3)
