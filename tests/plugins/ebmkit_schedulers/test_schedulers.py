"""Values worked out by hand, and fields that are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import attrs
import pytest
from ebmkit_schedulers.constant import Constant
from ebmkit_schedulers.cosine import Cosine
from ebmkit_schedulers.exponential_decay import ExponentialDecay
from ebmkit_schedulers.linear import Linear
from ebmkit_schedulers.multi_step import MultiStep
from ebmkit_schedulers.sequential import Sequential
from ebmkit_schedulers.warmup import Warmup

HUGE = 1.7e308


def values(schedule: Callable[[int], float], steps: int) -> list[float]:
    return [schedule(step) for step in range(steps)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(3), [3.0, 3.0]),
        (Linear(0.0, 1.0, 5), [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]),
        (Linear(1.0, 0.0, 1), [0.0, 0.0]),
        (Linear(-HUGE, HUGE, 3), [-HUGE, 0.0, HUGE]),
        (Cosine(1.0, 0.0, 5), [1.0, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0.0, 0.0]),
        (Cosine(0.0, 4.0, 4), [0.0, 1.0, 3.0, 4.0]),
        (ExponentialDecay(8.0, 0.5, 1.5), [8.0, 4.0, 2.0, 1.5, 1.5]),
        (ExponentialDecay(-8.0, 0.5, -9.0), [-8.0, -4.0, -2.0]),
        (MultiStep(1.0, [2, 3], 0.1), [1.0, 1.0, 0.1, 0.01, 0.01]),
        (Warmup(Constant(2.0), 4, 0.0), [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]),
        (Warmup(Linear(1.0, 0.0, 3), 2, 0.5), [0.5, 0.75, 1.0, 0.5, 0.0, 0.0]),
        (Sequential([Constant(1.0), Linear(4.0, 2.0, 3)], [2]), [1.0, 1.0, 4.0, 3.0, 2.0, 2.0]),
        (Sequential([Linear(0.0, 2.0), Constant(5.0)], [3]), [0.0, 1.0, 2.0, 5.0]),
        (Sequential([Linear(4.0, 0.0, 5), Constant(9.0)], [2]), [4.0, 3.0, 9.0]),
        (Sequential([Linear(0.0, 1.0, 2)], []), [0.0, 1.0, 1.0]),
        (Linear(0.0, 1.0).over(3), [0.0, 0.5, 1.0]),
        (Warmup(Linear(1.0, 0.0), 2, 0.0).over(5), [0.0, 0.5, 1.0, 0.5, 0.0]),
    ],
    ids=repr,
)
def test_values(schedule: Callable[[int], float], expected: list[float]) -> None:
    assert values(schedule, len(expected)) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_cosine_is_flat_at_both_ends_and_steepest_between() -> None:
    n_steps = 1001
    found = values(Cosine(0.0, 1.0, n_steps), n_steps)
    slopes = [(b - a) * (n_steps - 1) for a, b in pairwise(found)]
    assert slopes[0] == pytest.approx(0.0, abs=0.01)
    assert slopes[-1] == pytest.approx(0.0, abs=0.01)
    assert max(slopes) == pytest.approx(math.pi / 2, rel=1e-4)


def test_plain_callables_serve_as_inner_schedules() -> None:
    def plain(step: int) -> float:
        return 10.0 + step

    assert values(Warmup(plain, 2, 0.0).over(9), 4) == [0.0, 5.0, 10.0, 11.0]
    assert values(Sequential([plain, plain], [2]).over(9), 4) == [10.0, 11.0, 10.0, 11.0]


@pytest.mark.parametrize(
    ("schedule", "length"),
    [
        (Constant(1.0), None),
        (Linear(0.0, 1.0), None),
        (Linear(0.0, 1.0, 7), 7),
        (Cosine(0.0, 1.0, 7), 7),
        (ExponentialDecay(1.0, 0.9), None),
        (MultiStep(1.0, [2, 5]), 6),
        (Warmup(Linear(0.0, 1.0, 7), 3), 10),
        (Warmup(Linear(0.0, 1.0), 3), None),
        (Sequential([Linear(0.0, 1.0), Linear(0.0, 1.0, 7)], [4]), 11),
        (Sequential([Linear(0.0, 1.0, 7), Linear(0.0, 1.0)], [4]), None),
    ],
    ids=repr,
)
def test_length(schedule: Any, length: int | None) -> None:
    assert schedule.length == length


@pytest.mark.parametrize(
    "schedule",
    [
        Linear(0.0, 1.0),
        Cosine(0.0, 1.0),
        Warmup(Linear(0.0, 1.0), 2),
        Sequential([Constant(1.0), Cosine(0.0, 1.0)], [2]),
    ],
    ids=repr,
)
def test_an_open_length_is_refused_with_its_remedy(schedule: Any) -> None:
    with pytest.raises(ValueError, match=r"(Linear|Cosine): .*state n_steps, or let the pipeline"):
        schedule(5)


@pytest.mark.parametrize("n_steps", [1, 4])
@pytest.mark.parametrize(
    "schedule",
    [Warmup(Linear(0.0, 1.0), 4), Sequential([Constant(1.0), Linear(0.0, 1.0)], [4])],
    ids=repr,
)
def test_too_few_steps_for_the_last_part_are_refused(schedule: Any, n_steps: int) -> None:
    with pytest.raises(ValueError, match=f"{type(schedule).__name__}.*{n_steps}"):
        schedule.over(n_steps)
    assert schedule.over(5).length == 5


@pytest.mark.parametrize(
    ("build", "culprit"),
    [
        (lambda: Constant(math.nan), "value"),
        (lambda: Constant(True), "value"),
        (lambda: Constant("1"), "value"),
        (lambda: Constant(1.0, clock="wall"), "clock"),
        (lambda: Linear(math.inf, 0.0), "start_value"),
        (lambda: Linear(0.0, -math.inf), "end_value"),
        (lambda: Linear(0.0, 1.0, 0), "n_steps"),
        (lambda: Linear(0.0, 1.0, 2.5), "n_steps"),
        (lambda: Cosine(0.0, 1.0, True), "n_steps"),
        (lambda: ExponentialDecay(1.0, 0.0), "decay_rate"),
        (lambda: ExponentialDecay(1.0, 1.5), "decay_rate"),
        (lambda: ExponentialDecay(1.0, 0.9, 2.0), "min_value"),
        (lambda: MultiStep(1.0, []), "milestones"),
        (lambda: MultiStep(1.0, [0, 1]), "milestones"),
        (lambda: MultiStep(1.0, [2, 2]), "milestones"),
        (lambda: MultiStep(1.0, [2, 3.5]), "milestones"),
        (lambda: MultiStep(1.0, [2], 0.0), "gamma"),
        (lambda: MultiStep(1.0, [2, 4], 1e300), "gamma"),
        (lambda: MultiStep(1e300, [2], 1e300), "gamma"),
        (lambda: Warmup(Constant(1.0), 0), "n_steps"),
        (lambda: Warmup(Constant(1.0), 5, 1.5), "init_factor"),
        (lambda: Sequential([], []), "schedulers"),
        (lambda: Sequential([Constant(1.0)], [3]), "milestones"),
        (lambda: Sequential([Constant(1.0)] * 3, [3]), "milestones"),
        (lambda: Sequential([Constant(1.0)] * 3, [3, 1]), "milestones"),
    ],
)
def test_fields_out_of_range_are_refused(build: Callable[[], Any], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        build()


@pytest.mark.parametrize(
    "build", [lambda: Warmup(1.0, 5), lambda: Sequential([Constant(1.0), 2.0], [3])]
)
def test_a_number_is_no_inner_schedule(build: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="callable"):
        build()


def test_a_part_without_enough_steps_is_refused_when_the_sequence_is_made() -> None:
    with pytest.raises(ValueError, match="Warmup: a rise of n_steps = 4"):
        Sequential([Warmup(Linear(0.0, 1.0), 4), Constant(1.0)], [4])


def test_schedules_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Constant(1.0).value = 2.0
