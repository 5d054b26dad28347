"""Train, sample and judge energy-based models from parts that are found by name.

``import ebmkit`` imports neither torch nor any plugin: each name below is imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebmkit.calculus import energy_and_gradient, score
    from ebmkit.chains import Chain, run_chain, sample
    from ebmkit.clocks import clock_of, length_of, spread
    from ebmkit.composer import compose, create
    from ebmkit.errors import (
        DataError,
        DivergenceError,
        EbmkitError,
        EvaluationError,
        PluginError,
        Problem,
        SpecError,
        UserError,
    )
    from ebmkit.fields import doc, generator_or_new, is_scheduled, scheduled
    from ebmkit.hooks import Run, hookimpl
    from ebmkit.objective import LossOutput, Objective, bind, objective
    from ebmkit.pipeline import Pipeline
    from ebmkit.protocols import (
        Batch,
        Dataset,
        Energy,
        Loss,
        Metrics,
        Model,
        Sampler,
        Scheduler,
        State,
    )
    from ebmkit.rundir import load

_HOME = {
    "ebmkit.calculus": ("energy_and_gradient", "score"),
    "ebmkit.chains": ("Chain", "run_chain", "sample"),
    "ebmkit.clocks": ("clock_of", "length_of", "spread"),
    "ebmkit.composer": ("compose", "create"),
    "ebmkit.errors": (
        "DataError",
        "DivergenceError",
        "EbmkitError",
        "EvaluationError",
        "PluginError",
        "Problem",
        "SpecError",
        "UserError",
    ),
    "ebmkit.fields": ("doc", "generator_or_new", "is_scheduled", "scheduled"),
    "ebmkit.hooks": ("Run", "hookimpl"),
    "ebmkit.objective": ("LossOutput", "Objective", "bind", "objective"),
    "ebmkit.pipeline": ("Pipeline",),
    "ebmkit.protocols": (
        "Batch",
        "Dataset",
        "Energy",
        "Loss",
        "Metrics",
        "Model",
        "Sampler",
        "Scheduler",
        "State",
    ),
    "ebmkit.rundir": ("load",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ebmkit-core")
    try:
        module = _MODULE_OF[name]
    except KeyError:
        raise AttributeError(f"module 'ebmkit' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
