"""The noise-conditional perceptron: its equation by hand, its scaling, derivatives and refusals."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from ebmkit_energies.mlp import MLP
from ebmkit_energies.noise_conditional_mlp import NoiseConditionalMLP
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ebmkit import Model, energy_and_gradient, score

laws = settings(deadline=None, max_examples=25, derandomize=True)
ACTIVATIONS = {
    "silu": lambda x: x * torch.sigmoid(x),
    "softplus": lambda x: torch.log1p(torch.exp(x)),
    "tanh": torch.tanh,
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(shape: tuple[int, ...] = (2,), **fields: Any) -> NoiseConditionalMLP:
    fields = {"hidden": [7, 5], "generator": generator(), **fields}
    return NoiseConditionalMLP(shape, **fields).double()


def points(batch: int = 6, shape: tuple[int, ...] = (2,), seed: int = 9) -> Tensor:
    return torch.randn(batch, *shape, generator=generator(seed), dtype=torch.float64)


def levels(batch: int = 6) -> Tensor:
    return torch.logspace(-2, 1, batch, dtype=torch.float64)


@torch.no_grad()
def by_hand(
    model: NoiseConditionalMLP, activation: Any, x: Tensor, label: int | None, sigma: float
) -> float:
    """The energy of one point, written out with plain numbers and matrix products."""
    s, b = model.data_scale, model.base_scale
    t = math.log(sigma / s)
    numbers = [v / math.sqrt(s * s + sigma * sigma) for v in x.flatten().tolist()]
    numbers += [t / 4, math.sin(t), math.cos(t)]
    if label is not None:
        numbers += [float(label == k) for k in range(model.n_classes or 0)]
    h = torch.tensor(numbers, dtype=torch.float64)
    weights = list(model.parameters())
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        h = activation(weight @ h + bias)
    energy = s / sigma * float(weights[-2] @ h + weights[-1])
    if b is not None:
        energy += float(x.square().sum()) / (2 * (b * b + sigma * sigma))
    return energy


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("base_scale", [None, 0.7])
@pytest.mark.parametrize("conditional", [False, True])
def test_the_energy_is_the_equation(
    activation: Any, base_scale: float | None, conditional: bool
) -> None:
    shape = (2, 3)
    model = build(
        shape,
        activation=activation,
        data_scale=1.7,
        base_scale=base_scale,
        conditional=conditional,
        n_classes=3,
    )
    x, sigma = points(shape=shape), levels()
    labels = torch.tensor([0, 1, 2, 2, 1, 0]) if conditional else None
    chosen = [None] * 6 if labels is None else labels.tolist()
    expected = [
        by_hand(model, ACTIVATIONS[activation], row, label, level)
        for row, label, level in zip(x, chosen, sigma.tolist(), strict=True)
    ]
    got = model(x, labels, noise_level=sigma)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


@laws
@given(factor=st.floats(1e-3, 1e3), seed=st.integers(0, 2**32))
def test_units_do_not_matter(factor: float, seed: int) -> None:
    # E is a number without units: x, σ, s and b may be measured in any.
    model = build(data_scale=1.3, base_scale=0.6, generator=generator(seed))
    other = build(data_scale=1.3 * factor, base_scale=0.6 * factor, generator=generator(seed))
    torch.testing.assert_close(
        other(factor * points(), noise_level=factor * levels()),
        model(points(), noise_level=levels()),
        rtol=1e-6,
        atol=1e-6,
    )


def test_without_a_network_the_score_is_that_of_noisy_gaussian_data() -> None:
    model = build(base_scale=0.6)
    nn.init.zeros_(model.layers[-1].weight)
    x, sigma = points(), levels()
    expected = -x / (0.36 + sigma.square())[:, None]
    at_levels = score(lambda y: model(y, noise_level=sigma), x)
    torch.testing.assert_close(at_levels, expected)


def test_without_a_level_it_is_the_lowest() -> None:
    model = build(lowest_level=0.05, base_scale=1.0)
    x = points()
    torch.testing.assert_close(model(x), model(x, noise_level=0.05), rtol=0, atol=0)
    assert not torch.allclose(model(x), model(x, noise_level=0.06))
    assert model.noise_conditional is True


@pytest.mark.parametrize(
    "level",
    [0.5, torch.tensor(0.5), torch.full((6,), 0.5), torch.full((6,), 0.5, dtype=torch.float64)],
    ids=["number", "scalar", "float32", "float64"],
)
def test_a_level_for_all_is_a_level_for_each(level: Any) -> None:
    model, x = build(), points()
    rows = [model(row[None], noise_level=0.5) for row in x]
    torch.testing.assert_close(model(x, noise_level=level), torch.cat(rows))
    assert model(x, noise_level=level).dtype == torch.float64


@laws
@given(
    shape=st.sampled_from([(), (6,), (2, 3), (1, 2, 3)]),
    batch=st.integers(0, 7),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_one_energy_a_row_in_the_dtype_of_the_points(
    shape: tuple[int, ...], batch: int, dtype: torch.dtype
) -> None:
    model = build(shape, base_scale=1.0).to(dtype)
    x = points(batch, shape).to(dtype)
    assert isinstance(model, Model)
    assert model(x).shape == (batch,)
    assert model(x).dtype == dtype
    assert score(model, x).shape == x.shape


def test_rows_are_independent() -> None:
    model = build(base_scale=1.0, conditional=True, n_classes=3)
    x, sigma, labels = points(), levels(), torch.tensor([0, 1, 2, 2, 1, 0])
    together = model(x, labels, noise_level=sigma)
    order = torch.tensor([5, 2, 0])
    alone = model(x[order], labels[order], noise_level=sigma[order])
    torch.testing.assert_close(alone, together[order])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_first_and_second_derivatives_are_those_of_finite_differences(activation: Any) -> None:
    model = build(activation=activation, base_scale=0.8)
    x, step = points(5), 1e-5
    sigma = torch.linspace(0.2, 2, 5, dtype=torch.float64)

    def energy(y: Tensor) -> Tensor:
        return model(y, noise_level=sigma)

    y = x.clone().requires_grad_(True)
    gradient = energy_and_gradient(energy, y)[1]
    (slopes,) = torch.autograd.grad(energy(y).sum(), y, create_graph=True)
    for i in range(2):
        move = torch.zeros(2, dtype=torch.float64).index_fill(0, torch.tensor([i]), step)
        with torch.no_grad():
            first = (energy(x + move) - energy(x - move)) / (2 * step)
        torch.testing.assert_close(gradient[:, i], first, rtol=1e-6, atol=1e-7)
        (curve,) = torch.autograd.grad(slopes[:, i].sum(), y, retain_graph=True)
        above, below = (energy_and_gradient(energy, x + k * move)[1] for k in (1, -1))
        second = (above - below) / (2 * step)
        assert curve.isfinite().all()
        torch.testing.assert_close(curve, second, rtol=1e-6, atol=1e-7)


def test_first_weights_are_those_of_the_plain_perceptron_from_the_same_generator() -> None:
    before = torch.random.get_rng_state()
    model = NoiseConditionalMLP((2,), [5, 4], generator=generator(3))
    plain = MLP((5,), [5, 4], generator=generator(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert model.generator is None
    other = NoiseConditionalMLP((2,), [5, 4], generator=generator(4))
    assert not torch.equal(other.layers[0].weight, model.layers[0].weight)
    other.draw(generator=generator(3))
    assert torch.equal(other.layers[0].weight, model.layers[0].weight)


def test_copies_and_saved_weights_give_the_same_energies() -> None:
    model, x = build(base_scale=1.0), points()
    other = build(base_scale=1.0, generator=generator(1))
    assert not torch.equal(other(x), model(x))
    other.load_state_dict(model.state_dict())
    for copied in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x), model(x))


def test_gradients_reach_every_weight() -> None:
    model = build(conditional=True, n_classes=2)
    model(points(), torch.arange(6) % 2, noise_level=levels()).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("level", "got"),
    [
        (0.0, "got 0.0"),
        (-1, "got -1"),
        (math.inf, "got inf"),
        (math.nan, "got nan"),
        (True, "got True"),
        (torch.tensor([0.1, 0.0, 0.2]), "got 0.0"),
        (torch.tensor([0.1, -0.5, 0.2]), "got -0.5"),
        (torch.tensor([0.1, math.nan, 0.2]), "got nan"),
        (torch.tensor(-0.5), "got -0.5"),
        (torch.tensor([0.1]), r"got shape \(1,\)"),
        (torch.tensor([[0.1], [0.2], [0.3]]), r"got shape \(3, 1\)"),
        (torch.tensor([1, 2, 3]), "of torch.int64"),
    ],
    ids=str,
)
def test_levels_that_do_not_fit_are_refused(level: Any, got: str) -> None:
    wanted = r"NoiseConditionalMLP: expected noise_level > 0, a number or of shape \(3,\).*"
    with pytest.raises(ValueError, match=wanted + got):
        build()(points(3), noise_level=level)


@pytest.mark.parametrize(
    "labels", [None, torch.tensor([0, 1]), torch.tensor([0, 1, 3]), torch.tensor([0.0, 1.0, 2.0])]
)
def test_labels_that_do_not_fit_are_refused(labels: Tensor | None) -> None:
    model = build(conditional=True, n_classes=3)
    with pytest.raises(ValueError, match=r"NoiseConditionalMLP: expected labels of shape \(3,\)"):
        model(points(3), labels)


def test_labels_nobody_asked_for_and_other_events_are_refused() -> None:
    with pytest.raises(ValueError, match="NoiseConditionalMLP: got a condition and is not"):
        build()(points(3), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"expected points of shape \(batch, 2\)"):
        build()(points(3, (3,)))


@pytest.mark.parametrize(
    ("fields", "culprit"),
    [
        ({"hidden": []}, "hidden"),
        ({"hidden": [2**20, 2**20]}, "hidden: .* weights, expected at most"),
        ({"activation": "relu"}, "activation"),
        ({"data_scale": 0.0}, "data_scale"),
        ({"base_scale": -1.0}, "base_scale"),
        ({"lowest_level": 0.0}, "lowest_level"),
        ({"conditional": True}, "conditional: needs n_classes"),
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        NoiseConditionalMLP((2,), **fields)
