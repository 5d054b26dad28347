"""Metrics as JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import IO

from torch import Tensor

from ebmkit import Run, hookimpl

FILE = "metrics.jsonl"


class MetricsWriter:
    """Writes metrics.jsonl into the run directory, one record every `training.log_every` steps."""

    def __init__(self) -> None:
        self._file: IO[str] | None = None
        self._started = 0.0

    @hookimpl
    def run_start(self, run: Run) -> None:
        self._started = time.monotonic()
        if run.directory is not None:
            # Line by line, so that a run that dies leaves all but its last record.
            self._file = (run.directory / FILE).open("a", buffering=1, encoding="utf-8")

    @hookimpl
    def step_end(self, run: Run, metrics: Mapping[str, Tensor]) -> None:
        due = run.ending or run.step % run.pipeline.training.log_every == 0
        if self._file is None or not due:
            return
        seconds = round(time.monotonic() - self._started, 3)
        values = {name: float(value) for name, value in metrics.items()}
        self._file.write(json.dumps({"step": run.step, "seconds": seconds, **values}) + "\n")

    @hookimpl
    def run_end(self, run: Run, error: BaseException | None) -> None:  # noqa: ARG002
        if self._file is not None:
            self._file.close()
            self._file = None
