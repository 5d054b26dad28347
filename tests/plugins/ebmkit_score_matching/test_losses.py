"""The three losses on networks: gradients by a second route, conditions, levels, metrics, draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from ebmkit_score_matching.denoising import DenoisingScoreMatching, Noise
from ebmkit_score_matching.exact import ScoreMatching
from ebmkit_score_matching.sliced import Projections, SlicedScoreMatching
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ebmkit
from ebmkit import Batch

laws = settings(deadline=None, max_examples=10, derandomize=True)

LOSSES: dict[str, Any] = {
    "exact": ScoreMatching(),
    "sliced": SlicedScoreMatching(2, "gaussian"),
    "sliced without reduction": SlicedScoreMatching(3, "sphere", variance_reduction=False),
    "denoising": DenoisingScoreMatching(sigma=0.3),
    "denoising, weighted": DenoisingScoreMatching(sigma=0.3, weighting="sigma-squared"),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def mlp(**config: Any) -> nn.Module:
    config = {"event_shape": [3], "hidden": [6, 5], "generator": generator(1), **config}
    module: nn.Module = ebmkit.create("model", "mlp", **config)
    return module.double()


def conv(**config: Any) -> nn.Module:
    config = {"event_shape": [1, 4, 4], "channels": [3, 4], "generator": generator(2), **config}
    module: nn.Module = ebmkit.create("model", "conv", **config)
    return module.double()


def noisy_mlp() -> nn.Module:
    module: nn.Module = ebmkit.create(
        "model", "noise-conditional-mlp", event_shape=[3], hidden=[6, 5], generator=generator(3)
    )
    return module.double()


def drawn(loss: Any, model: Any, batch: Batch, step: int = 0, seed: int = 4) -> Any:
    g = generator(seed)
    return loss.draw(model, batch, loss.init(model, batch, generator=g), step, generator=g)[0]


def by_definition(
    loss: Any, energy: Callable[..., Tensor], x: Tensor, draws: Any, levels: bool = False
) -> Tensor:
    """The losses' rows (batch,) as the papers write them, a row at a time, by torch.func."""

    def one(point: Tensor, *level: Tensor) -> Tensor:
        said = {"noise_level": level[0].unsqueeze(0)} if level else {}
        return energy(point.unsqueeze(0), **said).squeeze(0)

    def score(point: Tensor, *level: Tensor) -> Tensor:
        return -torch.func.grad(one)(point, *level).flatten()

    rows = []
    for i, point in enumerate(x):
        if isinstance(loss, DenoisingScoreMatching):
            sigma, z = draws.sigma[i], draws.noise[i]
            s = score(point + sigma * z, *([sigma] if levels else []))
            weight = 1.0
            if loss.weighting == "sigma-squared" or (loss.weighting is None and levels):
                weight = sigma**2
            rows.append(0.5 * weight * (s + z.flatten() / sigma).square().sum())
            continue
        s = score(point)
        jacobian = torch.func.jacrev(score)(point).reshape(len(s), len(s))
        if isinstance(loss, ScoreMatching):
            rows.append(0.5 * s.square().sum() + jacobian.trace())
        else:
            v = draws.directions[:, i].flatten(1)
            squared = s.square().sum() if loss.variance_reduction else (v @ s).square().mean()
            rows.append(0.5 * squared + ((v @ jacobian) * v).sum(1).mean())
    return torch.stack(rows)


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [
        torch.zeros_like(p) if g is None else g
        for g, p in zip(found, model.parameters(), strict=True)
    ]


def agree(loss: Any, model: nn.Module, x: Tensor, draws: Any, levels: bool = False) -> None:
    """Value and gradient in the parameters are those of the definition."""
    total, _ = loss(model, Batch(x), draws)
    reference = by_definition(loss, model, x, draws, levels).mean()
    torch.testing.assert_close(total, reference, rtol=1e-10, atol=1e-10)
    for one, other in zip(gradients(total, model), gradients(reference, model), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@each_loss
@pytest.mark.parametrize("activation", ["silu", "softplus", "tanh", "gelu"])
def test_gradients_are_those_of_the_definition(loss: Any, activation: str) -> None:
    model = mlp(activation=activation, base_scale=1.5, output_bound=2.0)
    x = normal(5, 3)
    agree(loss, model, x, drawn(loss, model, Batch(x)))


@each_loss
def test_images(loss: Any) -> None:
    model = conv()
    x = normal(3, 1, 4, 4)
    agree(loss, model, x, drawn(loss, model, Batch(x)))


@each_loss
def test_gradients_are_finite_differences(loss: Any) -> None:
    model = mlp()
    batch = Batch(normal(5, 3))
    draws = drawn(loss, model, batch)
    ways = [normal(*p.shape, seed=5) for p in model.parameters()]
    analytic = sum(
        float((g * way).sum())
        for g, way in zip(gradients(loss(model, batch, draws)[0], model), ways, strict=True)
    )
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for p, way in zip(model.parameters(), ways, strict=True):
                p += step * way
        values.append(float(loss(model, batch, draws)[0].detach()))
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(analytic, rel=1e-6)


def rows_of(draws: Any, rows: Tensor) -> Any:
    """The draws of some rows of the batch."""
    if isinstance(draws, Noise):
        return Noise(draws.noise[rows], draws.sigma[rows])
    return Projections(draws.directions[:, rows]) if isinstance(draws, Projections) else draws


@each_loss
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_conditional_is_the_sum_over_classes(loss: Any, network: str) -> None:
    model = (mlp if network == "mlp" else conv)(conditional=True, n_classes=3)
    x = normal(7, *((3,) if network == "mlp" else (1, 4, 4)))
    labels = torch.tensor([0, 2, 1, 1, 0, 2, 2])
    batch = Batch(x, labels)
    draws = drawn(loss, model, batch)
    total, _ = loss(model, batch, draws)
    by_hand = torch.zeros((), dtype=torch.float64)
    for label in range(3):
        rows = labels == label

        def energy(x: Tensor, label: int = label) -> Tensor:
            return model(x, torch.full((len(x),), label))  # type: ignore[no-any-return]

        by_hand = by_hand + by_definition(loss, energy, x[rows], rows_of(draws, rows)).sum() / 7
    torch.testing.assert_close(total, by_hand, rtol=1e-10, atol=1e-10)
    one, other = gradients(total, model), gradients(by_hand, model)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


LEVELS = [1.0, 0.3, 0.1]


class TestLevels:
    @pytest.mark.parametrize("weighting", [None, "none", "sigma-squared"])
    @pytest.mark.parametrize("network", ["mlp", "conv"])
    def test_by_definition(self, weighting: Any, network: str) -> None:
        model = noisy_mlp() if network == "mlp" else conv(noise_conditional=True)
        x = normal(6, *((3,) if network == "mlp" else (1, 4, 4)))
        loss = DenoisingScoreMatching(sigma=LEVELS, weighting=weighting)
        draws = drawn(loss, model, Batch(x))
        assert len(draws.sigma.unique()) > 1
        agree(loss, model, x, draws, levels=True)

    def test_each_level_is_as_likely_and_told_to_the_model(self) -> None:
        # A share of n rows has the standard error √(⅓·⅔/n); five of them: below 6e-7 each.
        seen: list[Tensor] = []

        class Told(nn.Module):
            noise_conditional = True

            def forward(self, x: Tensor, *, noise_level: Tensor) -> Tensor:
                seen.append(noise_level)
                return x.square().sum(1) / noise_level

        n = 30_000
        output = ebmkit.objective(
            DenoisingScoreMatching(sigma=LEVELS), Told(), generator=generator(6)
        )(normal(n, 2))
        (sigma,) = seen
        for level in LEVELS:
            share = float((sigma == level).double().mean())
            assert abs(share - 1 / 3) < 5 * math.sqrt(2 / 9 / n)
        assert float(output.metrics["sigma"]) == pytest.approx(float(sigma.mean()))

    def test_a_tuple_of_levels_is_a_list(self) -> None:
        model, batch = noisy_mlp(), Batch(normal(5, 3))
        as_list, as_tuple = (
            DenoisingScoreMatching(sigma=kind(LEVELS))  # type: ignore[arg-type]
            for kind in (list, tuple)
        )
        one, other = (loss(model, batch, drawn(loss, model, batch)) for loss in (as_list, as_tuple))
        assert torch.equal(one[0], other[0])

    def test_one_sigma_is_told_to_a_noise_conditional_model(self) -> None:
        model, x = noisy_mlp(), normal(4, 3)
        loss = DenoisingScoreMatching(sigma=0.4, weighting="none")
        agree(loss, model, x, drawn(loss, model, Batch(x)), levels=True)


def test_sigma_follows_its_schedule_on_the_training_clock() -> None:
    schedule = ebmkit.create("scheduler", "linear", start_value=1.0, end_value=0.1, n_steps=4)
    objective = ebmkit.objective(DenoisingScoreMatching(sigma=schedule), mlp())
    found = [float(objective(normal(8, 3)).metrics["sigma"]) for _ in range(5)]
    assert found == pytest.approx([1.0, 0.7, 0.4, 0.1, 0.1])


@each_loss
def test_regularisation_adds_exact_mean_squares(loss: Any) -> None:
    model, batch = mlp(), Batch(normal(9, 3))
    draws = drawn(loss, model, batch)
    weighed = attrs.evolve(loss, energy_regularisation=0.7, score_regularisation=0.2)
    at = batch.x
    if isinstance(draws, Noise):
        at = at + draws.sigma[:, None] * draws.noise
    energies, gradient = ebmkit.energy_and_gradient(model, at)
    squared = gradient.square().sum(1)
    if isinstance(loss, SlicedScoreMatching) and not loss.variance_reduction:
        # ‖s‖² is then the estimate (vᵀs)² along the directions, here as in the loss.
        squared = (draws.directions * gradient).sum(2).square().mean(0)
    expected = 0.7 * energies.square().mean() + 0.2 * squared.mean()
    difference = weighed(model, batch, draws)[0] - loss(model, batch, draws)[0]
    torch.testing.assert_close(difference.detach(), expected, rtol=1e-10, atol=1e-12)
    for one in ({"energy_regularisation": 0.7}, {"score_regularisation": 0.2}):
        lone = attrs.evolve(loss, **one)(model, batch, draws)[0]
        assert float(lone.detach()) > float(loss(model, batch, draws)[0].detach())


@each_loss
def test_metrics(loss: Any) -> None:
    model, batch = mlp(), Batch(normal(9, 3))
    draws = drawn(loss, model, batch)
    total, metrics = loss(model, batch, draws)
    assert not any(metric.requires_grad for metric in metrics.values())
    assert all(metric.shape == () for metric in metrics.values())
    singly = []
    for i in range(9):
        rows = torch.tensor([i])
        alone, few = loss(model, Batch(batch.x[rows]), rows_of(draws, rows))
        # One row has no scatter to tell of.
        assert set(metrics) - set(few) == {"loss_standard_error"}
        singly.append(float(alone.detach()))
    values = np.array(singly)
    assert float(total.detach()) == pytest.approx(values.mean(), rel=1e-10)
    error = values.std(ddof=1) / math.sqrt(9)
    assert float(metrics["loss_standard_error"]) == pytest.approx(error, rel=1e-10)
    at = batch.x + draws.sigma[:, None] * draws.noise if isinstance(draws, Noise) else batch.x
    scores = ebmkit.score(model, at)
    norms = scores.norm(dim=1)
    if isinstance(loss, SlicedScoreMatching) and not loss.variance_reduction:
        norms = (draws.directions * scores).sum(2).square().mean(0).sqrt()
    assert float(metrics["score_norm"]) == pytest.approx(float(norms.mean()), rel=1e-10)


@each_loss
@laws
@given(order=st.permutations(range(6)))
def test_the_order_of_rows_is_of_no_account(loss: Any, order: list[int]) -> None:
    model, batch = mlp(), Batch(normal(6, 3))
    draws = drawn(loss, model, batch)
    rows = torch.tensor(order)
    total, metrics = loss(model, batch, draws)
    other, mixed = loss(model, Batch(batch.x[rows]), rows_of(draws, rows))
    torch.testing.assert_close(other, total, rtol=1e-12, atol=1e-12)
    for name, metric in metrics.items():
        torch.testing.assert_close(mixed[name], metric, rtol=1e-11, atol=1e-12)


@each_loss
def test_draws_are_the_generators_and_nothing_else_is_touched(loss: Any) -> None:
    model, x = mlp(), normal(6, 3)
    before = torch.get_rng_state()

    def run(seed: int) -> list[float]:
        objective = ebmkit.objective(loss, model, generator=generator(seed))
        return [float(objective(x).loss.detach()) for _ in range(3)]

    one, again, other = run(7), run(7), run(8)
    assert one == again
    assert torch.equal(torch.get_rng_state(), before)
    if isinstance(loss, ScoreMatching):
        assert one[0] == one[1] == other[0]
    else:
        assert len({*one, *other}) == 6


@each_loss
def test_the_data_are_not_differentiated(loss: Any) -> None:
    model = mlp()
    x = normal(4, 3).requires_grad_(True)
    batch = Batch(x)
    total, _ = loss(model, batch, drawn(loss, model, batch))
    total.backward()
    assert x.grad is None
    # A constant added to the energy, the last bias, changes no score and has no gradient.
    *trained, bias = model.parameters()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in trained)
    assert bias.grad is None or float(bias.grad.abs()) < 1e-12


@each_loss
def test_single_precision_agrees_with_double(loss: Any) -> None:
    model, batch = mlp(), Batch(normal(16, 3))
    draws = drawn(loss, model, batch)
    double = float(loss(model, batch, draws)[0].detach())
    singles = type(draws)(*(t.float() for t in draws))
    single, _ = loss(model.float(), Batch(batch.x.float()), singles)
    assert single.dtype == torch.float32
    assert float(single.detach()) == pytest.approx(double, rel=1e-4)
