"""Gradients by formula against autograd's, for every energy that has one."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ebmkit_energies.double_well import DoubleWell
from ebmkit_energies.gaussian import Gaussian
from ebmkit_energies.gaussian_mixture import GaussianMixture
from ebmkit_energies.harmonic import Harmonic
from ebmkit_energies.mlp import MLP
from ebmkit_energies.noise_conditional_mlp import NoiseConditionalMLP
from ebmkit_energies.rastrigin import Rastrigin
from ebmkit_energies.rosenbrock import Rosenbrock
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import ebmkit

laws = settings(deadline=None, max_examples=60, derandomize=True)
ACTIVATIONS = ["silu", "softplus", "tanh", "gelu", "selu", "elu", "relu"]
SHAPES: list[tuple[int, ...]] = [(), (1,), (3,), (2, 3), (1, 2, 2)]
dtypes = st.sampled_from([torch.float32, torch.float64])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_autograd(energy: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_(True)
    energies = energy(x)
    (gradient,) = torch.autograd.grad(energies.sum(), x)
    return energies.detach(), gradient


def agree(energy: Any, model: Any, x: Tensor) -> None:
    """The formula applies, changes nothing that it is given, and gives what autograd gives."""
    before = x.clone()
    offered = ebmkit.offered(energy, "energy_and_gradient")
    with torch.no_grad():
        formula = offered(x)
    assert formula is not None
    through = ebmkit.energy_and_gradient(energy, x)
    expected = by_autograd(energy, x)
    close = {torch.float32: 3e-5, torch.float64: 1e-12}[x.dtype]
    for ours, kernels, theirs in zip(formula, through, expected, strict=True):
        assert ours.dtype == x.dtype
        assert ours.shape == theirs.shape
        assert torch.equal(ours, kernels)
        scale = float(theirs.abs().max()) if theirs.numel() else 1.0
        torch.testing.assert_close(ours, theirs, rtol=close, atol=close * max(scale, 1e-6))
    assert torch.equal(x, before)
    assert all(p.grad is None for p in model.parameters())


@laws
@given(
    shape=st.sampled_from(SHAPES),
    hidden=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    activation=st.sampled_from(ACTIVATIONS),
    bound=st.none() | st.floats(0.1, 10),
    base=st.none() | st.floats(0.3, 5),
    scale=st.just(1.0) | st.floats(0.1, 3),
    classes=st.none() | st.integers(1, 3),
    batch=st.sampled_from([0, 1, 2, 7]),
    dtype=dtypes,
    seed=st.integers(0, 2**32),
)
def test_a_perceptrons_formula_is_autograds(
    shape: tuple[int, ...],
    hidden: list[int],
    activation: Any,
    bound: float | None,
    base: float | None,
    scale: float,
    classes: int | None,
    batch: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    g = generator(seed)
    labelled = classes is not None
    model = MLP(shape, hidden, activation, bound, base, scale, labelled, classes, g).to(dtype)
    x = 2 * torch.randn(batch, *shape, generator=g, dtype=dtype)
    energy: Any = model
    if classes is not None:
        labels = torch.randint(classes, (batch,), generator=g)
        energy = functools.partial(model, condition=labels)
    agree(energy, model, x)


@laws
@given(
    shape=st.sampled_from(SHAPES),
    activation=st.sampled_from(ACTIVATIONS[:4]),
    base=st.none() | st.floats(0.3, 5),
    classes=st.none() | st.integers(1, 3),
    batch=st.sampled_from([0, 1, 5]),
    level=st.none() | st.floats(0.01, 5) | st.just("rows"),
    dtype=dtypes,
    seed=st.integers(0, 2**32),
)
def test_a_noise_conditional_perceptrons_formula_is_autograds(
    shape: tuple[int, ...],
    activation: Any,
    base: float | None,
    classes: int | None,
    batch: int,
    level: Any,
    dtype: torch.dtype,
    seed: int,
) -> None:
    g = generator(seed)
    model = NoiseConditionalMLP(
        shape, [6, 5], activation, 0.7, base, 0.05, classes is not None, classes, g
    ).to(dtype)
    x = torch.randn(batch, *shape, generator=g, dtype=dtype)
    bound: dict[str, Any] = {}
    if classes is not None:
        bound["condition"] = torch.randint(classes, (batch,), generator=g)
    if level is not None:
        rows = torch.rand(batch, generator=g, dtype=dtype) + 0.02
        bound["noise_level"] = rows if level == "rows" else level
    agree(functools.partial(model, **bound), model, x)


MEANS = [[0.3, -1.2, 0.5, 2.0], [0.0] * 4, [1.0] * 4]
COVARIANCE = [[2.0 if i == j else 0.5 ** abs(i - j) for j in range(4)] for i in range(4)]
ANALYTIC: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "double-well": lambda shape: DoubleWell(1.5, event_shape=shape),
    "gaussian": lambda shape: Gaussian(MEANS[0], COVARIANCE, event_shape=shape),
    "gaussian-trainable": lambda shape: Gaussian(MEANS[0], COVARIANCE, True, event_shape=shape),
    "gaussian-mixture": lambda shape: GaussianMixture(MEANS, 0.8, [1, 2, 3], event_shape=shape),
    "harmonic": lambda shape: Harmonic(0.7, event_shape=shape),
    "rastrigin": lambda shape: Rastrigin(event_shape=shape),
    "rosenbrock": lambda shape: Rosenbrock(0.9, 4.0, event_shape=shape),
}


@pytest.mark.parametrize("build", ANALYTIC.values(), ids=ANALYTIC)
@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    shape=st.sampled_from([(4,), (2, 2), (1, 4, 1)]),
    batch=st.sampled_from([0, 1, 6]),
    dtype=dtypes,
    seed=st.integers(0, 2**32),
)
def test_the_formula_of_an_analytic_energy_is_autograds(
    build: Callable[[tuple[int, ...]], nn.Module],
    shape: tuple[int, ...],
    batch: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    energy = build(shape)
    if any(True for _ in energy.parameters()):
        energy = energy.to(dtype)
    x = torch.randn(batch, *shape, generator=generator(seed), dtype=dtype)
    agree(energy, energy, x)


@pytest.mark.parametrize("build", ANALYTIC.values(), ids=ANALYTIC)
def test_points_of_other_events_are_refused_by_the_formula_too(
    build: Callable[[tuple[int, ...]], nn.Module],
) -> None:
    with pytest.raises(ValueError, match=r"\(batch, 4\), got \(3, 5\)"):
        ebmkit.energy_and_gradient(build((4,)), torch.zeros(3, 5))


def test_wrong_points_and_labels_are_refused_by_the_perceptrons_formula_too() -> None:
    model = MLP((2,), [5], conditional=True, n_classes=3, generator=generator())
    with pytest.raises(ValueError, match=r"expected points of shape \(batch, 2\)"):
        ebmkit.energy_and_gradient(model, torch.zeros(3, 4))
    with pytest.raises(ValueError, match="expected labels of shape"):
        ebmkit.energy_and_gradient(model, torch.zeros(3, 2))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("z", [0.0, -0.0, 1e-30, -1e4, 1e4, math.inf, -math.inf, math.nan])
def test_kinks_and_ends_are_as_autograd_has_them(activation: Any, z: float) -> None:
    # One unit with weights 1 and no bias: the energy is the activation itself.
    model = MLP((1,), [1], activation, generator=generator())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(float("weight" in name))
    x = torch.tensor([[z]])
    expected = by_autograd(model, x)
    found = ebmkit.energy_and_gradient(model, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


class Shifted(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def swapped(place: int, layer: nn.Module) -> Callable[[MLP], None]:
    def swap(model: MLP) -> None:
        model.layers[place] = layer

    return swap


def parametrised(model: MLP) -> None:
    nn.utils.parametrizations.spectral_norm(model.layers[0])


def grown(model: MLP) -> None:
    model.layers.append(nn.Tanh())


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.sum(1, keepdim=True)


def residual(model: MLP) -> None:
    model.layers = Residual(*model.layers)


def hooked(model: MLP) -> None:
    model.layers[2].register_forward_hook(lambda _, __, h: 2 * h)


STRANGE: dict[str, tuple[Callable[[MLP], None], bool]] = {
    "an unknown activation": (swapped(1, nn.Hardswish()), True),
    "a derived linear layer": (swapped(2, Shifted(6, 5)), True),
    "an activation for a linear layer": (swapped(2, nn.Tanh()), True),
    "a parametrisation": (parametrised, True),
    "one layer more": (grown, True),
    "a derived sequence": (residual, True),
    "a hook": (hooked, False),
}


@pytest.mark.parametrize("what", STRANGE)
def test_layers_that_somebody_changed_take_the_way_of_autograd(what: str) -> None:
    change, seen_by_formula = STRANGE[what]
    model = MLP((2,), [6, 6 if "for a" in what else 5], "tanh", 2.0, 1.5, generator=generator())
    change(model)
    model.eval()
    x = torch.randn(6, 2, generator=generator(1))
    if seen_by_formula:
        assert model.energy_and_gradient(x) is None
    found, expected = ebmkit.energy_and_gradient(model, x), by_autograd(model, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_tied_layers_are_each_in_their_place() -> None:
    model = MLP((2,), [4, 4], conditional=True, n_classes=2, generator=generator())
    model.layers[2] = model.layers[0]
    x, labels = torch.randn(6, 2, generator=generator(1)), torch.arange(6) % 2
    energy = functools.partial(model, condition=labels)
    torch.testing.assert_close(ebmkit.energy_and_gradient(energy, x), by_autograd(energy, x))
    assert model.energy_and_gradient(x, labels) is not None


def test_a_network_of_two_outputs_is_refused_as_its_call_is() -> None:
    model = MLP((2,), [6], generator=generator())
    model.layers[2] = nn.Linear(6, 2)
    with pytest.raises(ebmkit.EnergyError, match="must return one energy a row"):
        ebmkit.energy_and_gradient(model, torch.zeros(5, 2))


def test_a_known_activation_of_another_shape_keeps_its_own_settings() -> None:
    model = MLP((2,), [6], generator=generator())
    x = 3 * torch.randn(50, 2, generator=generator(1))
    others: list[nn.Module] = [
        nn.ELU(0.3),
        nn.Softplus(2.5, 1.0),
        nn.GELU("tanh"),
        nn.ReLU(inplace=True),
        nn.SiLU(inplace=True),
    ]
    for other in others:
        model.layers[1] = other
        found, expected = ebmkit.energy_and_gradient(model, x), by_autograd(model, x)
        torch.testing.assert_close(found, expected)


def test_a_derived_perceptron_is_called() -> None:
    class Doubled(MLP):
        def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
            return 2 * super().forward(x, condition)

    model = Doubled((2,), [6], generator=generator())
    x = torch.randn(6, 2, generator=generator(1))
    torch.testing.assert_close(ebmkit.energy_and_gradient(model, x), by_autograd(model, x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_formula_is_traced_with_the_parameters_as_inputs(activation: Any) -> None:
    model = MLP((2,), [6, 5], activation, 2.0, 1.5, 0.5, generator=generator())
    x = torch.randn(6, 2, generator=generator(1))

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Any:
            return ebmkit.energy_and_gradient(self.model, x)

    chain = Chain()

    def compute(tensors: dict[str, Tensor], x: Tensor) -> Any:
        return torch.func.functional_call(chain, tensors, (x,))

    graph = make_fx(compute, tracing_mode="fake")(dict(chain.named_parameters()), x)
    other = {name: 1.1 * p.detach() for name, p in chain.named_parameters()}
    found = graph(other, x)
    with torch.no_grad():
        for name, p in chain.named_parameters():
            p.copy_(other[name])
    torch.testing.assert_close(tuple(found), by_autograd(model, x))
