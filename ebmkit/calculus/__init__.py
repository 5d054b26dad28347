"""Derivatives of an energy in x, the only place where they are taken."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmkit.protocols import Energy


def energy_and_gradient(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """Energies E(x) (batch,) and gradients ∇ₓE(x) (batch, *event), both detached.

    One forward and one backward through the energy; gradients of its parameters are not computed.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        energies = energy(x)
        # Rows are independent, so ones as outer derivative give each row its own gradient.
        (gradient,) = torch.autograd.grad(energies, x, torch.ones_like(energies))
    return energies.detach(), gradient


def score(energy: Energy, x: Tensor) -> Tensor:
    """The score −∇ₓE(x) (batch, *event), detached."""
    return -energy_and_gradient(energy, x)[1]
