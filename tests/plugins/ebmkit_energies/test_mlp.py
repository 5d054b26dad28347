"""The multilayer perceptron: its first weights, bound, base, labels, and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from ebmkit_energies.mlp import MLP
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ebmkit import score

laws = settings(deadline=None, max_examples=25, derandomize=True)
ACTIVATIONS = {
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "selu": nn.SELU,
    "elu": nn.ELU,
    "relu": nn.ReLU,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(batch: int = 50, dim: int = 2) -> Tensor:
    return torch.randn(batch, dim, generator=generator(9))


def linears(model: MLP) -> list[nn.Linear]:
    return [layer for layer in model.layers if isinstance(layer, nn.Linear)]


def test_defaults() -> None:
    model = MLP((2, 3))
    assert [(n.in_features, n.out_features) for n in linears(model)] == [
        (6, 128),
        (128, 128),
        (128, 1),
    ]
    assert isinstance(model.layers[1], nn.SiLU)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in model.parameters())
    assert not list(model.buffers())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_energy_is_that_of_a_plain_network_of_the_same_weights(activation: Any) -> None:
    torch_layers = nn.Sequential(
        nn.Linear(2, 7), ACTIVATIONS[activation](), nn.Linear(7, 5), ACTIVATIONS[activation](),
        nn.Linear(5, 1),
    )  # fmt: skip
    model = MLP((2,), [7, 5], activation)
    model.layers.load_state_dict(torch_layers.state_dict())
    x = points()
    torch.testing.assert_close(model(x), torch_layers(x).squeeze(1))


def test_bound_base_and_scale_add_up() -> None:
    model = MLP((2,), [7], "tanh", 3.0, 2.0, 0.25, generator=generator())
    x = points()
    network = model.layers(0.25 * x).squeeze(1)
    torch.testing.assert_close(model(x), 3 * network.tanh() + x.square().sum(1) / 8)


@laws
@given(bound=st.floats(1e-3, 1e3), seed=st.integers(0, 2**32), spread=st.floats(1.0, 1e6))
def test_a_bound_holds_everywhere(bound: float, seed: int, spread: float) -> None:
    model = MLP((2,), [16], output_bound=bound, generator=generator(seed))
    energies = model(spread * points())
    assert energies.abs().max() <= bound * (1 + 1e-6)
    assert energies.isfinite().all()


def test_a_bound_of_one_is_tanh() -> None:
    plain = MLP((2,), generator=generator())
    bounded = MLP((2,), output_bound=1.0, generator=generator())
    torch.testing.assert_close(bounded(points()), plain(points()).tanh())


def test_the_base_makes_a_bounded_energy_normalisable() -> None:
    # |E − ‖x‖²/2s²| ≤ B, so ∫ exp(−E) lies between exp(∓B) 2πs².
    model = MLP((2,), [16], output_bound=2.0, base_scale=0.8, generator=generator()).double()
    axis = torch.linspace(-8, 8, 321, dtype=torch.float64)
    with torch.no_grad():
        density = torch.exp(-model(torch.cartesian_prod(axis, axis)))
    partition = float(density.sum() * (axis[1] - axis[0]) ** 2)
    gaussian = 2 * math.pi * 0.64
    assert math.exp(-2) * gaussian <= partition <= math.exp(2) * gaussian


def test_far_out_the_base_has_the_last_word_on_the_score() -> None:
    model = MLP((2,), output_bound=1.0, base_scale=2.0, generator=generator())
    x = 1e4 * points()
    torch.testing.assert_close(score(model, x), -x / 4, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_first_weights_are_those_of_plain_layers_from_the_same_generator(seed: int) -> None:
    model = MLP((3,), [11, 4], "relu", generator=generator(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        plain = [nn.Linear(3, 11), nn.Linear(11, 4), nn.Linear(4, 1)]
    for ours, theirs in zip(linears(model), plain, strict=True):
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-6, atol=0.0)
        torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-6, atol=0.0)


def test_first_weights_are_uniform_in_the_stated_bounds() -> None:
    model = MLP((50,), [400, 300], generator=generator(1))
    for layer in linears(model)[:2]:
        bound = 1 / math.sqrt(layer.in_features)
        assert layer.weight.abs().max() <= bound
        assert layer.bias.abs().max() <= bound
        u = (layer.weight.detach().flatten().double() / bound + 1) / 2
        # Kolmogorov–Smirnov at a false-alarm rate of about 1e-6 a layer; the seed is fixed.
        order = torch.arange(1, len(u) + 1) / len(u)
        distance = (u.sort().values - order).abs().max() + 1 / len(u)
        assert distance < math.sqrt(-math.log(0.5e-6) / 2 / len(u))


@laws
@given(seed=st.integers(0, 2**32))
def test_the_generator_decides_the_weights(seed: int) -> None:
    def weights(model: MLP) -> Tensor:
        return nn.utils.parameters_to_vector(model.parameters())

    model = MLP((2,), [5], generator=generator(seed))
    again = MLP((2,), [5], generator=generator(seed))
    other = MLP((2,), [5], generator=generator(seed + 1))
    assert torch.equal(weights(model), weights(again))
    assert not torch.equal(weights(model), weights(other))
    other.draw(generator=generator(seed))
    assert torch.equal(weights(model), weights(other))


def test_without_a_generator_each_model_is_another() -> None:
    before = torch.random.get_rng_state()
    first, second = MLP((2,), [5]), MLP((2,), [5])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(first.layers[0].weight, second.layers[0].weight)


def test_the_generator_is_not_kept_and_advances() -> None:
    source = generator()
    before = source.get_state()
    model = MLP((2,), [5], generator=source)
    assert model.generator is None
    assert not torch.equal(source.get_state(), before)


def test_fields_are_plain_attributes_and_modules_are_told_apart() -> None:
    model = MLP((2,), [5], base_scale=2.0)
    assert (model.hidden, model.base_scale, model.conditional) == ([5], 2.0, False)
    model.base_scale = 3.0
    assert "base_scale" not in model.state_dict()
    assert len({model, MLP((2,), [5])}) == 2
    names = [a.alias for a in attrs.fields(MLP) if a.init]
    assert names[:2] == ["event_shape", "hidden"]
    assert model.train().training
    assert not model.eval().training


def test_labels_are_appended_as_one_hot_vectors() -> None:
    model = MLP((2,), [7], input_scale=0.5, conditional=True, n_classes=3, generator=generator())
    x = points(6)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    expected = model.layers(torch.cat([0.5 * x, torch.eye(3)[labels]], 1)).squeeze(1)
    torch.testing.assert_close(model(x, labels), expected)
    torch.testing.assert_close(model(x, condition=labels.to(torch.uint8)), expected)
    assert not torch.allclose(model(x, labels), model(x, (labels + 1) % 3))
    torch.testing.assert_close(model.double()(x.double(), labels).float(), expected)


def test_number_of_classes_is_not_read_where_unconditional() -> None:
    assert linears(MLP((2,), [5], n_classes=10))[0].in_features == 2


@pytest.mark.parametrize(
    "labels",
    [
        None,
        torch.tensor([0, 1]),
        torch.tensor([[0], [1], [2]]),
        torch.tensor([0, 1, 3]),
        torch.tensor([0, -1, 2]),
        torch.tensor([0.0, 1.0, 2.0]),
        torch.tensor([True, False, True]),
    ],
    ids=str,
)
def test_labels_that_do_not_fit_are_refused(labels: Tensor | None) -> None:
    model = MLP((2,), [5], conditional=True, n_classes=3)
    with pytest.raises(ValueError, match=r"MLP: expected labels of shape \(3,\) in 0 … 2"):
        model(points(3), labels)


def test_labels_nobody_asked_for_are_refused() -> None:
    with pytest.raises(ValueError, match="not conditional"):
        MLP((2,), [5])(points(3), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("fields", "culprit"),
    [
        ({"hidden": []}, "hidden"),
        ({"hidden": [8, 0]}, "hidden|must be >= 1"),
        ({"hidden": [8.0]}, "hidden|whole number"),
        ({"activation": "swish"}, "activation"),
        ({"output_bound": 0.0}, "output_bound"),
        ({"output_bound": math.inf}, "output_bound"),
        ({"base_scale": -1.0}, "base_scale"),
        ({"input_scale": 0.0}, "input_scale"),
        ({"conditional": True}, "conditional: needs n_classes"),
        ({"conditional": True, "n_classes": 0}, "n_classes"),
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        MLP((2,), **fields)


@pytest.mark.parametrize("fields", [{"conditional": "no"}, {"generator": 3}])
def test_fields_of_a_wrong_type_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(fields))):
        MLP((2,), **fields)


def test_events_without_dimensions_are_one_number() -> None:
    model: Callable[[Tensor], Tensor] = MLP((), [5], generator=generator())
    assert model(torch.linspace(-1, 1, 7)).shape == (7,)


def test_gradients_reach_every_weight() -> None:
    model = MLP((2,), [5, 4], conditional=True, n_classes=2, base_scale=1.0, generator=generator())
    model(points(20), torch.arange(20) % 2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
