"""Samplers of many chains: each for itself, drawn ahead, scheduled."""

from __future__ import annotations

import math
from operator import itemgetter
from typing import Any

import torch

from ebmkit.testing import reference
from ebmkit.testing.laws import Cases, law
from ebmkit.testing.samplers.stationary import DEVIATIONS, FALSE_ALARM, keywords
from ebmkit.testing.samplers.walks import (
    DTYPES,
    begun,
    event_shapes,
    landscape,
    mapped,
    over,
    same,
    starts,
    stepped,
    tensors,
    unsuited,
    walked,
)
from ebmkit.testing.subject import Subject

REPEATS, TOGETHER = 20, 50
"""Runs of so many chains that start at one point, by which common noise is found."""


def _settled(sampler: Any, state: Any) -> Any:
    return settle(state) if (settle := getattr(sampler, "settle", None)) else state


def _for_all(subject: Subject) -> list[str]:
    """The tensors of all chains together that steps change, once adaptation is settled."""
    shape = event_shapes(subject)[0]
    sampler, energy = subject.make(), landscape(shape, torch.float64)
    states = []
    for n in (6, 7):
        state = begun(sampler, energy, starts(subject, n, shape, torch.float64, 0))
        state = walked(sampler, energy, state, 2, reference.generator(0))
        states.append(_settled(sampler, state))
    after = walked(sampler, energy, states[0], 3, reference.generator(1))
    return [
        place
        for (place, one), (_, other), (_, later) in zip(
            *map(tensors, (states[0], states[1], after)), strict=True
        )
        if one.shape == other.shape and not torch.equal(one, later)
    ]


def _adapts(subject: Subject) -> str:
    if said := unsuited(subject):
        return said
    if places := _for_all(subject):
        return (
            f"steps adapt {', '.join(places)}, which belong to all chains together, and no settle "
            "ends that"
        )
    return ""


@law(
    "sampler",
    why="Averages over chains have the error that their number says only if they are independent.",
    means="one chain that goes astray moves others, and errors of averages are understated",
    applies=_adapts,
)
def a_chain_moves_no_other(subject: Subject, cases: Cases) -> None:
    def check(shape: tuple[int, ...], dtype: torch.dtype, changed: int) -> None:
        energy = landscape(shape, dtype)
        x = starts(subject, 5, shape, dtype, cases.seed)
        another = x.clone()
        another[changed] = starts(subject, 1, shape, dtype, cases.seed + 1)[0]
        sampler = subject.make()
        adapted = walked(
            sampler, energy, begun(sampler, energy, x), 3, reference.generator(cases.seed)
        )
        adapted = _settled(sampler, adapted)
        ends = []
        for start in (x, another):
            if restart := getattr(sampler, "restart", None):
                state = restart(adapted, energy, start)
            else:
                state = _settled(sampler, begun(sampler, energy, start))
            ends.append(walked(sampler, energy, state, 4, reference.generator(cases.seed + 2)))
        others = [row for row in range(5) if row != changed]
        left = [mapped(lambda t: t[others] if t.ndim and len(t) == 5 else t, end) for end in ends]
        where = same(*left)
        cases.expect(
            not where,
            f"chain {changed} started elsewhere, by the same noise, and {where} of others changed",
        )

    over(cases, 6, check, shape=event_shapes(subject), dtype=DTYPES, changed=(0, 2, 4))


@law(
    "sampler",
    why="Averages over chains have the error that their number says only if each has its own noise.",
    means="chains move together, and a thousand of them are worth one",
    applies=lambda subject: (
        unsuited(subject) or ("" if _noise_of(subject) else "it draws no random numbers")
    ),
)
def each_chain_has_its_own_noise(subject: Subject, cases: Cases) -> None:
    shape = event_shapes(subject)[0]
    sampler, energy = subject.make(), landscape(shape, torch.float64)
    x = starts(subject, 1, shape, torch.float64, cases.seed).expand(TOGETHER, *shape)
    along = reference.normal(*shape, seed=cases.seed + 1).flatten()
    runs = []
    with cases.case(f"{REPEATS} times {TOGETHER} chains from one point of shape {shape}"):
        for repeat in range(REPEATS):
            state = _settled(sampler, begun(sampler, energy, x.clone()))
            generator = reference.generator(1000 * cases.seed + repeat)
            runs.append(walked(sampler, energy, state, 2, generator).x.flatten(1) @ along)
        ends = torch.stack(runs)
        cases.expect(bool(ends.isfinite().all()), "chains are at points that are not finite")
        within = float(ends.var(1).mean())
        between = float(ends.mean(1).var())
        # χ² of REPEATS − 1 by its cube root, which is about normal.
        n = REPEATS - 1
        most = (1 - 2 / (9 * n) + DEVIATIONS * math.sqrt(2 / (9 * n))) ** 3
        cases.expect(
            within > 0 or between == 0,
            "chains that start at one point stay together, though other noise moves them elsewhere",
        )
        cases.expect(
            between <= most * within / TOGETHER or between == 0,
            f"means over {TOGETHER} chains vary by {between:.3g}, expected {within / TOGETHER:.3g} of "
            f"independent ones, at most {most:.2f} times as much (false-alarm rate {FALSE_ALARM:.0e})",
        )


def _noise_of(subject: Subject) -> int:
    shape = event_shapes(subject)[0]
    sampler = subject.make()
    state = begun(
        sampler, landscape(shape, torch.float32), starts(subject, 2, shape, torch.float32, 0)
    )
    noise = sampler.draw(state, generator=reference.generator(0))
    return sum(tensor.numel() for _, tensor in tensors(noise, "noise"))


@law(
    "sampler",
    why="The random numbers of many steps are drawn at once, before the first of them.",
    means="compiled chains are others than eager ones, or of another distribution",
    applies=unsuited,
)
def noise_is_drawn_from_shapes_alone(subject: Subject, cases: Cases) -> None:
    def check(batch: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        sampler, energy = subject.make(), landscape(shape, dtype)
        state = begun(sampler, energy, starts(subject, batch, shape, dtype, cases.seed))
        later = walked(sampler, energy, state, 3, reference.generator(cases.seed))
        blank = mapped(torch.zeros_like, state)
        drawn = []
        for given in (state, later, blank):
            generator = reference.generator(cases.seed + 1)
            drawn.append([sampler.draw(given, generator=generator) for _ in range(3)])
        for noises, of in zip(drawn[1:], ("a later state", "zeros"), strict=True):
            where = same(tuple(drawn[0]), tuple(noises))
            cases.expect(
                not where, f"noise drawn for {of} of the same shapes is other noise: {where}"
            )
        if draw_steps := getattr(sampler, "draw_steps", None):
            at_once = draw_steps(state, 3, generator=reference.generator(cases.seed + 1))
            each = tuple(mapped(itemgetter(i), at_once) for i in range(3))
            where = same(tuple(drawn[0]), each)
            cases.expect(
                not where, f"draw_steps of 3 steps is not what 3 draws are, bit for bit: {where}"
            )

    over(cases, 8, check, batch=(0, 1, 4), shape=event_shapes(subject), dtype=DTYPES)


@law(
    "sampler",
    why="In compiled chains scheduled parameters are tensors, inputs of the graph.",
    means="schedules fail, or are held at one value, where chains are compiled",
    applies=lambda subject: (
        unsuited(subject)
        or ("" if keywords(subject.make()) else "step takes no scheduled parameters")
    ),
)
def parameters_may_be_tensors(subject: Subject, cases: Cases) -> None:
    def check(shape: tuple[int, ...], dtype: torch.dtype, of: torch.dtype) -> None:
        sampler, energy = subject.make(), landscape(shape, dtype)
        state = begun(sampler, energy, starts(subject, 4, shape, dtype, cases.seed))
        state = walked(sampler, energy, state, 2, reference.generator(cases.seed))
        noise = sampler.draw(state, generator=reference.generator(cases.seed + 1))
        values = keywords(sampler)
        numbers, _ = stepped(sampler, energy, state, noise, values)
        given = {name: torch.tensor(value, dtype=of) for name, value in values.items()}
        found, _ = stepped(sampler, energy, state, noise, given)
        error = 1e-10 if dtype == of == torch.float64 else 1e-4
        for (place, one), (_, other) in zip(tensors(found), tensors(numbers), strict=True):
            cases.expect(
                one.dtype == other.dtype,
                f"{place} is {one.dtype} by tensors {', '.join(values)}, {other.dtype} by numbers",
            )
            cases.expect(
                torch.allclose(
                    one.double(), other.double(), rtol=error, atol=error, equal_nan=True
                ),
                f"{place} by tensors {', '.join(values)} is not what it is by numbers",
            )

    over(cases, 8, check, shape=event_shapes(subject), dtype=DTYPES, of=DTYPES)
