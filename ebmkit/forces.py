"""The force on points: how steep an energy is where they are."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmkit.calculus import energy_and_gradient
from ebmkit.errors import EnergyError
from ebmkit.holding import frozen
from ebmkit.protocols import Energy


def mean_force(energy: Energy, x: Tensor) -> Tensor | None:
    """The mean of ‖∇E(x)‖ over points x (batch, *event), without dimensions; None where there are no
    points, or the energy has no gradient in them.

    A look from outside: torch's own generators are left as they were, and parameters get no gradients.
    What the energy raises goes on to the caller.
    """
    if not (len(x) and x.is_floating_point()):
        return None
    # Beside the generator of the CPU, which is always kept.
    others = [] if x.device.type == "cpu" else [x.device]
    kind = "cuda" if not others else x.device.type
    try:
        with torch.random.fork_rng(others, device_type=kind):
            _, gradient = frozen(energy, lambda: energy_and_gradient(energy, x))
            norms: Tensor = torch.linalg.vector_norm(gradient.reshape(len(x), -1), dim=1)
            return norms.mean()
    except EnergyError:
        return None
