"""A run's directory as those processes see it that write nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmkit.rundir import RunDirectory

if TYPE_CHECKING:
    from ebmkit.hooks import Hooks, Run


class Following(RunDirectory):
    """The directory of a run that another process keeps: this one gives its part of what is kept, and
    reads what was."""

    @contextmanager
    def watching(self, run: Run, hooks: Hooks) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            ranks = run.pipeline.ranks
            with contextlib.suppress(Exception):
                if ranks.in_step(error) and ranks.from_lead(None):
                    self.save(run, hooks)
            raise

    def save(self, run: Run, hooks: Hooks) -> Path:  # noqa: ARG002
        run.pipeline.state_dict()
        return self.path

    def forget_after(self, step: int) -> None:
        pass

    def write_evaluation(self, result: Mapping[str, Any]) -> None:
        pass
