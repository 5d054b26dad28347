"""Unadjusted Langevin against its exact stationary law, which is not the target's.

Every statistical comparison is at five standard errors: a false alarm has probability below 6e-7.
"""

from __future__ import annotations

import math

import pytest
import torch
from ebmkit_langevin.langevin import Langevin
from torch import Tensor

import ebmkit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.2])
@pytest.mark.parametrize("variance", [0.04, 1.0, 9.0])
def test_variance_on_a_gaussian_is_inflated_exactly_as_derived(
    variance: float, ratio: float
) -> None:
    # x' = (1 − ε/σ²) x + √(2ε) z has variance 2ε / (1 − (1 − ε/σ²)²) = σ² / (1 − ε/(2σ²)).
    n, epsilon, mean = 20_000, ratio * variance, 0.7
    expected = variance / (1 - epsilon / (2 * variance))
    steps = math.ceil(math.log(1e-4) / math.log(max(abs(1 - ratio), 1e-3)))
    x = ebmkit.sample(
        Langevin(step_size=epsilon),
        lambda x: (x - mean).square().sum(1) / (2 * variance),
        torch.full((n, 1), mean),
        steps=steps,
        generator=generator(),
    ).double()
    assert abs(x.mean() - mean) < 5 * math.sqrt(expected / n)
    assert abs(x.var() - expected) < 5 * expected * math.sqrt(2 / n) + 1e-3 * expected


def test_noise_scale_samples_the_colder_distribution() -> None:
    # With τ the stationary variance is that of τ = 1 times τ².
    n, epsilon, scale = 20_000, 0.1, 0.5
    x = ebmkit.sample(
        Langevin(step_size=epsilon, noise_scale=scale),
        lambda x: x.square().sum(1) / 2,
        torch.zeros(n, 1),
        steps=100,
        generator=generator(1),
    ).double()
    expected = scale**2 / (1 - epsilon / 2)
    assert abs(x.var() - expected) < 5 * expected * math.sqrt(2 / n)


GRID = torch.linspace(-7, 7, 701, dtype=torch.float64)[:, None]


def mixture(x: Tensor) -> Tensor:
    centres = torch.tensor([-1.2, 1.6], dtype=x.dtype)
    weights = torch.tensor([0.3, 0.7], dtype=x.dtype)
    return -torch.logsumexp(weights.log() - (x - centres).square() / (2 * 0.36), -1)


def stationary(epsilon: float) -> Tensor:
    """Probabilities on the grid that the chain's own transition density leaves as they are."""
    drift = GRID - epsilon * ebmkit.energy_and_gradient(mixture, GRID)[1]
    kernel = torch.exp(-((GRID.T - drift).square()) / (4 * epsilon))
    kernel /= kernel.sum(1, keepdim=True)
    for _ in range(14):  # 2^14 steps
        kernel = kernel @ kernel
    return kernel[0] / kernel[0].sum()


def test_the_bias_on_a_mixture_is_of_first_order() -> None:
    p = torch.exp(-mixture(GRID))
    exact = (p / p.sum() * GRID.squeeze(1).square()).sum()
    bias = [float((stationary(e) * GRID.squeeze(1).square()).sum() - exact) for e in (0.02, 0.01)]
    assert bias[0] > 0.005
    assert bias[0] / bias[1] == pytest.approx(2, abs=0.1)


def test_moments_on_a_mixture_match_the_transition_kernel() -> None:
    # Second route: the stationary vector of the chain's own transition density on a fine grid.
    epsilon, n = 0.15, 40_000
    p = stationary(epsilon)
    grid = GRID
    x0 = grid[torch.multinomial(p, n, replacement=True, generator=generator(2))].float()
    x = ebmkit.sample(Langevin(step_size=epsilon), mixture, x0, steps=200, generator=generator(3))
    for power in (1, 2, 3):
        values = x.double().squeeze(1) ** power
        expected = (p * grid.squeeze(1) ** power).sum()
        assert abs(values.mean() - expected) < 5 * values.std() / math.sqrt(n)


def test_one_step_is_the_formula() -> None:
    x = torch.randn(5, 2, 3, generator=generator(4), dtype=torch.float64)
    sampler = Langevin(step_size=0.03, noise_scale=0.7)
    state = sampler.init(lambda x: x.pow(4).flatten(1).sum(1), x)
    z = sampler.draw(state, generator=generator(5))
    after, metrics = sampler.step(
        lambda x: x.pow(4).flatten(1).sum(1), state, z, step_size=0.03, noise_scale=0.7
    )
    torch.testing.assert_close(after.x, x - 0.03 * 4 * x**3 + math.sqrt(0.06) * 0.7 * z)
    assert not metrics
    assert after.x.dtype == torch.float64


@pytest.mark.parametrize("wrong", [{"step_size": 0.0}, {"step_size": -1.0}, {"noise_scale": -0.1}])
def test_refuses_parameters_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Langevin(**wrong)


def test_refuses_a_parameter_that_is_neither_number_nor_schedule() -> None:
    with pytest.raises(TypeError, match="step_size must be a number or a scheduler"):
        Langevin(step_size="fast")  # type: ignore[arg-type]
