"""Which chains are still finite, and what becomes of those that are not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ebmkit.data import finite_by_row
from ebmkit.errors import DivergenceError
from ebmkit.protocols import Energy, Sampler, State


def bad_rows(state: State) -> Tensor:
    """Whether anything of a chain's state is not finite, (batch,).

    Not the points alone: a chain at an energy or a force that is not finite never moves again.
    """
    good: Tensor | None = None
    for tensor in _numbers(state):
        finite = finite_by_row(tensor)
        good = finite if good is None else good & finite
    return state.x.new_zeros(len(state.x), dtype=torch.bool) if good is None else ~good


def all_finite(state: State) -> bool:
    """Whether no chain is bad; waits for the device."""
    finite = [tensor.isfinite().all() for tensor in _numbers(state)]
    return bool(finite[0] if len(finite) == 1 else torch.stack(finite).all()) if finite else True


class Held(NamedTuple):
    """Chains that are held still, and where to."""

    bad: Tensor
    """Which chains are, (batch,)."""
    last: State
    """A state from which each chain's step was finite; before the first step, where chains start."""


def held_back(before: State, after: State, held: Held) -> tuple[State, Held]:
    """The state after a step, with chains that are bad, or have just become so, where they are held.

    A step that is not finite speaks against the point that it was made from: unadjusted chains come to
    a point whose force is not finite without seeing it. So a chain goes back to the point before that.
    Nothing here waits for the device.
    """
    after = _sound(before, after, len(held.bad))
    now = bad_rows(after) & ~held.bad
    bad = held.bad | now
    state = where_rows(now, held.last, where_rows(held.bad, before, after))
    return state, Held(bad, where_rows(bad, held.last, before))


def _sound(before: State, after: State, chains: int) -> State:
    """The state after a step, but for what belongs to all chains together: that stays as it was where
    it is not finite any more, for one chain's end must not be the others'."""

    def pick(one: Any, two: Any) -> Any:
        if not isinstance(two, Tensor) or _by_chain(two, chains) or not two.is_floating_point():
            return two
        return torch.where(two.isfinite().all(), two, one)

    return pytree.tree_map(pick, before, after)


def where_rows(mask: Tensor, chosen: State, other: State) -> State:
    """``chosen`` for the chains of the mask and ``other`` for the rest; what belongs to all chains
    together is of ``other``."""
    chains = len(mask)

    def pick(one: Any, two: Any) -> Any:
        if not _by_chain(two, chains):
            return two
        return torch.where(mask.view(-1, *[1] * (two.ndim - 1)), one, two)

    return pytree.tree_map(pick, chosen, other)


def diverged(bad: Tensor, sampler: Sampler, steps: int, *, more: str = "") -> DivergenceError:
    """The error that says how many chains are bad."""
    count = int(bad.sum())
    return DivergenceError(
        f"{type(sampler).__name__}: {count} of {len(bad)} chains are not finite after {steps} steps"
        f"{more}; a smaller step_size, or more regularisation of the energy, keeps chains finite",
        chains=count,
    )


def anew(sampler: Sampler, energy: Energy, state: State, x: Tensor) -> State:
    """State of new chains at x, with what ``state`` has adapted where the sampler can carry it."""
    restart = getattr(sampler, "restart", None)
    fresh: State = sampler.init(energy, x) if restart is None else restart(state, energy, x)
    return fresh


def _numbers(state: State) -> Iterable[Tensor]:
    """What a state holds of each chain that might not be finite."""
    chains = len(state.x)
    for tensor in _leaves(state):
        if _by_chain(tensor, chains) and (tensor.is_floating_point() or tensor.is_complex()):
            yield tensor


def _leaves(state: State) -> Iterable[Any]:
    """What a state is made of; pytree, which takes any structure apart, takes its time."""
    flat = isinstance(state, tuple) and all(isinstance(part, Tensor) for part in state)
    return state if flat else pytree.tree_leaves(state)


def _by_chain(value: Any, chains: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == chains
