"""The leapfrog is reversible, keeps volume and is of second order."""

from __future__ import annotations

import math

import pytest
import torch
from ebmkit_hamiltonian._leapfrog import Phase, hamiltonian, inner, leapfrog
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.functional import jacobian

import ebmkit

DOUBLE = torch.float64


def bumpy(x: Tensor) -> Tensor:
    return x.square().sum(1) / 2 + (2 * x).sin().sum(1) + x.sum(1).cos()


def phase(x: Tensor, momentum: Tensor) -> Phase:
    return Phase(x, momentum, ebmkit.energy_and_gradient(bumpy, x)[1])


def points(seed: int, batch: int = 5, size: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, p = torch.randn(2, batch, size, generator=g, dtype=DOUBLE)
    return x, p


steps = st.floats(0.01, 0.4).map(lambda value: torch.tensor(value, dtype=DOUBLE))


@given(seed=st.integers(0, 10_000), step_size=steps, leaps=st.integers(1, 12))
def test_with_the_momentum_reversed_it_goes_back(seed: int, step_size: Tensor, leaps: int) -> None:
    start = phase(*points(seed))
    end, _, _ = leapfrog(bumpy, start, step_size, leaps)
    assert not torch.allclose(end.x, start.x, atol=1e-4)
    back, energies, _ = leapfrog(bumpy, end._replace(momentum=-end.momentum), step_size, leaps)
    torch.testing.assert_close(back.x, start.x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(back.momentum, -start.momentum, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(back.gradient, start.gradient, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(energies, bumpy(start.x), rtol=1e-7, atol=1e-7)


@given(seed=st.integers(0, 10_000), step_size=steps, leaps=st.integers(1, 6))
def test_volume_is_kept(seed: int, step_size: Tensor, leaps: int) -> None:
    # A second route to the gradients: torch's own, in one graph with the leaps.
    def gradient(x: Tensor) -> Tensor:
        return x + 2 * (2 * x).cos() - x.sum().sin()

    def flow(z: Tensor) -> Tensor:
        x, p = z.chunk(2)
        for _ in range(leaps):
            p = p - step_size / 2 * gradient(x)
            x = x + step_size * p
            p = p - step_size / 2 * gradient(x)
        return torch.cat((x, p))

    x, p = points(seed, batch=1)
    z = torch.cat((x[0], p[0]))
    end, _, _ = leapfrog(bumpy, phase(x, p), step_size, leaps)
    torch.testing.assert_close(
        flow(z), torch.cat((end.x[0], end.momentum[0])), rtol=1e-7, atol=1e-7
    )
    determinant = torch.linalg.det(jacobian(flow, z))
    torch.testing.assert_close(determinant, torch.ones_like(determinant), rtol=1e-6, atol=1e-6)


def test_the_error_of_the_hamiltonian_is_of_second_order() -> None:
    start = phase(*points(1))
    before = hamiltonian(bumpy(start.x), start.momentum)
    errors = []
    for leaps in (50, 100):
        step = torch.tensor(1.0 / leaps, dtype=DOUBLE)
        end, energies, _ = leapfrog(bumpy, start, step, leaps)
        errors.append((hamiltonian(energies, end.momentum) - before).abs())
    ratio = errors[0] / errors[1]
    assert ((ratio > 3.8) & (ratio < 4.2)).all()


def test_harmonic_motion_by_its_closed_form() -> None:
    # With cos φ = 1 − ε²/2 the leapfrog of E = x²/2 turns (x, p) by φ, p stretched by √(1 − ε²/4).
    epsilon, leaps = 0.7, 9
    x, p = points(2, batch=4, size=2)
    end, energies, total = leapfrog(
        lambda x: x.square().sum(1) / 2, Phase(x, p, x), torch.tensor(epsilon, dtype=DOUBLE), leaps
    )
    angle, stretch = math.acos(1 - epsilon**2 / 2), math.sqrt(1 - epsilon**2 / 4)

    def turned(n: int) -> Tensor:
        return x * math.cos(n * angle) + p / stretch * math.sin(n * angle)

    torch.testing.assert_close(end.x, turned(leaps))
    expected = p * math.cos(leaps * angle) - x * stretch * math.sin(leaps * angle)
    torch.testing.assert_close(end.momentum, expected)
    torch.testing.assert_close(energies, turned(leaps).square().sum(1) / 2)
    way = sum(turned(n).square().sum(1) / 2 for n in range(1, leaps + 1))
    torch.testing.assert_close(total, way)


@pytest.mark.parametrize("leaps", [1, 2, 7])
def test_a_leap_takes_one_gradient(leaps: int) -> None:
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return bumpy(x)

    leapfrog(counted, phase(*points(3)), torch.tensor(0.1, dtype=DOUBLE), leaps)
    assert calls == leaps


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_energy_on_the_way_that_is_not_finite_shows_in_the_sum(bad: float) -> None:
    calls = 0

    def once(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        spoilt = torch.tensor([0.0, bad if calls == 2 else 0.0, 0.0])
        return x.square().sum(1) / 2 + spoilt

    x = torch.ones(3, 2)
    end, energies, total = leapfrog(once, Phase(x, x, x), torch.tensor(0.1), 4)
    assert energies.isfinite().all() and end.x.isfinite().all()
    assert total.isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 1, 8, 8), (0, 3)])
def test_products_are_of_whole_events(shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(4)
    a, b = torch.randn(2, *shape, generator=g, dtype=DOUBLE)
    expected = (
        torch.stack([(u * v).sum() for u, v in zip(a, b, strict=True)]) if len(a) else a[:, 0]
    )
    torch.testing.assert_close(inner(a, b), expected)
