"""Runs in TensorBoard."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
from attrs import field

from ebmkit import Run, UserError, doc
from ebmkit_tracking._tracker import Tracker, name_of, spec_of


@attrs.define(eq=False)
class TensorBoard(Tracker):
    """TensorBoard: event files that `tensorboard --logdir` shows.

    Metrics every ``training.log_every`` steps, as ``training/NAME``; numbers of each evaluation, as
    ``evaluation/NAME``; the resolved spec and how the run ended as texts, pictures as images. Takes
    part only in runs that state it. A run that is resumed goes on in the same folder, and TensorBoard
    shows nothing that was written after the checkpoint. Needs the extra ``tensorboard``.
    """

    package: ClassVar[str] = "tensorboard"

    directory: Path | None = field(
        default=None,
        metadata=doc(
            "log directory, in which each run has a folder of its own; by default event files are kept "
            "in the folder tensorboard of the run's directory"
        ),
    )
    _writer: Any = field(default=None, init=False)

    @staticmethod
    def examples(folder: Path) -> tuple[Mapping[str, Any], ...]:
        return ({"directory": folder},)

    def begin(self, run: Run, key: str | None) -> str:
        from torch.utils.tensorboard import SummaryWriter

        if self.directory is not None:
            key = key or _free(self.directory, name_of(run) or "run")
            place = self.directory / key
        elif run.directory is not None:
            key = "tensorboard"
            place = run.directory / key
        else:
            raise UserError(
                "hooks.tensorboard: the run is kept in memory only; state the directory of event files"
            )
        self._writer = SummaryWriter(str(place), purge_step=self._steps_before + 1)
        name, text = spec_of(run)
        self._writer.add_text(name, f"```\n{text}\n```", self._steps_before)
        return key

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)

    def picture(self, step: int, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(f"pictures/{path.stem}", pixels, step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def end(self, step: int, word: str) -> None:
        self._writer.add_text("status", word, step)
        self._writer.close()
        self._writer = None


def _free(directory: Path, name: str) -> str:
    """The first of NAME, NAME-2, … that no other run has there."""
    names = itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2)))
    return next(n for n in names if not (directory / n).exists())
