"""Laws that every schedule obeys, whatever its fields."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise

import pytest
from ebmkit_schedulers.constant import Constant
from ebmkit_schedulers.cosine import Cosine
from ebmkit_schedulers.exponential_decay import ExponentialDecay
from ebmkit_schedulers.linear import Linear
from ebmkit_schedulers.multi_step import MultiStep
from ebmkit_schedulers.sequential import Sequential
from ebmkit_schedulers.warmup import Warmup
from hypothesis import given, settings
from hypothesis import strategies as st

from ebmkit import Scheduler, clock_of, length_of, spread

laws = settings(deadline=None, max_examples=60, derandomize=True)
numbers = st.floats(allow_nan=False, allow_infinity=False)
moderate = st.floats(-1e6, 1e6)
lengths = st.integers(1, 200)
open_or_stated = st.none() | lengths
milestones = st.lists(st.integers(1, 200), min_size=1, max_size=5, unique=True).map(sorted)
clocks = st.sampled_from(["training", "chain"])


@st.composite
def decays(draw: st.DrawFn, values: st.SearchStrategy[float] = moderate) -> ExponentialDecay:
    low, high = sorted((draw(values), draw(values)))
    rate = draw(st.floats(0, 1, exclude_min=True))
    return ExponentialDecay(high, rate, low, clock=draw(clocks))


simple = {
    "constant": st.builds(Constant, numbers, clock=clocks),
    "linear": st.builds(Linear, numbers, numbers, open_or_stated, clock=clocks),
    "cosine": st.builds(Cosine, numbers, numbers, open_or_stated, clock=clocks),
    "exponential-decay": decays(numbers),
    "multi-step": st.builds(MultiStep, moderate, milestones, st.floats(1e-3, 1e3), clock=clocks),
}
inner = st.one_of(*simple.values())


@st.composite
def sequences(
    draw: st.DrawFn, parts: st.SearchStrategy[Scheduler] = inner, gap: int = 1
) -> Sequential:
    takeovers = [gap * milestone for milestone in draw(milestones)]
    schedulers = [draw(parts) for _ in range(len(takeovers) + 1)]
    return Sequential(schedulers, takeovers, clock=draw(clocks))


warmups = st.builds(Warmup, inner, lengths, st.floats(0, 1), clock=clocks)
short_warmups = st.builds(Warmup, inner, st.integers(1, 3), clock=clocks)
everything = {
    **simple,
    "warmup": warmups,
    "sequential": sequences(),
    "nested": st.builds(Warmup, sequences(short_warmups, gap=4), lengths, st.floats(0, 1)),
}
every = pytest.mark.parametrize("name", everything)
ramps = pytest.mark.parametrize("kind", [Linear, Cosine])

# More steps than any of the rises and milestones above take together.
LONG = 2500


@every
@laws
@given(data=st.data(), step=st.integers(0, 3 * LONG))
def test_a_schedule_is_a_pure_function_that_survives_pickling(
    name: str, data: st.DataObject, step: int
) -> None:
    schedule = data.draw(everything[name]).over(LONG)
    value = schedule(step)
    assert type(value) is float
    assert math.isfinite(value)
    assert schedule(step) == value
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule
    assert again(step) == value


@every
@laws
@given(
    data=st.data(),
    step=st.one_of(st.integers(max_value=-1), st.floats(), st.booleans(), st.none(), st.just("1")),
)
def test_a_wrong_step_is_refused_by_name(name: str, data: st.DataObject, step: object) -> None:
    schedule = data.draw(everything[name]).over(LONG)
    with pytest.raises(ValueError, match=type(schedule).__name__) as caught:
        schedule(step)
    assert repr(step) in str(caught.value)


@every
@laws
@given(data=st.data(), n_steps=st.sampled_from([0, -3, True, 2.0, None]))
def test_a_wrong_number_of_steps_is_refused_by_name(
    name: str, data: st.DataObject, n_steps: object
) -> None:
    schedule = data.draw(everything[name])
    with pytest.raises(ValueError, match=type(schedule).__name__):
        schedule.over(n_steps)


@every
@laws
@given(data=st.data(), first=st.integers(LONG, 2 * LONG), second=st.integers(1, 2 * LONG))
def test_spreading_fills_an_open_length_and_leaves_a_stated_one(
    name: str, data: st.DataObject, first: int, second: int
) -> None:
    schedule = data.draw(everything[name])
    spread_out = schedule.over(first)
    assert type(spread_out) is type(schedule)
    assert spread_out.over(first) == spread_out
    assert schedule.length is None or spread_out is schedule
    if spread_out.length is not None:
        assert spread_out.over(second) is spread_out
        assert schedule.length is not None or spread_out.length == first


@every
@laws
@given(data=st.data())
def test_the_kernel_reads_the_outer_clock_and_length(name: str, data: st.DataObject) -> None:
    schedule = data.draw(everything[name])
    assert isinstance(schedule, Scheduler)
    assert clock_of(schedule) == schedule.clock
    assert length_of(schedule) == schedule.length
    assert clock_of(spread(schedule, LONG)) == schedule.clock


@ramps
@laws
@given(start=numbers, end=numbers, n_steps=lengths, beyond=st.integers(0, 10**30))
def test_a_ramp_goes_from_end_to_end_without_turning_back(
    kind: type[Linear | Cosine], start: float, end: float, n_steps: int, beyond: int
) -> None:
    ramp = kind(start, end, n_steps)
    values = [ramp(step) for step in range(n_steps)]
    assert values[0] == (start if n_steps > 1 else end)
    assert values[-1] == end
    assert ramp(n_steps - 1 + beyond) == end
    assert all(min(start, end) <= value <= max(start, end) for value in values)
    assert values == sorted(values, reverse=start > end)


@ramps
@laws
@given(start=moderate, end=moderate, n_steps=st.integers(2, 200), step=st.integers(0, 199))
def test_a_ramp_run_backwards_is_the_ramp_between_swapped_ends(
    kind: type[Linear | Cosine], start: float, end: float, n_steps: int, step: int
) -> None:
    step %= n_steps
    there, back = kind(start, end, n_steps), kind(end, start, n_steps)
    assert there(step) == pytest.approx(back(n_steps - 1 - step), rel=1e-9, abs=1e-9)


@ramps
@laws
@given(start=numbers, end=numbers, n_steps=st.integers(2, 10**9))
def test_a_spread_ramp_uses_its_whole_range(
    kind: type[Linear | Cosine], start: float, end: float, n_steps: int
) -> None:
    ramp = kind(start, end).over(n_steps)
    assert ramp.length == n_steps
    assert ramp(0) == start
    assert ramp(n_steps - 1) == end
    assert ramp == kind(start, end, n_steps)


@laws
@given(decay=decays(), steps=lengths)
def test_a_decay_starts_at_its_start_and_never_leaves_its_bounds(
    decay: ExponentialDecay, steps: int
) -> None:
    values = [decay(step) for step in range(steps)]
    assert values[0] == decay.start_value
    assert all(decay.min_value <= value for value in values)
    if decay.start_value >= 0:
        assert all(a >= b for a, b in pairwise(values))


@laws
@given(start=moderate, steps=milestones, gamma=st.floats(1e-3, 1e3))
def test_a_multi_step_changes_at_its_milestones_alone(
    start: float, steps: list[int], gamma: float
) -> None:
    schedule = MultiStep(start, steps, gamma)
    assert schedule(0) == start
    for step in range(1, steps[-1] + 5):
        expected = schedule(step - 1) * (gamma if step in steps else 1.0)
        assert schedule(step) == pytest.approx(expected, rel=1e-12, abs=1e-300)


@laws
@given(scheduler=inner, rise=lengths, factor=st.floats(0, 1), step=st.integers(0, LONG))
def test_a_warmup_rises_to_its_scheduler_and_then_is_it(
    scheduler: Scheduler, rise: int, factor: float, step: int
) -> None:
    scheduler = spread(scheduler, LONG)
    schedule = Warmup(scheduler, rise, factor)
    top = scheduler(0)
    values = [abs(schedule(t)) for t in range(rise + 1)]
    assert schedule(0) == factor * top
    assert schedule(rise) == top
    assert values == sorted(values)
    assert schedule(rise + step) == scheduler(step)
    inner_length = length_of(scheduler)
    assert schedule.length == (None if inner_length is None else rise + inner_length)


@laws
@given(schedule=sequences(), step=st.integers(0, LONG))
def test_a_sequence_plays_each_part_from_its_own_start(schedule: Sequential, step: int) -> None:
    schedule = schedule.over(LONG)
    starts = [0, *schedule.milestones]
    ends = [*schedule.milestones, LONG]
    index = max(i for i, start in enumerate(starts) if start <= step)
    part = spread(schedule.schedulers[index], ends[index] - starts[index])
    assert schedule(step) == part(step - starts[index])


@laws
@given(parts=sequences(st.builds(Linear, moderate, moderate)), k=st.integers(300, 10**6))
def test_a_spread_sequence_uses_the_whole_range_of_every_part(parts: Sequential, k: int) -> None:
    schedule = parts.over(k)
    ends = [milestone - 1 for milestone in schedule.milestones] + [k - 1]
    for part, start, end in zip(parts.schedulers, [0, *schedule.milestones], ends, strict=True):
        assert isinstance(part, Linear)
        assert schedule(start) == (part.start_value if end > start else part.end_value)
        assert schedule(end) == part.end_value
    assert schedule.length == k
