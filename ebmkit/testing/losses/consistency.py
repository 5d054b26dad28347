"""Losses against answers that are known, on Gaussians of unknown mean and precision.

Means are over ``RUNS`` independent runs, each of a fresh loss, batch and draws, and compared in
standard errors of their own. Each test's false-alarm rate is ``FALSE_ALARM``, by Student's law.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ebmkit.protocols import Batch
from ebmkit.testing import reference
from ebmkit.testing.laws import Cases, law
from ebmkit.testing.losses.trainees import (
    Family,
    batch_size,
    bound,
    discrete,
    gradients,
    tensors_in,
)
from ebmkit.testing.subject import Subject

FALSE_ALARM = 1e-8
"""Of each test."""
RUNS, DEVIATIONS = 24, 8.70
"""Standard errors that a mean of so many runs is beyond with that probability, on either side."""
FEW_RUNS, FEW_DEVIATIONS = 12, 14.3
"""And of so few, below."""
ROWS, MORE_ROWS = 512, 2048
"""Of a batch, for losses that carry a state and for others, which take less time."""
VISITS = 5
"""Times that each chain which is kept has been moved, on average, before a loss is looked at, so that
chains are the model's."""
TRUTH = (0.2, 0.3)
"""λ and μ of the data."""
ELSEWHERE = ((-0.5, 0.3), (0.2, 1.3))
"""And of models off the data."""


def _seen(
    subject: Subject, cases: Cases, at: tuple[float, float], runs: int = RUNS
) -> tuple[Tensor, Tensor]:
    """Losses (runs,) and gradients (runs, 2) at some λ and μ, the data being the same at all."""
    shape, (size, steps) = subject.shapes[0], _extent(subject)
    model, data = Family(*at), Family(*TRUTH)
    losses, found = [], []
    for run in range(runs):
        objective = bound(subject, model, 7919 * cases.seed + run, shape)
        generator = reference.generator(104729 * (cases.seed + 1) + run)
        for objective.step in range(steps):
            batch = Batch(data.draws(size, shape, generator))
            draws, objective.state = objective.draw(batch)
        value, _ = objective.loss(model, batch, draws)
        losses.append(value.detach())
        found.append(torch.stack(gradients(value, model)))
    return torch.stack(losses), torch.stack(found)


def _extent(subject: Subject) -> tuple[int, int]:
    """Rows of a batch, and steps up to the one that is looked at."""
    shape = subject.shapes[0]
    objective = bound(subject, Family(*TRUTH), 0, shape)
    _, state = objective.draw(Batch(Family(*TRUTH).draws(2, shape, reference.generator(0))))
    if not any(True for _ in tensors_in(state)):
        return batch_size(subject, MORE_ROWS), 1
    size = batch_size(subject, ROWS)
    kept = len(objective.loss.chains(state).x) if hasattr(objective.loss, "chains") else size
    return size, 1 + VISITS * math.ceil(kept / size)


def _mean(values: Tensor) -> tuple[float, float]:
    """And its standard error, never less than rounding."""
    error = float(values.std()) / math.sqrt(len(values))
    return float(values.mean()), max(error, 1e-12 * (1 + float(values.abs().max())))


def _claims_consistent(subject: Subject) -> str:
    if said := discrete(subject):
        return said
    if getattr(subject.make(), "consistent", True) is False:
        return "it says by consistent = False that its best model is not the data's distribution"
    return ""


@law(
    "loss",
    why="A loss is of use because a model that is right is where training stops.",
    means="training ends at a model that is not the data's distribution, with any amount of data",
    applies=_claims_consistent,
)
def gradient_vanishes_at_the_data(subject: Subject, cases: Cases) -> None:
    with cases.case(_said(subject, TRUTH)):
        _, found = _seen(subject, cases, TRUTH)
        for name, values in zip(("log precision", "mean"), found.unbind(1), strict=True):
            mean, error = _mean(values)
            cases.expect(
                abs(mean) <= DEVIATIONS * error,
                f"mean gradient in the {name}, the model being the data's distribution: expected 0, "
                f"got {mean:.5f} ± {error:.5f} ({abs(mean) / error:.1f} standard errors; "
                f"{DEVIATIONS} have a false-alarm rate of {FALSE_ALARM:.0e}). A loss that adds noise "
                "to the data gives a model that says noise_conditional = True its noise_level; one "
                "that is biased by design says consistent = False",
            )


@law(
    "loss",
    why="Training goes down the gradient, and has to come nearer to the data by that.",
    means="training drives the model away from the data",
    applies=discrete,
)
def gradient_leads_to_the_data(subject: Subject, cases: Cases) -> None:
    for at in ELSEWHERE:
        with cases.case(_said(subject, at, FEW_RUNS)):
            _, found = _seen(subject, cases, at, FEW_RUNS)
            away = torch.tensor(at, dtype=found.dtype) - torch.tensor(TRUTH, dtype=found.dtype)
            mean, error = _mean(found @ away)
            cases.expect(bool(found.any()), "expected a gradient, got zeros")
            cases.expect(
                mean > -FEW_DEVIATIONS * error,
                f"the slope away from the data: expected more than 0, got {mean:.5f} ± {error:.5f}",
            )


def _claims_closed_form(subject: Subject) -> str:
    if said := discrete(subject):
        return said
    claimed = getattr(subject.make(), "estimates", None)
    if claimed is None:
        return "it does not say by estimates what its mean is"
    return "" if claimed in CLOSED_FORMS else f"the kit knows no closed form of {claimed!r}"


def _score_matching(at: tuple[float, float], size: int) -> float:
    """½ E‖s‖² + E tr ∇s of events of so many numbers."""
    precision, off = math.exp(at[0]), TRUTH[1] - at[1]
    return size * (precision**2 * (math.exp(-TRUTH[0]) + off**2) / 2 - precision)


CLOSED_FORMS: dict[str, Any] = {"score-matching": _score_matching}
"""By what a loss says that it estimates: its mean at λ and μ, up to a constant of the data."""


@law(
    "loss",
    why="Losses of one mean can stand for each other, and be compared.",
    means="the loss weighs its terms wrongly, and what is learned is too wide or too narrow",
    applies=_claims_closed_form,
)
def mean_is_what_it_estimates(subject: Subject, cases: Cases) -> None:
    claimed = subject.make().estimates
    size = math.prod(subject.shapes[0])
    at_truth, _ = _seen(subject, cases, TRUTH)
    form = CLOSED_FORMS[claimed]
    for at in ELSEWHERE:
        with cases.case(_said(subject, at)):
            mean, error = _mean(_seen(subject, cases, at)[0] - at_truth)
            expected = form(at, size) - form(TRUTH, size)
            cases.expect(
                abs(mean - expected) <= DEVIATIONS * error,
                f"mean loss less that at the data's distribution: expected {expected:.5f}, by "
                f"{claimed}, got {mean:.5f} ± {error:.5f}",
            )


def _said(subject: Subject, at: tuple[float, float], runs: int = RUNS) -> str:
    size, _ = _extent(subject)
    return (
        f"E = ½ e^λ ‖x − μ‖² at λ = {at[0]}, μ = {at[1]}, data of λ = {TRUTH[0]}, μ = {TRUTH[1]}; "
        f"{runs} runs of {size} events of shape {subject.shapes[0]}"
    )
