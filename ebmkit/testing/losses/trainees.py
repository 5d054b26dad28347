"""Models of the kit's own that losses are tried with, and what laws of losses share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ebmkit.errors import UserError
from ebmkit.objectives import Objective, objective
from ebmkit.protocols import Batch
from ebmkit.testing import reference
from ebmkit.testing.laws import BrokenLaw, Cases
from ebmkit.testing.subject import Subject


class Told(nn.Module):
    """An energy that has to be told what each of its points is conditioned on."""

    conditional = True

    def __init__(self, energy: nn.Module) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        if condition is None or len(condition) != len(x):
            given = "nothing" if condition is None else f"{len(condition)} of them"
            raise BrokenLaw(
                f"a conditional model was called on {len(x)} points; expected what each is "
                f"conditioned on, got {given}; ebmkit.bind(model, condition) binds it"
            )
        told: Tensor = self.energy(x, condition)
        return told


class Noisy(nn.Module):
    """An energy that takes a noise level, as losses need it that add noise of several."""

    noise_conditional = True

    def __init__(self, energy: nn.Module) -> None:
        super().__init__()
        self.energy = energy
        self.conditional = bool(getattr(energy, "conditional", False))

    def forward(
        self, x: Tensor, condition: Tensor | None = None, *, noise_level: Any = None
    ) -> Tensor:
        told: Tensor = self.energy(x) if condition is None else self.energy(x, condition)
        return told if noise_level is None else told * (1 + noise_level / 4)


class Normed(nn.Module):
    """An energy with BatchNorm in it, whose statistics tell in which mode it was called."""

    def __init__(self, event_shape: tuple[int, ...], seed: int = 0) -> None:
        super().__init__()
        self.within = nn.Linear(math.prod(event_shape), 4)
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)
        with torch.no_grad():
            self.within.weight.copy_(reference.normal(*self.within.weight.shape, seed=seed) / 2)
            self.within.bias.copy_(reference.normal(4, seed=seed + 1))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)
        bent = torch.tanh(self.norm(self.within(rows))).sum(1)
        return self.frozen * bent + rows.square().sum(1) / 8


class Family(nn.Module):
    """Gaussians E(x) = ½ e^λ ‖x − μ‖² with numbers λ and μ to be learned; told a noise level σ, of the
    points with noise of that standard deviation added to them, 1 / (e^−λ + σ²) in place of e^λ."""

    noise_conditional = True

    def __init__(self, log_precision: float, mean: float) -> None:
        super().__init__()
        self.log_precision = nn.Parameter(torch.tensor(log_precision, dtype=torch.float64))
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))

    def forward(self, x: Tensor, *, noise_level: Any = None) -> Tensor:
        squared = (x - self.mean).flatten(1).square().sum(1)
        if noise_level is None:
            precision: Tensor = self.log_precision.exp()
        else:
            precision = 1 / ((-self.log_precision).exp() + noise_level**2)
        return precision * squared / 2

    def draws(self, size: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        z = torch.randn(size, *shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            x: Tensor = self.mean + z * (-self.log_precision / 2).exp()
        return x


def discrete(subject: Subject) -> str:
    """Why the laws of continuous points cannot be asked of a loss; empty where they can."""
    made = subject.make()
    moved = getattr(made, "sampler", None)
    if any(getattr(part, "discrete", False) for part in (made, moved)):
        return "its states are discrete"
    return ""


def suited(subject: Subject, energy: nn.Module, told: bool = False) -> nn.Module:
    """A model that the loss trains, by its own word; conditional where it is to be told."""
    model = Told(energy) if told else energy
    try:
        getattr(subject.make(), "check", lambda _: None)(model)
    except UserError:
        return Noisy(model)
    return model


def batch_size(subject: Subject, size: int) -> int:
    """So many rows, or as many as the author says by the option ``batch_size`` that it takes."""
    return min(size, int(subject.options.get("batch_size", size)))


def batch_of(
    shape: tuple[int, ...],
    size: int,
    seed: int,
    *,
    dtype: torch.dtype = torch.float64,
    labelled: bool = False,
) -> Batch:
    x = reference.normal(size, *shape, seed=seed).to(dtype)
    return Batch(x, torch.arange(size) % 3 if labelled else None)


def bound(subject: Subject, model: Any, seed: int, shape: tuple[int, ...]) -> Objective:
    """The loss, made anew and bound to a model; nothing is compiled, so that it is the loss itself."""
    made = subject.make(seed=seed, event_shape=shape)
    return objective(made, model, generator=reference.generator(seed), compile="off")


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    """By parameter, zeros where the loss does not depend on it."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not loss.requires_grad:
        raise BrokenLaw("the loss has no gradient in the model's parameters: it is detached")
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def tensors_in(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of a tree of tuples, lists and dictionaries, each with its place."""
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, dict):
        for name, value in tree.items():
            yield from tensors_in(value, f"{path}.{name}".lstrip("."))
    elif isinstance(tree, tuple | list):
        names = getattr(tree, "_fields", range(len(tree)))
        for name, value in zip(names, tree, strict=True):
            yield from tensors_in(value, f"{path}.{name}".lstrip("."))


def mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same tree with each tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {name: mapped(value, change) for name, value in tree.items()}
    if isinstance(tree, tuple | list):
        values = [mapped(value, change) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return tree


def rows_taken(tree: Any, size: int, rows: Tensor) -> Any:
    """A tree with some rows of each tensor that has a dimension of the batch's size."""

    def change(value: Tensor) -> Tensor:
        dims = [dim for dim, length in enumerate(value.shape) if length == size]
        return value.index_select(dims[0], rows) if dims else value

    return mapped(tree, change)


def same_tensors(
    cases: Cases, got: list[Tensor], expected: list[Tensor], said: str, tolerance: float = 1e-9
) -> None:
    """Expect two lists of tensors to be the same but for rounding, at the scale of the largest."""
    scale = max([1e-3, *(float(e.abs().max()) for e in expected if e.numel())])
    off = max(
        (float((g - e).abs().max()) for g, e in zip(got, expected, strict=True) if e.numel()),
        default=0.0,
    )
    cases.expect(
        off <= tolerance * scale,
        f"{said}: expected the same numbers, got a difference of {off:.3g} where the largest is "
        f"{scale:.3g}",
    )
