"""Models as laws try them, and what their energies may differ by.

Models are tried in evaluation mode, as chains see them, with parameters moved a little from where they
start, so that none is 0."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ebmkit.errors import UserError
from ebmkit.holding import evaluating
from ebmkit.parameters import parameters_of
from ebmkit.testing import reference
from ebmkit.testing.laws import Cases
from ebmkit.testing.subject import N_CLASSES, Subject
from ebmkit.testing.varied import varied

Shape = tuple[int, ...]
DTYPES = (torch.float64, torch.float32)
MANY = 17
_OTHERS: tuple[Shape, ...] = ((2,), (2, 3), (1,), (4, 4))


def rounding(dtype: torch.dtype) -> float:
    """What energies may differ by, in units of their largest, 1 added."""
    return 1e-9 if dtype == torch.float64 else 1e-4


def made(subject: Subject, shape: Shape, seed: int, dtype: torch.dtype = torch.float64) -> Any:
    """A model for events of a shape, its parameters moved by a little."""
    model = subject.make(seed=seed, event_shape=shape, n_classes=N_CLASSES)
    if isinstance(model, nn.Module):
        model = model.to(dtype).train()
        generator = reference.generator(seed + 1)
        with torch.no_grad():
            for parameter in model.parameters():
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
                moved = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_((0.3 * moved / max(fan_in, 1) ** 0.5).to(dtype))
    return model


def shapes_of(subject: Subject, candidates: tuple[Shape, ...] = ()) -> tuple[Shape, ...]:
    """Those event shapes of some that the model takes; of its own, and of a few others where it takes
    none of those."""
    stated = subject.options.get("event_shape") is not None
    told = stated or "event_shape" in parameters_of(subject.type)
    refusals = (
        (ValueError, UserError) if told else (ValueError, UserError, RuntimeError, IndexError)
    )
    for some in (candidates,) if candidates else (subject.shapes, _OTHERS):
        found = []
        for shape in some:
            try:
                model = made(subject, shape, 0)
                own = getattr(model, "event_shape", None)
                if own is not None and tuple(own) != shape:
                    continue
                energies_of(model, points(model, shape, 2, 0), 0)
            except refusals:
                continue
            found.append(shape)
        if found:
            return tuple(found)
    if candidates:
        return ()
    raise UserError(
        f"{subject}: it takes events of none of the shapes {[*subject.shapes, *_OTHERS]}; tell the "
        "kit one by event_shape"
    )


def points(model: Any, shape: Shape, size: int, seed: int, dtype: Any = torch.float64) -> Tensor:
    """Normal points, or random states of a discrete model."""
    generator = reference.generator(seed + 2)
    if not getattr(model, "discrete", False):
        return torch.randn(size, *shape, generator=generator, dtype=torch.float32).to(dtype)
    if (categories := getattr(model, "categories", None)) is None:
        return torch.randint(2, (size, *shape), generator=generator).to(dtype)
    chosen = torch.randint(categories, (size, *shape[:-1]), generator=generator)
    return torch.eye(categories, dtype=dtype)[chosen]


def n_labels(model: Any) -> int:
    return int(getattr(model, "n_classes", None) or 2) if conditional(model) else 0


def conditional(model: Any) -> bool:
    """Whether it takes labels."""
    return bool(getattr(model, "conditional", False))


def given(model: Any, size: int, seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """What a model is called with beside the points: labels and levels of noise where it takes such."""
    found: dict[str, Any] = {}
    generator = reference.generator(seed + 3)
    if conditional(model):
        found["condition"] = torch.randint(n_labels(model), (size,), generator=generator)
    if getattr(model, "noise_conditional", False):
        found["noise_level"] = 0.5 + torch.rand(size, generator=generator).to(dtype)
    return found


def bound(model: Any, size: int, seed: int, dtype: torch.dtype = torch.float64) -> Any:
    """The model's energy, what it is given beside the points bound."""
    keywords = given(model, size, seed, dtype)
    return functools.partial(model, **keywords) if keywords else model


def energies_of(model: Any, x: Tensor, seed: int) -> Tensor:
    """Energies as a chain computes them."""
    with evaluating(model), torch.no_grad():
        energies: Tensor = bound(model, len(x), seed, x.dtype)(x)
    return energies


def agree(cases: Cases, found: Tensor, expected: Tensor, tolerance: float, said: str) -> None:
    """Numbers are as expected, where those are finite to so much of the largest of them, 1 added."""
    finite = expected.isfinite()
    wide, known = found.double(), expected.double()
    largest = float(known[finite].abs().max()) if finite.any() else 0.0
    allowed = tolerance * (1 + largest)
    same = torch.where(finite, (wide - known).abs() <= allowed, wide == known)
    if not bool(same.all()):
        place = tuple(int(i) for i in (~same).nonzero()[0])
        cases.expect(
            False,
            f"{said}: got {float(wide[place]):.9g}, expected {float(known[place]):.9g} ± "
            f"{allowed:.2g} at {list(place)}",
        )


def each(subject: Subject, cases: Cases, check: Callable[..., None], *, examples: int = 6) -> None:
    """Try a check on each event shape: on a batch of none, of one and of many, and on hypothesis's
    batch sizes, seeds and dtypes."""
    from hypothesis import strategies as st

    for shape in shapes_of(subject):
        for batch, dtype in ((0, DTYPES[1]), (1, DTYPES[0]), (MANY, DTYPES[1])):
            with cases.case(f"shape {shape}, batch {batch}, {dtype}"):
                check(shape=shape, batch=batch, seed=cases.seed, dtype=dtype)
        varied(
            cases,
            check,
            examples=examples if math.prod(shape) <= 8 else max(examples // 3, 2),
            shape=st.just(shape),
            batch=st.integers(0, MANY),
            seed=st.integers(0, 9).map(lambda n: n + 10 * cases.seed),
            dtype=st.sampled_from(DTYPES),
        )
