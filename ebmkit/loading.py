"""Run directory -> Pipeline, at its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ebmkit import checkpoint
from ebmkit.composer import compose
from ebmkit.errors import RunDirectoryError
from ebmkit.pipeline import Pipeline
from ebmkit.rundir import SPEC, RunDirectory
from ebmkit.spec import read_toml


def load(run: str | Path, /, **overrides: Any) -> Pipeline:
    """The pipeline of a run directory, at its last checkpoint. Overrides are those of ``compose``:
    a run with live parts needs them again, as ``load("runs/mine", model=net)``.

    Raises:
        RunDirectoryError: there is no run, or no checkpoint that can be read.
        SpecError: a part of the run cannot be had any more.
    """
    directory = RunDirectory.open(Path(run))
    kept = directory.checkpoints()
    if not kept:
        raise RunDirectoryError(f"{run}: holds no checkpoint")
    spec = read_toml(directory.path / SPEC)
    pipeline = compose(spec, **overrides)
    try:
        pipeline.load_state_dict(checkpoint.read(kept[-1], pipeline.device))
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise RunDirectoryError(f"{kept[-1]}: does not fit the run's spec: {error}") from error
    return pipeline
