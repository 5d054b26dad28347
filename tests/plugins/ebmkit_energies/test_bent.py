"""Funnel and banana: exact densities, gradients, and the moments that their densities tell."""

from __future__ import annotations

import math

import pytest
import torch
from ebmkit_energies.banana import Banana
from ebmkit_energies.funnel import Funnel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Normal

import ebmkit

laws = settings(deadline=None, max_examples=30, derandomize=True)


def points(size: int, n: int = 50, seed: int = 0) -> Tensor:
    return 2 * torch.randn(n, size, generator=torch.Generator().manual_seed(seed)).double()


def funnel_density(x: Tensor, scale: float) -> Tensor:
    first, others = x[:, 0], x[:, 1:]
    spread = (first / 2).exp()[:, None]
    inner = Normal(0.0, spread).log_prob(others).sum(1)
    return Normal(0.0, torch.tensor(scale).double()).log_prob(first) + inner


def banana_density(x: Tensor, scale: float, curvature: float) -> Tensor:
    first, others = x[:, 0], x[:, 1:].clone()
    others[:, 0] -= curvature * (first**2 - scale**2)
    inner = Normal(0.0, torch.ones(()).double()).log_prob(others).sum(1)
    return Normal(0.0, torch.tensor(scale).double()).log_prob(first) + inner


@laws
@given(st.integers(2, 7), st.floats(0.1, 5), st.floats(-0.5, 0.5), st.integers(0, 1000))
def test_densities_are_products_of_conditional_normals(
    size: int, scale: float, curvature: float, seed: int
) -> None:
    x = points(size, seed=seed)
    for model, expected in (
        (Funnel(scale), funnel_density(x, scale)),
        (Banana(scale, curvature), banana_density(x, scale, curvature)),
    ):
        torch.testing.assert_close(model.log_density(x), expected, rtol=1e-6, atol=1e-6)
        sized = type(model)(
            *([scale] if isinstance(model, Funnel) else [scale, curvature]), event_shape=(size,)
        )
        log_z = sized.log_partition()
        assert (log_z.dtype, log_z.shape) == (torch.float64, ())
        torch.testing.assert_close(-model(x) - log_z, model.log_density(x))


@pytest.mark.parametrize("kind", [Funnel, Banana])
def test_the_density_integrates_to_one_and_has_its_moments(kind: type[nn.Module]) -> None:
    # Midpoints in x₁, and in x₂ in units of its conditional spread around its conditional mean.
    scale = 3.0 if kind is Funnel else 10.0
    model = kind(event_shape=(2,))
    n = 400
    ticks = ((torch.arange(n) + 0.5) / n * 2 - 1).double() * 9
    first, unit = (scale * ticks)[:, None].expand(n, n), ticks.expand(n, n)
    spread = (first / 2).exp() if kind is Funnel else torch.ones_like(first)
    mean = torch.zeros_like(first) if kind is Funnel else 0.03 * (first**2 - scale**2)
    x = torch.stack([first, mean + spread * unit], 2).view(-1, 2)
    cell = (18 / n) ** 2 * scale * spread.flatten()
    mass = (-model(x) - model.log_partition()).exp() * cell
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    moments = (mass[:, None] * x).sum(0), (mass[:, None] * x**2).sum(0)
    second = math.exp(4.5) if kind is Funnel else 1 + 2 * 0.03**2 * 10**4
    assert moments[0].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert moments[1].tolist() == pytest.approx([scale**2, second], rel=1e-6)


@pytest.mark.parametrize("kind", [Funnel, Banana])
@pytest.mark.parametrize("shape", [(2,), (5,), (1, 2, 3)])
@pytest.mark.parametrize("batch", [0, 1, 6])
def test_the_gradient_by_formula(kind: type[nn.Module], shape: tuple[int, ...], batch: int) -> None:
    for dtype in (torch.float32, torch.float64):
        x = points(math.prod(shape), batch).to(dtype).view(batch, *shape)
        energies, gradient = kind().energy_and_gradient(x)
        torch.testing.assert_close(
            (energies, gradient), ebmkit.energy_and_gradient(kind().forward, x)
        )
        assert energies.dtype == gradient.dtype == dtype


def test_the_funnels_neck_stays_finite_in_single_precision() -> None:
    x = torch.tensor([[-100.0, 1e-20], [-100.0, 0.0]])
    energies, gradient = Funnel().energy_and_gradient(x)
    exact = Funnel()(x.double())
    assert gradient.isfinite().all()
    torch.testing.assert_close(energies.double(), exact, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(Funnel()(x).double(), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", [Funnel, Banana])
def test_what_is_out_of_range_is_refused(kind: type[nn.Module]) -> None:
    for scale in (0.0, -1.0, math.nan, True):
        with pytest.raises(ValueError, match="scale"):
            kind(scale)
    for attempt in (
        lambda: kind(event_shape=(1,)),
        lambda: kind()(torch.zeros(3, 1)),
        lambda: kind().energy_and_gradient(torch.zeros(3, 1)),
    ):
        with pytest.raises(ValueError, match="at least 2 numbers, got 1"):
            attempt()
    with pytest.raises(ebmkit.EvaluationError, match="state event_shape"):
        kind().log_partition()
    with pytest.raises(ValueError, match="curvature"):
        Banana(1.0, math.inf)
