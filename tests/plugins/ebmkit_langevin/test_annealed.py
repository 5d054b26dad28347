"""Annealed Langevin dynamics against the exact law of its chains on Gaussians.

Every statistical comparison is at five standard errors: a false alarm has probability below 6e-7.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from ebmkit_langevin.annealed import AnnealedLangevin
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ebmkit

laws = settings(deadline=None, max_examples=50, derandomize=True)
LEVELS = [2.0, 1.0, 0.3]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class NoisyGaussian:
    """E(x | σ) = ‖x‖² / (2 (s² + σ²)), and the levels that it was asked for."""

    noise_conditional = True

    def __init__(self, scale: float = 0.5) -> None:
        self.scale = scale
        self.seen: list[Tensor] = []

    def __call__(
        self, x: Tensor, condition: Tensor | None = None, *, noise_level: Tensor
    ) -> Tensor:
        self.seen.append(noise_level)
        centre = 0 if condition is None else condition.to(x.dtype).unsqueeze(1)
        return (x - centre).square().sum(1) / (2 * (self.scale**2 + noise_level**2))


def levels_along(levels: list[float], steps: int) -> list[float]:
    schedule: Any = AnnealedLangevin(levels).sigma
    spread = ebmkit.spread(schedule, steps)
    return [spread(step) for step in range(steps)]


@pytest.mark.parametrize(("steps", "seed"), [(3, 0), (8, 1), (30, 2), (90, 3)])
def test_mean_and_variance_are_those_of_the_linear_recursion(steps: int, seed: int) -> None:
    # x' = a x + √(2 ε_i) z with a = 1 − ε_i/(s² + σ_i²): the mean is multiplied by a, the variance
    # by a² and grows by 2 ε_i.
    n, scale, start, epsilon = 20_000, 0.5, 3.0, 0.02
    mean, variance = start, 0.0
    for step in range(steps):
        sigma = LEVELS[step * 3 // steps]
        step_size = epsilon * sigma**2 / LEVELS[-1] ** 2
        a = 1 - step_size / (scale**2 + sigma**2)
        mean, variance = a * mean, a**2 * variance + 2 * step_size
    x = ebmkit.sample(
        AnnealedLangevin(LEVELS, epsilon),
        NoisyGaussian(scale),
        torch.full((n, 1), start),
        steps=steps,
        generator=generator(seed),
    ).double()
    assert abs(x.mean() - mean) < 5 * math.sqrt(variance / n)
    assert abs(x.var() - variance) < 5 * variance * math.sqrt(2 / n)


def test_long_chains_end_at_the_last_levels_stationary_law() -> None:
    # σ²_L = 0.09, s² = 0.25: variance v/(1 − ε/(2v)) of v = 0.34, as of any Langevin chain.
    n, epsilon, v = 20_000, 0.1, 0.34
    expected = v / (1 - epsilon / (2 * v))
    sampler = AnnealedLangevin([1.0, 0.3], epsilon)
    x0 = torch.full((n, 1), 3.0)
    x = ebmkit.sample(sampler, NoisyGaussian(), x0, steps=120, generator=generator(5)).double()
    assert abs(x.var() - expected) < 5 * expected * math.sqrt(2 / n)


def test_denoising_as_its_docs_say_gives_the_posterior_mean() -> None:
    # For data N(0, s²) the expected data given x is x s² / (s² + σ²).
    x = torch.randn(6, 2, generator=generator(6), dtype=torch.float64)
    energy = partial(NoisyGaussian(0.5), noise_level=torch.full((6,), 0.3, dtype=torch.float64))
    gradient = ebmkit.energy_and_gradient(energy, x)[1]
    torch.testing.assert_close(x - 0.09 * gradient, x * 0.25 / 0.34)


def test_one_step_is_the_formula() -> None:
    x = torch.randn(5, 2, generator=generator(4), dtype=torch.float64)
    sampler, energy = AnnealedLangevin([2.0, 0.5], 0.03), NoisyGaussian()
    state = sampler.init(energy, x)
    z = sampler.draw(state, generator=generator(5))
    after, metrics = sampler.step(energy, state, z, step_size=0.03, sigma=2.0)
    epsilon = 0.03 * 16
    torch.testing.assert_close(after.x, x - epsilon * x / 4.25 + math.sqrt(2 * epsilon) * z)
    assert not metrics
    assert after.x.dtype == torch.float64


def test_the_energy_is_told_the_level_of_each_row() -> None:
    energy = NoisyGaussian()
    x0 = torch.zeros(4, 2, dtype=torch.float64)
    ebmkit.sample(AnnealedLangevin(LEVELS), energy, x0, steps=6, generator=generator())
    assert [level.tolist() for level in energy.seen] == [
        [level] * 4 for level in (2.0, 2.0, 1.0, 1.0, 0.3, 0.3)
    ]
    assert {level.dtype for level in energy.seen} == {torch.float64}


@laws
@given(n_levels=st.integers(1, 12), further=st.integers(0, 60))
def test_levels_fall_in_turn_for_equal_numbers_of_steps(n_levels: int, further: int) -> None:
    levels = [2.0**-i for i in range(n_levels)]
    along = levels_along(levels, n_levels + further)
    counts = [along.count(level) for level in levels]
    assert along == sorted(along, reverse=True)
    assert sum(counts) == len(along)
    assert max(counts) - min(counts) <= 1


def test_sigma_follows_the_chains_clock_with_an_open_length() -> None:
    schedule: Any = AnnealedLangevin(LEVELS).sigma
    assert ebmkit.clock_of(schedule) == "chain"
    assert ebmkit.length_of(schedule) is None
    assert ebmkit.is_scheduled(schedule)
    with pytest.raises(ValueError, match="not yet spread over a chain"):
        schedule(0)


def test_a_scheduled_step_size_is_scaled_with_the_level() -> None:
    # Without a force each step adds 2 ε_i: ε = 0.4, 0.3, 0.2, 0.1 at σ²/σ_L² = 4, 4, 1, 1.
    class Flat(NoisyGaussian):
        def __call__(self, x: Tensor, condition: Any = None, *, noise_level: Tensor) -> Tensor:
            return 0 * x.sum(1)

    linear = ebmkit.create("scheduler", "linear", start_value=0.4, end_value=0.1, clock="chain")
    n, expected = 20_000, 2 * (1.6 + 1.2 + 0.2 + 0.1)
    x = ebmkit.sample(
        AnnealedLangevin([2.0, 1.0], linear),
        Flat(),
        torch.zeros(n, 1),
        steps=4,
        generator=generator(7),
    ).double()
    assert abs(x.var() - expected) < 5 * expected * math.sqrt(2 / n)


def test_the_generator_decides_the_chains() -> None:
    def run(seed: int) -> Tensor:
        return ebmkit.sample(
            AnnealedLangevin(LEVELS, 0.01),
            NoisyGaussian(),
            torch.zeros(5, 2),
            steps=7,
            generator=generator(seed),
        )

    before = torch.random.get_rng_state()
    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_labels_reach_the_energy_beside_the_level() -> None:
    # Chains with hardly any noise left at the end sit at their label: 5 standard errors of the mean.
    labels = torch.arange(4).repeat(2000)
    energy = partial(NoisyGaussian(), condition=labels)
    sampler = AnnealedLangevin([1.0, 0.3], 0.1)
    x0 = torch.zeros(len(labels), 1)
    x = ebmkit.sample(sampler, energy, x0, steps=120, generator=generator(8)).squeeze(1)
    deviation = math.sqrt(0.34 / (1 - 0.1 / 0.68) / 2000)
    for label in range(4):
        assert abs(x[labels == label].double().mean() - label) < 5 * deviation


def test_a_model_of_the_project_is_sampled() -> None:
    for name, fields in (
        ("noise-conditional-mlp", {"event_shape": (1, 4, 4), "hidden": [8]}),
        ("conv", {"event_shape": (1, 4, 4), "channels": [3], "noise_conditional": True}),
    ):
        model = ebmkit.create("model", name, base_scale=1.0, generator=generator(), **fields)
        sampler = ebmkit.create("sampler", "annealed-langevin", levels=[1.0, 0.1], step_size=1e-3)
        x0 = torch.zeros(3, 1, 4, 4)
        x = ebmkit.sample(sampler, model, x0, steps=5, generator=generator(9))
        assert x.shape == (3, 1, 4, 4)
        assert x.isfinite().all()
        assert (x != x0).all()


@pytest.mark.parametrize("bound", [False, True])
def test_energies_that_are_not_noise_conditional_are_refused(bound: bool) -> None:
    def bowl(x: Tensor, condition: Tensor | None = None) -> Tensor:
        return x.square().sum(1) / 2

    energy = partial(bowl, condition=torch.zeros(2)) if bound else bowl
    with pytest.raises(ebmkit.UserError, match=r"got bowl, .*choose the sampler langevin"):
        ebmkit.sample(AnnealedLangevin(LEVELS), energy, torch.zeros(2, 1), steps=9)


def test_a_model_that_says_it_is_not_noise_conditional_is_refused() -> None:
    model = ebmkit.create("model", "conv", event_shape=(4, 4), channels=[2])
    with pytest.raises(ValueError, match="expected a noise-conditional energy, got Conv"):
        ebmkit.sample(AnnealedLangevin(LEVELS), model, torch.zeros(2, 4, 4), steps=9)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_chains_shorter_than_the_levels_are_refused(steps: int) -> None:
    with pytest.raises(ebmkit.UserError, match=f"at least 3 steps, one a level, got {steps}"):
        ebmkit.sample(AnnealedLangevin(LEVELS), NoisyGaussian(), torch.zeros(2, 1), steps=steps)


@pytest.mark.parametrize(
    "levels", [[], [1.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, -1.0], [math.inf, 1.0], [math.nan]]
)
def test_levels_that_do_not_fall_are_refused(levels: list[float]) -> None:
    with pytest.raises(ValueError, match="levels"):
        AnnealedLangevin(levels)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan])
def test_step_sizes_out_of_range_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="step_size"):
        AnnealedLangevin([1.0], wrong)
