"""CD against closed forms on a Gaussian energy, where k Langevin steps are a linear map."""

from __future__ import annotations

import math

import pytest
import torch
from ebmkit_contrastive_divergence.contrastive_divergence import ContrastiveDivergence
from ebmkit_langevin.langevin import Langevin
from ebmkit_langevin.mala import MALA
from torch import Tensor, nn

import ebmkit
from ebmkit import Batch


class GaussianEnergy(nn.Module):
    """E(x) = λ (x − μ)² / 2."""

    def __init__(self, mean: float, precision: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.precision = nn.Parameter(torch.tensor(precision, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.precision * (x - self.mean).square().sum(1) / 2


@pytest.mark.parametrize("k_steps", [1, 3, 10])
def test_gradient_matches_the_closed_form(k_steps: int) -> None:
    # With a = 1 − ελ a chain from x₀ ends at μ + aᵏ (x₀ − μ) + noise of variance
    # 2ε (1 − a²ᵏ) / (1 − a²). Five standard errors: false alarm below 6e-7 each.
    mean, precision, epsilon = 0.4, 1.7, 0.2
    data_mean, data_std, n = 1.3, 0.8, 400_000
    g = torch.Generator().manual_seed(k_steps)
    x = data_mean + data_std * torch.randn(n, 1, generator=g, dtype=torch.float64)
    model = GaussianEnergy(mean, precision)
    loss = ContrastiveDivergence(Langevin(step_size=epsilon), k_steps=k_steps)
    objective = ebmkit.objective(loss, model, generator=g)
    output = objective(x)
    output.loss.backward()

    a = 1 - epsilon * precision
    shift = data_mean - mean
    noise = 2 * epsilon * (1 - a ** (2 * k_steps)) / (1 - a**2)
    expected_mean = precision * (a**k_steps - 1) * shift
    positives = data_std**2 + shift**2
    negatives = a ** (2 * k_steps) * positives + noise
    expected_precision = (positives - negatives) / 2

    assert output.negatives is not None
    spread = torch.cat([x, output.negatives]).sub(mean).square().var().sqrt()
    error_precision = 5 * float(spread) / math.sqrt(n)
    error_mean = 5 * precision * math.sqrt(positives + negatives) / math.sqrt(n)
    assert model.precision.grad == pytest.approx(expected_precision, abs=error_precision)
    assert model.mean.grad == pytest.approx(expected_mean, abs=error_mean)


def test_chains_start_at_the_data() -> None:
    # A step so small that nothing moves leaves the negatives on the positives.
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    loss = ContrastiveDivergence(Langevin(step_size=1e-14), k_steps=5)
    output = ebmkit.objective(loss, lambda x: x.square().sum(1))(x)
    assert output.negatives is not None
    torch.testing.assert_close(output.negatives, x, atol=1e-5, rtol=0)
    assert output.metrics["energy_gap"].abs() < 1e-4


def test_energy_regularisation_adds_mean_squares_and_is_off_unless_asked() -> None:
    batch = Batch(torch.randn(32, 2, generator=torch.Generator().manual_seed(1)))

    def model(x: Tensor) -> Tensor:
        return x.pow(2).sum(1) + 1

    plain = ContrastiveDivergence(Langevin(step_size=0.1), k_steps=2)
    weighed = ContrastiveDivergence(Langevin(step_size=0.1), k_steps=2, energy_regularisation=0.3)
    g = torch.Generator().manual_seed(2)
    draws, _ = plain.draw(model, batch, plain.init(model, batch, generator=g), 0, generator=g)
    positives, negatives = model(batch.x), model(draws.negatives)
    torch.testing.assert_close(plain(model, batch, draws)[0], positives.mean() - negatives.mean())
    squares = positives.square().mean() + negatives.square().mean()
    torch.testing.assert_close(
        weighed(model, batch, draws)[0], positives.mean() - negatives.mean() + 0.3 * squares
    )


def test_each_row_keeps_its_condition_along_its_chain() -> None:
    def model(x: Tensor, condition: Tensor) -> Tensor:
        return (x - 100.0 * condition[:, None]).square().sum(1) / 2

    labels = torch.arange(8)
    x = 100.0 * labels[:, None].float().expand(8, 2)
    loss = ContrastiveDivergence(Langevin(step_size=0.1), k_steps=50)
    output = ebmkit.objective(loss, model, generator=torch.Generator().manual_seed(3))((x, labels))
    assert output.negatives is not None
    assert (output.negatives - x).abs().max() < 8


def test_adaptation_goes_on_from_step_to_step() -> None:
    loss = ContrastiveDivergence(MALA(step_size=1e-3, target_acceptance=0.6), k_steps=20)
    objective = ebmkit.objective(
        loss, lambda x: x.square().sum(1) / 2, generator=torch.Generator().manual_seed(4)
    )
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(5))
    for _ in range(30):
        output = objective(x)
    assert output.metrics["acceptance_rate"] == pytest.approx(0.6, abs=0.05)
    assert objective.state.chains.steps == 600


def test_a_chain_that_is_not_finite_stops_with_a_count() -> None:
    loss = ContrastiveDivergence(Langevin(step_size=10.0), k_steps=200)
    x = torch.full((4, 1), 3.0)
    x[0] = 0.0
    with pytest.raises(ebmkit.DivergenceError, match=r"Langevin: \d of 4 chains are not finite"):
        ebmkit.objective(loss, lambda x: x.pow(4).sum(1))(x)
