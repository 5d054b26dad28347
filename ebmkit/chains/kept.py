"""What is kept of the points along a run of chains."""

from __future__ import annotations

from typing import NamedTuple

import attrs
import torch
from torch import Tensor

from ebmkit.chains.steps import Stretch


class Moments(NamedTuple):
    """Each chain's mean and variance over the kept steps: all steps' worth in the memory of one."""

    n: int
    mean: Tensor
    """(batch, *event)"""
    squares: Tensor
    """Sum of squared differences from the mean, (batch, *event)."""

    @property
    def variance(self) -> Tensor:
        """Of one chain's points, (batch, *event); NaN for fewer than two."""
        return self.squares / (self.n - 1) if self.n > 1 else self.squares * torch.nan

    def and_with(self, x: Tensor) -> Moments:
        """With further points (kept, batch, *event)."""
        added = len(x)
        if not added:
            return self
        mean = x.mean(0)
        squares = (x - mean).square().sum(0)
        total, away = self.n + added, mean - self.mean
        return Moments(
            total,
            self.mean + away * (added / total),
            self.squares + squares + away.square() * (self.n * added / total),
        )


@attrs.define
class Kept:
    """What is kept of the points along a run."""

    trajectory: bool
    trace: tuple[str, ...]
    wants_moments: bool
    thin: int
    points: list[Tensor] = attrs.field(factory=list)
    """Each (some, batch, *event)."""
    traces: dict[str, list[Tensor]] = attrs.field(factory=dict)
    moments: Moments | None = None
    steps: int = 0

    @property
    def watch(self) -> tuple[str, ...]:
        points = ("x",) if self.trajectory or self.wants_moments else ()
        return tuple(dict.fromkeys((*points, *self.trace)))

    def add(self, stretch: Stretch, n: int) -> None:
        before = self.steps
        self.steps += n
        if not self.watch:
            return
        due = [i for i in range(n) if (before + i + 1) % self.thin == 0]
        if not due:
            return
        for name in self.trace:
            self.traces.setdefault(name, []).append(_of(stretch.watched[name], due))
        if not (self.trajectory or self.wants_moments):
            return
        points = _of(stretch.watched["x"], due)
        if self.trajectory:
            self.points.append(points)
        if self.wants_moments:
            kept = points if points.is_floating_point() else points.to(torch.get_default_dtype())
            none = torch.zeros_like(kept[0])
            self.moments = (self.moments or Moments(0, none, none)).and_with(kept)


def _of(rows: Tensor, due: list[int]) -> Tensor:
    """Those rows; a view would keep the others in memory."""
    return rows if len(due) == len(rows) else rows[due]
