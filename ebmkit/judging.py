"""A pipeline's model judged: the numbers, and the data and samples that they compare."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ebmkit import evaluation
from ebmkit.data import with_noise
from ebmkit.errors import DivergenceError
from ebmkit.holding import evaluating
from ebmkit.protocols import Batch, Loss, Model

if TYPE_CHECKING:
    from ebmkit.pipeline import Pipeline


def judge(pipeline: Pipeline) -> tuple[dict[str, Any], Batch, Batch | None]:
    """What ``Pipeline.judge`` does."""
    n, model = pipeline.evaluation.n_samples, pipeline.model
    data = pipeline.data(n, generator=pipeline.generator("evaluation"))
    samples: Batch | str = "there is no sampler to draw samples with"
    if pipeline.sampler is not None:
        try:
            samples = pipeline.sample_batch(n)
        except DivergenceError as error:
            samples = str(error)
    with evaluating(model):
        numbers = evaluation.judge(
            model,
            data,
            samples,
            getattr(pipeline.dataset, "log_density", None),
            pipeline.evaluation.loss,
            partial(last_loss, pipeline, model, data, "test loss"),
            annealing=evaluation.Annealing.asked(pipeline),
            sampler=pipeline.sampler,
        )
    if pipeline.trainer.kept is not None:
        numbers["kept_step"] = pipeline.trainer.kept_step
    numbers["chain_steps"] = pipeline.evaluation.chain_steps
    return numbers, data, None if isinstance(samples, str) else samples


def last_loss(
    pipeline: Pipeline, model: Model, batch: Batch, purpose: str, loss: Loss
) -> dict[str, float]:
    """A loss of the batch as it is at the run's last step: with the noise that this adds to the
    positives, and where the loss's own schedules end, so that values of all steps compare."""
    last, generator = max((pipeline.training.steps or 1) - 1, 0), pipeline.generator(purpose)
    batch = with_noise(batch, pipeline.trainer.data_noise(last), generator=generator)
    return evaluation.loss_on(loss, model, batch, step=last, generator=generator)
