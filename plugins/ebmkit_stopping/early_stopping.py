"""Early stopping by a loss of rows that no step is trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from attrs import field
from attrs.validators import and_, ge

from ebmkit import Loss, Pipeline, Run, UserError, doc, hookimpl, whole


class StoppingError(UserError, ValueError):
    """A pipeline that cannot be stopped early as stated."""


@attrs.define(eq=False)
class EarlyStopping:
    """Early stopping: training ends where a loss of validation rows finds no new minimum.

    After every ``every``-th step the loss is taken of the model (with averaged weights, where an
    average is kept) on the dataset's validation rows, with the same draws each time. The weights at
    its least value are those that the run ends with, whether it was stopped or not, and ``kept_step``
    in ``evaluation.json`` says which step that was. Training ends at the first validation that is
    ``patience`` steps or more after it. Noise on the rows, and schedules of the loss, are those of the
    run's last step, so that all values compare.

    Raises StoppingError where the loss draws negatives, whose value does not say which of two models
    is better, and where a run is too short to be validated once; DataError where a finite dataset
    keeps no rows apart (``validation``).

    Source: Early Stopping – But When? (Prechelt, 1998).
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"patience": 2, "every": 2},)

    loss: Loss = field(
        metadata=doc("loss of the validation rows; by default the pipeline's own"),
    )
    patience: int = field(
        validator=and_(whole, ge(1)),
        metadata=doc("steps without a new minimum after which training ends, ≥ 1"),
    )
    every: int = field(
        default=10,
        validator=and_(whole, ge(1)),
        metadata=doc("steps between validations, ≥ 1"),
    )
    best: float = field(default=math.inf, init=False)
    best_step: int = field(default=0, init=False)

    def check(self, pipeline: Pipeline) -> None:
        if hasattr(self.loss, "sampler"):
            raise StoppingError(
                f"loss: {type(self.loss).__name__} compares the model with its own samples, so its "
                "value does not say which of two models is better; state another for the "
                'validation, as loss = { use = "denoising-score-matching" }'
            )
        steps = pipeline.training.steps or 0
        if self.every > steps:
            raise StoppingError(
                f"every: a validation each {self.every} steps comes after the run's end at {steps}; "
                "state fewer"
            )
        pipeline.validation_data(generator=pipeline.generator("validation data"))

    @hookimpl
    def run_start(self) -> None:
        self.best, self.best_step = math.inf, 0

    @hookimpl(tryfirst=True)
    def step_end(self, run: Run) -> None:
        if run.step % self.every:
            return
        value = run.pipeline.validate(self.loss)
        if value < self.best:
            self.best, self.best_step = value, run.step
            run.pipeline.keep_weights()
        elif run.step - self.best_step >= self.patience:
            run.stop(
                f"early-stopping: the validation loss was least, {self.best:.6g}, after step "
                f"{self.best_step}"
            )

    @hookimpl
    def save_state(self) -> Mapping[str, Any]:
        return {"best": self.best, "best_step": self.best_step}

    @hookimpl
    def load_state(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_step = state["best"], state["best_step"]
