"""Exact log Z and KL(data‖model) of 2-D energies by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ebmkit.errors import EvaluationError
from ebmkit.protocols import Energy

OUTSIDE, DATA_OUTSIDE = 1e-5, 1e-8
"""Mass of the model, and of the data, around its grid relative to that inside it, up to which a
grid is accepted."""
RESOLVED = 5e-4
"""Change in nats on halving a grid's spacing below which it is fine enough."""
_CHUNK = 65_536


class Divergence(NamedTuple):
    """KL(data‖model) and what it rests on."""

    kl_nats: float
    kl_error: float
    """Change of kl_nats when every second line of both grids is left out."""
    log_z: float
    """log ∫ exp(−E)."""
    data_mass: float
    """∫ p over its grid; 1 where the grid holds the data."""
    outside: float
    """Model mass in a ring of four times its grid's width, relative to the mass inside."""
    bounds: list[list[float]]
    """[[low, high] of x₁, [low, high] of x₂] of the model's grid."""
    grid: int
    """Points along each axis of the model's grid."""


def kl_divergence(log_density: Energy, energy: Energy, data: Tensor) -> Divergence:
    """KL(p‖q) = ∫ p (log p + E) + log ∫ exp(−E) in nats, for q ∝ exp(−E) on the plane.

    The two integrals have a grid each: a box around the data, points (n, 2), and one that grows
    from it until the model's mass around it is negligible. Each is refined until its integral no
    longer moves.

    Raises:
        EvaluationError: the model's mass leaves every box, or energies are not finite.
    """
    centre, half = _box(data)

    def surprise(x: Tensor) -> Tensor:
        return -log_density(x)

    half, _ = _grown(surprise, centre, half, DATA_OUTSIDE)
    model_half, outside = _of_model(energy, centre, half)

    def of_data(points: Tensor, area: float) -> tuple[Tensor, float]:
        log_p, e = _apply(log_density, points), _apply(energy, points)
        p = log_p.exp()
        # 0 · (−∞) is 0 here: where the data have no density they ask nothing of the model.
        terms = torch.stack([torch.where(p > 0, p * (log_p + e), 0), p])
        return terms, area

    cross, cross_error, _ = _refined(of_data, _sums, centre, half)
    integral, mass = cross
    log_z, log_z_error, n = _log_z(energy, centre, model_half)
    bounds = torch.stack([centre - model_half, centre + model_half], 1).tolist()
    kl = integral + mass * log_z
    return Divergence(kl, cross_error + log_z_error, log_z, mass, outside, bounds, n)


def log_partition(energy: Energy, data: Tensor) -> tuple[float, float]:
    """log ∫ exp(−E) over the plane, and its change on halving the grid's spacing, on a box that
    grows from data (n, 2) as in ``kl_divergence``.

    Raises:
        EvaluationError: the model's mass leaves every box, or energies are not finite.
    """
    centre, half = _box(data)
    half, _ = _of_model(energy, centre, half)
    log_z, error, _ = _log_z(energy, centre, half)
    return log_z, error


def _box(data: Tensor) -> tuple[Tensor, Tensor]:
    low, high = data.min(0).values, data.max(0).values
    return (low + high) / 2, (high - low).clamp(min=1e-3) / 2 * 1.2


def _of_model(energy: Energy, centre: Tensor, half: Tensor) -> tuple[Tensor, float]:
    """The box that holds the model's mass, and the mass around it."""
    half, outside = _grown(energy, centre, half, OUTSIDE)
    if outside > OUTSIDE:
        raise EvaluationError(
            f"the model's mass leaves the grid: a ring around [{_words(centre, half)}] still "
            f"holds {outside:.2g} of the mass inside. An energy that does not grow far out has no "
            "normalised density; mlp's base_scale gives it one"
        )
    return half, outside


def _log_z(energy: Energy, centre: Tensor, half: Tensor) -> tuple[float, float, int]:
    def terms(points: Tensor, area: float) -> tuple[Tensor, float]:
        return -_apply(energy, points)[None], area

    (log_z,), error, n = _refined(terms, _log_sum, centre, half)
    return log_z, error, n


def _sums(terms: Tensor, area: float) -> list[float]:
    return [float(t.sum()) * area for t in terms]


def _log_sum(terms: Tensor, area: float) -> list[float]:
    return [float(torch.logsumexp(t, 0)) + math.log(area) for t in terms]


def _refined(
    evaluate: Callable[[Tensor, float], tuple[Tensor, float]],
    integrate: Callable[[Tensor, float], list[float]],
    centre: Tensor,
    half: Tensor,
) -> tuple[list[float], float, int]:
    """The integrals on the first grid on which they no longer move, their change, and its size."""
    for n in (256, 512, 1024, 2048):
        terms, area = evaluate(*_grid(centre, half, n))
        if not bool(torch.isfinite(terms).all()):
            raise EvaluationError("the model's energy is not finite everywhere on the grid")
        every_second = torch.arange(0, n, 2, device=terms.device)
        square = terms.view(-1, n, n)
        coarse = square[:, every_second][:, :, every_second].flatten(1)
        values, coarse_values = integrate(terms, area), integrate(coarse, area * 4)
        error = max(abs(a - b) for a, b in zip(values, coarse_values, strict=True))
        if error <= RESOLVED:
            break
    return values, error, n


def _grown(energy: Energy, centre: Tensor, half: Tensor, bound: float) -> tuple[Tensor, float]:
    """The box, grown until the mass in a ring around it is below ``bound`` of that inside."""
    for _ in range(12):
        points, _ = _grid(centre, 4 * half, 320)
        e = _apply(energy, points)
        if bool(torch.isnan(e).any()):
            raise EvaluationError("the model's energy is NaN somewhere around the data")
        inside = ((points - centre).abs() <= half).all(1)
        log_in, log_out = torch.logsumexp(-e[inside], 0), torch.logsumexp(-e[~inside], 0)
        outside = math.exp(min(float(log_out - log_in), 700.0))
        if outside <= bound:
            break
        half = half * 1.4
    return half, outside


def _grid(centre: Tensor, half: Tensor, n: int) -> tuple[Tensor, float]:
    # Midpoints of equal cells: spectrally accurate where the density vanishes at the border.
    ticks = (torch.arange(n, device=centre.device, dtype=torch.float64) * 2 + 1) / n - 1
    axes = [centre[i].double() + half[i].double() * ticks for i in (0, 1)]
    points = torch.cartesian_prod(*axes).to(centre.dtype)
    return points, float(4 * half[0].double() * half[1].double()) / n**2


def _apply(function: Energy, points: Tensor) -> Tensor:
    with torch.no_grad():
        chunks = [function(chunk) for chunk in torch.split(points, _CHUNK)]
    return torch.cat(chunks).double()


def _words(centre: Tensor, half: Tensor) -> str:
    return ", ".join(
        f"{float(c - h):.3g} … {float(c + h):.3g}" for c, h in zip(centre, half, strict=True)
    )
