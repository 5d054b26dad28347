"""Half a cosine wave from one value to another."""

from __future__ import annotations

import math

import attrs

from ebmkit_schedulers._ramp import Ramp


@attrs.frozen(kw_only=False)
class Cosine(Ramp):
    """Half a cosine wave from one value to another, flat at both ends.

    s(t) = a + (b − a) (1 − cos(π t / (n − 1))) / 2 for t < n − 1, and b from there on

    a ``start_value``, b ``end_value``, n ``n_steps``: step 0 has a and step n − 1 has b, exactly;
    n = 1 is b throughout.

    Raises ValueError where it is called while ``n_steps`` is open.

    Source: SGDR: Stochastic Gradient Descent with Warm Restarts (Loshchilov and Hutter, 2017),
    without the restarts.
    """

    def _weight(self, time: float) -> float:
        # (1 − cos πt)/2 = sin²(πt/2), measured from the nearer end: rounding keeps it monotone.
        if time <= 0.5:
            return math.sin(math.pi / 2 * time) ** 2
        return 1 - math.sin(math.pi / 2 * (1 - time)) ** 2
