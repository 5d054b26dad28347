"""The three losses on Gaussian energies, where each is known in closed form.

E(x) = ½ (x − m)ᵀ P (x − m), so s = −P (x − m) and ΔE = tr P. A statistical comparison allows five of
the loss's own standard errors: a false alarm has probability below 6e-7 each, and the seeds are fixed.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ebmkit_score_matching.denoising import DenoisingScoreMatching, Noise
from ebmkit_score_matching.exact import NoDraws, ScoreMatching
from ebmkit_score_matching.sliced import Projections, SlicedScoreMatching
from torch import Tensor

import ebmkit
from ebmkit import Batch

DIMENSIONS = [1, 2, 10, 50]
LAWS = ["rademacher", "gaussian", "sphere"]


class Quadratic(torch.nn.Module):
    """½ (x − m)ᵀ P (x − m)"""

    def __init__(self, mean: Tensor, precision: Tensor) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(mean)
        self.precision = torch.nn.Parameter(precision)

    def forward(self, x: Tensor) -> Tensor:
        away = x.flatten(1) - self.mean
        return (away @ self.precision * away).sum(1) / 2


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def gaussian(d: int) -> tuple[Tensor, Tensor]:
    """A mean and a random covariance, of eigenvalues ≥ ½."""
    factor = normal(d, d, seed=100 + d) / math.sqrt(d)
    return normal(d, seed=200 + d), factor @ factor.T + 0.5 * torch.eye(d, dtype=torch.float64)


def model_and_data(d: int, n: int, seed: int) -> tuple[Quadratic, Batch, Tensor]:
    """The model of data that are its own, n rows of them, and its precision."""
    mean, covariance = gaussian(d)
    precision = torch.linalg.inv(covariance)
    x = mean + normal(n, d, seed=seed) @ torch.linalg.cholesky(covariance).T
    return Quadratic(mean, precision), Batch(x), precision


def value(loss: Any, model: Any, batch: Batch, seed: int = 0) -> tuple[float, dict[str, float]]:
    g = generator(seed)
    draws, _ = loss.draw(model, batch, loss.init(model, batch, generator=g), 0, generator=g)
    total, metrics = loss(model, batch, draws)
    assert total.shape == ()
    return float(total.detach()), {name: float(metric) for name, metric in metrics.items()}


def within_five_errors(found: tuple[float, dict[str, float]], expected: float) -> None:
    total, metrics = found
    assert abs(total - expected) < 5 * metrics["loss_standard_error"]


@pytest.mark.parametrize("d", DIMENSIONS)
def test_exact_on_a_fixed_batch(d: int) -> None:
    model, _, precision = model_and_data(d, 1, seed=0)
    x = 3 * normal(17, d, seed=d)
    total, metrics = value(ScoreMatching(), model, Batch(x))
    scores = (x - model.mean.detach()) @ precision
    trace = float(precision.trace())
    expected = float(0.5 * scores.square().sum(1).mean()) - trace
    assert total == pytest.approx(expected, rel=1e-10, abs=1e-10)
    assert metrics["laplacian"] == pytest.approx(trace, rel=1e-10)
    assert metrics["score_norm"] == pytest.approx(float(scores.norm(dim=1).mean()), rel=1e-10)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_exact_on_data_of_the_model(d: int) -> None:
    model, batch, precision = model_and_data(d, 4000, seed=1)
    within_five_errors(value(ScoreMatching(), model, batch), -float(precision.trace()) / 2)


@pytest.mark.parametrize("variance_reduction", [True, False])
@pytest.mark.parametrize("projections", LAWS)
@pytest.mark.parametrize("d", DIMENSIONS)
def test_sliced_has_the_mean_of_the_exact_one(
    d: int, projections: Any, variance_reduction: bool
) -> None:
    model, batch, precision = model_and_data(d, 10_000, seed=2)
    loss = SlicedScoreMatching(
        n_projections=2, projections=projections, variance_reduction=variance_reduction
    )
    found = value(loss, model, batch, seed=3)
    within_five_errors(found, -float(precision.trace()) / 2)
    # vᵀPv scatters by √2 tr P at most, and its mean over 20,000 directions by 1 % of tr P.
    assert found[1]["laplacian"] == pytest.approx(float(precision.trace()), rel=0.1)


def test_more_projections_and_an_exact_norm_lower_the_variance() -> None:
    # Without reduction the variance of the rows is larger by that of ½(vᵀs)², by far more than
    # 10,000 rows leave open.
    model, batch, _ = model_and_data(10, 10_000, seed=4)
    errors = [
        value(SlicedScoreMatching(n, "gaussian", reduced), model, batch)[1]["loss_standard_error"]
        for n, reduced in ((1, False), (1, True), (8, True))
    ]
    exact = value(ScoreMatching(), model, batch)[1]["loss_standard_error"]
    assert errors[0] > 1.1 * errors[1] > 1.1**2 * errors[2] > 1.1**2 * exact


@pytest.mark.parametrize("weighting", ["none", "sigma-squared"])
@pytest.mark.parametrize("sigma", [0.05, 0.7, 3.0])
@pytest.mark.parametrize("d", DIMENSIONS)
def test_denoising_on_data_of_the_model(d: int, sigma: float, weighting: Any) -> None:
    # x̃ − m has covariance Σ + σ²I and covariance σI with z, so ‖−P(x̃ − m) + z/σ‖² has the mean
    # tr P(Σ + σ²I)P − 2 tr P + d/σ² = σ² tr P² − tr P + d/σ².
    model, batch, precision = model_and_data(d, 20_000, seed=5)
    mean = sigma**2 * precision.square().sum() - precision.trace() + d / sigma**2
    factor = sigma**2 if weighting == "sigma-squared" else 1.0
    loss = DenoisingScoreMatching(sigma=sigma, weighting=weighting)
    within_five_errors(value(loss, model, batch, seed=6), float(0.5 * factor * mean))


def with_exact_moments(n: int, d: int, seed: int) -> Tensor:
    """n rows whose mean is 0 and whose second moments are the identity, to rounding."""
    rows = normal(n, d, seed=seed)
    rows = rows - rows.mean(0)
    moments = rows.T @ rows / n
    return torch.linalg.solve_triangular(torch.linalg.cholesky(moments), rows.T, upper=False).T


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("weighting", ["none", "sigma-squared"])
def test_denoising_is_least_at_the_convolved_gaussian(weighting: Any, scale: float) -> None:
    # Both losses are quadratic in x and z, so rows with exact moments have exactly their means: at
    # P = a (Σ + σ²I)⁻¹ the slope in a is λ (a − 1) tr (Σ + σ²I)⁻¹. Were the target +z/σ, it would be
    # λ (a + 1) tr (Σ + σ²I)⁻¹ and never zero.
    d, sigma = 3, 0.6
    mean, covariance = gaussian(d)
    rows = with_exact_moments(500, 2 * d, seed=7)
    x = mean + rows[:, :d] @ torch.linalg.cholesky(covariance).T
    draws = Noise(rows[:, d:], torch.full((500,), sigma, dtype=torch.float64))
    best = torch.linalg.inv(covariance + sigma**2 * torch.eye(d, dtype=torch.float64))
    model = Quadratic(mean, scale * best)
    loss = DenoisingScoreMatching(sigma=sigma, weighting=weighting)
    total, _ = loss(model, Batch(x), draws)
    total.backward()
    assert model.precision.grad is not None and model.mean.grad is not None
    slope = float((model.precision.grad * best).sum())
    factor = sigma**2 if weighting == "sigma-squared" else 1.0
    expected = factor * (scale - 1) * float(best.trace())
    assert slope == pytest.approx(expected, rel=1e-10, abs=1e-10)
    torch.testing.assert_close(model.mean.grad, torch.zeros_like(mean), atol=1e-10, rtol=0)
    if scale == 1.0:
        zero = torch.zeros_like(best)
        torch.testing.assert_close(model.precision.grad, zero, atol=1e-10, rtol=0)


def test_exact_is_least_at_the_data() -> None:
    # ½ tr PΣP − tr P has the gradient ½ (PΣ + ΣP) − I in P, zero at Σ⁻¹ alone.
    d = 3
    mean, covariance = gaussian(d)
    x = mean + with_exact_moments(500, d, seed=8) @ torch.linalg.cholesky(covariance).T
    precision = torch.linalg.inv(covariance)
    other = 1.3 * precision + 0.2 * torch.eye(d, dtype=torch.float64)
    for at in (precision, other):
        model = Quadratic(mean, at.clone())
        ScoreMatching()(model, Batch(x), NoDraws())[0].backward()
        expected = (at @ covariance + covariance @ at) / 2 - torch.eye(d, dtype=torch.float64)
        assert model.precision.grad is not None
        symmetric = (model.precision.grad + model.precision.grad.T) / 2
        torch.testing.assert_close(symmetric, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("event", [(1,), (5,), (50,), (2, 3), (1, 4, 4)])
def test_the_trace_is_not_divided_by_the_dimension(event: tuple[int, ...]) -> None:
    # At the origin of ½‖x‖² the score is 0 and the loss is −ΔE = −d.
    def energy(x: Tensor) -> Tensor:
        return x.flatten(1).square().sum(1) / 2

    batch = Batch(torch.zeros(4, *event, dtype=torch.float64))
    d = math.prod(event)
    for loss in (ScoreMatching(), SlicedScoreMatching(), SlicedScoreMatching(3, "sphere")):
        total, metrics = value(loss, energy, batch)
        assert total == pytest.approx(-d, rel=1e-12)
        assert metrics["laplacian"] == pytest.approx(d, rel=1e-12)


@pytest.mark.parametrize("projections", LAWS)
def test_directions_have_the_identity_as_second_moments(projections: Any) -> None:
    # An entry of v vᵀ has at most variance 2: five standard errors of the mean of n.
    n, d = 100_000, 3
    loss = SlicedScoreMatching(2, projections)
    batch = Batch(torch.zeros(n // 2, d, dtype=torch.float64))
    (v,), _ = loss.draw(lambda x: x, batch, None, 0, generator=generator(9))  # type: ignore[arg-type]
    assert v.shape == (2, n // 2, d)
    rows = v.flatten(0, 1)
    moments = rows.T @ rows / n
    identity = torch.eye(d, dtype=torch.float64)
    assert float((moments - identity).abs().max()) < 5 * math.sqrt(2 / n)
    assert float(rows.mean(0).abs().max()) < 5 / math.sqrt(n)


def test_the_sphere_has_radius_root_d_and_signs_are_signs() -> None:
    batch = Batch(torch.zeros(100, 2, 3, dtype=torch.float64))
    for projections in ("sphere", "rademacher"):
        loss = SlicedScoreMatching(4, projections)  # type: ignore[arg-type]
        (v,), _ = loss.draw(lambda x: x, batch, None, 0, generator=generator(10))  # type: ignore[arg-type]
        lengths = v.flatten(2).norm(dim=2)
        torch.testing.assert_close(lengths, torch.full_like(lengths, math.sqrt(6)))
    assert bool((v.abs() == 1).all())


@pytest.mark.parametrize("seed", range(3))
def test_signs_are_exact_on_diagonal_hessians(seed: int) -> None:
    weights = normal(6, seed=11).abs()

    def energy(x: Tensor) -> Tensor:
        return (weights * x.square().square() + (weights * x).tanh()).sum(1)

    batch = Batch(normal(20, 6, seed=12))
    exact, _ = value(ScoreMatching(), energy, batch)
    sliced, _ = value(SlicedScoreMatching(), energy, batch, seed)
    assert sliced == pytest.approx(exact, rel=1e-12)
    normal_ones, _ = value(SlicedScoreMatching(projections="gaussian"), energy, batch, seed)
    assert normal_ones != pytest.approx(exact, rel=1e-3)


def test_along_the_axes_both_losses_are_one() -> None:
    # With √d eᵢ as directions the estimates are the sums themselves, in both forms.
    d = 4
    model, batch, _ = model_and_data(d, 9, seed=13)
    axes = math.sqrt(d) * torch.eye(d, dtype=torch.float64)
    directions = axes.unsqueeze(1).expand(d, 9, d)
    exact = ScoreMatching()(model, batch, NoDraws())[0]
    for variance_reduction in (True, False):
        loss = SlicedScoreMatching(d, variance_reduction=variance_reduction)
        torch.testing.assert_close(loss(model, batch, Projections(directions))[0], exact)


def test_the_shipped_gaussian_is_the_quadratic() -> None:
    mean, covariance = gaussian(3)
    shipped = ebmkit.create("model", "gaussian", mean=mean.tolist(), covariance=covariance.tolist())
    model, batch, _ = model_and_data(3, 7, seed=14)
    one, other = (value(ScoreMatching(), m, batch)[0] for m in (shipped, model))
    assert one == pytest.approx(other, rel=1e-12)
