"""A value that does not change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from attrs import field

from ebmkit import doc, finite
from ebmkit_schedulers._schedule import Schedule


@attrs.frozen(kw_only=False)
class Constant(Schedule):
    """One value at every step.

    s(t) = c

    c ``value``. It has no end.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"value": 0.5},)

    value: float = field(validator=finite, metadata=doc("value c at every step"))

    @property
    def length(self) -> int | None:
        return None

    def _value(self, step: int) -> float:  # noqa: ARG002
        return float(self.value)
