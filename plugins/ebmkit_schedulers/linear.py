"""A straight line from one value to another."""

from __future__ import annotations

import attrs

from ebmkit_schedulers._ramp import Ramp


@attrs.frozen(kw_only=False)
class Linear(Ramp):
    """A straight line from one value to another.

    s(t) = a + (b − a) t / (n − 1) for t < n − 1, and b from there on

    a ``start_value``, b ``end_value``, n ``n_steps``: step 0 has a and step n − 1 has b, exactly;
    n = 1 is b throughout.

    Raises ValueError where it is called while ``n_steps`` is open.
    """

    def _weight(self, time: float) -> float:
        return time
