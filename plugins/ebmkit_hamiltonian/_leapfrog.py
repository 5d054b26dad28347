"""Hamiltonian dynamics at unit mass, H(x, p) = E(x) + ½ ‖p‖²."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ebmkit import Energy, energy_and_gradient


class Phase(NamedTuple):
    """A point of phase space, and the force's opposite there."""

    x: Tensor
    """(batch, *event)"""
    momentum: Tensor
    """p, (batch, *event)"""
    gradient: Tensor
    """∇E(x), (batch, *event)"""


def leapfrog(
    energy: Energy, start: Phase, step_size: Tensor, leaps: int
) -> tuple[Phase, Tensor, Tensor]:
    """The end of ``leaps`` ≥ 1 leaps, the energies (batch,) there, and their sum on the way.

    p ← p − ε/2 ∇E(x), x ← x + ε p, p ← p − ε/2 ∇E(x) for each leap, the gradient taken once for it.
    ``step_size`` ε is a tensor without dimensions. The sum is finite only where every energy is.
    """
    x, gradient = start.x, start.gradient
    momentum = torch.addcmul(start.momentum, gradient, step_size, value=-0.5)
    energies = total = None
    for leap in range(leaps):
        x = torch.addcmul(x, momentum, step_size)
        energies, gradient = energy_and_gradient(energy, x)
        total = energies if total is None else total + energies
        # The half kicks that end one leap and begin the next are one.
        last = leap == leaps - 1
        momentum = torch.addcmul(momentum, gradient, step_size, value=-0.5 if last else -1)
    assert energies is not None and total is not None
    return Phase(x, momentum, gradient), energies, total


def hamiltonian(energies: Tensor, momentum: Tensor) -> Tensor:
    """H (batch,) at energies (batch,) and momenta (batch, *event)."""
    return torch.add(energies, inner(momentum, momentum), alpha=0.5)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (batch,) of events (batch, *event)."""
    products: Tensor = torch.linalg.vecdot(_rows(a), _rows(b))
    return products


def wide(chains: Tensor, like: Tensor) -> Tensor:
    """One number a chain (batch,), shaped to go with events (batch, *event)."""
    return chains.view(-1, *[1] * (like.ndim - 1))


def _rows(x: Tensor) -> Tensor:
    return x.flatten(1) if x.ndim > 1 else x[:, None]
