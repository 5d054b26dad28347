"""The numbers that judge a trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ebmkit.errors import EvaluationError
from ebmkit.evaluation.quadrature import kl_divergence
from ebmkit.evaluation.two_sample import auroc, mmd2
from ebmkit.objectives import bind
from ebmkit.protocols import Batch

if TYPE_CHECKING:
    from ebmkit.pipeline import Pipeline


class Judgement(NamedTuple):
    """The numbers, and what they compare."""

    numbers: dict[str, Any]
    data: Batch
    samples: Batch | None


def judge(pipeline: Pipeline) -> Judgement:
    """All numbers that apply to a pipeline, by name; ``refused`` says why one is missing."""
    samples: Batch | None = None
    result: dict[str, Any] = {}
    refused: dict[str, str] = {}
    generator = pipeline.generator("evaluation")
    n = pipeline.evaluation.n_samples
    data = pipeline.data(n, generator=generator)
    log_density = getattr(pipeline.dataset, "log_density", None)
    if log_density is None:
        refused["kl_nats"] = "the data's density is not known"
    elif tuple(pipeline.dataset.event_shape) != (2,) or pipeline.conditional:
        refused["kl_nats"] = "quadrature is for unconditional models of 2-D data"
    else:
        try:
            result |= kl_divergence(log_density, pipeline.model, data.x)._asdict()
        except EvaluationError as error:
            refused["kl_nats"] = str(error)
    if pipeline.sampler is None:
        refused["auroc"] = refused["mmd2"] = "the pipeline has no sampler to draw samples with"
    else:
        samples = pipeline.sample_batch(n)
        of_data = bind(pipeline.model, data.condition)(data.x).detach()
        of_samples = bind(pipeline.model, samples.condition)(samples.x).detach()
        result["energy_gap"] = float(of_samples.double().mean() - of_data.double().mean())
        result["auroc"] = auroc(of_samples, of_data)
        result["mmd2"], result["mmd2_kernel"] = mmd2(data.x, samples.x)
        result["n_samples"] = n
        result["chain_steps"] = pipeline.evaluation.chain_steps
    return Judgement({**result, "refused": refused} if refused else result, data, samples)
