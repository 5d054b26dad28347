"""Schedules one after another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Self

import attrs
from attrs import field, validators

from ebmkit import Scheduler, doc, length_of, spread
from ebmkit_schedulers._schedule import Schedule, increasing
from ebmkit_schedulers.constant import Constant
from ebmkit_schedulers.cosine import Cosine
from ebmkit_schedulers.linear import Linear


@attrs.frozen(kw_only=False)
class Sequential(Schedule):
    """Schedules one after another, each counting its steps from its own start.

    s(t) = uᵢ(t − mᵢ₋₁) for mᵢ₋₁ ≤ t < mᵢ, with m₋₁ = 0 and no end of the last

    uᵢ ``schedulers``, mᵢ ``milestones``. An open length of uᵢ is filled with the steps up to the
    next milestone, that of the last with what is left of the run; one stated for longer than that
    is cut at the milestone. The clocks of the uᵢ do not count.

    Raises ValueError where there is not one milestone fewer than there are schedulers, where a part
    needs more steps than it has, or where it is called while the last length is open.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"schedulers": [Linear(0.0, 1.0), Cosine(1.0, 0.1)], "milestones": [5]},
        {"schedulers": [Constant(1.0), Linear(1.0, 0.0, 4)], "milestones": [3]},
        {"schedulers": [Constant(0.5)], "milestones": []},
    )

    schedulers: list[Scheduler] = field(
        validator=[
            validators.min_len(1),
            validators.deep_iterable(validators.is_callable()),
        ],
        metadata=doc("schedules u_i in their order, at least one"),
    )
    milestones: list[int] = field(
        validator=increasing,
        metadata=doc("steps m_i where the next one takes over, ≥ 1, increasing"),
    )

    def __attrs_post_init__(self) -> None:
        if len(self.milestones) != len(self.schedulers) - 1:
            raise ValueError(
                f"milestones: expected {len(self.schedulers) - 1}, one between each two of "
                f"{len(self.schedulers)} schedulers, got {len(self.milestones)}; add or remove one"
            )

        # Filled here, so that a part that needs more steps than it has is refused before any step.
        ends = pairwise([0, *self.milestones])
        filled = [
            spread(u, end - start) for u, (start, end) in zip(self.schedulers, ends, strict=False)
        ]
        object.__setattr__(self, "schedulers", [*filled, self.schedulers[-1]])

    @property
    def length(self) -> int | None:
        inner = length_of(self.schedulers[-1])
        return None if inner is None else self._last_start + inner

    @property
    def _last_start(self) -> int:
        return self.milestones[-1] if self.milestones else 0

    def _over(self, n_steps: int) -> Self:
        rest = n_steps - self._last_start
        if rest < 1:
            raise ValueError(
                f"Sequential: its last scheduler begins at step {self._last_start} and is never "
                f"reached in {n_steps} steps; lower the last milestone, or run for more steps"
            )
        last = spread(self.schedulers[-1], rest)
        return attrs.evolve(self, schedulers=[*self.schedulers[:-1], last])

    def _value(self, step: int) -> float:
        index = bisect_right(self.milestones, step)
        start = self.milestones[index - 1] if index else 0
        return float(self.schedulers[index](step - start))
