"""Exact KL(data‖model) of 2-D energies by quadrature."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ebmkit.errors import EvaluationError
from ebmkit.protocols import Energy

OUTSIDE, DATA_OUTSIDE = 1e-5, 1e-8
"""Mass of the model, and of the data, around the grid relative to that inside it, up to which the
grid is accepted."""
RESOLVED = 1e-3
"""Change in nats on halving the grid's spacing below which the grid is fine enough."""
_CHUNK = 65_536


class Divergence(NamedTuple):
    """KL(data‖model) and what it rests on."""

    kl_nats: float
    kl_error: float
    """Change of kl_nats when every second grid line is left out."""
    log_z: float
    """log ∫ exp(−E)."""
    data_mass: float
    """∫ p over the grid; 1 where the grid holds the data."""
    outside: float
    """Model mass in a ring of four times the grid's width, relative to the mass inside."""
    bounds: list[list[float]]
    """[[low, high] of x₁, [low, high] of x₂]"""
    grid: int
    """Points along each axis."""


def kl_divergence(log_density: Energy, energy: Energy, data: Tensor) -> Divergence:
    """KL(p‖q) = ∫ p (log p + E) + log ∫ exp(−E) in nats, for q ∝ exp(−E) on the plane.

    The box starts at the data's, points (n, 2), and grows until the model's mass around it is
    negligible; the grid is refined until the result no longer moves.

    Raises:
        EvaluationError: the model's mass leaves every box, or energies are not finite.
    """
    low, high = data.min(0).values, data.max(0).values
    centre, half = (low + high) / 2, (high - low).clamp(min=1e-3) / 2 * 1.4
    for _ in range(12):
        outside = _outside(energy, centre, half)
        of_data = _outside(lambda x: -log_density(x), centre, half)
        if outside <= OUTSIDE and of_data <= DATA_OUTSIDE:
            break
        half = half * 1.4
    else:
        raise EvaluationError(
            f"the model's mass leaves the grid: a ring around [{_words(centre, half)}] still holds "
            f"{outside:.2g} of the mass inside. An energy that does not grow far out has no "
            "normalised density; mlp's base_scale gives it one"
        )
    for n in (512, 1024, 2048):
        points, area = _grid(centre, half, n)
        log_p, e = _apply(log_density, points).double(), _apply(energy, points).double()
        if not bool(torch.isfinite(e).all()):
            raise EvaluationError("the model's energy is not finite everywhere on the grid")
        kl, log_z, mass = _kl(log_p, e, area)
        every_second = torch.arange(0, n, 2, device=e.device)
        log_p, e = (t.view(n, n)[every_second][:, every_second].flatten() for t in (log_p, e))
        error = abs(kl - _kl(log_p, e, area * 4)[0])
        if error <= RESOLVED and abs(mass - 1) <= RESOLVED:
            break
    bounds = torch.stack([centre - half, centre + half], 1).tolist()
    return Divergence(kl, error, log_z, mass, outside, bounds, n)


def _kl(log_p: Tensor, energy: Tensor, area: float) -> tuple[float, float, float]:
    log_z = float(torch.logsumexp(-energy, 0)) + math.log(area)
    p = log_p.exp()
    mass = float(p.sum()) * area
    # 0 · (−∞) is 0 here: where the data have no density they ask nothing of the model.
    integrand = torch.where(p > 0, p * (log_p + energy), 0)
    return float(integrand.sum()) * area + mass * log_z, log_z, mass


def _outside(energy: Energy, centre: Tensor, half: Tensor) -> float:
    points, _ = _grid(centre, 4 * half, 320)
    e = _apply(energy, points).double()
    if bool(torch.isnan(e).any()):
        raise EvaluationError("the model's energy is NaN somewhere around the data")
    inside = ((points - centre).abs() <= half).all(1)
    log_in, log_out = torch.logsumexp(-e[inside], 0), torch.logsumexp(-e[~inside], 0)
    return math.exp(min(float(log_out - log_in), 700.0))


def _grid(centre: Tensor, half: Tensor, n: int) -> tuple[Tensor, float]:
    # Midpoints of equal cells: spectrally accurate where the density vanishes at the border.
    ticks = (torch.arange(n, device=centre.device, dtype=torch.float64) * 2 + 1) / n - 1
    axes = [centre[i].double() + half[i].double() * ticks for i in (0, 1)]
    points = torch.cartesian_prod(*axes).to(centre.dtype)
    return points, float(4 * half[0].double() * half[1].double()) / n**2


def _apply(function: Energy, points: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([function(chunk) for chunk in torch.split(points, _CHUNK)])


def _words(centre: Tensor, half: Tensor) -> str:
    return ", ".join(
        f"{float(c - h):.3g} … {float(c + h):.3g}" for c, h in zip(centre, half, strict=True)
    )
