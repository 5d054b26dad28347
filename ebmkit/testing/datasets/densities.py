"""Laws of data sets that state their log density: it is one, and that of the draws."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from ebmkit.testing import reference
from ebmkit.testing.integrals import Integral, LogFunction, chi_square, integral, stretched
from ebmkit.testing.laws import Cases, law
from ebmkit.testing.models.energies import agree
from ebmkit.testing.subject import Subject

FALSE_ALARM = 1e-8
"""Of each statistical test."""
DRAWS = 20_000
_FEW = 2_000
_SPLITS = 5
"""Times that the plane is cut in two, where half of the draws lie on either side."""
_SURE = 5e-3
"""What the integral may be off by, beside its own error."""


def _stated(subject: Subject) -> str:
    if not hasattr(subject.make(), "log_density"):
        return "it states no log_density"
    return ""


def _planar(subject: Subject) -> str:
    if said := _stated(subject):
        return said
    if math.prod(subject.make().event_shape) > 2:
        return "its events have more than two numbers, too many to integrate over"
    return ""


def _drawn(subject: Subject) -> str:
    if said := _planar(subject):
        return said
    if (getattr(subject.make(), "n_samples", None) or DRAWS) < _FEW:
        return "it is a finite set of few rows, whose draws are of those alone"
    return ""


def sample(dataset: Any, seed: int) -> Tensor:
    """Independent points (n, *event): draws, or the rows of a finite set, each once."""
    if (n := getattr(dataset, "n_samples", None)) is None:
        x: Tensor = dataset.draw(DRAWS, generator=reference.generator(seed)).x
    else:
        found = dataset[torch.arange(min(n, DRAWS))]
        x = found[0] if isinstance(found, tuple) else found
    return x.double()


def _of(dataset: Any, rows: Tensor) -> Tensor:
    found: Tensor = dataset.log_density(rows.view(-1, *dataset.event_shape))
    return found


@law(
    "dataset",
    why="Evaluations ask for the log densities of whatever points a model gives.",
    means="an evaluation stops with an error, or its numbers are of mixed rows",
    applies=_stated,
)
def log_density_a_row(subject: Subject, cases: Cases) -> None:
    dataset = subject.make()
    points = dataset.draw(40, generator=reference.generator(cases.seed)).x.double()
    noise = reference.normal(*points.shape, seed=cases.seed)
    for said, x in (("draws", points), ("points around draws", points + noise)):
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
            # Rounded, for near a jump of the density rounding may be a step over it.
            given = x.float().to(dtype)
            for size in (0, 1, 40):
                with cases.case(f"{size} {said} of {dtype}"):
                    found = dataset.log_density(given[:size])
                    cases.expect(
                        tuple(found.shape) == (size,) and found.dtype == dtype,
                        f"expected ({size},) of {dtype}, got {tuple(found.shape)} of {found.dtype}",
                    )
                    cases.expect(
                        not bool((found.isnan() | (found == math.inf)).any()),
                        "log densities are NaN or +inf",
                    )
            with cases.case(f"rows alone, {said} of {dtype}"):
                alone = torch.cat([dataset.log_density(row[None]) for row in given])
                agree(cases, alone, dataset.log_density(given), tolerance, "rows and their batch")


@law(
    "dataset",
    why="KL(data‖model) in nats is of a density that integrates to 1.",
    means="KL divergences and log likelihoods are off by a constant",
    applies=_planar,
)
def log_density_integrates_to_one(subject: Subject, cases: Cases) -> None:
    dataset = subject.make()
    with cases.case("over the plane"):
        found = _everywhere(dataset, sample(dataset, cases.seed))
        mass = math.exp(min(found.log, 700.0))
        cases.expect(
            abs(mass - 1) <= _SURE + 3 * min(found.error, 0.05),
            f"the density integrates to {mass:.5f} ± {found.error:.1g}, expected 1",
        )


def _box(points: Tensor) -> tuple[Tensor, Tensor]:
    rows = points.flatten(1)
    low, high = rows.min(0).values, rows.max(0).values
    width = (high - low).clamp(min=1e-6)
    return low - width / 2, high + width / 2


def _everywhere(dataset: Any, points: Tensor) -> Integral:
    """The integral over a box about all draws, with half of its width on either side; far around 0
    where they are too few to tell it."""
    density: LogFunction = functools.partial(_of, dataset)
    low, high = _box(points)
    if len(points) < _FEW:
        density, high = stretched(density), torch.full_like(high, 9.0)
        low = -high
    return integral(density, low, high, cells=16, error=1e-3, most=400_000)


@law(
    "dataset",
    why="A model is judged by the density, and trained on the draws.",
    means="a model that has learnt the data is told to be far from them",
    applies=_drawn,
)
def draws_are_of_the_density(subject: Subject, cases: Cases) -> None:
    dataset = subject.make()
    rows = sample(dataset, cases.seed).flatten(1)
    half = len(rows) // 2
    with cases.case(f"{len(rows)} draws"):
        impossible = float(_of(dataset, rows).isneginf().double().mean())
        cases.expect(impossible == 0, f"{impossible:.1%} of the draws have density 0")
        low, high = _box(rows)
        boxes = _cut(rows[:half], low, high, _SPLITS)
        logs = [
            integral(functools.partial(_of, dataset), *box, cells=3, error=5e-3, most=25_000).log
            for box in boxes
        ]
        masses = torch.tensor(logs, dtype=torch.float64).exp()
        rest = rows[half:]
        counts = torch.tensor(
            [float(((rest >= a) & (rest < b)).all(1).sum()) for a, b in boxes], dtype=torch.float64
        )
        # What is beside all boxes has hardly any mass, and a cell of its own.
        left = (1 - masses.sum()).clamp(min=0)[None]
        expected = len(rest) * torch.cat([masses, left])
        counts = torch.cat([counts, (len(rest) - counts.sum())[None]])
        statistic, chance = chi_square(counts, expected)
        worst = int(((counts - expected).abs() / expected.clamp(min=1).sqrt()).argmax())
        place = (
            "beside them"
            if worst == len(boxes)
            else " × ".join(
                f"[{float(a):.3g}, {float(b):.3g})" for a, b in zip(*boxes[worst], strict=True)
            )
        )
        cases.expect(
            chance > FALSE_ALARM,
            f"of {len(rest)} draws {int(counts[worst])} lie in {place}, expected "
            f"{float(expected[worst]):.0f} by the density (χ² {statistic:.0f} over {len(boxes)} "
            f"cells, false-alarm rate {FALSE_ALARM:.0e})",
        )


def _cut(rows: Tensor, low: Tensor, high: Tensor, times: int) -> list[tuple[Tensor, Tensor]]:
    """Boxes that hold as many of some points each, by cuts along their longest side."""
    if not times or len(rows) < 4:
        return [(low, high)]
    axis = int((high - low).argmax())
    where = rows[:, axis].median()
    if not bool(low[axis] < where) or not bool(where < high[axis]):
        return [(low, high)]
    below, above = high.clone(), low.clone()
    below[axis] = above[axis] = where
    left = rows[:, axis] < where
    return [
        *_cut(rows[left], low, below, times - 1),
        *_cut(rows[~left], above, high, times - 1),
    ]
