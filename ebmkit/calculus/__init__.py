"""Derivatives of an energy in x, the only place where they are taken."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmkit.calculus import (  # noqa: F401 - each holds rules, which importing it makes known
    attention,
    composite,
    convolution,
    linear,
    normalisation,
    piecewise,
    products,
    smooth,
)
from ebmkit.calculus.chain_rule import elementwise
from ebmkit.calculus.checks import check_depends, check_scalar, uncompiled
from ebmkit.calculus.formula import checked, formula_of
from ebmkit.calculus.jet import Jet, register_rule, with_rule
from ebmkit.calculus.taylor import CalculusWarning, Derivatives, directional_derivatives
from ebmkit.protocols import Energy

__all__ = [
    "CalculusWarning",
    "Derivatives",
    "Jet",
    "directional_derivatives",
    "elementwise",
    "energy_and_gradient",
    "register_rule",
    "score",
    "with_rule",
]


def energy_and_gradient(
    energy: Energy, x: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Energies E(x) (batch,) and gradients ∇ₓE(x) (batch, *event).

    One forward and one backward through the energy, or its own ``energy_and_gradient`` where it has
    one that is sure to hold: see ``formula_of``. Both are detached, and no gradient of the
    energy's parameters is computed, unless ``create_graph`` keeps what a loss needs to be
    differentiated in the parameters.

    Raises:
        EnergyError: the energy does not return one number a row, or does not depend on x.
    """
    formula = None if create_graph else formula_of(energy, x)
    if formula is not None:
        with torch.no_grad():
            found = formula(x.detach())
        if found is not None:
            return checked(energy, found, x)
    if create_graph:
        # Compiled code can be differentiated once, not again in the parameters.
        with torch.enable_grad(), uncompiled():
            return _differentiated(energy, x, create_graph=True)
    if torch.is_grad_enabled():  # a context to say so takes as long as a small layer
        energies, gradient = _differentiated(energy, x, create_graph=False)
    else:
        with torch.enable_grad():
            energies, gradient = _differentiated(energy, x, create_graph=False)
    return energies.detach(), gradient


def _differentiated(energy: Energy, x: Tensor, *, create_graph: bool) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_(True)
    energies = energy(x)
    check_scalar(energy, energies, x)
    gradient = None
    if energies.requires_grad:
        # Rows are independent, so ones as outer derivative give each row its own gradient.
        (gradient,) = torch.autograd.grad(
            energies, x, torch.ones_like(energies), create_graph=create_graph, allow_unused=True
        )
    return energies, check_depends(energy, gradient)


def score(energy: Energy, x: Tensor) -> Tensor:
    """The score −∇ₓE(x) (batch, *event), detached."""
    return -energy_and_gradient(energy, x)[1]
