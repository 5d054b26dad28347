"""Samplers against distributions whose answers are known.

Chains start from exact draws, so that nothing has to converge: what a sampler leaves invariant stays.
Each test's false-alarm rate is ``FALSE_ALARM``, by normal approximation of means over ``CHAINS``
chains.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from ebmkit.errors import UserError
from ebmkit.holding import frozen
from ebmkit.testing import reference
from ebmkit.testing.laws import Cases, law
from ebmkit.testing.samplers.targets import GAUSSIAN, LOGISTIC, MIXTURE, QUARTIC, TRUNCATED, Target
from ebmkit.testing.subject import Subject

FALSE_ALARM = 1e-8
"""Of each test."""
DEVIATIONS = 5.73
"""Standard errors that a mean is beyond with that probability, on either side."""
CHAINS = 10_000
STEPS = 12
SCALES = tuple(2.0**k for k in range(-6, 7))
"""Widths of targets that are tried for one at which a sampler moves farthest in a step."""

MOMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda z: z,
    "mean square": torch.square,
    "share between −½ and ½": lambda z: (z.abs() < 0.5).to(z.dtype),
    "mean cosine": lambda z: (3 * z).cos(),
    "mean cube": lambda z: z**3,
}


def keywords(sampler: Any, **more: float) -> dict[str, float]:
    """What a step is given for scheduled parameters at the beginning."""
    from ebmkit.clocks import values_at

    found: dict[str, float] = dict(values_at(sampler, STEPS, 0)(0))
    return found | {name: value for name, value in more.items() if name in found}


def moved(
    sampler: Any, energy: Any, x: Tensor, steps: int, seed: int, **more: float
) -> Iterator[Tensor]:
    """Points of chains after each step from x."""
    generator = reference.generator(seed)
    state = frozen(energy, lambda: sampler.init(energy, x))
    given = keywords(sampler, **more)
    for _ in range(steps):
        noise = sampler.draw(state, generator=generator)
        state, _ = frozen(energy, partial(sampler.step, energy, state, noise, **given))
        yield state.x


def farthest(subject: Subject, target: Target, shape: tuple[int, ...], seed: int) -> Target:
    """The target at the width, in powers of two, at which chains move farthest for it in two steps, or
    a narrower one where they move nearly as far: there a step's errors are larger."""
    best, found, since = 0.0, target, 0
    for scale in SCALES:
        wide = attrs.evolve(target, scale=scale)
        x = wide.draws(200, shape, reference.generator(seed))
        try:
            *_, after = moved(subject.make(), wide, x, 2, seed)
        except ArithmeticError:
            continue
        far = float(((after - x) / scale).square().mean())
        if math.isfinite(far) and 1.1 * best < far < 10:
            best, found, since = far, wide, 0
        # Independent points are 2 apart, and beyond the best width steps are ever smaller for it.
        since += best > 0.05
        if best > 1.5 or since > 2:
            break
    return found


def compared(
    cases: Cases, target: Target, points: Tensor, *, biased_by: float = 0.0, said: str
) -> None:
    """Each moment of the points' numbers against the target's."""
    rows = (points.double() / target.scale).flatten(1)
    cases.expect(
        bool(rows.isfinite().all()), f"{said}: points are not finite, which started at exact draws"
    )
    for name, function in MOMENTS.items():
        mean, deviation = target.moment(function)
        # Numbers of one event may depend on each other, events do not.
        each = function(rows).mean(1)
        error = max(float(each.std()), deviation / rows.shape[1] ** 0.5) / len(each) ** 0.5
        off = float(each.mean()) - mean
        cases.expect(
            abs(off) <= DEVIATIONS * error + biased_by * deviation,
            f"{said}: {name} is {mean + off:.4f}, expected {mean:.4f} ± {error:.4f} "
            f"({abs(off) / error:.1f} standard errors; {DEVIATIONS} have a false-alarm rate of "
            f"{FALSE_ALARM:.0e})",
        )


def _continuous(subject: Subject) -> str:
    return "its states are discrete" if getattr(subject.make(), "discrete", False) else ""


def _claims_exact(subject: Subject) -> str:
    if said := _continuous(subject):
        return said
    sampler = subject.make()
    if getattr(sampler, "stationary", True) is False:
        return "it says by stationary = False that it leaves no distribution invariant"
    if (order := getattr(sampler, "bias_order", None)) is not None:
        return f"it says by bias_order = {order} that it is biased by design"
    return ""


def _claims_bias(subject: Subject) -> str:
    if said := _continuous(subject):
        return said
    if getattr(subject.make(), "bias_order", None) is None:
        return "it does not say by bias_order that it is biased by design"
    return ""


def suited(sampler: Any, energy: Any) -> bool:
    """Whether a sampler can sample an energy, by its own word."""
    try:
        getattr(sampler, "check", lambda _: None)(energy)
    except UserError:
        return False
    return True


@law(
    "sampler",
    why="Every sample, and every gradient made of samples, is of the distribution that chains have.",
    means="its samples are not of p(x) ∝ exp(−E(x)), and a model trained by them learns another one",
    applies=_claims_exact,
)
def target_invariant(subject: Subject, cases: Cases) -> None:
    for target in (GAUSSIAN, MIXTURE, QUARTIC, TRUNCATED):
        shape = subject.shapes[0] if target is GAUSSIAN else (1,)
        if not suited(subject.make(), target):
            continue
        wide = farthest(subject, target, shape, cases.seed)
        x = wide.draws(CHAINS, shape, reference.generator(cases.seed + 1))
        with cases.case(f"{target.name} of width {wide.scale:g}, {CHAINS} chains of shape {shape}"):
            *_, after = moved(subject.make(), wide, x, STEPS, cases.seed + 2)
            compared(cases, wide, after, said=f"after {STEPS} steps from exact draws")


@law(
    "sampler",
    why="A sampler that is biased by design is of use because its bias can be made small.",
    means="its samples stay wrong however small the step size is made",
    applies=_claims_bias,
)
def bias_shrinks_as_it_says(subject: Subject, cases: Cases) -> None:
    order = float(subject.make().bias_order)
    cases.expect(
        "step_size" in keywords(subject.make()),
        "bias_order is an order in step_size, and step takes no such keyword",
    )
    for target in (GAUSSIAN, LOGISTIC):
        wide = _gentle(subject, target, cases.seed)
        x = wide.draws(4 * CHAINS, (1,), reference.generator(cases.seed + 1))
        mean, _ = target.moment(torch.square)
        biases, errors = [], []
        for i in range(3):
            size = keywords(subject.make())["step_size"] / 2**i
            # The same time at each size, and of its second half the mean: fewer chains tell as much.
            half, each = 10 * 2**i, torch.zeros(len(x), dtype=torch.float64)
            walk = moved(subject.make(), wide, x, 2 * half, cases.seed + 2, step_size=size)
            for after in itertools.islice(walk, half, None):
                each += (after.double() / wide.scale).flatten().square() / half
            with cases.case(f"{target.name} of width {wide.scale:g}, step size {size:g}"):
                cases.expect(bool(each.isfinite().all()), "points are not finite")
            biases.append(float(each.mean()) - mean)
            errors.append(float(each.std()) / len(each) ** 0.5)
        with cases.case(f"{target.name} of width {wide.scale:g}"):
            factor = 2**order
            left = (factor * biases[2] - biases[1]) / (factor - 1)
            error = math.hypot(factor * errors[2], errors[1]) / (factor - 1)
            off = ", ".join(f"{bias:+.4f}" for bias in biases)
            said = f"the mean square is off by {off} at step sizes that halve"
            # Beyond the order that is stated there are others.
            cases.expect(
                abs(left) <= DEVIATIONS * error + abs(biases[1]) / 5,
                f"{said}, which by order {order:g} leaves {left:+.4f} ± {error:.4f} at 0",
            )
            cases.expect(
                abs(biases[2]) <= 1.5 * abs(biases[0]) / factor**2 + DEVIATIONS * errors[2],
                f"{said}, not by {factor:g} at each as of order {order:g}",
            )


def _gentle(subject: Subject, target: Target, seed: int) -> Target:
    """The target at about the least width at which two steps move chains by no more than √2 times it:
    there biases are large, and chains forget where they began in a few steps."""
    for quarter in range(-24, 25):
        wide = attrs.evolve(target, scale=2 ** (quarter / 4))
        x = wide.draws(2000, (1,), reference.generator(seed))
        *_, after = moved(subject.make(), wide, x, 2, seed)
        if float(((after - x) / wide.scale).square().mean()) < 2:
            return wide
    return target
