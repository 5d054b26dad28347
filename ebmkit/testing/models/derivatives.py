"""Laws of a model's derivatives, in x and in its parameters, against differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ebmkit.holding import evaluating
from ebmkit.testing import reference
from ebmkit.testing.laws import BrokenLaw, Cases, law
from ebmkit.testing.models.energies import Shape, agree, bound, each, made, points, shapes_of
from ebmkit.testing.subject import Subject

_STEP = 1e-5
"""Of central differences, in float64; their error is of order 1e-10 of what is differentiated."""
_ALLOWED = 1e-5


def _first(subject: Subject) -> Any:
    return made(subject, shapes_of(subject)[0], 0)


def _smooth(subject: Subject) -> str:
    if getattr(_first(subject), "differentiable", True) is False:
        return "it says by differentiable = False that it has no derivatives in x"
    return ""


def _twice(subject: Subject) -> str:
    model = _first(subject)
    if getattr(model, "discrete", False):
        return "its states are discrete"
    if said := _smooth(subject):
        return said
    if getattr(model, "twice_differentiable", True) is False:
        return "it says by twice_differentiable = False that it has no second derivatives"
    return ""


def _trained(subject: Subject) -> str:
    model = _first(subject)
    if not isinstance(model, nn.Module) or not list(_weights(model)):
        return "it has no parameters"
    return ""


def _weights(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, value) for name, value in model.named_parameters() if value.requires_grad]


def _directions(x: Tensor, seed: int) -> Tensor:
    """Directions (n, *event) in x: the axes where there are few, else random ones."""
    shape = x.shape[1:]
    size = math.prod(shape)
    if size <= 8:
        return torch.eye(size, dtype=x.dtype).view(size, *shape)
    return reference.normal(3, *shape, seed=seed + 4)


def _gradient(energy: Any, x: Tensor, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    leaf = x.detach().clone().requires_grad_(True)
    total = energy(leaf).sum()
    try:
        (gradient,) = torch.autograd.grad(total, leaf, create_graph=create_graph)
    except RuntimeError as error:
        raise BrokenLaw(f"its energies cannot be differentiated in x: {error}") from error
    return leaf, gradient


@law(
    "model",
    why="Samplers and score matching move along −∇E.",
    means="chains follow a force that is not the energy's, and samples are of no known distribution",
    applies=_smooth,
)
def gradient_is_of_the_energy(subject: Subject, cases: Cases) -> None:
    def check(shape: Shape, batch: int, seed: int, dtype: torch.dtype) -> None:  # noqa: ARG001
        model = made(subject, shape, seed)
        x = points(model, shape, batch, seed)
        energy = bound(model, batch, seed)
        with evaluating(model):
            _, gradient = _gradient(energy, x)
            for direction in _directions(x, seed):
                with torch.no_grad():
                    up, down = energy(x + _STEP * direction), energy(x - _STEP * direction)
                sure = up.isfinite() & down.isfinite()
                agree(
                    cases,
                    (gradient * direction).flatten(1).sum(1)[sure],
                    ((up - down) / (2 * _STEP))[sure],
                    _ALLOWED,
                    "autograd's derivative in x, and what differences give (state "
                    "differentiable = False in the class where it is meant to have none)",
                )

    each(subject, cases, check)


def _slopes(model: nn.Module, value: Callable[[], Tensor]) -> dict[str, Tensor]:
    """The derivative of a value in each parameter, by autograd."""
    weights = dict(_weights(model))
    try:
        slopes = torch.autograd.grad(value(), list(weights.values()), allow_unused=True)
    except RuntimeError as error:
        raise BrokenLaw(f"it cannot be differentiated in its parameters: {error}") from error
    return {
        name: torch.zeros_like(weight) if slope is None else slope
        for (name, weight), slope in zip(weights.items(), slopes, strict=True)
    }


def _along(model: nn.Module, value: Callable[[], Tensor], directions: dict[str, Tensor]) -> Tensor:
    """The derivative of a value along directions of parameters, by differences."""
    weights = dict(_weights(model))
    ends = []
    for step in (_STEP, -2 * _STEP):
        with torch.no_grad():
            for name, direction in directions.items():
                weights[name].add_(direction, alpha=step)
        ends.append(value().detach())
    with torch.no_grad():
        for name, direction in directions.items():
            weights[name].add_(direction, alpha=_STEP)
    return (ends[0] - ends[1]) / (2 * _STEP)


def _drawn(model: nn.Module, seed: int) -> dict[str, Tensor]:
    return {
        name: reference.normal(*value.shape, seed=seed + 5 + place)
        for place, (name, value) in enumerate(_weights(model))
    }


@law(
    "model",
    why="Losses train the model by the gradient of its energies in its parameters.",
    means="some parameters stay as they are, or are trained along a wrong direction",
    applies=_trained,
)
def parameters_are_trained(subject: Subject, cases: Cases) -> None:
    def check(shape: Shape, batch: int, seed: int, dtype: torch.dtype) -> None:  # noqa: ARG001
        model = made(subject, shape, seed)
        x = points(model, shape, batch, seed)
        energy = bound(model, batch, seed)
        weights = reference.normal(batch, seed=seed + 3)
        with evaluating(model):

            def value() -> Tensor:
                total: Tensor = (weights * energy(x)).sum()
                return total

            slopes = _slopes(model, value)
            for name, direction in _drawn(model, seed).items():
                with torch.no_grad():
                    expected = _along(model, value, {name: direction})
                agree(
                    cases,
                    (slopes[name] * direction).sum(),
                    expected,
                    _ALLOWED,
                    f"the derivative in {name}, and what differences give",
                )

    each(subject, cases, check, examples=3)


@law(
    "model",
    why="Score matching differentiates ∇E once more, in x and in the parameters.",
    means="score matching trains by NaN, or by a wrong gradient",
    applies=_twice,
)
def second_derivatives_right(subject: Subject, cases: Cases) -> None:
    def check(shape: Shape, batch: int, seed: int, dtype: torch.dtype) -> None:  # noqa: ARG001
        model = made(subject, shape, seed)
        x = points(model, shape, batch, seed)
        energy = bound(model, batch, seed)
        with evaluating(model):
            for direction in _directions(x, seed)[:3]:
                leaf, gradient = _gradient(energy, x, create_graph=True)
                along = (gradient * direction).sum()
                curved = torch.zeros_like(x)
                if along.requires_grad:
                    (slope,) = torch.autograd.grad(along, leaf, allow_unused=True)
                    curved = curved if slope is None else slope
                _, up = _gradient(energy, x + _STEP * direction)
                _, down = _gradient(energy, x - _STEP * direction)
                difference = (up - down) / (2 * _STEP)
                sure = difference.isfinite()
                said = (
                    "the second derivative in x, and what differences give (state "
                    "twice_differentiable = False in the class where it is meant to have none)"
                )
                agree(cases, curved[sure], difference[sure], _ALLOWED, said)
            if isinstance(model, nn.Module) and _weights(model):

                def squares() -> Tensor:
                    _, gradient = _gradient(energy, x, create_graph=True)
                    total = gradient.square().sum()
                    # No parameter may have a say in it, as where the energy is linear in them.
                    return total + sum(0 * value.sum() for _, value in _weights(model))

                directions = _drawn(model, seed)
                slopes = _slopes(model, squares)
                found = torch.stack([(slopes[n] * d).sum() for n, d in directions.items()]).sum()
                expected = _along(model, squares, directions)
                said = "the derivative of ‖∇E‖² in the parameters, and what differences give"
                agree(cases, found, expected, _ALLOWED, said)

    each(subject, cases, check, examples=3)
