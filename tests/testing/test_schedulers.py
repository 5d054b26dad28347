"""The kit's laws of schedules: a sound one keeps them, and each of these broken ones breaks one."""

from __future__ import annotations

import itertools
import math
from typing import Any

import attrs
import pytest

from ebmkit.testing import Subject, report
from ebmkit.testing.reports import laws_of

LAWS = [law for law in laws_of("scheduler") if law.check.__module__.endswith("schedulers")]


class Ramp:
    """From start to end; what the broken ones below are made from."""

    clock = "training"

    def __init__(self, start_value: float = 1.0, end_value: float = 0.0) -> None:
        self.start_value, self.end_value = start_value, end_value
        self.length: int | None = None

    def over(self, n_steps: int) -> Ramp:
        if type(n_steps) is not int or n_steps < 1:
            raise ValueError(f"{type(self).__name__}: wrong number of steps {n_steps!r}")
        if self.length is not None:
            return self
        spread = type(self)(self.start_value, self.end_value)
        spread.length = n_steps
        return spread

    def __call__(self, step: int) -> float:
        self.check(step)
        assert self.length is not None
        return self.value(step, self.length - 1)

    def check(self, step: Any) -> None:
        if type(step) is not int or step < 0:
            raise ValueError(f"{type(self).__name__}: wrong step {step!r}")

    def value(self, step: int, last: int) -> float:
        weight = min(step / max(last, 1), 1.0)
        return self.start_value * (1 - weight) + self.end_value * weight


def test_the_sound_one_keeps_every_law() -> None:
    found = report(Subject("scheduler", Ramp()), LAWS)
    assert found.good and len(LAWS) == 5, "\n".join(found.lines())


class EndsLate(Ramp):
    def value(self, step: int, last: int) -> float:
        return super().value(step, last + 1)


class BeginsLate(Ramp):
    def value(self, step: int, last: int) -> float:
        return super().value(step + 1, last)


class BeginsLateUnstated(Ramp):
    def __init__(self, a: float = 1.0, b: float = 0.0) -> None:
        super().__init__(a, b)
        del self.start_value, self.end_value
        self.a, self.b = a, b

    def over(self, n_steps: int) -> Ramp:
        self.start_value, self.end_value = self.a, self.b
        spread = super().over(n_steps)
        del self.start_value, self.end_value
        return spread

    def value(self, step: int, last: int) -> float:
        weight = min((step + 1) / (last + 1), 1.0)
        return self.a * (1 - weight) + self.b * weight


class Counts(Ramp):
    def value(self, step: int, last: int) -> float:
        self.calls = getattr(self, "calls", -1) + 1
        return super().value(self.calls, last)


_shared = itertools.count()


class CountsForAll(Ramp):
    def value(self, step: int, last: int) -> float:
        return super().value(next(_shared), last)


class NotANumber(Ramp):
    def value(self, step: int, last: int) -> float:
        return math.nan if step == 123 else super().value(step, last)


class Infinite(Ramp):
    def value(self, step: int, last: int) -> float:
        return math.inf if step == last else super().value(step, last)


class Whole(Ramp):
    def value(self, step: int, last: int) -> float:
        return 1


class Negative(Ramp):
    def check(self, step: Any) -> None:
        if type(step) is not int:
            super().check(step)


class Truth(Ramp):
    def check(self, step: Any) -> None:
        if step is not True:
            super().check(step)


class Unnamed(Ramp):
    def check(self, step: Any) -> None:
        if type(step) is not int or step < 0:
            raise ValueError("wrong step")


class WrongType(Ramp):
    def check(self, step: Any) -> None:
        if step is None:
            raise TypeError("WrongType: no step")
        super().check(step)


class SpreadsOverNone(Ramp):
    def over(self, n_steps: int) -> Ramp:
        return super().over(n_steps if type(n_steps) is int and n_steps > 0 else 1)


class SpreadsAgain(Ramp):
    def over(self, n_steps: int) -> Ramp:
        self.length = None
        return super().over(n_steps)


class GoesOn(Ramp):
    def value(self, step: int, last: int) -> float:
        return self.start_value + (self.end_value - self.start_value) * step / last


@attrs.frozen
class Unlimited:
    def __call__(self, step: int) -> float:
        if type(step) is not int or step < 0:
            raise ValueError(f"Unlimited: wrong step {step!r}")
        return 1.5**step


BROKEN = {
    EndsLate: "end-reached-and-kept",
    BeginsLate: "end-reached-and-kept",
    BeginsLateUnstated: "spreading-keeps-both-ends",
    Counts: "same-value-at-a-step",
    CountsForAll: "same-value-at-a-step",
    NotANumber: "values-finite",
    Infinite: "values-finite",
    Whole: "values-finite",
    Negative: "wrong-steps-refused",
    Truth: "wrong-steps-refused",
    Unnamed: "wrong-steps-refused",
    WrongType: "wrong-steps-refused",
    SpreadsOverNone: "wrong-steps-refused",
    SpreadsAgain: "spreading-keeps-both-ends",
    GoesOn: "end-reached-and-kept",
    Unlimited: "values-finite",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda kind: kind.__name__)
def test_each_broken_one_is_caught(broken: Any) -> None:
    found = report(Subject("scheduler", broken), LAWS)
    assert not found.good
    wrong = {outcome.law.name: outcome for outcome in found.outcomes if not outcome.good}
    assert BROKEN[broken] in wrong, "\n".join(found.lines())
    if broken is not Unlimited:  # which raises OverflowError
        assert wrong[BROKEN[broken]].status == "broken", "\n".join(found.lines())


def test_one_that_says_that_it_does_not_stay_is_not_asked_to() -> None:
    class Sawtooth(Ramp):
        holds_end = False

        def value(self, step: int, last: int) -> float:
            return super().value(step % (last + 1), last)

    found = report(Subject("scheduler", Sawtooth()), [law for law in LAWS if "end-" in law.name])
    assert found.good, "\n".join(found.lines())
