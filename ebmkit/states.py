"""Whether data, model, loss and samplers are of the same kind of states, discrete or continuous."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ebmkit.asking import ask
from ebmkit.holding import evaluating
from ebmkit.layers import offered
from ebmkit.objectives import bind, conditional
from ebmkit.plan import Planner

_ROWS = 32
"""Rows of discrete data that model and samplers are tried on."""
_SAY_SO = "; data of zeros and ones have to say so, as by a dataset's discrete = true"


def samplers_of(sampler: Any, loss: Any, evaluation: Any = None) -> list[tuple[str, Any]]:
    """The pipeline's sampler, the loss's own and the one that anneals, where there are such, each
    with its path."""
    own, annealing = getattr(loss, "sampler", None), getattr(evaluation, "annealing_sampler", None)
    places = [("sampler", sampler)]
    if own is not sampler:
        places.append(("loss.sampler", own))
    if annealing is not sampler:
        places.append(("evaluation.annealing_sampler", annealing))
    return [(place, part) for place, part in places if part is not None]


def same_states(
    planner: Planner, dataset: Any, sampler: Any, loss: Any, evaluation: Any = None
) -> None:
    """Samplers move the kind of states that the data have, and the loss is one of that kind."""
    if dataset is None:
        return
    words = {True: "discrete", False: "continuous"}
    data = words[discrete(dataset)]
    for place, part in samplers_of(sampler, loss, evaluation):
        if data != (moved := words[discrete(part)]):
            planner.report(
                place,
                f"it moves {moved} states and the data are {data}; choose a sampler for {data} states"
                + ("" if discrete(dataset) else _SAY_SO),
            )
    loss_fits(planner, "loss", loss, dataset)


def loss_fits(planner: Planner, place: str, loss: Any, dataset: Any) -> bool:
    """Whether a loss is defined for the data's kind of states; reported where it is not."""
    fits = not (getattr(loss, "continuous", False) and discrete(dataset))
    if not fits:
        planner.report(
            place,
            f"{type(loss).__name__} is of continuous points alone and the data are discrete; choose "
            "a loss that compares the data with samples",
        )
    return fits


def model_fits(
    planner: Planner,
    dataset: Any,
    model: Any,
    sampler: Any,
    loss: Any,
    evaluation: Any,
    device: torch.device,
) -> None:
    """A discrete model is given discrete data of its categories, and samplers start at such."""
    if not discrete(dataset):
        if discrete(model):
            planner.report(
                "model",
                f"{type(model).__name__} is of discrete states and the data are continuous; choose a "
                f"model of continuous points{_SAY_SO}",
            )
        return
    batch = dataset.draw(_ROWS, generator=torch.Generator())
    x = batch.x.to(device)
    categories = offered(model, "categories")
    if categories is not None and not _one_hot(x, categories):
        planner.report(
            "model",
            f"{type(model).__name__} is of states one-hot along the last axis, of {categories} "
            f"categories, and rows of the data, of shape {tuple(x.shape[1:])}, are not; choose a "
            "model of bits, or data of categories",
        )
        return
    condition = None
    if batch.condition is not None and conditional(model):
        condition = batch.condition.to(device)
    for place, part in samplers_of(sampler, loss, evaluation):
        if not any(problem.path.startswith(place) for problem in planner.problems):
            with evaluating(model):
                ask(planner, place, part, "init", bind(model, condition), x)


def discrete(part: Any) -> bool:
    """Whether a part says that its states are discrete."""
    return bool(offered(part, "discrete"))


def _one_hot(x: Tensor, categories: int) -> bool:
    if x.ndim < 2 or x.shape[-1] != categories:
        return False
    return bool((((x == 0) | (x == 1)).all()) & (x.sum(-1) == 1).all())
