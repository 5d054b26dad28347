"""Metrics as JSON lines."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from ebmkit import Run, UserError, hookimpl

FILE = "metrics.jsonl"


class MetricsWriter:
    """Writes metrics.jsonl into the run directory, one record every `training.log_every` steps.

    A run that goes on after a checkpoint drops the records of later steps, which it takes again. One
    that goes back after a divergence keeps them: `rollbacks` tells them apart.
    """

    def __init__(self) -> None:
        self._file: IO[str] | None = None
        self._path = Path(FILE)
        self._started = 0.0

    @hookimpl
    def run_start(self, run: Run) -> None:
        self._started = time.monotonic()
        if run.directory is None:
            return
        self._path = run.directory / FILE
        with self._writing():
            if self._path.is_file():
                self._started -= cut_back(self._path, run.step, run.pipeline.trainer.rollbacks)
            # Line by line, so that a run that dies leaves all but its last record.
            self._file = self._path.open("a", buffering=1, encoding="utf-8")

    @hookimpl
    def step_end(self, run: Run, metrics: Mapping[str, Tensor]) -> None:
        due = run.ending or run.step % run.pipeline.training.log_every == 0
        if self._file is None or not due:
            return
        seconds = round(time.monotonic() - self._started, 3)
        values = {name: float(value) for name, value in metrics.items()}
        with self._writing():
            self._file.write(json.dumps({"step": run.step, "seconds": seconds, **values}) + "\n")

    @hookimpl
    def run_end(self, run: Run, error: BaseException | None) -> None:  # noqa: ARG002
        if self._file is not None:
            file, self._file = self._file, None
            with self._writing():
                file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._path}: cannot be written: {error.strerror or error}; the run can go on from "
                "its last checkpoint once it can"
            ) from error


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file; a line that was not written to its end is left out."""
    found = (_record(line) for line in path.read_bytes().splitlines())
    return [record for record in found if record is not None]


def cut_back(path: Path, step: int, rollbacks: int) -> float:
    """Cut a file's end off that a run at ``step`` after so many rollbacks does not have behind it: the
    records of later steps, and a line that was not written to its end. The last record's seconds."""
    kept, seconds = 0, 0.0
    with path.open("rb") as stream:
        for line in stream:
            record = _record(line)
            if record is None or not line.endswith(b"\n"):
                break
            if (record.get("rollbacks", 0), record["step"]) > (rollbacks, step):
                break
            kept += len(line)
            seconds = record.get("seconds", 0.0)
    os.truncate(path, kept)
    return seconds


def _record(line: bytes) -> dict[str, Any] | None:
    """The numbers of a line; None where it tells no step."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    record = {key: value for key, value in record.items() if _is_number(value)}
    return record if isinstance(record.get("step"), int) else None


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**63
