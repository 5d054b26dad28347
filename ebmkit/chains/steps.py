"""Steps of a chain, one by one: what is run eagerly, and what a graph is traced from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmkit.chains.guard import Held, held_back
from ebmkit.protocols import Energy, Sampler, State


class Stretch(NamedTuple):
    """What some steps leave behind."""

    state: State
    held: Held | None
    """Chains that are held still; None where none is to be."""
    totals: dict[str, Tensor]
    """Each metric's sum over the steps."""
    counted: dict[str, Tensor]
    """Of how many steps it is: where chains may be held still, those in which it is finite. Empty where
    it is all of them."""
    watched: dict[str, Tensor]
    """Fields of the state after each step, (steps, …)."""


def step_by_step(
    sampler: Sampler,
    energy: Energy,
    state: State,
    held: Held | None,
    noises: Sequence[Any],
    values: Sequence[Mapping[str, Any]],
    watch: Sequence[str],
) -> Stretch:
    """A step for each noise. Where ``held`` is given, a chain that becomes bad is held still."""
    totals: dict[str, Tensor] = {}
    counted: dict[str, Tensor] = {}
    watched: dict[str, list[Tensor]] = {name: [] for name in watch}
    for noise, keywords in zip(noises, values, strict=True):
        after, metrics = sampler.step(energy, state, noise, **keywords)
        if held is not None:
            after, held = held_back(state, after, held)
        state = after
        for name, value in metrics.items():
            if held is not None:
                told = value.isfinite()
                value = torch.where(told, value, 0)
                counted[name] = counted[name] + told if name in counted else told.long()
            totals[name] = totals[name] + value if name in totals else value
        for name in watch:
            watched[name].append(getattr(state, name))
    rows = {name: torch.stack(column) for name, column in watched.items()}
    return Stretch(state, held, totals, counted, rows)
