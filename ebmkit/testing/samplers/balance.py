"""Metropolis samplers: where their chains never go, and detailed balance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ebmkit.testing import reference
from ebmkit.testing.laws import Cases, law
from ebmkit.testing.samplers.stationary import (
    CHAINS,
    DEVIATIONS,
    FALSE_ALARM,
    farthest,
    moved,
    suited,
)
from ebmkit.testing.samplers.targets import GAUSSIAN, MIXTURE, QUARTIC, Target
from ebmkit.testing.samplers.walks import is_discrete
from ebmkit.testing.subject import Subject


class _Walled:
    """A Gaussian for x₁ > −½ of its widths, and beyond that energies or forces that are no numbers."""

    noise_conditional = True

    def __init__(self, inside: Target, energy: float, force: float) -> None:
        self.inside, self.energy, self.force = inside, energy, force

    def __call__(self, x: Tensor, *, noise_level: Any = None) -> Tensor:  # noqa: ARG002
        energies = self.inside(x)
        first = x.flatten(1)[:, 0]
        beyond = first < -self.inside.scale / 2
        # Of value 0 there, and of the force's slope.
        bent = torch.where(beyond, (first - first.detach()) * self.force, 0)
        return torch.where(beyond, energies + self.energy, energies) + bent


def _exact(subject: Subject) -> str:
    sampler = subject.make()
    if is_discrete(sampler):
        return "its states are discrete"
    if getattr(sampler, "exact", False) is not True:
        return "it does not say by exact = True that a step leaves p(x) exactly as it is"
    return ""


@law(
    "sampler",
    why="A point without a finite energy has probability 0, and no chain comes back from NaN.",
    means="one bad region of a network makes all of a run NaN",
    applies=_exact,
)
def chains_stay_where_energies_are_finite(subject: Subject, cases: Cases) -> None:
    wide = farthest(subject, GAUSSIAN, (2,), cases.seed)
    for energy, force in ((math.nan, 0.0), (math.inf, 0.0), (0.0, math.nan), (0.0, math.inf)):
        wall = _Walled(wide, energy, force)
        if not suited(subject.make(), wall):
            continue
        x = wide.draws(400, (2,), reference.generator(cases.seed))
        x[:, 0] = x[:, 0].abs()
        with cases.case(f"energy {energy:g} more and force {force:g} more beyond a wall"):
            for step, points in enumerate(moved(subject.make(), wall, x, 10, cases.seed + 1), 1):
                astray = int(
                    (~points.flatten(1).isfinite().all(1) | ~wall(points).isfinite()).sum()
                )
                cases.expect(
                    not astray, f"after step {step} {astray} of 400 chains are beyond the wall"
                )


Function = Callable[[Tensor], Tensor]
PAIRS: dict[str, tuple[Function, Function]] = {
    "x and x³": (lambda z: z, lambda z: z**3),
    "x and cos 3x": (lambda z: z, lambda z: (3 * z).cos()),
    "x² and x³": (torch.square, lambda z: z**3),
    "x and the next number": (lambda z: z, lambda z: z.roll(1, -1)),
    "x² and the next number": (torch.square, lambda z: z.roll(1, -1)),
}


def _claims_balance(subject: Subject) -> str:
    sampler = subject.make()
    if is_discrete(sampler):
        return "its states are discrete"
    if getattr(sampler, "reversible", False) is not True:
        return "it does not say by reversible = True that a step is in detailed balance"
    return ""


@law(
    "sampler",
    why="What is in detailed balance can be put into others' proofs and estimates as such.",
    means="estimates that rest on reversibility are biased",
    applies=_claims_balance,
)
def in_detailed_balance(subject: Subject, cases: Cases) -> None:
    for target in (GAUSSIAN, MIXTURE, QUARTIC):
        if not suited(subject.make(), target):
            continue
        shape = (3,) if (3,) in subject.shapes else subject.shapes[0]
        wide = farthest(subject, target, shape, cases.seed)
        x = wide.draws(4 * CHAINS, shape, reference.generator(cases.seed + 1))
        with cases.case(f"{target.name} of width {wide.scale:g}, {len(x)} chains of shape {shape}"):
            (after,) = moved(subject.make(), wide, x, 1, cases.seed + 2)
            here, there = (points.double().flatten(1) / wide.scale for points in (x, after))
            for name, (f, g) in PAIRS.items():
                # Of mean 0 where (x, after) and (after, x) are equally likely.
                each = (f(here) * g(there) - g(here) * f(there)).mean(1)
                error = float(each.std()) / len(each) ** 0.5
                mean = float(each.mean())
                cases.expect(
                    abs(mean) <= DEVIATIONS * error,
                    f"{name}: the flow back and forth differs by {mean:.4f} ± {error:.4f}, expected 0 "
                    f"({DEVIATIONS} standard errors have a false-alarm rate of {FALSE_ALARM:.0e})",
                )
