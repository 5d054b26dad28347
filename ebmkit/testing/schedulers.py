"""Laws of schedules.

A class attribute ``holds_end = False`` says that a schedule does not keep its last value after the
steps for which it is stated.
"""

from __future__ import annotations

import math
import pickle
from typing import Any

from ebmkit.clocks import clock_of, length_of, spread
from ebmkit.testing.laws import BrokenLaw, Cases, law
from ebmkit.testing.subject import Subject
from ebmkit.testing.varied import varied

FARTHEST = 10**6
"""The last step that is tried."""
_SPREADS = (300, 3_000, 100_000, FARTHEST)


def spread_out(schedule: Any) -> tuple[Any, int]:
    """A schedule spread over the fewest of some numbers of steps that it takes, and their number."""
    for steps in _SPREADS[:-1]:
        try:
            return spread(schedule, steps), steps
        except ValueError:
            continue
    return spread(schedule, FARTHEST), FARTHEST


def value_at(cases: Cases, schedule: Any, step: int) -> float:
    """Its value, which is a finite float."""
    value = schedule(step)
    cases.expect(
        isinstance(value, float) and math.isfinite(value),
        f"at step {step} the value is {value!r}, expected a finite float",
    )
    return float(value)


def _named(schedule: Any) -> str:
    return getattr(type(schedule), "__name__", str(type(schedule)))


def _open(subject: Subject) -> str:
    schedule = subject.make()
    if not hasattr(schedule, "over"):
        return "it has no over(n_steps), so its length is never open"
    if length_of(schedule) is not None:
        return "its length is stated"
    if length_of(spread_out(schedule)[0]) is None:
        return "it has no end"
    return ""


def _ends(subject: Subject) -> str:
    if length_of(spread_out(subject.make())[0]) is None:
        return "it has no end"
    return ""


@law(
    "scheduler",
    why="Nothing of a schedule is saved, so a run that is resumed asks it for steps anew.",
    means="a resumed run, or one step asked for twice, gets other values than the run had",
)
def same_value_at_a_step(subject: Subject, cases: Cases) -> None:
    from hypothesis import strategies as st

    schedule, _ = spread_out(subject.make())

    def check(steps: list[int]) -> None:
        values = [schedule(step) for step in steps]
        again = [schedule(step) for step in reversed(steps)][::-1]
        fresh, _ = spread_out(subject.make())
        alone = {step: fresh(step) for step in sorted(set(steps))}
        kept = pickle.loads(pickle.dumps(schedule))
        for step, value, second in zip(steps, values, again, strict=True):
            for other, said in (
                (second, "asked for again, in another order"),
                (alone[step], "of a fresh schedule, asked for in order"),
                (kept(step), "of its pickled copy"),
            ):
                cases.expect(
                    other == value or (value != value and other != other),
                    f"at step {step} the value is {value!r}, and {other!r} {said}",
                )

    steps = st.lists(st.integers(0, 50) | st.integers(0, FARTHEST), min_size=1, max_size=12)
    varied(cases, check, examples=25, steps=steps)


@law(
    "scheduler",
    why="The value is a step size, a temperature or a learning rate of that very step.",
    means="training or a chain turns to NaN, or a step is refused in the middle of a run",
)
def values_finite(subject: Subject, cases: Cases) -> None:
    from hypothesis import strategies as st

    schedule, steps = spread_out(subject.make())
    said = clock_of(schedule)
    length = length_of(schedule)
    with cases.case(f"the first {min(steps, 1_000)} steps, spread over {steps}"):
        cases.expect(
            said in ("training", "chain"), f'clock is {said!r}, expected "training" or "chain"'
        )
        cases.expect(
            length is None or (type(length) is int and length >= 1),
            f"length is {length!r}, expected a whole number ≥ 1, or None",
        )
        for step in range(min(steps, 1_000)):
            value_at(cases, schedule, step)

    def check(step: int) -> None:
        value_at(cases, schedule, step)

    varied(cases, check, step=st.integers(0, FARTHEST))


@law(
    "scheduler",
    why="The step after the last stated one is asked for where a run goes on.",
    means="the schedule ends a step early or late, or jumps when a run goes on after its end",
    applies=_ends,
)
def end_reached_and_kept(subject: Subject, cases: Cases) -> None:
    from hypothesis import strategies as st

    schedule, _ = spread_out(subject.make())
    length = length_of(schedule)
    assert length is not None
    last = value_at(cases, schedule, length - 1)
    with cases.case(f"length {length}"):
        for name, step in (("start_value", 0), ("end_value", length - 1)):
            stated = getattr(schedule, name, None)
            if isinstance(stated, float | int) and (length > 1 or name == "end_value"):
                value = value_at(cases, schedule, step)
                cases.expect(
                    math.isclose(value, stated, rel_tol=1e-9, abs_tol=1e-300),
                    f"at step {step} the value is {value!r}, and {name} is {stated!r}",
                )
    if getattr(schedule, "holds_end", True) is False:
        return

    def check(beyond: int) -> None:
        value = value_at(cases, schedule, length + beyond)
        cases.expect(
            value == last,
            f"at step {length - 1}, the last of its length, the value is {last!r}, and at step "
            f"{length + beyond} {value!r}, expected the same; state holds_end = False in the class "
            "where it is not meant to stay",
        )

    varied(cases, check, beyond=st.integers(0, 10) | st.integers(0, FARTHEST))


@law(
    "scheduler",
    why="A pipeline spreads a schedule of open length over its run, whatever the run's length.",
    means="the schedule begins or ends elsewhere when the run is made longer",
    applies=_open,
)
def spreading_keeps_both_ends(subject: Subject, cases: Cases) -> None:
    from hypothesis import strategies as st

    schedule = subject.make()
    least = spread_out(schedule)[1]
    whole = spread(schedule, least)
    first, last = value_at(cases, whole, 0), value_at(cases, whole, least - 1)

    def check(n_steps: int) -> None:
        other = spread(schedule, n_steps)
        cases.expect(
            length_of(other) == n_steps,
            f"over({n_steps}) has length {length_of(other)!r}, expected {n_steps}",
        )
        twice = spread(other, 2 * n_steps)
        cases.expect(
            length_of(twice) == n_steps,
            f"over({n_steps}).over({2 * n_steps}) has length {length_of(twice)!r}, expected a "
            f"length that is stated to stay {n_steps}",
        )
        for step, expected in ((0, first), (n_steps - 1, last)):
            value = value_at(cases, other, step)
            cases.expect(
                math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-12),
                f"over({n_steps}) is {value!r} at step {step}, and over({least}) "
                f"{expected!r} at its {'first' if step == 0 else 'last'} one; expected the same",
            )

    varied(cases, check, n_steps=st.integers(least, 3 * least))


def _refused(cases: Cases, schedule: Any, call: Any, wrong: Any, wanted: str) -> None:
    name = _named(schedule)
    try:
        found = call(wrong)
    except ValueError as error:
        cases.expect(
            name in str(error),
            f"{wanted} {wrong!r} is refused by {str(error)!r}, which does not name {name}",
        )
    except Exception as error:
        raise BrokenLaw(
            f"{wanted} {wrong!r} raises {type(error).__name__}: {error}; expected a ValueError "
            f"that names {name} (case: {cases.label})"
        ) from error
    else:
        cases.expect(
            False, f"{wanted} {wrong!r} gives {found!r}; expected a ValueError that names {name}"
        )


@law(
    "scheduler",
    why="A step that is none comes of a mistake elsewhere, which is to be seen there.",
    means="a wrong counter trains on with values that nobody asked for",
)
def wrong_steps_refused(subject: Subject, cases: Cases) -> None:
    from hypothesis import strategies as st

    schedule, _ = spread_out(subject.make())
    wrong = st.one_of(
        st.sampled_from([-1, 0.0, 1.5, True, False, None, "1"]),
        st.integers(max_value=-1),
        st.floats(),
        st.text(max_size=3),
    )
    varied(cases, lambda step: _refused(cases, schedule, schedule, step, "step"), step=wrong)
    for number in (0, -3, True, 2.0, None, "7") if hasattr(schedule, "over") else ():
        with cases.case(f"over({number!r})"):
            _refused(cases, schedule, subject.make().over, number, "a spread over")
