"""Each density in the plane against a second route to it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ebmkit_datasets.checkerboard import Checkerboard
from ebmkit_datasets.eight_gaussians import EightGaussians
from ebmkit_datasets.gaussian_mixture import GaussianMixture
from ebmkit_datasets.pinwheel import Pinwheel
from ebmkit_datasets.rings import Rings
from ebmkit_datasets.spirals import Spirals
from ebmkit_datasets.swiss_roll import SwissRoll
from ebmkit_datasets.two_moons import TwoMoons
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal


def points(n_points: int, half_width: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return half_width * (2 * torch.rand(n_points, 2, generator=generator, dtype=torch.float64) - 1)


def brute_force(
    x: Tensor, curve: Callable[[Tensor], Tensor], ends: tuple[float, float], std: float
) -> Tensor:
    """log ∫ N(x; γ(t), σ²I) dt by Gauss–Legendre quadrature on 1000 even panels of 20 nodes."""
    node, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(20))
    half = (ends[1] - ends[0]) / 2000
    middle = ends[0] + half * torch.arange(1, 2000, 2, dtype=torch.float64)
    t = (middle[:, None] + half * node).flatten()
    log_weight = (half * weight).log().repeat(1000)
    place = curve(t)
    square = torch.stack([(row - place).square().sum(1) for row in x])
    return (log_weight - square / (2 * std**2)).logsumexp(1) - math.log(2 * math.pi * std**2)


@pytest.mark.parametrize("noise", [0.05, 0.2, 1.0, 10.0])
def test_two_moons_against_brute_force(noise: float) -> None:
    x = torch.cat([points(150, 3.0), torch.tensor([[0.0, 0.0], [1.0, 0.5], [0.0, -3.0]])])
    upper = brute_force(x, lambda t: torch.stack([t.cos(), t.sin()], 1), (0, math.pi), noise)
    lower = brute_force(
        x, lambda t: torch.stack([1 - t.cos(), 0.5 - t.sin()], 1), (0, math.pi), noise
    )
    expected = torch.logaddexp(upper, lower) - math.log(2 * math.pi)
    log_density = TwoMoons(noise=noise).log_density(x)
    torch.testing.assert_close(log_density, expected, rtol=1e-11, atol=1e-8)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(noise=st.floats(1e-6, 1e3), distance=st.floats(0.0, 1e3), angle=st.floats(-3.2, 3.2))
def test_two_moons_far_and_near_lie_between_bounds(
    noise: float, distance: float, angle: float
) -> None:
    x = distance * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    t = torch.linspace(0, math.pi, 100_001, dtype=torch.float64)
    upper = torch.stack([t.cos(), t.sin()], 1)
    both = torch.cat([upper, torch.tensor([1.0, 0.5]) - upper])
    nearest = float((x - both).square().sum(1).min())
    # The integrand is at most its peak, and the grid's nearest point is within 2e-5 of the peak.
    slack = 2e-5 * (math.sqrt(nearest) + 2e-5) / noise**2
    peak = -nearest / (2 * noise**2) - math.log(2 * math.pi * noise**2)
    value = float(TwoMoons(noise=noise).log_density(x))
    assert value <= peak + slack + 1e-9 * (1 + abs(peak))
    # Within an angle h of its nearest point a moon comes no nearer than h farther off, so the
    # integral is at least that of h = σ²/(d + σ), over which the exponent falls by 1.5 at most.
    h = min(1.0, noise**2 / (math.sqrt(nearest) + noise))
    assert value >= peak - 1.5 + math.log(h / (2 * math.pi)) - 1e-9 * (1 + abs(peak))


@pytest.mark.parametrize(("noise", "turns"), [(0.1, 1.5), (0.03, 1.0), (0.5, 2.5)])
def test_spirals_against_brute_force(noise: float, turns: float) -> None:
    def parameter(s: Tensor, sign: float) -> Tensor:
        # s = v² is uniform: another parameter than the one that is integrated over.
        v, angle = s.sqrt(), 2 * math.pi * turns * s.sqrt()
        return sign * 3.0 * v[:, None] * torch.stack([angle.cos(), angle.sin()], 1)

    x = points(100, 5.0)
    # √s turns sharply at 0, so the brute force begins just after and loses 1e-9 of the arm.
    ends = (1e-9, 1.0)
    expected = torch.logaddexp(
        brute_force(x, lambda s: parameter(s, 1.0), ends, noise),
        brute_force(x, lambda s: parameter(s, -1.0), ends, noise),
    ) - math.log(2)
    log_density = Spirals(noise=noise, turns=turns).log_density(x)
    torch.testing.assert_close(log_density, expected, rtol=1e-7, atol=2e-5)


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.5])
def test_swiss_roll_against_brute_force(noise: float) -> None:
    def curve(t: Tensor) -> Tensor:
        return 3.0 * (t / (4.5 * math.pi))[:, None] * torch.stack([t.cos(), t.sin()], 1)

    x = points(100, 5.0)
    ends = (1.5 * math.pi, 4.5 * math.pi)
    expected = brute_force(x, curve, ends, noise) - math.log(3 * math.pi)
    torch.testing.assert_close(
        SwissRoll(noise=noise).log_density(x), expected, rtol=1e-9, atol=1e-6
    )


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_rings_against_brute_force(noise: float) -> None:
    x = points(100, 4.0)
    rings = [
        brute_force(x, lambda t, r=r: r * torch.stack([t.cos(), t.sin()], 1), (0, math.tau), noise)
        for r in (0.5, 2.0)
    ]
    expected = torch.logaddexp(*rings) - math.log(2 * math.tau)
    log_density = Rings(radii=[0.5, 2.0], noise=noise).log_density(x)
    torch.testing.assert_close(log_density, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("dataset", "n_components", "weights"),
    [
        (GaussianMixture(radius=2.0, std=0.3), 4, [1.0] * 4),
        (GaussianMixture(n_components=1, radius=2.0, std=0.3), 1, [1.0]),
        (
            GaussianMixture(n_components=3, radius=2.0, std=0.3, weights=[3.0, 1.0, 0.5]),
            3,
            [3.0, 1.0, 0.5],
        ),
        (EightGaussians(radius=2.0, std=0.3), 8, [1.0] * 8),
    ],
    ids=repr,
)
def test_mixtures_against_torch_distributions(
    dataset: GaussianMixture | EightGaussians, n_components: int, weights: list[float]
) -> None:
    angle = torch.arange(n_components, dtype=torch.float64) * math.tau / n_components
    mean = 2.0 * torch.stack([angle.cos(), angle.sin()], 1)
    mixture = MixtureSameFamily(
        Categorical(torch.tensor(weights, dtype=torch.float64)),
        Independent(Normal(mean, torch.full_like(mean, 0.3)), 1),
    )
    x = points(200, 6.0)
    torch.testing.assert_close(dataset.log_density(x), mixture.log_prob(x), rtol=1e-12, atol=1e-10)


def test_eight_gaussians_is_a_mixture_of_eight() -> None:
    x = points(50, 4.0)
    mixture = GaussianMixture(n_components=8, radius=2.0, std=0.2)
    assert torch.equal(EightGaussians().log_density(x), mixture.log_density(x))


def test_weights_are_relative() -> None:
    x = points(50, 3.0)
    one = GaussianMixture(weights=[1.0, 2.0, 3.0, 4.0]).log_density(x)
    torch.testing.assert_close(GaussianMixture(weights=[2.0, 4.0, 6.0, 8.0]).log_density(x), one)


def test_checkerboard_is_flat_on_dark_squares_and_nothing_elsewhere() -> None:
    centre = torch.arange(-5.0, 6.0, 2.0)
    value = Checkerboard().log_density(torch.cartesian_prod(centre, centre)).view(6, 6)
    dark = torch.zeros(6, 6, dtype=torch.bool)
    dark[1:5:2, 1:5:2] = dark[2:5:2, 2:5:2] = True
    assert torch.equal(value[dark], torch.full((8,), -math.log(32.0)))
    assert (value[~dark] == -math.inf).all()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(half_width=st.floats(1e-6, 1e6), seed=st.integers(0, 2**32))
def test_checkerboard_never_draws_where_its_density_is_zero(half_width: float, seed: int) -> None:
    dataset = Checkerboard(half_width=half_width, n_samples=2000, seed=seed)
    fresh = dataset.draw(2000, generator=torch.Generator().manual_seed(seed)).x
    assert torch.isfinite(dataset.log_density(dataset[:])).all()
    assert torch.isfinite(dataset.log_density(fresh)).all()


def test_straight_pinwheel_with_round_blades_is_a_mixture() -> None:
    straight = Pinwheel(arms=4, radial_std=0.3, tangential_std=0.3, rate=0.0, scale=2.0)
    x = points(100, 5.0)
    expected = GaussianMixture(n_components=4, radius=2.0, std=0.6).log_density(x)
    torch.testing.assert_close(straight.log_density(x), expected, rtol=1e-12, atol=1e-10)


def test_twist_of_a_pinwheel_keeps_the_radius() -> None:
    x = points(100, 5.0)
    bent, straight = Pinwheel(), Pinwheel(rate=0.0)
    radius = x.norm(dim=1)
    angle = 0.25 * (radius / 2.0).exp()
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], 1)
    torch.testing.assert_close(bent.log_density(turned), straight.log_density(x))
