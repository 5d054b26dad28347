"""Energies between temperatures, exchanges of points, and tensors of chains and replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from ebmkit import Energy, State, energy_and_gradient, offered


@attrs.frozen(eq=False)
class Tempered:
    """The energy βE, with its gradient by a formula where E has one."""

    energy: Energy
    inverse_temperature: float | Tensor
    """β, one for all or one for each row (rows,)."""

    @property
    def discrete(self) -> bool:
        return bool(offered(self.energy, "discrete"))

    @property
    def categories(self) -> int | None:
        said: int | None = offered(self.energy, "categories")
        return said

    def __call__(self, x: Tensor) -> Tensor:
        return self.inverse_temperature * self.energy(x)

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        energies, gradient = energy_and_gradient(self.energy, x)
        beta = self.inverse_temperature
        return beta * energies, (wide(beta, x) if isinstance(beta, Tensor) else beta) * gradient


def exchange(differences: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Whose point each replica has next (batch, replicas), and the mean probability of exchanges.

    ``differences`` are E_i(x_k) − E_{i+1}(x_k) of points k at temperatures i, (batch, replicas,
    replicas − 1), where E_i is the energy at temperature i; ``uniform`` (batch, replicas − 1).
    """
    batch, n, _ = differences.shape
    order = torch.arange(n, device=differences.device).expand(batch, n)
    probabilities = []
    # The energies being known, the second half of the pairs costs nothing.
    for first in range(min(n - 1, 2)):
        pairs = (n - first) // 2
        end = first + 2 * pairs
        inside = order[:, first:end].reshape(batch, pairs, 2)
        own = differences[:, :, first::2]
        here, there = (own.gather(1, point[:, None]).squeeze(1) for point in inside.unbind(2))
        log_ratio = here - there
        # A comparison with NaN is false: what is not finite is refused.
        log_ratio = torch.where(log_ratio.isfinite(), log_ratio, torch.nan)
        accepted = uniform[:, first::2].log() < log_ratio
        inside = torch.where(accepted[..., None], inside.flip(2), inside)
        order = torch.cat([order[:, :first], inside.flatten(1), order[:, end:]], 1)
        probability = log_ratio.clamp(max=0).exp()
        probabilities.append(torch.where(probability.isnan(), 0, probability))
    return order, torch.cat(probabilities, 1).mean()


def points_of(states: list[State], ladder: torch.Size) -> Tensor:
    """All points (batch, replicas, *event) of inner states; ``ladder`` is (batch, replicas)."""
    if len(states) > 1:
        return torch.stack([state.x for state in states], 1)
    x: Tensor = states[0].x
    return x.reshape(*ladder, *x.shape[1:])


def cut(tensor: Tensor, states: int) -> list[Tensor]:
    """(batch, replicas, ...) as rows for each inner state."""
    return list(tensor.unbind(1)) if states > 1 else [tensor.flatten(0, 1)]


def merged(moved: Tensor, fresh: State, old: State) -> State:
    """The old state with the rows of the fresh one where ``moved`` (rows,); what belongs to all rows
    together stays."""

    def merge(new: Tensor, kept: Tensor) -> Tensor:
        own = kept.ndim and len(kept) == len(moved)
        return torch.where(wide(moved, kept), new, kept) if own else kept

    return mapped(merge, fresh, old)


def mapped(function: Callable[..., Tensor], *states: State) -> State:
    """A state of what the function makes of the states' tensors, place by place."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    if first is None:
        return None
    parts = [mapped(function, *each) for each in zip(*states, strict=True)]
    return first._make(parts) if hasattr(first, "_make") else tuple(parts)


def wide(rows: Tensor, like: Tensor) -> Tensor:
    """(rows,) with as many dimensions as another tensor."""
    return rows.view(-1, *[1] * (like.ndim - 1))


def real(x: Any) -> torch.dtype:
    """The dtype of numbers that go with points, which may be whole numbers."""
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()
