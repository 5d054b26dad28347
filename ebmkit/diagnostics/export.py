"""Chains for ArviZ, which ebmkit does not need itself."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from torch import Tensor

from ebmkit.diagnostics.diagnosis import Diagnosis
from ebmkit.errors import UserError


def to_arviz(source: Diagnosis | Tensor, *, name: str = "x") -> Any:
    """What ArviZ makes plots and tables from: an ``InferenceData`` (ArviZ 0.x) or a ``DataTree`` (1.x).

    ``source`` is a diagnosis or a trajectory (draws, chains, *event), which becomes the variable
    ``name`` of the group posterior. Of a diagnosis there are in sample_stats lp = −E (chain, draw),
    the log density without its normaliser, and where the sampler has Hamiltonians these as energy.

    Raises:
        UserError: ArviZ is not installed, or the diagnosis has no trajectory.
    """
    try:
        arviz = importlib.import_module("arviz")
    except ImportError as error:
        raise UserError(
            "to_arviz needs ArviZ, which is not installed; install it with pip install "
            '"ebmkit-core[arviz]"'
        ) from error
    trajectory = source.trajectory if isinstance(source, Diagnosis) else source
    if trajectory is None:
        raise UserError(f"the diagnosis has no trajectory: {getattr(source, 'reason', '')}")
    groups = {"posterior": {name: _chains_first(trajectory)}}
    stats = {}
    if isinstance(source, Diagnosis):
        if source.energies is not None:
            stats["lp"] = _chains_first(-source.energies)
        if source.hamiltonians is not None:
            stats["energy"] = _chains_first(source.hamiltonians)
    if stats:
        groups["sample_stats"] = stats
    # ArviZ 0.x takes groups as keywords, 1.x all of them in one mapping.
    if "posterior" in inspect.signature(arviz.from_dict).parameters:
        return arviz.from_dict(**groups)
    return arviz.from_dict(groups)


def _chains_first(x: Tensor) -> Any:
    return x.detach().transpose(0, 1).cpu().numpy()
