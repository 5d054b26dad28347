"""What a part raises in many laws is told once, with what its author needs to mend it."""

from __future__ import annotations

from typing import Any, NamedTuple

import attrs
import pytest
import torch
from torch import Tensor

import ebmkit
from ebmkit import Batch, UserError
from ebmkit.errors import HookError
from ebmkit.testing import reference
from ebmkit.testing.crashes import crash
from ebmkit.testing.laws import Cases, Law
from ebmkit.testing.reports import Report, laws_of, report
from ebmkit.testing.subject import Subject

ALIKE = (
    "gradient-is-the-derivative",
    "randomness-is-of-the-generator",
    "order-of-rows-changes-nothing",
    "halves-average-to-the-whole",
)
"""Laws that try batches of several sizes, whose numbers are in what torch says."""


class Nothing(NamedTuple):
    pass


class Slip:
    """Score matching along random directions; sums over the second axis where it means an event."""

    def init(self, model: Any, batch: Batch, *, generator: torch.Generator) -> Nothing:
        return Nothing()

    def draw(
        self, model: Any, batch: Batch, state: Any, step: int, *, generator: torch.Generator
    ) -> tuple[Tensor, Any]:
        return torch.randn(batch.x.shape, generator=generator, dtype=batch.x.dtype), state

    def squared(self, score: Tensor) -> Tensor:
        return (score**2).sum(1)

    def __call__(self, model: Any, batch: Batch, draws: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.enable_grad():
            x = batch.x.detach().clone().requires_grad_()
            energy = ebmkit.bind(model, batch.condition)
            score = -torch.autograd.grad(energy(x).sum(), x, create_graph=True)[0]
            along = torch.autograd.grad((score * draws).sum(), x, create_graph=True)[0]
            rows = self.squared(score) / 2 + (along * draws).flatten(1).sum(1)
            return rows.mean(), {}


class Mended(Slip):
    def squared(self, score: Tensor) -> Tensor:
        return (score**2).flatten(1).sum(1)


class Everywhere(Slip):
    """One that raises for events of any shape."""

    def squared(self, score: Tensor) -> Tensor:
        return score.no_such_method()


def reported(part: Any, names: tuple[str, ...] = ALIKE) -> Report:
    return report(Subject("loss", part), [law for law in laws_of("loss") if law.name in names])


def test_one_slip_is_told_once_with_its_remedy() -> None:
    found = reported(Slip)
    assert {outcome.status for outcome in found.outcomes} == {"failed"}
    # Batches are of many sizes, and the messages are not the same to the letter.
    assert len({o.crash.message for o in found.outcomes if o.crash}) > 1
    head, laws, where, *trace, hint = found.lines()
    assert head.startswith("loss Slip: 0 laws kept, 4 that raised, ")
    assert laws == "  4 laws could not be asked, because the part raised: " + ", ".join(ALIKE)
    assert where.startswith("    raised for: loss Slip, ")
    assert "(1, 8, 8)" in where and "float64" in where
    # The one line of the part that raises, torch's own being in C, and neither laws nor hypothesis.
    assert [line for line in trace if " File " in line] == [
        line for line in trace if "test_crashes.py" in line
    ]
    assert "rows = self.squared(score) / 2" in " ".join(trace)
    assert trace[-1].startswith("    RuntimeError: The size of tensor a (8) must match")
    assert len(trace) < 6
    assert hint == (
        "    hint: events may have any shape, here (1, 8, 8): flatten(1) and then sum(1) sums over "
        "an event"
    )
    for law in laws_of("loss"):
        assert law.means not in "\n".join(found.lines())


def test_the_remedy_is_one() -> None:
    assert reported(Mended).good


def test_no_hint_where_the_shape_is_not_the_cause() -> None:
    (outcome,) = reported(Everywhere, ("deterministic-under-a-generator",)).outcomes
    assert outcome.crash
    assert (outcome.crash.event_shape, outcome.crash.dtype) == ((3,), "float32")
    found = reported(Everywhere, ("deterministic-under-a-generator", *ALIKE))
    assert "hint" not in "\n".join(found.lines())
    assert len(list(found.crashes())) == 1


def law_of(name: str, check: Any) -> Law:
    return Law(name, ("scheduler",), check, "why", "users see it", lambda _: "")


class Schedule:
    """A schedule that raises what it is told to, in one of two places."""

    def __call__(self, step: int) -> float:
        if step < 2:
            raise LookupError(f"no row {step}")
        if step < 3:
            raise LookupError("no row 2")
        raise (LookupError("no column 3") if step == 3 else UserError("steps end at 3"))


def calling(step: int) -> Any:
    def check(subject: Subject, cases: Cases) -> None:
        with cases.case(f"step {step}"):
            subject.make()(step)

    return law_of(f"law-{step}", check)


def test_other_messages_and_other_places_are_other_crashes() -> None:
    found = report(Subject("scheduler", Schedule()), [calling(step) for step in range(5)])
    groups = [(crash.message, laws) for crash, laws in found.crashes()]
    assert groups == [
        # Numbers apart, the same message of the same line.
        ("no row 0", ["law-0", "law-1"]),
        ("no row 2", ["law-2"]),
        ("no column 3", ["law-3"]),
        ("steps end at 3", ["law-4"]),
    ]
    # What is said on purpose needs no traceback.
    assert list(found.lines())[-3:] == [
        "  1 law could not be asked, because the part raised: law-4",
        "    raised for: scheduler Schedule, case: step 4",
        "    UserError: steps end at 3",
    ]


def test_a_broken_law_beside_a_crash_keeps_its_consequence() -> None:
    def check(subject: Subject, cases: Cases) -> None:
        with cases.case("all"):
            cases.expect(False, "expected more")

    found = report(Subject("scheduler", Schedule()), [law_of("breaks", check), calling(0)])
    lines = list(found.lines())
    assert lines[0] == "scheduler Schedule: 0 laws kept, 1 broken, 1 that raised, 2 cases"
    assert lines[1:3] == [
        "  breaks: broken after 1 case: expected more (case: all)",
        "    for users: users see it",
    ]
    assert sum("for users" in line for line in lines) == 1


def test_what_was_shown_is_referred_to() -> None:
    found = report(Subject("scheduler", Schedule()), [calling(0)])
    shown: dict[Any, str] = {}
    first, again = list(found.lines(shown)), list(found.lines(shown))
    assert len(again) == 3 < len(first)
    assert again[1].endswith("raised the same as above, for scheduler Schedule: law-0")
    assert again[2].startswith("    LookupError: no row 0 (")


@attrs.define
class Points:
    """A part in whose code the errors below are raised, or not."""

    def init(self, points: Any) -> None:
        raise ValueError("none")


def raised(function: Any) -> BaseException:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (torch.zeros(5, 2, 3), ((2, 3), "float32")),
        (Batch(torch.zeros(5, 4).double()), ((4,), "float64")),
        (torch.zeros(5), (None, "")),  # labels, or energies
        ("no points", (None, "")),
    ],
)
def test_shape_and_dtype_are_of_what_the_part_was_given(points: Any, expected: Any) -> None:
    found = crash(raised(lambda: Points().init(points)), Subject("sampler", Points()), "")
    assert (found.event_shape, found.dtype) == expected


def test_an_error_that_is_raised_again_is_placed_where_it_was_raised_first() -> None:
    def again() -> None:
        try:
            Points().init(0)
        except ValueError as error:
            raise HookError("hook x raised ValueError: none") from error

    error = raised(again)
    error.__traceback__ = None
    found = crash(error, Subject("hook", Points()), "")
    assert (found.type, found.frames.count("in init")) == ("HookError", 1)


def test_what_no_line_of_the_part_raises_is_shown_whole() -> None:
    """As where a loss returns what has no gradient."""

    def given_back() -> None:
        batch = Batch(torch.zeros(2, 3))
        torch.autograd.grad(batch.x.sum(), [torch.zeros(1)])

    found = crash(raised(given_back), Subject("loss", reference.Contrast()), "")
    assert "in given_back" in found.frames and "in grad" in found.frames
    assert (found.event_shape, found.dtype) == ((3,), "float32")
