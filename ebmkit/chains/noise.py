"""The random numbers of many steps, drawn at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ebmkit.lowering import Unsuitable
from ebmkit.protocols import Sampler, State

_GROUP = 16
"""torch's generator for CPUs makes normal numbers in groups of so many."""


class Block(NamedTuple):
    """The random numbers of some steps."""

    noise: Any
    """What a sampler's ``draw`` returns, each tensor of it (steps, …)."""
    steps: int

    def each(self) -> list[Any]:
        """Those of each step."""
        leaves, structure = pytree.tree_flatten(self.noise)
        columns = [x.unbind() if isinstance(x, Tensor) else [x] * self.steps for x in leaves]
        return [
            pytree.tree_unflatten([column[i] for column in columns], structure)
            for i in range(self.steps)
        ]


def drawn(sampler: Sampler, state: State, steps: int, generator: torch.Generator) -> Block:
    """The random numbers of so many steps from ``state`` on, bit for bit those of as many calls of
    ``draw``.

    Raises Unsuitable where these differ from each other in more than their tensors' values.
    """
    draw_steps = getattr(sampler, "draw_steps", None)
    if draw_steps is not None:
        return Block(draw_steps(state, steps, generator=generator), steps)
    return stacked([sampler.draw(state, generator=generator) for _ in range(steps)])


def stacked(noises: Sequence[Any]) -> Block:
    """Random numbers of single steps as a block."""
    leaves, structure = pytree.tree_flatten(noises[0])
    rows = [leaves]
    for noise in noises[1:]:
        found, form = pytree.tree_flatten(noise)
        if form != structure:
            raise Unsuitable("the random numbers of different steps are of different structures")
        rows.append(found)
    columns = [
        torch.stack(column) if isinstance(column[0], Tensor) else _one(column)
        for column in zip(*rows, strict=True)
    ]
    return Block(pytree.tree_unflatten(columns, structure), len(noises))


def normals(
    steps: int, shape: Sequence[int], *, generator: torch.Generator, like: Tensor
) -> Tensor:
    """Standard normal numbers (steps, *shape), bit for bit those of as many calls of ``torch.randn``,
    of the dtype and on the device of ``like``.

    On CPUs that is one call where ``shape`` holds a multiple of 16 numbers.
    """
    options: Any = {"generator": generator, "dtype": like.dtype, "device": like.device}
    size = torch.Size(shape)
    if like.device.type == "cpu" and size.numel() and size.numel() % _GROUP == 0:
        return torch.randn((steps, *size), **options)
    if not steps:
        return like.new_empty((0, *size))
    return torch.stack([torch.randn(size, **options) for _ in range(steps)])


def log_uniform(pairs: Tensor) -> Tensor:
    """log U (…) of numbers U uniform on (0, 1), made of pairs of standard normal ones (…, 2).

    −log U is exponential, as half the sum of two squared standard normal numbers is.
    """
    return pairs.square().sum(-1) / -2


def _one(column: Sequence[Any]) -> Any:
    if any(value != column[0] for value in column):
        raise Unsuitable("the random numbers of different steps hold different plain values")
    return column[0]
