"""The numbers that judge a trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ebmkit.errors import DivergenceError, EvaluationError, UserError
from ebmkit.evaluation.bases import States
from ebmkit.evaluation.likelihood import Annealing, likelihood
from ebmkit.evaluation.losses import loss_on
from ebmkit.evaluation.quadrature import kl_divergence
from ebmkit.evaluation.two_sample import auroc, mmd2
from ebmkit.objectives import bind
from ebmkit.protocols import Batch, Energy, Loss, Model, Sampler

__all__ = ["Annealing", "judge", "loss_on"]


def judge(
    model: Model,
    data: Batch,
    samples: Batch | str,
    log_density: Energy | None,
    loss: Loss | None = None,
    test: Callable[[Loss], Mapping[str, float]] | None = None,
    annealing: Annealing | None = None,
    sampler: Sampler | None = None,
) -> dict[str, Any]:
    """All numbers that apply, by name; ``refused`` says why one is missing.

    ``log_density`` is the data's, where it is known; ``samples`` are the model's, or why there
    are none; ``test`` takes ``loss`` of the data, where one is asked for; ``annealing`` says how
    log Z is bracketed, where that is asked for; ``sampler`` says that points are discrete where the
    model does not.
    """
    states = States.of(model, sampler, annealing and annealing.sampler)
    numbers: dict[str, Any] = {}
    refused: dict[str, str] = {}
    if log_density is None:
        refused["kl_nats"] = "the data's density is not known"
    elif data.x.shape[1:] != (2,) or data.condition is not None or states.discrete:
        refused["kl_nats"] = "quadrature is for unconditional models of continuous 2-D data"
    else:
        try:
            numbers |= kl_divergence(log_density, model, data.x)._asdict()
        except EvaluationError as error:
            refused["kl_nats"] = str(error)
    found, missing = likelihood(model, data, samples, numbers, annealing, states)
    numbers |= found
    refused |= missing
    if isinstance(samples, str):
        refused["auroc"] = refused["mmd2"] = samples
    else:
        with torch.no_grad():
            of_data = bind(model, data.condition)(data.x)
            of_samples = bind(model, samples.condition)(samples.x)
        numbers["energy_gap"] = float(of_samples.double().mean() - of_data.double().mean())
        numbers["auroc"] = auroc(of_samples, of_data)
        try:
            numbers["mmd2"], numbers["mmd2_kernel"] = mmd2(data.x, samples.x)
        except EvaluationError as error:
            refused["mmd2"] = str(error)
        numbers["n_samples"] = len(samples.x)
    if loss is not None and test is not None:
        try:
            taken = test(loss)
            numbers["test_loss"] = taken["loss"]
            numbers["test_loss_error"] = taken.get("loss_standard_error")
            if numbers["test_loss_error"] is None:
                refused["test_loss_error"] = "the loss reports no metric loss_standard_error"
        except (DivergenceError, UserError) as error:
            refused["test_loss"] = str(error)
    return {**numbers, "refused": refused} if refused else numbers
