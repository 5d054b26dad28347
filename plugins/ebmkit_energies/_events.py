"""Fields and shapes that all energies check alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import attrs
from attrs import validators
from torch import Tensor

from ebmkit import finite, whole

Validator: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], object]

positive: Validator = validators.and_(finite, validators.gt(0))
positives: Validator = validators.deep_iterable(positive)
finites: Validator = validators.deep_iterable(finite)
sizes: Validator = validators.deep_iterable(validators.and_(whole, validators.ge(1)))
matrix: Validator = validators.deep_iterable(validators.deep_iterable(finite))


def as_shape(value: Iterable[int]) -> tuple[int, ...]:
    """A shape from a tuple, a list or a torch.Size."""
    return tuple(value)


def as_optional_shape(value: Iterable[int] | None) -> tuple[int, ...] | None:
    """A shape, or None for any."""
    return None if value is None else tuple(value)


def flattened(x: Tensor, event_shape: tuple[int, ...] | None, owner: object) -> Tensor:
    """Points (batch, *event) as rows (batch, numbers in an event).

    Raises:
        ValueError: x has other events than ``event_shape``, or is not of a floating dtype.
    """
    fits = x.ndim >= 2 if event_shape is None else x.ndim > 0 and x.shape[1:] == event_shape
    if not fits:
        event = ("*event",) if event_shape is None else event_shape
        raise ValueError(
            f"{type(owner).__name__}: expected points of shape "
            f"({', '.join(map(str, ('batch', *event)))}), got {tuple(x.shape)}; reshape them, or "
            "build the energy for their event_shape"
        )
    if not x.is_floating_point():
        raise ValueError(
            f"{type(owner).__name__}: expected points of a floating dtype, got {x.dtype}; "
            "convert them, for instance with x.float()"
        )
    if x.ndim == 2:
        return x
    return x.flatten(1) if x.ndim > 2 else x.unsqueeze(1)
