"""Laws tried on inputs that hypothesis varies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ebmkit.testing.laws import BrokenLaw, Cases


def varied(cases: Cases, check: Callable[..., None], *, examples: int = 20, **values: Any) -> None:
    """Try a check on values of strategies, each a case; the broken case that is told is the simplest
    one found."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    broken: list[BrokenLaw] = []

    def one(**chosen: Any) -> None:
        said = ", ".join(f"{name} {value!r}".replace("_", " ") for name, value in chosen.items())
        with cases.case(said):
            try:
                check(**chosen)
            except BrokenLaw as error:
                broken.append(error)
                raise

    tried = settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=examples,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        phases=[Phase.generate, Phase.shrink],
    )(seed(cases.seed)(given(**values)(one)))
    try:
        tried()
    except BrokenLaw:
        raise
    except Exception:
        # What is broken at one time and kept at another is broken.
        if broken:
            raise broken[-1] from None
        raise
