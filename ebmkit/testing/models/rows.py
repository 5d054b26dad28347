"""Laws of models: one energy a row, of that row alone, and left alone by evaluation.

Class attributes ``differentiable = False`` and ``twice_differentiable = False`` say that derivatives in
x, or second ones, are not meant to exist.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ebmkit.errors import EbmkitError
from ebmkit.holding import evaluating
from ebmkit.layers import offered
from ebmkit.testing.laws import BrokenLaw, Cases, law
from ebmkit.testing.models.energies import (
    DTYPES,
    Shape,
    agree,
    bound,
    conditional,
    each,
    energies_of,
    given,
    made,
    n_labels,
    points,
    rounding,
    shapes_of,
)
from ebmkit.testing.subject import Subject


@law(
    "model",
    why="Samplers and losses take one energy for each point, in the precision of the points.",
    means="energies of several points are mixed, training stops with a shape error, or turns to NaN",
)
def one_energy_a_row(subject: Subject, cases: Cases) -> None:
    def check(shape: Shape, batch: int, seed: int, dtype: torch.dtype) -> None:
        model = made(subject, shape, seed, dtype)
        x = points(model, shape, batch, seed, dtype)
        before = x.clone()
        found: Any = energies_of(model, x, seed)
        cases.expect(
            isinstance(found, Tensor) and found.shape == (batch,) and found.dtype == dtype,
            f"expected a tensor ({batch},) of {dtype}, got "
            + (
                f"{tuple(found.shape)} of {found.dtype}"
                if isinstance(found, Tensor)
                else repr(found)
            ),
        )
        cases.expect(bool((x == before).all()), "the points that it was given have changed")
        wrong = found.isnan() | (found == -math.inf)
        if getattr(model, "discrete", False):
            wrong = ~found.isfinite()
        cases.expect(not bool(wrong.any()), f"energies are {found[wrong][:3].tolist()}")

    each(subject, cases, check)


@law(
    "model",
    why="Chains run side by side, and gradients in x are taken of the batch's sum.",
    means="a chain depends on the others of its batch, and a score is of another energy",
)
def rows_independent(subject: Subject, cases: Cases) -> None:
    def check(shape: Shape, batch: int, seed: int, dtype: torch.dtype) -> None:
        model = made(subject, shape, seed, dtype)
        size = batch + 2
        x, other = (points(model, shape, size, n, dtype) for n in (seed, seed + 100))
        told = given(model, size, seed, dtype)

        def energies(rows: Tensor, of: Tensor) -> Tensor:
            keywords = {name: value[of] for name, value in told.items()}
            with evaluating(model), torch.no_grad():
                found: Tensor = model(rows, **keywords)
            return found

        every = torch.arange(size)
        expected, allowed = energies(x, every), rounding(dtype)
        row = seed % size
        alone = energies(x[row : row + 1], every[row : row + 1])
        agree(cases, alone, expected[row : row + 1], allowed, "a row alone and in its batch")
        turned = every.flip(0)
        agree(cases, energies(x[turned], turned), expected[turned], allowed, "rows turned round")
        changed = other.clone()
        changed[row] = x[row]
        agree(
            cases,
            energies(changed, every)[row : row + 1],
            expected[row : row + 1],
            allowed,
            "a row among others, changed",
        )

    each(subject, cases, check)


@law(
    "model",
    why="A model is trained in single precision and judged in double precision.",
    means="results in single precision are of another energy",
)
def precisions_agree(subject: Subject, cases: Cases) -> None:
    def check(shape: Shape, batch: int, seed: int) -> None:
        found = []
        for dtype in DTYPES:
            # Rounded to single precision in both, parameters and points.
            model = made(subject, shape, seed, torch.float32)
            model = model.to(dtype) if isinstance(model, nn.Module) else model
            found.append(energies_of(model, points(model, shape, batch, seed, dtype), seed))
        agree(cases, found[1], found[0], 1e-4, "energies of float32 and float64")

    def without_dtype(dtype: Any, **values: Any) -> None:  # noqa: ARG001
        check(**values)

    each(subject, cases, without_dtype)


@law(
    "model",
    why="Chains see the model many times, and must leave it as it was and see the same each time.",
    means="sampling changes the model, or its energies are drawn anew at each step",
)
def evaluation_changes_nothing(subject: Subject, cases: Cases) -> None:
    def check(shape: Shape, batch: int, seed: int, dtype: torch.dtype) -> None:
        model = made(subject, shape, seed, dtype)
        x = points(model, shape, batch, seed, dtype)
        module = model if isinstance(model, nn.Module) else nn.Module()
        module.train(seed % 2 == 0)
        before = {name: value.clone() for name, value in module.state_dict().items()}
        modes = [part.training for part in module.modules()]
        noise = torch.get_rng_state()
        first, second = energies_of(model, x, seed), energies_of(model, x, seed)
        cases.expect(
            bool((first == second).all()),
            f"in evaluation mode energies are {first[:2].tolist()} and then {second[:2].tolist()}",
        )
        for name, value in module.state_dict().items():
            same = torch.equal(value.nan_to_num(), before[name].nan_to_num())
            cases.expect(same, f"evaluation mode has changed {name}")
        cases.expect(
            modes == [part.training for part in module.modules()],
            "a call has changed which of its modules are in training mode",
        )
        cases.expect(
            bool((noise == torch.get_rng_state()).all()),
            "in evaluation mode it draws from torch's global generator",
        )

    each(subject, cases, check)


def _shaped(subject: Subject) -> str:
    shape = shapes_of(subject)[0]
    if getattr(made(subject, shape, 0), "event_shape", None) is None:
        return "it states no event_shape, so events of any shape may be meant"
    return ""


def refused(cases: Cases, call: Callable[[], Any], said: str) -> None:
    """Something is refused, by whatever error."""
    try:
        found = call()
    except Exception:
        return
    got = tuple(found.shape) if isinstance(found, Tensor) else repr(found)
    cases.expect(False, f"{said}: expected an error, got energies {got}")


@law(
    "model",
    why="Points of another shape come of a mistake elsewhere, and broadcasting hides it.",
    means="a model for one data set gives numbers for another one",
    applies=_shaped,
)
def wrong_events_refused(subject: Subject, cases: Cases) -> None:
    for shape in shapes_of(subject):
        model = made(subject, shape, cases.seed)
        for last in {shape[-1] + 1, 1} - {shape[-1]}:
            with cases.case(f"events of {shape}, given {(*shape[:-1], last)}"):
                x = torch.zeros(5, *shape[:-1], last, dtype=torch.float64)
                refused(cases, functools.partial(energies_of, model, x, 0), "events of wrong shape")


def _labelled(subject: Subject) -> str:
    return "" if conditional(made(subject, shapes_of(subject)[0], 0)) else "it takes no condition"


@law(
    "model",
    why="A conditional model is one energy for each label.",
    means="samples for one label are those of another, or of none",
    applies=_labelled,
)
def labels_matter(subject: Subject, cases: Cases) -> None:
    for shape in shapes_of(subject):
        model = made(subject, shape, cases.seed)
        x = points(model, shape, 5, cases.seed)
        told = given(model, 5, cases.seed)

        def energies(labels: Tensor, x: Any = x, told: Any = told, model: Any = model) -> Tensor:
            with evaluating(model), torch.no_grad():
                found: Tensor = model(x, **(told | {"condition": labels}))
            return found

        with cases.case(f"events of {shape}, {n_labels(model)} labels"):
            found = [energies(torch.full((5,), label)) for label in range(n_labels(model))]
            cases.expect(
                n_labels(model) < 2 or any(not torch.equal(found[0], e) for e in found[1:]),
                "energies are the same for every label",
            )
            labels = told["condition"]
            mixed = torch.stack(found)[labels, torch.arange(5)]
            agree(cases, energies(labels), mixed, 1e-9, "labels of rows, mixed in one batch")
        wrong = {"one label more than points": torch.zeros(6, dtype=torch.long)}
        if getattr(model, "n_classes", None):
            wrong["a label beyond the last"] = torch.full((5,), n_labels(model))
            wrong["labels of shape (5, 2)"] = torch.zeros(5, 2, dtype=torch.long)
        for said, condition in wrong.items():
            with cases.case(f"events of {shape}, {said}"):
                refused(cases, functools.partial(energies, condition), said)


def _formula(subject: Subject) -> str:
    model = made(subject, shapes_of(subject)[0], 0)
    return "" if hasattr(model, "energy_and_gradient") else "it offers no energy_and_gradient"


@law(
    "model",
    why="Chains take the model's own formula for its gradient, and nothing else checks it.",
    means="chains sample another distribution than the model's",
    applies=_formula,
)
def formula_is_the_gradient(subject: Subject, cases: Cases) -> None:
    from ebmkit.calculus import energy_and_gradient

    def check(shape: Shape, batch: int, seed: int, dtype: torch.dtype) -> None:
        model = made(subject, shape, seed, dtype)
        x = points(model, shape, batch, seed, dtype)
        energy = bound(model, batch, seed, dtype)
        with evaluating(model):
            leaf = x.clone().requires_grad_(True)
            expected = energy(leaf)
            (slope,) = torch.autograd.grad(expected.sum(), leaf)
            with torch.no_grad():
                formula = offered(energy, "energy_and_gradient")(x)
            try:
                kernel = energy_and_gradient(energy, x)
            except EbmkitError as error:
                raise BrokenLaw(f"{error} (case: {cases.label})") from error
        for said, found in (("its formula", formula), ("ebmkit.energy_and_gradient", kernel)):
            if found is None:
                continue
            energies, gradient = found
            cases.expect(
                gradient.shape == x.shape and gradient.dtype == dtype and energies.dtype == dtype,
                f"{said} gives a gradient {tuple(gradient.shape)} of {gradient.dtype}, expected "
                f"{tuple(x.shape)} of {dtype}",
            )
            agree(cases, energies, expected.detach(), rounding(dtype), f"{said}: energies")
            agree(cases, gradient, slope, 10 * rounding(dtype), f"{said}: gradients")

    each(subject, cases, check)
