"""A factor applied at given steps."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from attrs import field, validators

from ebmkit import doc, finite
from ebmkit_schedulers._schedule import Schedule, increasing


@attrs.frozen(kw_only=False)
class MultiStep(Schedule):
    """A value that is multiplied by a factor at given steps.

    s(t) = a γ^#{i : mᵢ ≤ t}

    a ``start_value``, γ ``gamma``, mᵢ ``milestones``. It is stated for m_last + 1 steps.

    Raises ValueError where the last value is too large for a number.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"start_value": 1.0, "milestones": [2, 7], "gamma": 0.5},
    )

    start_value: float = field(validator=finite, metadata=doc("value a before the first milestone"))
    milestones: list[int] = field(
        validator=[validators.min_len(1), increasing],
        metadata=doc("steps m_i from which on the factor counts once more, ≥ 1, increasing"),
    )
    gamma: float = field(
        default=0.1,
        validator=validators.and_(finite, validators.gt(0)),
        metadata=doc("factor γ at each milestone, > 0"),
    )

    def __attrs_post_init__(self) -> None:
        try:
            last = self.start_value * self.gamma ** len(self.milestones)
        except OverflowError:
            last = math.inf
        if not math.isfinite(last):
            raise ValueError(
                f"gamma: {self.gamma} at {len(self.milestones)} milestones takes start_value = "
                f"{self.start_value} past the largest number; lower gamma or leave milestones out"
            )

    @property
    def length(self) -> int | None:
        return self.milestones[-1] + 1

    def _value(self, step: int) -> float:
        return float(self.start_value * self.gamma ** bisect_right(self.milestones, step))
