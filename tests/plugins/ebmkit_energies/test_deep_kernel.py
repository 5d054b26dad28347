"""The deep kernel family: its formula, derivatives, first weights, tails, and refusals."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from typing import Any

import pytest
import torch
from ebmkit_energies.deep_kernel import DeepKernel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ebmkit
from ebmkit import CalculusWarning, directional_derivatives, energy_and_gradient

laws = settings(deadline=None, max_examples=20, derandomize=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vector(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters())


def model_with_weights(dim: int = 3, seed: int = 0, **fields: Any) -> DeepKernel:
    """In float64, no parameter at its first value of zero."""
    fields = {"n_inducing": 7, "hidden": [5, 4], "n_features": 6, **fields}
    model = DeepKernel((dim,), generator=generator(seed), **fields).double()
    with torch.no_grad():
        for parameter in (model.weights, model.kernel_logits):
            parameter.normal_(generator=generator(seed + 1))
    return model


def points(batch: int = 6, dim: int = 3) -> Tensor:
    return torch.randn(batch, dim, generator=generator(9), dtype=torch.float64)


def by_hand(model: DeepKernel, x: list[float]) -> float:
    """The formula, one number at a time."""

    def features(kernel: int, row: list[float]) -> list[float]:
        feature_map: Any = model.maps[kernel]
        h = row
        for layer in feature_map.hidden:
            if isinstance(layer, nn.Linear):
                weight, bias = layer.weight.tolist(), layer.bias.tolist()
                h = [
                    sum(w * v for w, v in zip(ws, h, strict=True)) + b
                    for ws, b in zip(weight, bias, strict=True)
                ]
            else:
                h = [math.log1p(math.exp(v)) for v in h]
        mixed = feature_map.mixed.weight.tolist()
        return [sum(w * v for w, v in zip(ws, [*h, *row], strict=True)) for ws in mixed]

    total = sum(v * v for v in x) / (2 * model.base_scale**2)
    logits = model.kernel_logits.tolist()
    for kernel, logit in enumerate(logits):
        share = math.exp(logit) / sum(math.exp(other) for other in logits)
        sigma = math.exp(model.log_lengthscales[kernel].item())
        at = features(kernel, x)
        for z, alpha in zip(model.inducing_points.tolist(), model.weights.tolist(), strict=True):
            square = sum((a - b) ** 2 for a, b in zip(at, features(kernel, z), strict=True))
            total -= alpha * share * math.exp(-square / (2 * sigma**2))
    return total


def test_the_energy_is_the_base_less_the_weighed_kernels() -> None:
    model, x = model_with_weights(base_scale=1.5), points()
    expected = x.square().sum(1) / (2 * 1.5**2) - model.kernels(x) @ model.weights
    torch.testing.assert_close(model(x), expected)


@laws
@given(seed=st.integers(0, 2**32), spread=st.floats(0.1, 5.0))
def test_the_energy_is_the_formula(seed: int, spread: float) -> None:
    model = model_with_weights(seed=seed, base_scale=1.5)
    x = spread * points()
    expected = [by_hand(model, row) for row in x.tolist()]
    torch.testing.assert_close(model(x).tolist(), expected, rtol=1e-9, atol=1e-9)


def test_the_first_energy_is_the_base() -> None:
    x = points(5, 4)
    model = DeepKernel((4,), n_inducing=3, base_scale=3.0, generator=generator()).double()
    torch.testing.assert_close(model(x), x.square().sum(1) / 18)


@pytest.mark.parametrize("activation", ["softplus", "silu", "tanh"])
def test_derivatives_agree_with_second_order_autograd(activation: Any) -> None:
    model, x = model_with_weights(activation=activation), points()
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalculusWarning)
        taken = directional_derivatives(model, x)

    def total(rows: Tensor) -> Tensor:
        return model(rows).sum()

    gradients = torch.autograd.functional.jacobian(total, x)
    hessians = torch.autograd.functional.hessian(total, x)
    torch.testing.assert_close(taken.energies, model(x))
    torch.testing.assert_close(taken.first.T, gradients)
    torch.testing.assert_close(taken.second, torch.einsum("ijij->i", hessians))


def test_gradients_of_the_exact_loss_reach_every_parameter_and_are_right() -> None:
    model, x = model_with_weights(), points()
    loss = ebmkit.create("loss", "score-matching")
    ebmkit.objective(loss, model)(x).loss.backward()
    step = 1e-6
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        assert grad is not None
        assert grad.abs().max() > 0
        # The central difference along the gradient's direction is its norm.
        values = []
        for sign in (1, -1):
            moved = copy.deepcopy(model)
            with torch.no_grad():
                moved.get_parameter(name).add_(sign * step * grad / grad.norm())
            values.append(ebmkit.objective(loss, moved)(x).loss.item())
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(grad.norm()), rel=1e-5)


def test_exp_minus_energy_is_normalisable() -> None:
    # The kernels' sum is at most S = Σ|α| in size: ∫ exp(−E) lies between exp(∓S) 2πs².
    model = model_with_weights(dim=2, base_scale=0.8)
    axis = torch.linspace(-8, 8, 321, dtype=torch.float64)
    with torch.no_grad():
        density = torch.exp(-model(torch.cartesian_prod(axis, axis)))
        bound = math.exp(float(model.weights.abs().sum()))
    partition = float(density.sum() * (axis[1] - axis[0]) ** 2)
    gaussian = 2 * math.pi * 0.64
    assert gaussian / bound <= partition <= gaussian * bound


def test_single_precision_is_close_to_double() -> None:
    model = model_with_weights(dim=11, n_inducing=50)
    x = 3 * points(20, 11)
    single = copy.deepcopy(model).float()(x.float())
    torch.testing.assert_close(single.double(), model(x), rtol=1e-5, atol=1e-5)


@laws
@given(seed=st.integers(0, 2**32))
def test_the_generator_alone_decides_the_weights(seed: int) -> None:
    before = torch.random.get_rng_state()
    model = DeepKernel((2,), 5, generator=generator(seed))
    again = DeepKernel((2,), 5, generator=generator(seed))
    other = DeepKernel((2,), 5, generator=generator(seed + 1))
    assert torch.equal(vector(model), vector(again))
    assert not torch.equal(vector(model), vector(other))
    other.draw(generator=generator(seed))
    assert torch.equal(vector(model), vector(other))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_a_generator_each_model_is_another() -> None:
    before = torch.random.get_rng_state()
    assert not torch.equal(vector(DeepKernel((2,), 5)), vector(DeepKernel((2,), 5)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_first_values_have_the_stated_laws() -> None:
    model = DeepKernel((8,), 2000, [0.5, 2.0], [60, 50], 40, generator=generator(1))
    for parameter, fan_in in [
        (model.maps[0].hidden[0].weight, 8),
        (model.maps[1].hidden[2].bias, 60),
        (model.maps[1].mixed.weight, 58),
    ]:
        bound = 1 / math.sqrt(fan_in)
        assert 0.9 * bound < parameter.abs().max() <= bound
    z = model.inducing_points.detach().double().flatten().sort().values
    # Kolmogorov–Smirnov against N(0, 1) at a false-alarm rate of about 1e-6; the seed is fixed.
    order = torch.arange(1, len(z) + 1) / len(z)
    distance = (torch.special.ndtr(z) - order).abs().max() + 1 / len(z)
    assert distance < math.sqrt(-math.log(0.5e-6) / 2 / len(z))
    torch.testing.assert_close(model.log_lengthscales.exp(), torch.tensor([0.5, 2.0]))
    assert not model.weights.any()
    assert not model.kernel_logits.any()


def test_shapes_follow_the_fields() -> None:
    model = DeepKernel((2, 3), generator=generator())
    assert model.inducing_points.shape == (200, 6)
    assert [tuple(layer.weight.shape) for layer in model.maps[0].hidden[::2]] == [(30, 6), (30, 30)]
    assert [tuple(features.mixed.weight.shape) for features in model.maps] == [(30, 36)] * 3
    x = torch.randn(4, 2, 3, generator=generator())
    torch.testing.assert_close(model(x), x.square().flatten(1).sum(1) / 8)
    assert DeepKernel((), 2)(torch.linspace(-1, 1, 5)).shape == (5,)


def test_pickles_and_state_dicts_give_the_same_energies() -> None:
    model, x = model_with_weights(), points()
    assert model.generator is None
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))
    other = model_with_weights(seed=5)
    assert not torch.equal(other(x), model(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


def test_score_matching_finds_a_gaussian_that_is_not_the_base() -> None:
    # The least loss, for N(0, v I) in d dimensions, is −d/(2v); the base's alone is
    # d (v/(2s⁴) − 1/s²), which is −0.492 here and the best −2.
    v, dim, base = 0.5, 2, 2.0
    model = DeepKernel((dim,), 20, [1.0], [8], 8, base_scale=base, generator=generator())
    objective = ebmkit.objective(ebmkit.create("loss", "score-matching"), model)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    source = generator(3)
    for _ in range(300):
        x = math.sqrt(v) * torch.randn(128, dim, generator=source)
        optimizer.zero_grad()
        objective(x).loss.backward()
        optimizer.step()
    x = math.sqrt(v) * torch.randn(4000, dim, generator=source)
    # ½‖s − ∇log p‖², the excess over the least loss, without the loss's own noise over rows.
    excess = 0.5 * (-energy_and_gradient(model, x)[1] + x / v).square().sum(1).mean()
    assert excess < 0.15


@pytest.mark.parametrize(
    ("fields", "culprit"),
    [
        ({"n_inducing": 0}, "n_inducing"),
        ({"n_inducing": 2.0}, "n_inducing|whole number"),
        ({"lengthscales": []}, "lengthscales"),
        ({"lengthscales": [1.0, 0.0]}, "lengthscales|must be > 0"),
        ({"lengthscales": [math.nan]}, "lengthscales|finite"),
        ({"hidden": []}, "hidden"),
        ({"hidden": [3, 0]}, "hidden|must be >= 1"),
        ({"n_features": 0}, "n_features"),
        ({"activation": "swish"}, "activation"),
        ({"base_scale": 0.0}, "base_scale"),
        ({"base_scale": math.inf}, "base_scale"),
        ({"hidden": [2**15, 2**15]}, "expected at most 268,435,456; state narrower"),
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        DeepKernel((2,), **fields)


def test_points_of_another_shape_or_dtype_are_refused() -> None:
    model = DeepKernel((2,), 3)
    with pytest.raises(ValueError, match=r"DeepKernel: expected points of shape \(batch, 2\)"):
        model(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="floating dtype"):
        model(torch.zeros(4, 2, dtype=torch.int64))
