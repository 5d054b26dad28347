"""Whether chains have arrived, and whether training went well."""

from __future__ import annotations

from ebmkit.diagnostics.diagnosis import Diagnosis, diagnose
from ebmkit.diagnostics.export import to_arviz
from ebmkit.diagnostics.traces import (
    autocorrelation,
    e_bfmi,
    effective_sample_size,
    mean_error,
    r_hat,
)

__all__ = [
    "Diagnosis",
    "autocorrelation",
    "diagnose",
    "e_bfmi",
    "effective_sample_size",
    "mean_error",
    "r_hat",
    "to_arviz",
]
