"""The conformance kit: what holds of every part of a kind, tried on one.

``test_mine = ebmkit.testing.suite("sampler", MySampler(step_size=0.1))`` is a test of all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebmkit.testing.reports import Outcome as Outcome
    from ebmkit.testing.reports import Report as Report
    from ebmkit.testing.reports import report as report
    from ebmkit.testing.subject import Subject as Subject
    from ebmkit.testing.subject import subjects as subjects
    from ebmkit.testing.trials import suite as suite

_HOME = {
    **dict.fromkeys(("Outcome", "Report", "report"), "ebmkit.testing.reports"),
    **dict.fromkeys(("Subject", "subjects"), "ebmkit.testing.subject"),
    "suite": "ebmkit.testing.trials",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    # pytest loads its plugin from this package at every start, in projects without a suite too.
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
