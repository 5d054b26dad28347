"""Losses: what holds of each at fixed draws, and what they leave as it was."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from ebmkit.protocols import Batch
from ebmkit.testing import reference
from ebmkit.testing.laws import Cases, law
from ebmkit.testing.losses.trainees import (
    batch_of,
    batch_size,
    bound,
    discrete,
    gradients,
    rows_taken,
    same_tensors,
    suited,
    tensors_in,
)
from ebmkit.testing.reference import Network
from ebmkit.testing.subject import Subject

ROWS = 13
"""Of a batch whose rows are told apart from other dimensions of draws by their number."""


def network(
    subject: Subject,
    shape: tuple[int, ...],
    seed: int,
    dtype: torch.dtype = torch.float64,
    told: bool = False,
) -> nn.Module:
    return suited(subject, Network(shape, seed=seed).to(dtype), told)


def _random_state() -> list[Any]:
    import numpy as np

    return [torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())]  # noqa: NPY002


@law(
    "loss",
    why="Training adds up losses, logs metrics, and runs on whatever batch, dtype and condition "
    "a pipeline states.",
    means="training stops, or a metric keeps each step's graph in memory until it is full",
    applies=discrete,
)
def loss_and_metrics_are_numbers(subject: Subject, cases: Cases) -> None:
    from hypothesis import given, settings
    from hypothesis import strategies as st

    sizes = sorted({1, 2, batch_size(subject, ROWS)})

    @settings(derandomize=True, deadline=None, database=None, max_examples=16)
    @given(
        st.sampled_from(subject.shapes),
        st.sampled_from(sizes),
        st.sampled_from([torch.float32, torch.float64]),
        st.booleans(),
    )
    def tried(shape: tuple[int, ...], size: int, dtype: torch.dtype, told: bool) -> None:
        label = f"{size} events of shape {shape}, {dtype}" + (", labelled" if told else "")
        with cases.case(label):
            model = network(subject, shape, cases.seed, dtype, told)
            batch = batch_of(shape, size, cases.seed + 5, dtype=dtype, labelled=told)
            objective = bound(subject, model, cases.seed, shape)
            for _ in range(2):
                output = objective(batch)
                loss = output.loss
                cases.expect(
                    loss.shape == () and loss.dtype == dtype and bool(loss.isfinite()),
                    f"expected a finite loss without dimensions of {dtype}, got {loss}",
                )
                for name, value in output.metrics.items():
                    cases.expect(
                        isinstance(value, Tensor)
                        and value.shape == ()
                        and not value.requires_grad
                        and bool(value.isfinite()),
                        f"metric {name}: expected a finite detached tensor without dimensions, "
                        f"got {value!r}",
                    )
                if (negatives := output.negatives) is not None:
                    cases.expect(
                        negatives.shape[1:] == shape and negatives.dtype == dtype,
                        f"expected negatives (batch, *{shape}) of {dtype}, got "
                        f"{tuple(negatives.shape)} of {negatives.dtype}",
                    )
                for gradient in gradients(loss, model):
                    cases.expect(bool(gradient.isfinite().all()), "the gradient is not finite")

    tried()


@law(
    "loss",
    why="Optimisers follow the gradient; it has to be that of the number that is reported.",
    means="training goes downhill on something else than the loss that its curve shows",
    applies=discrete,
)
def gradient_is_the_derivative(subject: Subject, cases: Cases) -> None:
    from hypothesis import given, settings
    from hypothesis import strategies as st

    sizes = sorted({1, batch_size(subject, ROWS)})

    @settings(derandomize=True, deadline=None, database=None, max_examples=10)
    @given(st.sampled_from(subject.shapes), st.sampled_from(sizes), st.booleans())
    def tried(shape: tuple[int, ...], size: int, told: bool) -> None:
        with cases.case(f"{size} events of shape {shape}" + (", labelled" if told else "")):
            model = network(subject, shape, cases.seed, told=told)
            batch = batch_of(shape, size, cases.seed + 5, labelled=told)
            objective = bound(subject, model, cases.seed, shape)
            draws, _ = objective.draw(batch)
            found = gradients(objective.loss(model, batch, draws)[0], model)
            directions = [
                reference.normal(*p.shape, seed=cases.seed + 30 + i)
                for i, p in enumerate(model.parameters())
            ]
            start = [p.detach().clone() for p in model.parameters()]

            def at(length: float) -> float:
                with torch.no_grad():
                    for p, s, d in zip(model.parameters(), start, directions, strict=True):
                        p.copy_(s + length * d)
                return float(objective.loss(model, batch, draws)[0].detach())

            eps = 1e-4
            # Of fourth order in eps, so that what remains is rounding.
            slope = (8 * (at(eps) - at(-eps)) - (at(2 * eps) - at(-2 * eps))) / (12 * eps)
            size_of_terms = sum(
                float((g * d).abs().sum()) for g, d in zip(found, directions, strict=True)
            )
            told_slope = sum(float((g * d).sum()) for g, d in zip(found, directions, strict=True))
            cases.expect(
                abs(slope - told_slope) <= 1e-6 * (size_of_terms + abs(slope)) + 1e-8,
                f"along a random direction of the parameters, at fixed draws: expected the slope "
                f"{slope:.6g} of the loss by finite differences, got {told_slope:.6g}",
            )

    tried()


@law(
    "loss",
    why="A run is repeated by its seed, and a resumed run goes on as the one that was not stopped.",
    means="two runs of one seed differ, and evaluation or data loading changes training",
    applies=discrete,
)
def randomness_is_of_the_generator(subject: Subject, cases: Cases) -> None:
    for shape in subject.shapes:
        size = batch_size(subject, ROWS)
        with cases.case(f"{size} events of shape {shape}"):
            model = network(subject, shape, cases.seed)
            batch = batch_of(shape, size, cases.seed + 5)
            outcomes = []
            for other in (1, 2):
                with torch.random.fork_rng([]):
                    torch.manual_seed(other)
                    before = _random_state()
                    objective = bound(subject, model, cases.seed, shape)
                    draws, state = objective.draw(batch)
                    values = [objective.loss(model, batch, draws)[0].detach() for _ in range(2)]
                    cases.expect(
                        _random_state() == before,
                        "numbers were drawn from a global generator; expected the generator that "
                        "init and draw are given to be the only source",
                    )
                cases.expect(
                    torch.equal(*values),
                    f"two calls at the same draws: expected the same loss, got {values[0]:.9g} and "
                    f"{values[1]:.9g}; all that is random is for draw",
                )
                drawn = [*tensors_in(draws), *tensors_in(state)]
                outcomes.append([*(v for _, v in drawn), values[0]])
            cases.expect(
                all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True)),
                "two draws of one seed: expected the same numbers, got others",
            )


@law(
    "loss",
    why="A batch is a set of points: its order is the data loader's affair.",
    means="training depends on how the data happen to be sorted",
    applies=discrete,
)
def order_of_rows_changes_nothing(subject: Subject, cases: Cases) -> None:
    size = batch_size(subject, ROWS)
    for shape in subject.shapes:
        for told in (False, True):
            with cases.case(f"{size} events of shape {shape}" + (", labelled" if told else "")):
                model, batch, draws, loss = _drawn(subject, cases, shape, size, told)
                order = torch.randperm(size, generator=reference.generator(cases.seed))
                moved = Batch(*rows_taken(tuple(batch), size, order))
                values = []
                for rows, given in ((batch, draws), (moved, rows_taken(draws, size, order))):
                    value = loss(model, rows, given)[0]
                    values.append([value.detach(), *gradients(value, model)])
                same_tensors(
                    cases, values[1], values[0], "loss and gradient of the same rows in other order"
                )


def _averages(subject: Subject) -> str:
    if said := discrete(subject):
        return said
    if getattr(subject.make(), "averages", True) is False:
        return "it says by averages = False that it is no mean over the batch's rows"
    return ""


@law(
    "loss",
    why="Data-parallel training averages the gradients of parts of a batch.",
    means="what is learned depends on the number of devices, and the learning rate on the batch size",
    applies=_averages,
)
def halves_average_to_the_whole(subject: Subject, cases: Cases) -> None:
    size = max(2, batch_size(subject, 22) // 2 * 2)
    for shape in subject.shapes:
        with cases.case(f"{size} events of shape {shape}"):
            model, batch, draws, loss = _drawn(subject, cases, shape, size, False)
            parts = torch.arange(size).reshape(2, -1)
            whole, *halves = [
                gradients(loss(model, rows, given)[0], model)
                for rows, given in [
                    (batch, draws),
                    *((Batch(batch.x[p]), rows_taken(draws, size, p)) for p in parts),
                ]
            ]
            mean = [(a + b) / 2 for a, b in zip(*halves, strict=True)]
            same_tensors(
                cases,
                mean,
                whole,
                "mean of the gradients of a batch's halves, and gradient of the whole (a loss that is "
                "no mean over rows says averages = False)",
            )


def _drawn(
    subject: Subject, cases: Cases, shape: tuple[int, ...], size: int, told: bool
) -> tuple[nn.Module, Batch, Any, Any]:
    model = network(subject, shape, cases.seed, told=told)
    batch = batch_of(shape, size, cases.seed + 5, labelled=told)
    objective = bound(subject, model, cases.seed, shape)
    draws, _ = objective.draw(batch)
    return model, batch, draws, objective.loss
