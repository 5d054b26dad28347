"""Which step a schedule follows, for how long it is stated, and what a parameter is worth now."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from ebmkit.errors import ScheduleError
from ebmkit.fields import is_scheduled
from ebmkit.protocols import Scheduler

Clock: TypeAlias = Literal["training", "chain"]


def clock_of(schedule: Scheduler) -> Clock:
    """The clock that a schedule follows: "training" unless it says "chain"."""
    return getattr(schedule, "clock", "training")


def length_of(schedule: Scheduler) -> int | None:
    """For how many steps a schedule is stated; None where it is open or has no end."""
    return getattr(schedule, "length", None)


def spread(schedule: Scheduler, n_steps: int) -> Scheduler:
    """The schedule with an open length spread over ``n_steps``; one that is stated stays as it is."""
    over = getattr(schedule, "over", None)
    return schedule if over is None else over(n_steps)


def cut_complaint(schedule: Scheduler, steps: int) -> str:
    """What is wrong with a chain-clock schedule stated for more steps than the chain runs."""
    length = length_of(schedule)
    if clock_of(schedule) != "chain" or length is None or length <= steps:
        return ""
    return (
        f"the schedule is stated for {length} chain steps but the chain runs {steps}, so its end "
        "would never be reached; leave its length out to spread it over the chain, state at most "
        f'{steps}, or set clock = "training"'
    )


def scheduled_names(sampler: object) -> tuple[str, ...]:
    """The sampler's scheduled parameters: the keywords of its ``step`` that are fields of it, and
    where that takes any keyword, those of the sampler in its field ``sampler``."""
    kind: Any = type(sampler)
    own, passes_on = _keywords(kind)
    inner = getattr(sampler, "sampler", None) if passes_on else None
    return own if inner is None else (*own, *(n for n in scheduled_names(inner) if n not in own))


def scheduled_value(sampler: object, name: str) -> Any:
    """A scheduled parameter as its sampler, or the one inside it, states it."""
    kind: Any = type(sampler)
    if name in _keywords(kind)[0]:
        return getattr(sampler, name)
    return scheduled_value(getattr(sampler, "sampler"), name)  # noqa: B009


@functools.cache
def _keywords(kind: Any) -> tuple[tuple[str, ...], bool]:
    """The keywords of a sampler's ``step``, and whether it takes others too."""
    found = inspect.signature(kind.step).parameters.values()
    return (
        tuple(p.name for p in found if p.kind is p.KEYWORD_ONLY),
        any(p.kind is p.VAR_KEYWORD for p in found),
    )


def schedules(
    sampler: object, k_steps: int | None, training_steps: int | None
) -> list[tuple[str, Scheduler, str]]:
    """The schedules of a sampler's parameters, each with what is wrong with it, if anything."""
    found = []
    for name in scheduled_names(sampler) if sampler is not None else ():
        schedule = scheduled_value(sampler, name)
        if not is_scheduled(schedule):
            continue
        total = k_steps if clock_of(schedule) == "chain" else training_steps
        complaint = cut_complaint(schedule, k_steps) if k_steps else ""
        if not complaint and total:
            complaint = _value_complaint(sampler, name, schedule, total)
        found.append((name, schedule, complaint))
    return found


def moving_names(sampler: object) -> tuple[str, ...]:
    """The scheduled parameters that hold a schedule."""
    return tuple(n for n in scheduled_names(sampler) if is_scheduled(scheduled_value(sampler, n)))


def values_at(sampler: object, steps: int, training_step: int) -> Callable[[int], dict[str, float]]:
    """The scheduled parameters' values, as a function of the chain's step.

    Raises:
        ScheduleError: a chain-clock schedule is stated for more steps than the chain runs.
    """
    constant: dict[str, float] = {}
    moving: dict[str, Scheduler] = {}
    for name in scheduled_names(sampler):
        value = scheduled_value(sampler, name)
        if not is_scheduled(value):
            constant[name] = value
        elif clock_of(value) == "training":
            constant[name] = value(training_step)
        elif complaint := cut_complaint(value, steps):
            raise ScheduleError(f"{type(sampler).__name__}.{name}: {complaint}")
        else:
            moving[name] = spread(value, steps)
    if not moving:
        return lambda _: constant
    return lambda step: constant | {name: value(step) for name, value in moving.items()}


def _value_complaint(sampler: object, name: str, schedule: Scheduler, total: int) -> str:
    attribute = next(
        (a for a in getattr(type(sampler), "__attrs_attrs__", ()) if a.name == name), None
    )
    try:
        # The composer has spread those on the training clock; a live one has to state its length.
        whole = spread(schedule, total) if clock_of(schedule) == "chain" else schedule
    except ValueError as error:
        return str(error)
    for step in sorted({0, total // 2, total - 1}):
        try:
            value = whole(step)
            if attribute is not None and attribute.validator is not None:
                attribute.validator(sampler, attribute, value)
        except (ValueError, TypeError) as error:
            return f"at step {step} the schedule gives a value out of range: {error.args[0]}"
    return ""
