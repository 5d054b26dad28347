"""A linear rise before another schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import attrs
from attrs import field, validators

from ebmkit import Scheduler, doc, finite, length_of, spread, whole
from ebmkit_schedulers._schedule import Schedule, between
from ebmkit_schedulers.constant import Constant
from ebmkit_schedulers.cosine import Cosine
from ebmkit_schedulers.linear import Linear


@attrs.frozen(kw_only=False)
class Warmup(Schedule):
    """A linear rise to another schedule's first value, then that schedule.

    s(t) = u(0) (f + (1 − f) t / w) for t < w, and u(t − w) from there on

    u ``scheduler``, w ``n_steps``, f ``init_factor``. Its length is w more than u's; an open length
    of u is filled with the steps that the rise leaves. The clock of u does not count.

    Raises ValueError where it is spread over w steps or fewer, or called while u's length is open.

    Source: Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour (Goyal and others, 2017).
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"scheduler": Cosine(1.0, 0.1), "n_steps": 5},
        {"scheduler": Linear(1.0, 0.0, 4), "n_steps": 3, "init_factor": 0.0},
        {"scheduler": Constant(0.5), "n_steps": 1},
    )

    scheduler: Scheduler = field(
        validator=validators.is_callable(), metadata=doc("schedule u that follows the rise")
    )
    n_steps: int = field(
        validator=[whole, validators.ge(1)], metadata=doc("steps w of the rise, ≥ 1")
    )
    init_factor: float = field(
        default=0.01,
        validator=validators.and_(finite, validators.ge(0), validators.le(1)),
        metadata=doc("first value as a part f of u(0), in [0, 1]"),
    )

    @property
    def length(self) -> int | None:
        inner = length_of(self.scheduler)
        return None if inner is None else self.n_steps + inner

    def _over(self, n_steps: int) -> Self:
        rest = n_steps - self.n_steps
        if rest < 1:
            raise ValueError(
                f"Warmup: a rise of n_steps = {self.n_steps} leaves none of {n_steps} steps to its "
                "scheduler; shorten the rise, or give the schedule more steps"
            )
        return attrs.evolve(self, scheduler=spread(self.scheduler, rest))

    def _value(self, step: int) -> float:
        if step >= self.n_steps:
            return float(self.scheduler(step - self.n_steps))
        top = self.scheduler(0)
        return between(self.init_factor * top, top, step / self.n_steps)
