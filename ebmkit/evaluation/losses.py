"""The value of a loss on rows that no step was trained on."""

from __future__ import annotations

import torch

from ebmkit.holding import evaluating
from ebmkit.objectives import Objective
from ebmkit.protocols import Batch, Loss, Model


def loss_on(
    loss: Loss, model: Model, batch: Batch, *, step: int, generator: torch.Generator
) -> dict[str, float]:
    """A loss of a model on a batch at a training step, from a fresh state of the loss, as ``loss``,
    and the metrics that it reports.

    Raises:
        DivergenceError: the loss is not finite.
    """
    with evaluating(model), torch.no_grad():
        objective = Objective(loss, model, generator=generator, compile="off")
        objective.step = step
        output = objective(batch)
    return {"loss": output.loss.item(), **{n: v.item() for n, v in output.metrics.items()}}
