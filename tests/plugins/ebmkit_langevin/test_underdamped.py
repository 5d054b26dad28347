"""BAOAB against its exact stationary law on Gaussians, and by quadrature elsewhere.

Every statistical comparison is at five standard errors: a false alarm has probability below 6e-7.
"""

from __future__ import annotations

import math

import pytest
import torch
from ebmkit_langevin.underdamped import UnderdampedLangevin, UnderdampedLangevinState
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ebmkit

laws = settings(deadline=None, max_examples=60, derandomize=True)
ONE = torch.ones((), dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quartic(x: Tensor) -> Tensor:
    return x.pow(4).sum(1) / 4


def cone(x: Tensor) -> Tensor:
    """2 log 2cosh(3x/2): round below and straight above, of curvature 4.5 at most."""
    return 2 * torch.logaddexp(1.5 * x, -1.5 * x).sum(1)


@laws
@given(
    sigma=st.floats(0.1, 10),
    ratio=st.floats(0.05, 1.8),
    friction=st.floats(0.05, 20),
)
def test_on_a_gaussian_the_positions_have_exactly_the_right_variance(
    sigma: float, ratio: float, friction: float
) -> None:
    # The step is linear in (x, v) and z: (x, v)' = M (x, v) + b z, read off at unit vectors. Its
    # stationary covariance S solves S = M S Mᵀ + b bᵀ.
    h, friction = ratio * sigma, friction / sigma

    def energy(x: Tensor) -> Tensor:
        return x.square().sum(1) / (2 * sigma**2)

    x, v, z = (torch.eye(3, dtype=torch.float64)[:, i : i + 1] for i in range(3))
    state = UnderdampedLangevinState(x, v, x / sigma**2, ONE)
    after, _ = UnderdampedLangevin().step(energy, state, z, step_size=h, friction=friction)
    columns = torch.cat([after.x, after.velocity], 1)
    m, b = columns[:2].T, columns[2]
    assert torch.linalg.eigvals(m).abs().max() < 1
    system = torch.eye(4, dtype=torch.float64) - torch.kron(m, m)
    s = torch.linalg.solve(system, torch.outer(b, b).flatten()).view(2, 2)
    assert float(s[0, 0]) == pytest.approx(sigma**2, rel=1e-8)
    assert float(s[1, 1]) == pytest.approx(1 - ratio**2 / 4, rel=1e-8)
    assert float(s[0, 1]) == pytest.approx(0, abs=1e-8 * sigma)


@pytest.mark.parametrize(("h", "friction"), [(0.3, 0.5), (0.8, 2.0), (0.5, 20.0)])
def test_chains_from_a_far_start_have_the_moments_of_the_gaussian(
    h: float, friction: float
) -> None:
    n, mean = 20_000, 0.7
    sigma = torch.tensor([0.5, 1.5])
    steps = math.ceil(25 * max(1.0, friction) / h)
    x = ebmkit.sample(
        UnderdampedLangevin(step_size=h, friction=friction),
        lambda x: ((x - mean) / sigma).square().sum(1) / 2,
        torch.full((n, 2), 3.0),
        steps=steps,
        generator=generator(1),
    ).double()
    variance = sigma.double().square()
    assert ((x.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all()
    assert ((x.var(0) - variance).abs() < 5 * variance * math.sqrt(2 / n)).all()
    x = (x - mean) / sigma
    assert abs((x[:, 0] * x[:, 1]).mean()) < 5 / math.sqrt(n)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_short_chains_from_the_target_stay_there(steps: int) -> None:
    # Of velocities 0 at the start the variance would fall by as much as a third on the way. What a
    # leapfrog step of exact velocities adds to the variance, σ² h⁴/4, is 0.0004 here.
    n, h = 100_000, 0.2
    x = ebmkit.sample(
        UnderdampedLangevin(step_size=h, friction=0.5),
        lambda x: x.square().sum(1) / 2,
        torch.randn(n, 1, generator=generator(2)),
        steps=steps,
        generator=generator(3),
    ).double()
    assert abs(x.var() - 1) < 5 * math.sqrt(2 / n) + h**4


def stationary_positions(h: float, friction: float, steps: int) -> tuple[Tensor, Tensor]:
    """Positions and their probabilities after many BAOAB steps on the cone, by quadrature.

    The density of (x, v) on a grid is moved along x (A) and along v (B) by its Fourier series, which
    is exact but for what is smaller than rounding, and smeared in v (O) by the trapezoidal rule.
    """
    size, width = 128, 6.5
    grid = torch.arange(size, dtype=torch.float64) * (2 * width / size) - width
    waves = torch.fft.rfftfreq(size, 2 * width / size, dtype=torch.float64) * 2 * math.pi

    def moved(density: Tensor, by: Tensor) -> Tensor:
        """Rows of a density, each moved by a distance of its own."""
        turned = torch.fft.rfft(density) * torch.exp(-1j * waves * by[:, None])
        return torch.fft.irfft(turned, n=size)

    kept = math.exp(-friction * h)
    spread = 1 - kept**2
    smear = torch.exp(-(grid[None] - kept * grid[:, None]).square() / (2 * spread))
    smear *= (grid[1] - grid[0]) / math.sqrt(2 * math.pi * spread)
    kick = -h / 2 * 3 * torch.tanh(1.5 * grid)
    density = torch.exp(-cone(grid[:, None])[:, None] - grid[None] ** 2 / 2)  # (x, v)
    for _ in range(steps):
        density = moved(density, kick)
        density = moved(density.T, h / 2 * grid).T
        density = density @ smear
        density = moved(density.T, h / 2 * grid).T
        density = moved(density, kick)
    p = density.sum(1)
    return grid, p / p.sum()


def test_elsewhere_the_bias_is_of_second_order() -> None:
    grid, _ = stationary_positions(0.3, 1.0, 1)
    exact = torch.exp(-cone(grid[:, None]))
    exact /= exact.sum()
    bias = [
        float(((stationary_positions(h, 1.0, round(30 / h))[1] - exact) * grid**2).sum())
        for h in (0.4, 0.2)
    ]
    assert abs(bias[0]) > 1e-3
    assert bias[0] / bias[1] == pytest.approx(4, abs=0.5)


def test_moments_on_a_cone_match_the_transition_kernel() -> None:
    # At so large a step the bias is many standard errors: the target itself would not pass.
    n, h, friction = 100_000, 0.8, 1.0
    grid, p = stationary_positions(h, friction, 40)
    x = ebmkit.sample(
        UnderdampedLangevin(step_size=h, friction=friction),
        cone,
        torch.randn(n, 1, generator=generator(4)) / 2,
        steps=40,
        generator=generator(5),
    )
    target = torch.exp(-cone(grid[:, None]))
    target /= target.sum()
    far = []
    for power in (1, 2, 4):
        values = x.double().squeeze(1) ** power
        error = values.std() / math.sqrt(n)
        assert abs(values.mean() - (p * grid**power).sum()) < 5 * error
        far.append(float(abs((target - p) @ grid**power) / error))
    assert max(far) > 10


def test_the_first_step_goes_off_with_the_drawn_velocity() -> None:
    x = torch.randn(5, 1, 2, generator=generator(6), dtype=torch.float64)
    energy = lambda x: quartic(x.flatten(1))  # noqa: E731
    sampler = UnderdampedLangevin()
    state = sampler.init(energy, x)
    assert state.velocity.eq(0).all()
    z = sampler.draw(state, generator=generator(7))
    after, _ = sampler.step(energy, state, z, step_size=0.3, friction=2.0)
    y = x + 0.3 * z - 0.3**2 / 2 * x**3
    torch.testing.assert_close(after.x, y)
    torch.testing.assert_close(after.velocity, z - 0.15 * (x**3 + y**3))
    torch.testing.assert_close(after.gradient, y**3)


def test_a_later_step_is_the_formula() -> None:
    h, friction = 0.3, 2.0
    x, v, z = torch.randn(3, 5, 2, generator=generator(8), dtype=torch.float64)
    state = UnderdampedLangevinState(x, v, x**3, ONE)
    after, metrics = UnderdampedLangevin().step(quartic, state, z, step_size=h, friction=friction)
    c = math.exp(-friction * h)
    v = v - h / 2 * x**3
    y = x + h / 2 * v
    v = c * v + math.sqrt(1 - c**2) * z
    y = y + h / 2 * v
    v = v - h / 2 * y**3
    torch.testing.assert_close(after, UnderdampedLangevinState(y, v, y**3, ONE))
    assert not metrics


def test_one_gradient_a_step_and_one_before_the_first() -> None:
    asked = []

    def energy(x: Tensor) -> Tensor:
        asked.append(len(x))
        return x.square().sum(1)

    ebmkit.sample(UnderdampedLangevin(), energy, torch.zeros(3, 2), steps=7, generator=generator())
    assert asked == [3] * 8


def test_little_friction_keeps_the_digits_of_the_noise() -> None:
    # 1 − c² computed as such would lose half of them.
    state = UnderdampedLangevinState(*torch.zeros(3, 1, 1), torch.ones(()))
    after, _ = UnderdampedLangevin().step(
        lambda x: (0 * x).sum(1), state, torch.ones(1, 1), step_size=1.0, friction=1e-6
    )
    assert after.velocity.item() == pytest.approx(math.sqrt(2e-6), rel=1e-5)
