"""Energies with a formula against values, scores and fields worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ebmkit_energies.ackley import Ackley
from ebmkit_energies.double_well import DoubleWell
from ebmkit_energies.harmonic import Harmonic
from ebmkit_energies.rastrigin import Rastrigin
from ebmkit_energies.rosenbrock import Rosenbrock
from torch import Tensor, nn

from ebmkit import score


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


E = math.e
ROOT = math.sqrt(12.5)


@pytest.mark.parametrize(
    ("energy", "x", "expected"),
    [
        (Harmonic(3.0), row(1.0, 2.0), 7.5),
        (DoubleWell(), row(1.0, -1.0), 0.0),
        (DoubleWell(), row(0.0, 1.0), 2.0),
        (DoubleWell(0.5), row(0.0, 2.0), 5.0),
        (Rosenbrock(), row(1.0, 1.0), 0.0),
        (Rosenbrock(), row(0.0, 0.0), 1.0),
        (Rosenbrock(), row(-1.2, 1.0), 24.2),
        (Rosenbrock(1.5, 7.0), row(1.5, 2.25), 0.0),
        (Rosenbrock(), row(1.0, 1.0, 1.0, 1.0), 0.0),
        (Rosenbrock(2.0, 3.0), row(0.0, 1.0, 2.0), 3 + 4 + 3 + 1),
        (Rastrigin(), row(0.0, 0.0, 0.0), 0.0),
        (Rastrigin(), row(0.5, 0.0), 20.25),
        (Rastrigin(4.0), row(1.0, -2.0), 5.0),
        (Rastrigin(4.0), row(0.25), 4.0625),
        (Ackley(), row(0.0, 0.0), 0.0),
        (Ackley(), row(1.0, 1.0), 20 * (1 - math.exp(-0.2))),
        (Ackley(), row(3.0, -4.0), 20 * (1 - math.exp(-0.2 * ROOT))),
        (Ackley(2.0, 0.5, math.pi), row(1.0), 2 * (1 - math.exp(-0.5)) + E - 1 / E),
    ],
)
def test_values(energy: nn.Module, x: Tensor, expected: float) -> None:
    assert energy(x).item() == pytest.approx(expected, rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("kind", [Harmonic, Rastrigin, Ackley])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 30])
def test_the_minimum_at_the_origin_is_exactly_zero_and_flat(
    kind: type[nn.Module], dtype: torch.dtype, size: int
) -> None:
    x = torch.zeros(2, size, dtype=dtype)
    assert kind()(x).eq(0).all()
    assert score(kind(), x).eq(0).all()


def test_derivatives_of_ackley_are_finite_at_and_near_its_tip() -> None:
    x = torch.tensor([[0.0, 0.0], [1e-30, 0.0], [1e-160, 1e-160]], dtype=torch.float64)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(Ackley()(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    assert gradient.isfinite().all()
    assert second[0].isfinite().all()
    # One step off the tip the funnel has its full slope a b / √d along the first axis.
    assert gradient[1, 0].item() == pytest.approx(20 * 0.2 / math.sqrt(2), rel=1e-12)


def random_points() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 3, generator=generator, dtype=torch.float64)


def rosenbrock_gradient(x: Tensor, a: float, b: float) -> Tensor:
    gradient = torch.zeros_like(x)
    for i in range(x.shape[1] - 1):
        across = x[:, i + 1] - x[:, i] ** 2
        gradient[:, i] += -4 * b * x[:, i] * across - 2 * (a - x[:, i])
        gradient[:, i + 1] += 2 * b * across
    return gradient


def ackley_gradient(x: Tensor) -> Tensor:
    size = x.shape[1]
    root = x.square().mean(1, keepdim=True).sqrt()
    funnel = 20 * 0.2 * torch.exp(-0.2 * root) * x / (size * root)
    waves = torch.exp(torch.cos(2 * math.pi * x).mean(1, keepdim=True))
    return funnel + waves * 2 * math.pi * torch.sin(2 * math.pi * x) / size


@pytest.mark.parametrize(
    ("energy", "gradient"),
    [
        (Harmonic(3.0), lambda x: 3 * x),
        (DoubleWell(1.5), lambda x: 6 * x * (x**2 - 1)),
        (Rosenbrock(0.8, 5.0), lambda x: rosenbrock_gradient(x, 0.8, 5.0)),
        (Rastrigin(3.0), lambda x: 2 * x + 6 * math.pi * torch.sin(2 * math.pi * x)),
        (Ackley(), ackley_gradient),
    ],
)
def test_scores(energy: nn.Module, gradient: Callable[[Tensor], Tensor]) -> None:
    x = random_points()
    torch.testing.assert_close(score(energy, x), -gradient(x), rtol=1e-10, atol=1e-10)


def test_small_energies_keep_their_digits_in_single_precision() -> None:
    x = torch.full((1, 2), 1e-3)
    exact = Ackley()(x.double()).item()
    assert Ackley()(x).item() == pytest.approx(exact, rel=1e-5)
    assert Rastrigin()(x).item() == pytest.approx(Rastrigin()(x.double()).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("build", "culprit"),
    [
        (lambda: Harmonic(0.0), "stiffness"),
        (lambda: Harmonic(math.inf), "stiffness"),
        (lambda: Harmonic(True), "stiffness"),
        (lambda: DoubleWell(-1.0), "barrier_height"),
        (lambda: Rosenbrock(math.nan), "a:"),
        (lambda: Rosenbrock(1.0, 0.0), "b"),
        (lambda: Rosenbrock(event_shape=(1,)), "at least 2 numbers, got 1"),
        (lambda: Rosenbrock()(torch.zeros(3, 1)), "at least 2 numbers, got 1"),
        (lambda: Rastrigin(-1.0), "a"),
        (lambda: Ackley(-1.0), "a"),
        (lambda: Ackley(b=0.0), "b"),
        (lambda: Ackley(c="1"), "c"),
    ],
)
def test_fields_out_of_range_are_refused(build: Callable[[], Any], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        build()
