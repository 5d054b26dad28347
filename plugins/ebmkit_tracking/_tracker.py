"""What trackers have in common: when what is written, and how a tracked run goes on after a resume."""

from __future__ import annotations

import abc
import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
from attrs import field
from torch import Tensor

from ebmkit import DivergenceError, Pipeline, Run, UserError, hookimpl

WORDS = ("finished", "interrupted", "diverged", "failed")
"""How a run ends."""
PNG_END = b"IEND\xaeB`\x82"


@attrs.define(eq=False)
class Tracker(abc.ABC):
    """Writes a run's metrics every ``training.log_every`` steps, as ``training/NAME``, the numbers of
    each evaluation, as ``evaluation/NAME``, and at the end its pictures and how it ended.

    The tracked run begins after the first step, for only then is it known whether it is one that goes
    on; its key stands in every checkpoint.
    """

    stated_only: ClassVar[bool] = True
    package: ClassVar[str]
    """What has to be installed, and the extra of ebmkit-core that installs it."""

    _key: str | None = field(default=None, init=False)
    _asked: bool = field(default=False, init=False)
    _open: bool = field(default=False, init=False)
    _steps_before: int = field(default=0, init=False)
    """Steps that were done when this process took the run up."""

    @abc.abstractmethod
    def begin(self, run: Run, key: str | None) -> str:
        """Open the tracked run of that key, or a new one, with the resolved spec as its configuration;
        its key."""

    @abc.abstractmethod
    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers of a step."""

    @abc.abstractmethod
    def picture(self, step: int, path: Path) -> None:
        """Keep a picture, a PNG file of the run's directory."""

    @abc.abstractmethod
    def end(self, step: int, word: str) -> None:
        """Say how the run ended, and close it."""

    def flush(self) -> None:  # noqa: B027
        """Have what was logged outlive this process; of most trackers it does anyway."""

    def check(self, pipeline: Pipeline) -> None:  # noqa: ARG002
        if importlib.util.find_spec(self.package) is None:
            raise UserError(
                f"needs the package {self.package}, which is not installed; "
                f'pip install "ebmkit-core[{self.package}]" installs it'
            )

    @hookimpl
    def run_start(self, run: Run) -> None:
        self._key, self._asked, self._open = None, False, False
        self._steps_before = run.step

    @hookimpl
    def load_state(self, state: Mapping[str, Any]) -> None:
        # A run that goes back after a divergence stays the tracked run that it is.
        if not self._asked:
            self._key = state["key"]

    @hookimpl
    def save_state(self) -> Mapping[str, Any]:
        if self._open:
            self.flush()
        return {"key": self._key}

    @hookimpl
    def step_end(self, run: Run, metrics: Mapping[str, Tensor]) -> None:
        self._begin(run)
        if run.ending or run.step % run.pipeline.training.log_every == 0:
            self.log(run.step, {f"training/{n}": float(value) for n, value in metrics.items()})

    @hookimpl
    def evaluation_done(self, run: Run, result: Mapping[str, Any]) -> None:
        self._begin(run)
        numbers = {f"evaluation/{n}": float(v) for n, v in result.items() if _number(v)}
        del numbers["evaluation/step"]
        self.log(run.step, numbers)

    @hookimpl(trylast=True)  # after the pictures are drawn
    def run_end(self, run: Run, error: BaseException | None) -> None:
        if not self._asked:
            self._begin(run)
        if not self._open:
            return
        if run.directory is not None:
            for path in sorted(run.directory.glob("*.png")):
                # One that a killed process began has no end.
                if path.read_bytes().endswith(PNG_END):
                    self.picture(run.step, path)
        self._open = False
        self.end(run.step, _ended(error))

    def _begin(self, run: Run) -> None:
        if not self._asked:
            self._asked = True
            self._key = self.begin(run, self._key)
            self._open = True


def spec_of(run: Run) -> tuple[str, str]:
    """The resolved spec of a run, as the name of a file and its text."""
    if run.directory is not None:
        return "spec.toml", (run.directory / "spec.toml").read_text(encoding="utf-8")
    return "spec.json", json.dumps(run.pipeline.tables, indent=2, default=str)


def name_of(run: Run) -> str | None:
    """What a run is called: as its directory."""
    return None if run.directory is None else run.directory.resolve().name


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ended(error: BaseException | None) -> str:
    """How a run ended, in the words of its status."""
    if error is None:
        return "finished"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "diverged" if isinstance(error, DivergenceError) else "failed"
