"""What a component's fields are made of: docs, bounds, scheduled parameters, generators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import attrs
import torch

from ebmkit.errors import did_you_mean
from ebmkit.protocols import Scheduler

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], object]


def doc(text: str) -> dict[str, str]:
    """Metadata for ``attrs.field(metadata=doc("..."))``: what ``ebmkit describe`` says of a field."""
    return {"doc": text}


def finite(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Validator: a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ValueError(f"{attribute.name}: expected a finite number, got {value!r}")


def whole(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Validator: a whole number; its bound is another validator's."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{attribute.name}: expected a whole number, got {value!r}")


def one_of(known: Sequence[str]) -> Validator:
    """Validator: one of some words."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value not in known:
            meant = did_you_mean(value, known) if isinstance(value, str) else ""
            raise ValueError(
                f"{attribute.name}: expected one of {', '.join(known)}, got {value!r}{meant}"
            )

    return check


@attrs.frozen(repr=False)
class _Scheduled:
    validator: Validator

    def __call__(self, instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            if not callable(value):
                raise TypeError(f"{attribute.name} must be a number or a scheduler, got {value!r}")
            return
        finite(instance, attribute, value)
        self.validator(instance, attribute, value)

    def __repr__(self) -> str:
        return f"<scheduled {self.validator!r}>"


def scheduled(validator: Validator) -> Validator:
    """Validator of a ``float | Scheduler`` field: a number is checked at once, and a schedule's
    values each time that one is read."""
    return _Scheduled(validator)


def generator_or_new(
    generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The generator itself, or a new one seeded from the operating system where none was given.

    torch's global generator is neither read nor advanced: pass a generator to reproduce a draw.
    """
    if generator is None:
        generator = torch.Generator(device=device)
        generator.seed()
    return generator


def is_scheduled(value: float | Scheduler) -> TypeGuard[Scheduler]:
    """Whether a scheduled parameter holds a schedule rather than a number."""
    return not isinstance(value, int | float)
