"""Run directory -> Pipeline, at its last checkpoint, to be used or to be trained further."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmkit import provenance
from ebmkit.composer import compose
from ebmkit.errors import RunDirectoryError, UserError
from ebmkit.pipeline import Pipeline
from ebmkit.provenance import RunWarning
from ebmkit.restoring import expect_same_data, expect_state
from ebmkit.rundir import SPEC, RunDirectory
from ebmkit.spec import Spec, read_toml

if TYPE_CHECKING:
    from ebmkit.hooks import Hooks, Run


def load(run: str | Path, /, **overrides: Any) -> Pipeline:
    """The pipeline of a run directory, at its last checkpoint. Overrides are those of ``compose``:
    a run with live parts needs them again, as ``load("runs/mine", model=net)``.

    A checkpoint that is torn or altered is left out with a RunWarning, and the one before it taken.

    Raises:
        RunDirectoryError: there is no run, or no checkpoint that can be read.
        SpecError: a part of the run cannot be had any more.
    """
    directory = RunDirectory.open(Path(run))
    pipeline = compose(read_toml(directory.path / SPEC), **overrides)
    if take_newest(directory, pipeline) is None:
        raise RunDirectoryError(f"{run}: holds no checkpoint")
    return pipeline


def resume(
    run: str | Path,
    /,
    *,
    steps: int | None = None,
    accept_versions: bool = False,
    hooks: Hooks | None = None,
    **overrides: Any,
) -> Run:
    """Train the run of a directory further, from its last checkpoint and in the same directory.

    ``steps`` are those of the whole run where it is to go on beyond what its spec states; schedules of
    open length are spread over them. Overrides are those of ``load``, and ``hooks`` as in ``fit``. A
    part that is of another version than recorded is told by a RunWarning where the major version (of
    0.x: the minor one) is the same, and else refused unless ``accept_versions``.

    Raises:
        UserError: the run has done so many steps, or a part is of another version.
        RunDirectoryError: there is no run, or its checkpoints cannot be read.
        SpecError: a part of the run cannot be had any more.
    """
    pipeline, _ = reopen(run, steps=steps, accept_versions=accept_versions, **overrides)
    return pipeline.fit(out=run, resume=True, hooks=hooks)


def reopen(
    run: str | Path,
    *,
    steps: int | None = None,
    accept_versions: bool = False,
    **overrides: Any,
) -> tuple[Pipeline, Mapping[str, Any]]:
    """The pipeline that ``resume`` trains, and the checkpoint that it stands at; that is empty where
    the run ended before its first, and begins anew."""
    directory = RunDirectory.open(Path(run))
    spec = read_toml(directory.path / SPEC)
    if steps is not None:
        overrides |= {"training.steps": steps, "training.epochs": None}
    pipeline = compose(spec, **overrides)
    _same_parts(spec, pipeline, directory, accept_versions)
    kept = take_newest(directory, pipeline) or {}
    total = pipeline.training.steps or 0
    if directory.status().get("status") == "finished" and (steps is None or pipeline.step >= total):
        raise UserError(
            f"{run}: has finished, after {pipeline.step} of {total} steps; --steps N goes on to N steps"
            " in all"
        )
    if pipeline.step > total:
        raise UserError(
            f"{run}: has done {pipeline.step} steps, and {total} are stated; state more than that"
        )
    if not kept:
        _warn(f"{run}: holds no checkpoint, so the run begins at step 0")
    elif moved := provenance.moved(kept.get("made_by", {}), provenance.made_by()):
        _warn(f"{run}: {moved}; steps may differ in their last bits from those of one run")
    return pipeline, kept


def take_newest(directory: RunDirectory, pipeline: Pipeline) -> Any:
    """Put a pipeline to the newest checkpoint that can be read; what is in it, or None where there is
    none.

    Raises:
        RunDirectoryError: none can be read, or it is of another pipeline.
    """
    found = directory.newest(pipeline.device)
    if found is None:
        return None
    path, tree, reasons = found
    for reason in reasons:
        _warn(f"{reason}; left out, and {path.name} taken")
    try:
        expect_state(tree)
        pipeline.load_state_dict(tree)
        expect_same_data(pipeline)
    except Exception as error:  # what stands in the file may be of any type, at any place
        said = f"no {error}" if isinstance(error, KeyError) else error
        raise RunDirectoryError(f"{path}: does not fit the run's spec: {said}") from error
    return tree


def _same_parts(
    spec: Spec, pipeline: Pipeline, directory: RunDirectory, accept_versions: bool
) -> None:
    recorded = spec.tables.get("parts")
    mild, grave = provenance.changed_parts(
        recorded if isinstance(recorded, Mapping) else {}, pipeline.tables["parts"]
    )
    if grave and not accept_versions:
        raise UserError(
            "\n".join(
                f"{directory.path}: {change}; install the version of then, or accept what may be "
                "another part with --accept-versions"
                for change in grave
            )
        )
    for change in mild + grave:
        _warn(f"{directory.path}: {change}; steps may differ from those of one run")


def _warn(text: str) -> None:
    warnings.warn(text, RunWarning, stacklevel=4)
