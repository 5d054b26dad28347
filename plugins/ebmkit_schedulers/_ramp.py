"""Schedules that go from one value to another in a number of steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import attrs
from attrs import field, validators

from ebmkit import doc, finite, whole
from ebmkit_schedulers._schedule import Schedule, between


@attrs.frozen(kw_only=False)
class Ramp(Schedule):
    """From one value to another; both ends are reached exactly, and the last one is kept."""

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"start_value": 1.0, "end_value": 0.1},
        {"start_value": -0.5, "end_value": 2.0, "n_steps": 7, "clock": "chain"},
        {"start_value": 1.0, "end_value": 0.1, "n_steps": 1},
    )

    start_value: float = field(validator=finite, metadata=doc("value at step 0"))
    end_value: float = field(
        validator=finite, metadata=doc("value at step n_steps − 1 and at every later step")
    )
    n_steps: int | None = field(
        default=None,
        validator=validators.optional(validators.and_(whole, validators.ge(1))),
        metadata=doc("steps from start to end, both included; none to be spread over the run"),
    )

    @property
    def length(self) -> int | None:
        return self.n_steps

    def _over(self, n_steps: int) -> Self:
        return attrs.evolve(self, n_steps=n_steps)

    def _value(self, step: int) -> float:
        if self.n_steps is None:
            raise ValueError(
                f"{type(self).__name__}: has no value while its length is open; state n_steps, or "
                "let the pipeline spread it (over(n_steps) does so by hand)"
            )
        last = self.n_steps - 1
        if step >= last:
            return float(self.end_value)
        return between(self.start_value, self.end_value, self._weight(step / last))

    @abstractmethod
    def _weight(self, time: float) -> float:
        """How far from start to end, in [0, 1], at a time in [0, 1)."""
