"""A progress bar on a terminal, ten plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ebmkit import Run, hookimpl

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

SHOWN = ("loss", "energy_gap", "score_norm", "acceptance_rate")
SECONDS_BETWEEN_READINGS = 0.25


class Progress:
    """Shows how far training is, and its last metrics, on standard error."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._read_at = 0.0

    @hookimpl
    def run_start(self, run: Run) -> None:
        # A console calls itself a terminal wherever FORCE_COLOR is set, as in notebooks and on CI.
        if not sys.stderr.isatty():
            return
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("training"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[shown]}"),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("training", total=run.total_steps, shown="")
        self._bar.update(self._task, completed=run.step)
        self._bar.start()

    @hookimpl
    def step_end(self, run: Run, metrics: Mapping[str, Tensor]) -> None:
        last = run.ending
        if self._bar is not None and self._task is not None:
            # Reading a metric may wait for the device, so it is done a few times a second only.
            if last or time.monotonic() - self._read_at > SECONDS_BETWEEN_READINGS:
                self._read_at = time.monotonic()
                self._bar.update(self._task, completed=run.step, shown=_line(metrics))
        elif last or run.step % max(run.total_steps // 10, 1) == 0:
            sys.stderr.write(f"step {run.step}/{run.total_steps}  {_line(metrics)}\n")

    @hookimpl
    def run_end(self, run: Run, error: BaseException | None) -> None:  # noqa: ARG002
        if self._bar is not None:
            self._bar.stop()
        self._bar = None


def _line(metrics: Mapping[str, Tensor]) -> str:
    return "  ".join(f"{name} {float(metrics[name]):.4g}" for name in SHOWN if name in metrics)
