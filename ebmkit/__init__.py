"""Train, sample and judge energy-based models from parts that are found by name.

``import ebmkit`` imports neither torch nor any plugin: each name below is imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebmkit.calculus import CalculusWarning as CalculusWarning
    from ebmkit.calculus import Derivatives as Derivatives
    from ebmkit.calculus import Jet as Jet
    from ebmkit.calculus import directional_derivatives as directional_derivatives
    from ebmkit.calculus import elementwise as elementwise
    from ebmkit.calculus import energy_and_gradient as energy_and_gradient
    from ebmkit.calculus import register_rule as register_rule
    from ebmkit.calculus import score as score
    from ebmkit.calculus import with_rule as with_rule
    from ebmkit.chains import Chain as Chain
    from ebmkit.chains import ChainInterrupt as ChainInterrupt
    from ebmkit.chains import Moments as Moments
    from ebmkit.chains import log_uniform as log_uniform
    from ebmkit.chains import normals as normals
    from ebmkit.chains import run_chain as run_chain
    from ebmkit.chains import sample as sample
    from ebmkit.clocks import clock_of as clock_of
    from ebmkit.clocks import length_of as length_of
    from ebmkit.clocks import spread as spread
    from ebmkit.composer import compose as compose
    from ebmkit.creating import create as create
    from ebmkit.diagnostics import Diagnosis as Diagnosis
    from ebmkit.diagnostics import autocorrelation as autocorrelation
    from ebmkit.diagnostics import diagnose as diagnose
    from ebmkit.diagnostics import e_bfmi as e_bfmi
    from ebmkit.diagnostics import effective_sample_size as effective_sample_size
    from ebmkit.diagnostics import r_hat as r_hat
    from ebmkit.diagnostics import to_arviz as to_arviz
    from ebmkit.errors import CompileError as CompileError
    from ebmkit.errors import DataError as DataError
    from ebmkit.errors import DivergenceError as DivergenceError
    from ebmkit.errors import EbmkitError as EbmkitError
    from ebmkit.errors import EnergyError as EnergyError
    from ebmkit.errors import EvaluationError as EvaluationError
    from ebmkit.errors import PluginError as PluginError
    from ebmkit.errors import Problem as Problem
    from ebmkit.errors import SpecError as SpecError
    from ebmkit.errors import UserError as UserError
    from ebmkit.fields import doc as doc
    from ebmkit.fields import finite as finite
    from ebmkit.fields import generator_or_new as generator_or_new
    from ebmkit.fields import is_scheduled as is_scheduled
    from ebmkit.fields import scheduled as scheduled
    from ebmkit.fields import whole as whole
    from ebmkit.hooks import Run as Run
    from ebmkit.hooks import hookimpl as hookimpl
    from ebmkit.layers import offered as offered
    from ebmkit.loading import load as load
    from ebmkit.loading import resume as resume
    from ebmkit.loops import tracing as tracing
    from ebmkit.loops import while_loop as while_loop
    from ebmkit.lowering import CompileWarning as CompileWarning
    from ebmkit.memory import expect_memory as expect_memory
    from ebmkit.objectives import LossOutput as LossOutput
    from ebmkit.objectives import Objective as Objective
    from ebmkit.objectives import bind as bind
    from ebmkit.objectives import objective as objective
    from ebmkit.pipeline import Pipeline as Pipeline
    from ebmkit.protocols import Batch as Batch
    from ebmkit.protocols import Dataset as Dataset
    from ebmkit.protocols import Energy as Energy
    from ebmkit.protocols import Loss as Loss
    from ebmkit.protocols import Metrics as Metrics
    from ebmkit.protocols import Model as Model
    from ebmkit.protocols import Sampler as Sampler
    from ebmkit.protocols import Scheduler as Scheduler
    from ebmkit.protocols import State as State
    from ebmkit.reports import Picture as Picture
    from ebmkit.reports import Section as Section
    from ebmkit.versioning import PROTOCOL as PROTOCOL
    from ebmkit.versioning import EbmkitDeprecationWarning as EbmkitDeprecationWarning

_HOME = {
    "ebmkit.calculus": (
        "CalculusWarning",
        "Derivatives",
        "Jet",
        "directional_derivatives",
        "elementwise",
        "energy_and_gradient",
        "register_rule",
        "score",
        "with_rule",
    ),
    "ebmkit.chains": (
        "Chain",
        "ChainInterrupt",
        "Moments",
        "log_uniform",
        "normals",
        "run_chain",
        "sample",
    ),
    "ebmkit.clocks": ("clock_of", "length_of", "spread"),
    "ebmkit.loops": ("tracing", "while_loop"),
    "ebmkit.lowering": ("CompileWarning",),
    "ebmkit.composer": ("compose",),
    "ebmkit.creating": ("create",),
    "ebmkit.diagnostics": (
        "Diagnosis",
        "autocorrelation",
        "diagnose",
        "e_bfmi",
        "effective_sample_size",
        "r_hat",
        "to_arviz",
    ),
    "ebmkit.errors": (
        "CompileError",
        "DataError",
        "DivergenceError",
        "EbmkitError",
        "EnergyError",
        "EvaluationError",
        "PluginError",
        "Problem",
        "SpecError",
        "UserError",
    ),
    "ebmkit.fields": ("doc", "finite", "generator_or_new", "is_scheduled", "scheduled", "whole"),
    "ebmkit.hooks": ("Run", "hookimpl"),
    "ebmkit.layers": ("offered",),
    "ebmkit.memory": ("expect_memory",),
    "ebmkit.objectives": ("LossOutput", "Objective", "bind", "objective"),
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
    "ebmkit.loading": ("load", "resume"),
    "ebmkit.reports": ("Picture", "Section"),
    "ebmkit.versioning": ("PROTOCOL", "EbmkitDeprecationWarning"),
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
