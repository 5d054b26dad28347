"""How training went, by its metrics: whether energies of data and chains balance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import attrs

FEWEST_RECORDS = 8
ONE_SIDED = 0.9
GROWING = 2.0
_LARGEST = 1e200
"""Of numbers that are added up; a file may hold any."""

Tendency = Literal["expansion", "contraction", "oscillation"]


@attrs.frozen
class TrainingPath:
    """The energy difference and the force in the later half of training.

    d_t = mean E(x⁺) − mean E(x⁻) of positives and negatives at training step t, which is −energy_gap,
    and v_t the mean of ‖∇E‖ at the negatives, the metric force; the source takes it along the chains,
    of which the negatives are the ends. Maximum likelihood follows the gradient of d_t. An update at
    d_t < 0 is an *expansion*: it widens the gap that is there and tends to scale the energy up, so that
    v_t grows; one at d_t > 0 is a *contraction* and tends to scale it down. In a stable training the
    two alternate and d_t oscillates about 0; d_t on one side for long means that the chains do not
    follow the model, and with a growing force that training runs away.

    Source: On the Anatomy of MCMC-based Maximum Likelihood Learning of Energy-Based Models (Nijkamp and
    others, 2020).
    """

    records: int
    """Records that are looked at: the later half of those with an energy gap."""
    energy_difference: float
    """Mean of d_t, in nats."""
    expanding: float
    """Share of records with d_t < 0."""
    tendency: Tendency
    """"expansion" or "contraction" where nine in ten records are so, else "oscillation"."""
    force: float | None
    """Median of v_t in the last quarter; None where no step tells one."""
    force_growth: float | None
    """That over the median of the quarter before."""

    @property
    def runs_away(self) -> bool:
        """Whether energies expand while the force has at least doubled over the last quarter."""
        growth = self.force_growth
        return self.tendency == "expansion" and growth is not None and growth >= GROWING


def training_path(records: Iterable[Mapping[str, Any]]) -> TrainingPath | None:
    """How training went, from records of its metrics in their order; None where fewer than eight have
    an ``energy_gap``, as of a loss without chains."""
    numbers = [r for r in records if _finite(r.get("energy_gap"))]
    if len(numbers) < FEWEST_RECORDS:
        return None
    later = numbers[len(numbers) // 2 :]
    differences = [-float(r["energy_gap"]) for r in later]
    expanding = sum(d < 0 for d in differences) / len(later)
    contracting = sum(d > 0 for d in differences) / len(later)
    tendency: Tendency = "oscillation"
    if expanding >= ONE_SIDED:
        tendency = "expansion"
    elif contracting >= ONE_SIDED:
        tendency = "contraction"
    middle = len(later) // 2
    before, last = (
        [float(r["force"]) for r in part if _finite(r.get("force"))]
        for part in (later[:middle], later[middle:])
    )
    force = statistics.median(last) if last else None
    former = statistics.median(before) if before else 0.0
    growth = force / former if force is not None and former > 0 else math.inf
    return TrainingPath(
        records=len(later),
        energy_difference=statistics.fmean(differences),
        expanding=expanding,
        tendency=tendency,
        force=force,
        force_growth=growth if math.isfinite(growth) else None,
    )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST
