"""Runs in Weights & Biases."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
from attrs import field
from attrs.validators import in_, optional

from ebmkit import Run, doc
from ebmkit_tracking._tracker import WORDS, Tracker, name_of


@attrs.define(eq=False)
class WandB(Tracker):
    """Weights & Biases: a run there for each run here.

    Metrics every ``training.log_every`` steps, as ``training/NAME``; numbers of each evaluation, as
    ``evaluation/NAME``; all of them over ``step``. The resolved spec is the configuration, pictures are
    images, and how the run ended is a tag and the summary's ``status``. Takes part only in runs that
    state it. A run that is resumed goes on under the same id; what was written after the checkpoint is
    written a second time. Whatever else W&B can be told, its environment variables say. Needs the extra
    ``wandb``.
    """

    package: ClassVar[str] = "wandb"

    project: str = field(metadata=doc("project that the run belongs to"))
    name: str | None = field(
        default=None, metadata=doc("the run's name; by default that of its directory")
    )
    mode: Literal["online", "offline", "disabled"] | None = field(
        default=None,
        validator=optional(in_(("online", "offline", "disabled"))),
        metadata=doc(
            "online, offline (files that `wandb sync` sends later) or disabled; by default what W&B's "
            "settings say"
        ),
    )
    directory: Path | None = field(
        default=None,
        metadata=doc(
            "where W&B keeps its files, in a folder wandb; by default the run's directory"
        ),
    )
    _run: Any = field(default=None, init=False)

    @staticmethod
    def examples(folder: Path) -> tuple[Mapping[str, Any], ...]:
        return ({"project": "ebmkit", "mode": "offline", "directory": folder},)

    def begin(self, run: Run, key: str | None) -> str:
        import wandb

        exit_before, excepthook_before = sys.exit, sys.excepthook
        self._run = wandb.init(
            project=self.project,
            name=self.name or name_of(run),
            id=key,
            resume=None if key is None else "allow",
            mode=self.mode,
            dir=self.directory or run.directory,
            config=dict(run.pipeline.tables),
            # A run that the caller has open stays as it is, and so do the standard streams.
            reinit="create_new",
            settings=wandb.Settings(console="off"),
        )
        # W&B puts its own in their place for good, to learn how a process ends; `end` tells it.
        sys.exit, sys.excepthook = exit_before, excepthook_before
        # W&B's own steps only ever grow, and a resumed run begins with steps that were done before.
        self._run.define_metric("*", step_metric="step")
        return str(self._run.id)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log({"step": step, **numbers})

    def picture(self, step: int, path: Path) -> None:
        import wandb

        self._run.log({"step": step, f"pictures/{path.stem}": wandb.Image(str(path))})

    def end(self, step: int, word: str) -> None:  # noqa: ARG002
        # Of a run that goes on, the tag says how it ended before.
        self._run.tags = (*(tag for tag in self._run.tags or () if tag not in WORDS), word)
        self._run.summary["status"] = word
        self._run.finish(exit_code=int(word != "finished"))
        self._run = None
