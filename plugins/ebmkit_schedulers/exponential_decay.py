"""Decay by a constant factor a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from attrs import field, validators

from ebmkit import doc, finite
from ebmkit_schedulers._schedule import Schedule


@attrs.frozen(kw_only=False)
class ExponentialDecay(Schedule):
    """Decay by a constant factor a step, down to a floor.

    s(t) = max(m, a r^t)

    a ``start_value``, r ``decay_rate``, m ``min_value``. It has no end.

    Raises ValueError where ``min_value`` is above ``start_value``.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"start_value": 1.0, "decay_rate": 0.9},
        {"start_value": 2.0, "decay_rate": 0.5, "min_value": 0.1, "clock": "chain"},
    )

    start_value: float = field(validator=finite, metadata=doc("value a at step 0"))
    decay_rate: float = field(
        validator=validators.and_(finite, validators.gt(0), validators.le(1)),
        metadata=doc("factor r from one step to the next, in (0, 1]"),
    )
    min_value: float = field(
        default=0.0, validator=finite, metadata=doc("floor m, at most start_value")
    )

    def __attrs_post_init__(self) -> None:
        if self.min_value > self.start_value:
            raise ValueError(
                f"min_value: expected at most start_value = {self.start_value}, got "
                f"{self.min_value}, which would hide the decay; lower min_value"
            )

    @property
    def length(self) -> int | None:
        return None

    def _value(self, step: int) -> float:
        return float(max(self.min_value, self.start_value * self.decay_rate**step))
