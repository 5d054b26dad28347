"""Whose fault an unexpected exception is."""

from __future__ import annotations


def culprit(error: BaseException) -> str:
    """The innermost distribution on the exception's way that offers parts; else ebmkit-core."""
    from ebmkit.registry import HOME, registry

    owners = {c.module.partition(".")[0]: c.distribution for c in registry().components}
    found = HOME
    trace = error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        found = owners.get(module, found)
        trace = trace.tb_next
    return found
