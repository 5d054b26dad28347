"""Gaussians and their mixtures: normalised, with the densities and gradients that they state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ebmkit_energies.gaussian import Gaussian
from ebmkit_energies.gaussian_mixture import GaussianMixture
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ebmkit import score

MEAN = [0.5, -1.0]
COVARIANCE = [[1.0, 0.6], [0.6, 0.8]]
MEANS = [[0.0, 0.0], [1.5, -1.0], [-1.0, 2.0]]
WEIGHTS = [1.0, 2.0, 5.0]


def points(size: int, dim: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(size, dim, generator=generator, dtype=torch.float64)


def integral(density: Callable[[Tensor], Tensor]) -> float:
    """∫ density over the square of half-width 12 by the trapezoidal rule, whose error falls faster
    than any power of the grid's step for such integrands."""
    axis = torch.linspace(-12, 12, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    return float(density(grid).sum() * (axis[1] - axis[0]) ** 2)


@pytest.mark.parametrize(
    "energy",
    [
        Gaussian(MEAN, COVARIANCE),
        Gaussian(MEAN),
        Gaussian(MEAN, COVARIANCE, trainable=True).double(),
        GaussianMixture(MEANS, 0.6, WEIGHTS),
        GaussianMixture(MEANS),
    ],
)
def test_normalised_by_quadrature(energy: Any) -> None:
    with torch.no_grad():
        partition = integral(lambda x: torch.exp(-energy(x)))
        assert partition == pytest.approx(math.exp(energy.log_partition()), rel=1e-9)
        total = integral(lambda x: energy.log_density(x).exp())
        assert total == pytest.approx(1.0, rel=1e-9)


def test_gaussian_density_by_a_second_route() -> None:
    x = points(50)
    mean, covariance = (torch.tensor(v, dtype=torch.float64) for v in (MEAN, COVARIANCE))
    expected = MultivariateNormal(mean, covariance).log_prob(x)
    torch.testing.assert_close(
        Gaussian(MEAN, COVARIANCE).log_density(x), expected, rtol=1e-12, atol=0
    )


def test_gaussian_score_is_the_precision_times_the_way_to_the_mean() -> None:
    x = points(50)
    mean, covariance = (torch.tensor(v, dtype=torch.float64) for v in (MEAN, COVARIANCE))
    expected = torch.linalg.solve(covariance, (mean - x).T).T
    torch.testing.assert_close(score(Gaussian(MEAN, COVARIANCE), x), expected)
    torch.testing.assert_close(score(Gaussian(MEAN), x), mean - x)


def test_gradients_in_the_parameters_are_those_that_the_docstring_states() -> None:
    energy = Gaussian(MEAN, COVARIANCE, trainable=True).double()
    assert {name for name, _ in energy.named_parameters()} == {"location", "factor"}
    x = points(30)
    energy(x).mean().backward()
    away = (x - energy.location).detach()
    factor = energy.factor.detach()
    in_location = -(away @ factor @ factor.T).mean(0)
    in_factor = (torch.einsum("bi,bj->ij", away, away) / len(x) @ factor).tril()
    torch.testing.assert_close(energy.location.grad, in_location)
    torch.testing.assert_close(energy.factor.grad, in_factor)


def test_maximum_likelihood_of_a_trainable_gaussian_has_the_data_moments() -> None:
    # The gradient of the mean negative log density is zero at the data's own moments.
    x = points(200)
    mean, covariance = x.mean(0), torch.cov(x.T, correction=0)
    energy = Gaussian(mean.tolist(), covariance.tolist(), trainable=True).double()
    with torch.no_grad():
        exact = Gaussian(mean.tolist(), covariance.tolist())
        energy.location.copy_(exact.location)
        energy.factor.copy_(exact.factor)
    (-energy.log_density(x).mean()).backward()
    assert energy.location.grad.abs().max() < 1e-12
    assert energy.factor.grad.abs().max() < 1e-12


def test_only_a_trainable_gaussian_has_parameters_and_they_have_the_default_dtype() -> None:
    assert not list(Gaussian(MEAN).parameters())
    assert {p.dtype for p in Gaussian(MEAN, trainable=True).parameters()} == {torch.float32}
    constants = Gaussian(MEAN)
    assert {name for name, _ in constants.named_buffers()} == {"location", "factor"}
    assert constants.mean == MEAN


def test_constants_are_not_rounded_to_single_precision() -> None:
    x = torch.zeros(1, 1, dtype=torch.float64)
    assert Gaussian([0.1])(x).item() == pytest.approx(0.005, rel=1e-15)


def test_mixture_density_by_a_second_route() -> None:
    x = points(50)
    parts = [
        MultivariateNormal(torch.tensor(m, dtype=torch.float64), 0.36 * torch.eye(2).double())
        for m in MEANS
    ]
    densities = torch.stack([part.log_prob(x).exp() for part in parts])
    weights = torch.tensor(WEIGHTS, dtype=torch.float64) / sum(WEIGHTS)
    expected = (weights @ densities).log()
    found = GaussianMixture(MEANS, 0.6, WEIGHTS).log_density(x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_mixture_score_pulls_to_each_mean_by_its_share() -> None:
    x = points(50)
    means = torch.tensor(MEANS, dtype=torch.float64)
    away = means - x.unsqueeze(1)
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    share = (weights.log() - away.square().sum(2) / (2 * 0.36)).softmax(1)
    expected = (share.unsqueeze(2) * away).sum(1) / 0.36
    torch.testing.assert_close(score(GaussianMixture(MEANS, 0.6, WEIGHTS), x), expected)


def test_far_from_every_component_energy_and_score_stay_finite_and_right() -> None:
    energy = GaussianMixture([[0.0], [1.0]], 0.1)
    x = torch.tensor([[100.0]])
    # The nearer component alone counts there: ½ (99 / 0.1)² + log 2 + ½ log 2πσ².
    expected = 0.5 * 990**2 + math.log(2) + 0.5 * math.log(2 * math.pi * 0.01)
    assert energy(x).item() == pytest.approx(expected, rel=1e-6)
    assert score(energy, x).item() == pytest.approx(-9900, rel=1e-6)


def test_a_mixture_of_one_is_a_gaussian() -> None:
    x = points(20)
    one = GaussianMixture([MEAN], 0.7)
    gaussian = Gaussian(MEAN, [[0.49, 0.0], [0.0, 0.49]])
    torch.testing.assert_close(one(x), -gaussian.log_density(x))
    assert one.log_partition().shape == ()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Gaussian([]), "mean"),
        (lambda: Gaussian([math.nan]), "mean"),
        (lambda: Gaussian(MEAN, [[1.0, 0.5], [0.4, 1.0]]), "not symmetric"),
        (lambda: Gaussian(MEAN, [[1.0, 2.0], [2.0, 1.0]]), "not positive definite"),
        (lambda: Gaussian(MEAN, [[0.0, 0.0], [0.0, 0.0]]), "not positive definite"),
        (lambda: Gaussian(MEAN, [[1.0, 0.0]]), "as many rows as columns"),
        (lambda: Gaussian(MEAN, [[1.0, 0.0], [0.0]]), "as many rows as columns"),
        (lambda: Gaussian(MEAN, [[1.0, 0.0], [0.0, math.inf]]), "finite"),
        (lambda: Gaussian(MEAN, [[1.0]]), "expected 2 rows"),
        (lambda: Gaussian(MEAN, event_shape=(3,)), "events of 2 numbers.*got 3"),
        (lambda: Gaussian(MEAN)(torch.zeros(4, 3)), "events of 2 numbers.*got 3"),
        (lambda: GaussianMixture([]), "at least one row"),
        (lambda: GaussianMixture([[]]), "at least one row"),
        (lambda: GaussianMixture([[0.0], [0.0, 1.0]]), "all of the same length"),
        (lambda: GaussianMixture([[0.0]], 0.0), "std"),
        (lambda: GaussianMixture([[0.0]], 1.0, [1.0, 1.0]), "one for each of 1 means, got 2"),
        (lambda: GaussianMixture([[0.0], [1.0]], 1.0, [1.0, 0.0]), "weights"),
        (lambda: GaussianMixture([[0.0]], event_shape=(2,)), "events of 1 numbers.*got 2"),
    ],
)
def test_fields_that_do_not_fit_are_refused(build: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build()


def test_asymmetry_of_rounding_is_accepted() -> None:
    Gaussian(MEAN, [[1.0, 0.3], [0.3 + 1e-16, 1.0]])
    Gaussian(MEAN, [[1.0, 1e-17], [0.0, 1.0]])
