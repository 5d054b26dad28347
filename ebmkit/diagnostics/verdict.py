"""One word on a run of chains, and why."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, TypeAlias

import attrs
from torch import Tensor

from ebmkit.diagnostics.drift import Drift
from ebmkit.diagnostics.training import TrainingPath

Verdict: TypeAlias = Literal["converged", "not yet", "diverging"]

R_HAT_BELOW = 1.01
ESS_ABOVE = 400.0
E_BFMI_ABOVE = 0.3
FALL_OF = 10.0
"""Nats that mean energies must have fallen by before a fall is called endless."""
GROWTH_OF = 2.0
"""Factor by which distances must have grown before a growth is called endless."""
_UNDIMINISHED = 0.5
_QUARTERS = 4


@attrs.frozen
class Spread:
    """A number for every number of an event, in short, and for the energy."""

    worst: float
    median: float
    energy: float


@attrs.frozen
class Evidence:
    """What a verdict rests on."""

    r_hat: Spread
    ess_bulk: Spread
    ess_tail: Spread
    moving: bool
    """Whether any number of any chain's event changes."""
    lost: int
    """How often a chain diverged and was restarted or held still."""
    energies: Tensor
    """(draws, chains)"""
    distances: Tensor
    """From the middle of the data, (draws, chains)."""
    least_e_bfmi: float | None = None
    drift: Drift | None = None
    training: TrainingPath | None = None


def judged(found: Evidence) -> tuple[Verdict, str]:
    """The verdict and its reasons, in one sentence.

    "diverging": a chain or an energy is not finite; or chains move away from the data without
    slowing, to twice the distance at least; or energies fall without slowing, by 10 nats at least,
    while chains move away. "not yet": an R̂ is 1.01 or more, an ESS of bulk or tail is 400 or less, of
    a number of the event or of the energy, or nothing moves. "converged": neither; which says that the
    chains agree with each other, not that they have found every mode.

    Source of the thresholds: Rank-Normalization, Folding, and Localization: An Improved R̂ for Assessing
    Convergence of MCMC (Vehtari and others, 2021); of the last: Diagnosing Suboptimal Cotangent
    Disintegrations in Hamiltonian Monte Carlo (Betancourt, 2016).
    """
    if endless := _endless(found):
        return "diverging", _sentence([endless, *_asides(found)])
    lacking = _lacking(found)
    if lacking:
        return "not yet", _sentence([*lacking, *_asides(found)])
    worst = max(found.r_hat.worst, found.r_hat.energy)
    least = _least(found)
    said = f"every R̂ is below {R_HAT_BELOW} (worst {worst:.4f})"
    return "converged", _sentence(
        [f"{said} and every ESS above {ESS_ABOVE:g} (least {least:.0f})", *_asides(found)]
    )


def _endless(found: Evidence) -> str:
    if found.lost:
        return f"chains were not finite {found.lost} times, and were restarted or held still"
    if not bool(found.energies.isfinite().all()):
        return "energies are not finite"
    away, energy = _quarters(found.distances), _quarters(found.energies)
    if len(away) < _QUARTERS:
        return ""
    growing = all(a < b for a, b in pairwise(away))
    if not growing:
        return ""
    unslowed = away[3] - away[2] >= _UNDIMINISHED * (away[1] - away[0])
    if unslowed and away[3] > GROWTH_OF * away[0]:
        return (
            "chains move away from the data without slowing, from a mean distance of "
            f"{away[0]:.3g} to {away[3]:.3g}"
        )
    falling = all(a > b for a, b in pairwise(energy))
    unslowed = energy[2] - energy[3] >= _UNDIMINISHED * (energy[0] - energy[1])
    if falling and unslowed and energy[0] - energy[3] > FALL_OF:
        return (
            "energies fall without slowing while chains move away from the data, from a mean of "
            f"{energy[0]:.4g} to {energy[3]:.4g} nats"
        )
    return ""


def _lacking(found: Evidence) -> list[str]:
    if not found.moving:
        return ["no chain moves"]
    lacking = []
    for name, value in (("worst R̂", found.r_hat.worst), ("R̂ of the energy", found.r_hat.energy)):
        # Written so that NaN is lacking too.
        if not value < R_HAT_BELOW:
            lacking.append(f"the {name} is {value:.4g}, to be below {R_HAT_BELOW}")
    if not _least(found) > ESS_ABOVE:
        lacking.append(f"the least ESS is {_least(found):.0f}, to be above {ESS_ABOVE:g}")
    return lacking


def _asides(found: Evidence) -> list[str]:
    asides = []
    drift, training = found.drift, found.training
    if found.least_e_bfmi is not None and found.least_e_bfmi < E_BFMI_ABOVE:
        asides.append(f"a chain's E-BFMI is {found.least_e_bfmi:.2f}, to be above {E_BFMI_ABOVE}")
    if drift is not None and drift.notable:
        where = "below" if drift.drift < 0 else "above"
        asides.append(
            f"chains of {drift.long_steps} steps lie {abs(drift.drift):.3g} ± "
            f"{drift.standard_error:.2g} nats {where} those of {drift.short_steps}, so chains "
            "of that length have not arrived"
        )
    if training is not None and training.runs_away:
        asides.append("in training energies expanded while the force grew")
    return asides


def _sentence(parts: list[str]) -> str:
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _least(found: Evidence) -> float:
    spreads = (found.ess_bulk, found.ess_tail)
    return min(value for spread in spreads for value in (spread.worst, spread.energy))


def _quarters(values: Tensor) -> list[float]:
    """Means over the quarters of (draws, chains); fewer than four where there are too few draws."""
    if len(values) < 2 * _QUARTERS:
        return []
    return [float(piece.double().mean()) for piece in values.tensor_split(_QUARTERS)]
