"""When an energy's own formula for its gradient is taken, and when that might be wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import ebmkit
from ebmkit.errors import EnergyError


class Bowl(nn.Module):
    """E(x) = k/2 ‖x‖² by layers, and a formula that shows by a gradient of 7 that it was taken."""

    def __init__(self, k: float = 1.0) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k))
        self.inner = nn.Sequential(nn.Identity(), nn.Sequential(nn.Identity()))

    def forward(self, x: Tensor, condition: float = 1.0) -> Tensor:
        return self.curvature() * condition / 2 * self.inner(x).square().flatten(1).sum(1)

    def curvature(self) -> Tensor:
        return self.k

    def energy_and_gradient(self, x: Tensor, condition: float = 1.0) -> Any:
        assert not torch.is_grad_enabled()
        assert not x.requires_grad
        return self(x, condition), torch.full_like(x, 7.0 * condition)


def points() -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def taken(energy: Any, x: Tensor | None = None) -> bool:
    """Whether the formula was taken; where not, the gradient is checked to be the right one."""
    x = points() if x is None else x
    energies, gradient = ebmkit.energy_and_gradient(energy, x)
    assert not energies.requires_grad and not gradient.requires_grad
    if bool((gradient == 7).all()):
        return True
    x = x.detach().requires_grad_(True)
    (expected,) = torch.autograd.grad(energy(x).sum(), x)
    torch.testing.assert_close(gradient, expected)
    return False


def test_the_formula_is_taken_and_no_parameter_gets_a_gradient() -> None:
    model = Bowl()
    assert taken(model)
    assert taken(model, points().requires_grad_(True))
    assert model.k.grad is None
    torch.testing.assert_close(ebmkit.score(model, points()), torch.full((4, 3), -7.0))


def test_what_is_bound_to_the_energy_reaches_the_formula() -> None:
    bound = functools.partial(functools.partial(Bowl(), condition=5.0), condition=2.0)
    energies, gradient = ebmkit.energy_and_gradient(bound, points())
    torch.testing.assert_close(energies, points().square().sum(1))
    torch.testing.assert_close(gradient, torch.full((4, 3), 14.0))


def test_a_loss_that_differentiates_in_the_parameters_does_without_the_formula() -> None:
    model, x = Bowl(), points()
    energies, gradient = ebmkit.energy_and_gradient(model, x, create_graph=True)
    torch.testing.assert_close(gradient, x)
    assert energies.requires_grad and gradient.requires_grad


def test_any_object_may_offer_a_formula() -> None:
    class Plain:
        def __call__(self, x: Tensor) -> Tensor:
            return x.square().sum(1)

        def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self(x), torch.full_like(x, 7.0)

    class Twice(Plain):
        def __call__(self, x: Tensor) -> Tensor:
            return 2 * super().__call__(x)

    assert taken(Plain())
    assert not taken(Twice())


def test_none_is_the_way_of_autograd() -> None:
    class Sometimes(Bowl):
        def energy_and_gradient(self, x: Tensor, condition: float = 1.0) -> Any:
            return None if len(x) > 2 else super().energy_and_gradient(x, condition)

    assert not taken(Sometimes())
    assert taken(Sometimes(), points()[:2])


class Named(Bowl):
    """Changes nothing of how the energy is computed."""

    discrete = False

    def __init__(self) -> None:
        super().__init__(k=2.0)


class OtherForward(Bowl):
    def forward(self, x: Tensor, condition: float = 1.0) -> Tensor:
        return 3 * super().forward(x, condition)


class OtherHelper(Bowl):
    def curvature(self) -> Tensor:
        return 3 * self.k


class OtherProperty(Bowl):
    @property
    def curvature(self) -> Any:  # type: ignore[override]
        return lambda: 3 * self.k


class OtherCall(Bowl):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return 3 * super().__call__(*args, **kwargs)


class Scale:
    def forward(self, x: Tensor, condition: float = 1.0) -> Tensor:
        scaled: Tensor = 3 * super().forward(x, condition)  # type: ignore[misc]
        return scaled


class Mixed(Scale, Bowl):  # type: ignore[misc]
    pass


class AnotherFormula(OtherForward):
    def energy_and_gradient(self, x: Tensor, condition: float = 1.0) -> Any:
        return self(x, condition), torch.full_like(x, 7.0)


def test_a_derived_class_that_changes_no_method_keeps_the_formula() -> None:
    assert taken(Named())


@pytest.mark.parametrize("kind", [OtherForward, OtherHelper, OtherProperty, OtherCall, Mixed])
def test_a_derived_class_with_methods_of_its_own_has_none(kind: type[Bowl]) -> None:
    assert not taken(kind())


def test_a_derived_class_may_state_its_own() -> None:
    assert taken(AnotherFormula())


def double(module: nn.Module, inputs: Any, output: Tensor | None = None) -> Any:
    return tuple(2 * x for x in inputs) if output is None else 2 * output


PLACES: dict[str, Callable[[Bowl], nn.Module]] = {
    "the model": lambda m: m,
    "a layer": lambda m: m.inner,
    "a layer of a layer": lambda m: m.inner[1][0],  # type: ignore[index]
}
HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda m: m.register_forward_hook(double),
    "forward pre": lambda m: m.register_forward_pre_hook(double),
    "backward": lambda m: m.register_full_backward_hook(
        lambda _, into, out: tuple(None if g is None else 2 * g for g in into)
    ),
    "backward pre": lambda m: m.register_full_backward_pre_hook(
        lambda _, out: tuple(2 * g for g in out)
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_are_heeded_while_they_are_there(hook: str, place: str) -> None:
    model = Bowl()
    handle = HOOKS[hook](PLACES[place](model))
    assert not taken(model)
    assert not taken(functools.partial(model, condition=1.0))
    handle.remove()
    assert taken(model)


def test_hooks_on_all_modules_are_heeded() -> None:
    handle = nn.modules.module.register_module_forward_hook(
        lambda m, _, out: 2 * out if isinstance(m, nn.Identity) else None
    )
    try:
        assert not taken(Bowl())
    finally:
        handle.remove()
    assert taken(Bowl())


@pytest.mark.parametrize("place", PLACES)
def test_a_forward_of_the_instances_own_is_heeded(place: str) -> None:
    model = Bowl()
    module: Any = PLACES[place](model)
    before = module.forward
    module.forward = lambda *x: 2 * before(*x)
    assert not taken(model)
    del module.forward
    assert taken(model)


def test_autocast_is_heeded() -> None:
    model = Bowl()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not taken(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        assert taken(model)


def test_a_device_that_autocast_does_not_know_is_no_matter() -> None:
    _, gradient = ebmkit.energy_and_gradient(Bowl().to("meta"), points().to("meta"))
    assert gradient.shape == (4, 3)


def compiled(model: Bowl) -> Any:
    return torch.compile(model, backend="eager")


def compiled_in_place(model: Bowl) -> Any:
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("compile_", [compiled, compiled_in_place])
def test_compiled_models_are_called(compile_: Callable[[Bowl], Any]) -> None:
    model = compile_(Bowl())
    assert not taken(model)
    torch._dynamo.reset()


def test_what_is_on_a_function_or_an_instance_is_no_formula() -> None:
    # functools.wraps copies such attributes from one energy to another.
    def energy(x: Tensor) -> Tensor:
        return x.square().sum(1)

    energy.energy_and_gradient = lambda x: (energy(x), torch.full_like(x, 7.0))  # type: ignore[attr-defined]
    twice = functools.wraps(energy)(lambda x: 2 * energy(x))
    assert not taken(twice)
    assert not taken(Bowl().forward)


@pytest.mark.parametrize("no_grad", [False, True])
def test_the_formula_serves_inference_mode_and_graphs(no_grad: bool) -> None:
    mode: AbstractContextManager[Any] = torch.inference_mode() if no_grad else nullcontext()
    model = Bowl()
    with mode:
        assert bool((ebmkit.energy_and_gradient(model, points())[1] == 7).all())

    def gradient(x: Tensor) -> Tensor:
        return ebmkit.energy_and_gradient(model, x)[1]

    graph = make_fx(gradient, tracing_mode="fake")(points())
    torch.testing.assert_close(graph(points()), torch.full((4, 3), 7.0))


WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "one tensor": (lambda x: x, r"must return energies and gradients, or None, got shape \(4, 3\)"),
    "three": (lambda x: (x, x, x), "must return energies and gradients, or None, got tuple"),
    "a column of energies": (lambda x: (x[:, :1], x), "one energy a row"),
    "whole numbers": (lambda x: (x[:, 0].long(), x), "real numbers"),
    "a gradient of another shape": (
        lambda x: (x[:, 0], x.T),
        r"Wrong: energy_and_gradient must return gradients of shape \(4, 3\) .*got shape \(3, 4\)",
    ),
    "a gradient of another dtype": (
        lambda x: (x[:, 0], x.double()),
        r"of torch\.float32, got shape \(4, 3\) of torch\.float64",
    ),
    "no gradient": (lambda x: (x[:, 0], None), "got NoneType"),
}


@pytest.mark.parametrize("what", WRONG)
def test_formulas_that_give_something_else_are_refused(what: str) -> None:
    formula, message = WRONG[what]

    class Wrong(Bowl):
        def energy_and_gradient(self, x: Tensor, condition: float = 1.0) -> Any:
            return formula(x)

    with pytest.raises(EnergyError, match=message):
        ebmkit.energy_and_gradient(Wrong(), points())


def test_what_the_formula_returns_is_detached() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.ones(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.slope).sum(1)

        def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self(x), self.slope

    assert not ebmkit.energy_and_gradient(Linear(), points())[1].requires_grad
