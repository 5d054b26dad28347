"""Whether chains of the length that training used have arrived where long ones do."""

from __future__ import annotations

import math

import attrs
from torch import Tensor

ERRORS = 5.0


@attrs.frozen
class Drift:
    """The mean energy of the same chains after a short and after a long run.

    drift = mean (E(x_long) − E(x_short)), and its standard error over the chains, which are
    independent. A model that was trained with chains too short to arrive (a short-run, or
    non-convergent, model) has long-run energies far below the short-run ones: its short chains look
    like data, its steady state does not.

    Source: On the Anatomy of MCMC-based Maximum Likelihood Learning of Energy-Based Models (Nijkamp and
    others, 2020).
    """

    short_steps: int
    long_steps: int
    short_energy: float
    """Mean, in nats."""
    long_energy: float
    drift: float
    """Of the long run against the short one, in nats."""
    standard_error: float

    @property
    def notable(self) -> bool:
        """Whether the drift is a nat at least, and five standard errors."""
        return abs(self.drift) > max(ERRORS * self.standard_error, 1.0)


def drift_between(short: Tensor, long: Tensor, short_steps: int, long_steps: int) -> Drift:
    """The drift from energies (chains,) after the short run to those of the same chains after the
    long one."""
    moved = (long - short).double()
    error = float(moved.std()) / math.sqrt(len(moved)) if len(moved) > 1 else math.nan
    return Drift(
        short_steps,
        long_steps,
        float(short.double().mean()),
        float(long.double().mean()),
        float(moved.mean()),
        error,
    )
