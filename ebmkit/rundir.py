"""The run directory: resolved spec, metrics, checkpoints, evaluation, and how the run ended."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmkit.errors import DivergenceError, RunDirectoryError
from ebmkit.files import PARTIAL, expect_own_files, write_atomically

if TYPE_CHECKING:
    import torch
    from filelock import FileLock

    from ebmkit.hooks import Hooks, Run
    from ebmkit.pipeline import Pipeline

SPEC, EVALUATION, STATUS = "spec.toml", "evaluation.json", "status.json"
LOCK = ".lock"
CHECKPOINTS = "checkpoints"


class RunDirectory:
    """One run on disk. What is written here is written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keep = 3
        self._held: FileLock | None = None

    @classmethod
    def create(cls, path: Path, pipeline: Pipeline, *, force: bool = False) -> RunDirectory:
        """A new run directory with the resolved spec in it.

        ``force`` replaces a directory that holds a run; one that holds anything else is refused.

        Raises:
            RunDirectoryError: the directory exists, or cannot be written.
        """
        clear(path, force=force)
        try:
            (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(
                f"{path}: cannot be written: {error.strerror or error}"
            ) from error
        directory = cls(path)._for(pipeline)
        directory._lock()
        # Last, for it is what makes the directory a run.
        write_atomically(path / SPEC, _toml(pipeline))
        return directory

    @classmethod
    def reopen(cls, path: Path, pipeline: Pipeline) -> RunDirectory:
        """The directory of a run that goes on, with what a killed process left half written removed.

        Raises:
            RunDirectoryError: there is no run, or the directory cannot be written.
        """
        directory = cls.open(path)._for(pipeline)
        directory._lock()
        if (path / SPEC).read_bytes() != (content := _toml(pipeline)):
            write_atomically(path / SPEC, content)
        for folder in (path, path / CHECKPOINTS):
            for torn in folder.glob(f".*{PARTIAL}"):
                with contextlib.suppress(OSError):
                    torn.unlink()
        return directory

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """A run directory that is there.

        Raises:
            RunDirectoryError: there is no run, or something in it is a link to another place.
        """
        if not (path / SPEC).is_file():
            raise RunDirectoryError(
                f"{path}: holds no run (there is no {SPEC} in it); expected a directory that "
                "`ebmkit train` wrote"
            )
        for folder in (path, path / CHECKPOINTS):
            expect_own_files(folder, path.resolve())
        return cls(path)

    def _lock(self) -> None:
        """Have the run to oneself until ``close``; the system unlocks it when a process dies."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunDirectoryError(
                f"{self.path}: another process is training this run; wait for its end, or end it"
            ) from None
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path}: cannot be written: {error.strerror or error}"
            ) from error
        self._held = lock

    def close(self) -> None:
        """Let other processes have the run."""
        if self._held is not None:
            self._held.release()
            self._held = None

    def _for(self, pipeline: Pipeline) -> RunDirectory:
        self.keep = pipeline.training.keep_checkpoints
        return self

    @contextmanager
    def watching(self, run: Run, hooks: Hooks) -> Iterator[None]:
        """Keeps the status file true, and the last state when the run ends or dies."""
        from ebmkit.starting import launch

        started = time.monotonic()
        trainer, ranks = run.pipeline.trainer, run.pipeline.ranks

        def status(word: str, reason: str = "") -> None:
            seconds = round(time.monotonic() - started, 3)
            said = {"status": word, "step": run.step, "total_steps": run.total_steps}
            how = {
                "compile": trainer.objective.computation.decision,
                "compile_chains": trainer.objective.conduct.decision,
            }
            several = {"processes": ranks.size, "launch": launch()} if launch() else {}
            counts = trainer.counts()
            self._write_json(
                STATUS, {**said, "seconds": seconds, "reason": reason, **how, **counts, **several}
            )

        def dying(error: BaseException, word: str, reason: str, *, save: bool = True) -> None:
            # What fails here must not hide why the run ends. A step that was cut off while weights
            # were updated leaves nothing to go on from.
            try:
                status(word, reason)
            except Exception as failure:
                error.add_note(f"the last state could not be kept: {failure}")
                save = False
            try:
                if trainer.whole and ranks.in_step(error) and ranks.from_lead(save):
                    self.save(run, hooks)
            except Exception as failure:
                error.add_note(f"the last state could not be kept: {failure}")

        status("running")
        try:
            yield
        except KeyboardInterrupt as error:
            dying(error, "interrupted", f"interrupted after step {run.step}")
            raise
        except DivergenceError as error:
            # The weights that led here may be the ones at fault: what is kept is what was good.
            dying(error, "diverged", str(error), save=not self.checkpoints())
            raise
        except BaseException as error:
            dying(error, "failed", f"{type(error).__name__}: {error}")
            raise
        status("finished", run.stopped and f"after step {run.step}: {run.stopped}")

    def save(self, run: Run, hooks: Hooks) -> Path:
        """Write a checkpoint of the present step and drop all but the last ``keep``.

        Raises:
            RunDirectoryError: it cannot be written; those before it stay as they are.
        """
        from ebmkit import checkpoint
        from ebmkit.provenance import made_by

        path = self.path / CHECKPOINTS / f"step-{run.step:08d}.safetensors"
        state = {
            **run.pipeline.state_dict(),
            "hooks": hooks.save_state(run),
            "made_by": made_by(),
        }
        checkpoint.write(path, state)
        for old in self.checkpoints()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def forget_after(self, step: int) -> None:
        """Drop the checkpoints of steps after ``step``: those of a path that was given up."""
        for path in self.checkpoints():
            if step_of(path) > step:
                path.unlink(missing_ok=True)

    def checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first."""
        found = (self.path / CHECKPOINTS).glob("step-*.safetensors")
        return sorted((path for path in found if step_of(path) >= 0), key=step_of)

    def newest(
        self, device: torch.device | str = "cpu", *, before: int | None = None
    ) -> tuple[Path, Any, list[str]] | None:
        """The newest checkpoint that can be read, what is in it, and why newer ones cannot; None where
        there is no file of one. ``before`` a step, or the oldest where none is.

        Raises:
            RunDirectoryError: there are such files, and none of them can be read.
        """
        from ebmkit import checkpoint

        reasons: list[str] = []
        kept = self.checkpoints()
        older = [path for path in kept if before is None or step_of(path) < before]
        for path in (*reversed(older), *(path for path in kept if path not in older)):
            try:
                return path, checkpoint.read(path, device), reasons
            except RunDirectoryError as error:
                reasons.append(str(error))
        if reasons:
            raise RunDirectoryError("\n".join(reasons))
        return None

    def status(self) -> dict[str, Any]:
        """How the run stands, by its status file; empty where that cannot be read."""
        try:
            said = json.loads((self.path / STATUS).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return said if isinstance(said, dict) else {}

    def write_evaluation(self, result: Mapping[str, Any]) -> None:
        self._write_json(EVALUATION, result)

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        write_atomically(self.path / name, (strict_json(value) + "\n").encode())


def step_of(path: Path) -> int:
    """The step that a checkpoint's name tells; -1 where it tells none."""
    digits = path.name.removeprefix("step-").removesuffix(".safetensors")
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def _toml(pipeline: Pipeline) -> bytes:
    from ebmkit.spec import to_toml

    return to_toml(pipeline.tables).encode()


def strict_json(value: Any) -> str:
    """Strict JSON, in which a number that is not finite is null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _free(path: Path) -> bool:
    """Whether nothing is in a directory but what a run that was killed at its very start leaves."""
    left = [p for p in path.iterdir() if p.name != LOCK and not p.name.endswith(PARTIAL)]
    return all(p.name == CHECKPOINTS and p.is_dir() and not any(p.iterdir()) for p in left)


def clear(path: Path, *, force: bool) -> None:
    """Make way for a run at ``path``.

    Raises:
        RunDirectoryError: something is there that may not be overwritten.
    """
    try:
        if not path.exists() or (path.is_dir() and _free(path)):
            return
        if not force:
            raise RunDirectoryError(
                f"{path}: exists already; choose another out, or force it (--force)"
            )
        if not (path / SPEC).is_file():
            raise RunDirectoryError(
                f"{path}: exists and holds no run, so --force does not touch it; choose another out"
            )
        held = RunDirectory(path)
        held._lock()
        shutil.rmtree(path)
        held.close()
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be used: {error.strerror or error}") from error
