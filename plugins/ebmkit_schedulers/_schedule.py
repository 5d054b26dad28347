"""What all schedules share: the clock, the checks of fields and steps, and ramps between values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any, Literal, Self

import attrs
from attrs import field, validators

from ebmkit import doc, whole


def increasing(_: Any, attribute: attrs.Attribute[Any], value: list[int]) -> None:
    """Validator: whole numbers ≥ 1, each larger than the one before."""
    for step in value:
        whole(None, attribute, step)
    if any(step < 1 for step in value) or any(a >= b for a, b in pairwise(value)):
        raise ValueError(
            f"{attribute.name}: expected steps ≥ 1 in strictly increasing order, got {value!r}"
        )


@attrs.frozen(kw_only=False)
class Schedule(ABC):
    """A pure function of the step."""

    clock: Literal["training", "chain"] = field(
        default="training",
        kw_only=True,
        validator=validators.in_(("training", "chain")),
        metadata=doc("the step it follows: of training, or of each chain from its start"),
    )

    def __call__(self, step: int) -> float:
        """The value at a step ≥ 0.

        Raises:
            ValueError: the step is no whole number ≥ 0, or the schedule's length is still open.
        """
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(
                f"{type(self).__name__}: expected a step that is a whole number ≥ 0, got {step!r}"
            )
        return self._value(step)

    @property
    @abstractmethod
    def length(self) -> int | None:
        """For how many steps it is stated; None where that is open or it has no end."""

    def over(self, n_steps: int) -> Self:
        """The schedule with an open length filled, so that it ends at step n_steps − 1.

        One whose length is stated, or that has no end, is returned as it is.

        Raises:
            ValueError: n_steps is no whole number ≥ 1, or too few for the parts of the schedule.
        """
        if isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 1:
            raise ValueError(
                f"{type(self).__name__}: expected a whole number of steps ≥ 1 to be spread over, "
                f"got {n_steps!r}"
            )
        return self if self.length is not None else self._over(n_steps)

    def _over(self, n_steps: int) -> Self:  # noqa: ARG002
        return self

    @abstractmethod
    def _value(self, step: int) -> float: ...


def between(start: float, end: float, weight: float) -> float:
    """start + (end − start)·weight for a weight in [0, 1]: monotone, and never past either end."""
    value = start + (end - start) * weight
    if math.isinf(end - start):
        # Only ends of opposite signs do this; both terms here then move the same way.
        value = start * (1 - weight) + end * weight
    return float(min(max(value, min(start, end)), max(start, end)))
