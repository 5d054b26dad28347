"""The run directory: resolved spec, metrics, checkpoints, evaluation, and how the run ended."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmkit.errors import DivergenceError, RunDirectoryError

if TYPE_CHECKING:
    from ebmkit.hooks import Hooks, Run
    from ebmkit.pipeline import Pipeline

SPEC, EVALUATION, STATUS = "spec.toml", "evaluation.json", "status.json"
CHECKPOINTS = "checkpoints"


class RunDirectory:
    """One run on disk. What is written here is written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keep = 3

    @classmethod
    def create(cls, path: Path, pipeline: Pipeline, *, force: bool = False) -> RunDirectory:
        """A new run directory with the resolved spec in it.

        ``force`` replaces a directory that holds a run; one that holds anything else is refused.

        Raises:
            RunDirectoryError: the directory exists, or cannot be written.
        """
        from ebmkit.checkpoint import write_atomically
        from ebmkit.spec import to_toml

        clear(path, force=force)
        try:
            (path / CHECKPOINTS).mkdir(parents=True)
            write_atomically(path / SPEC, to_toml(pipeline.tables).encode())
        except OSError as error:
            raise RunDirectoryError(
                f"{path}: cannot be written: {error.strerror or error}"
            ) from error
        directory = cls(path)
        directory.keep = pipeline.training.keep_checkpoints
        return directory

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """A run directory that is there.

        Raises:
            RunDirectoryError: there is no run.
        """
        if not (path / SPEC).is_file():
            raise RunDirectoryError(
                f"{path}: holds no run (there is no {SPEC} in it); expected a directory that "
                "`ebmkit train` wrote"
            )
        return cls(path)

    @contextmanager
    def watching(self, run: Run, hooks: Hooks) -> Iterator[None]:
        """Keeps the status file true, and the last state when the run ends or dies."""
        started = time.monotonic()

        def status(word: str, reason: str = "") -> None:
            seconds = round(time.monotonic() - started, 3)
            said = {"status": word, "step": run.step, "total_steps": run.total_steps}
            objective = run.pipeline.trainer.objective
            how = {
                "compile": objective.computation.decision,
                "compile_chains": objective.conduct.decision,
            }
            lost = objective.conduct.counts()
            self._write_json(STATUS, {**said, "seconds": seconds, "reason": reason, **how, **lost})

        status("running")
        try:
            yield
            self.save(run, hooks)
        except KeyboardInterrupt:
            status("interrupted", f"interrupted after step {run.step}")
            self.save(run, hooks)
            raise
        except DivergenceError as error:
            status("diverged", str(error))
            # The weights that led here may be the ones at fault: what is kept is what was good.
            if not self.checkpoints():
                self.save(run, hooks)
            raise
        except BaseException as error:
            status("failed", f"{type(error).__name__}: {error}")
            self.save(run, hooks)
            raise
        status("finished", run.stopped and f"after step {run.step}: {run.stopped}")

    def save(self, run: Run, hooks: Hooks) -> Path:
        """Write a checkpoint of the present step and drop all but the last ``keep``."""
        from ebmkit import checkpoint

        path = self.path / CHECKPOINTS / f"step-{run.step:08d}.safetensors"
        checkpoint.write(path, {**run.pipeline.state_dict(), "hooks": hooks.save_state(run)})
        for old in self.checkpoints()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted((self.path / CHECKPOINTS).glob("step-*.safetensors"))

    def write_evaluation(self, result: Mapping[str, Any]) -> None:
        self._write_json(EVALUATION, result)

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        from ebmkit.checkpoint import write_atomically

        write_atomically(self.path / name, (strict_json(value) + "\n").encode())


def strict_json(value: Any) -> str:
    """Strict JSON, in which a number that is not finite is null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def clear(path: Path, *, force: bool) -> None:
    """Make way for a run at ``path``.

    Raises:
        RunDirectoryError: something is there that may not be overwritten.
    """
    try:
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        if not force:
            raise RunDirectoryError(f"{path}: exists already; choose another --out, or --force")
        if not (path / SPEC).is_file():
            raise RunDirectoryError(
                f"{path}: exists and holds no run, so --force does not touch it; choose another --out"
            )
        shutil.rmtree(path)
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be used: {error.strerror or error}") from error
