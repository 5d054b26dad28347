"""The kit itself: what it says of laws kept, broken, failed or not asked; its one line of use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ebmkit.testing
from ebmkit.errors import UnknownPartError, UserError
from ebmkit.testing.laws import BrokenLaw, Cases, Law, NotAsked
from ebmkit.testing.reports import counted, laws_of, report, tried
from ebmkit.testing.subject import Subject, subjects


def constant(value: float) -> Any:
    """A schedule of one value."""
    return lambda step: value


def one_of(check: Any, applies: Any = lambda _: "") -> Law:
    return Law("a-law", ("scheduler",), check, "why", "users see it", applies)


SUBJECT = Subject("scheduler", constant, {"value": 1.0})


def test_a_law_that_is_kept() -> None:
    def check(subject: Subject, cases: Cases) -> None:
        for step in range(3):
            with cases.case(f"step {step}"):
                cases.expect(subject.make()(step) == 1, "one")

    found = report(SUBJECT, [one_of(check)])
    assert (found.good, found.cases, found.outcomes[0].status) == (True, 3, "kept")
    assert list(found.lines()) == ["scheduler constant(value=1.0): 1 law kept, 3 cases"]


def test_a_law_that_is_broken_says_in_which_case_and_what_users_see() -> None:
    def check(subject: Subject, cases: Cases) -> None:
        for step in range(3):
            with cases.case(f"step {step}"):
                cases.expect(step < 1, f"expected 0, got {subject.make()(step)}")

    found = report(SUBJECT, [one_of(check)])
    assert not found.good
    assert list(found.lines()) == [
        "scheduler constant(value=1.0): 0 laws kept, 1 broken, 2 cases",
        "  a-law: broken after 2 cases: expected 0, got 1.0 (case: step 1)",
        "    for users: users see it",
    ]


def test_what_a_part_raises_is_its_failure_and_shown() -> None:
    def check(subject: Subject, cases: Cases) -> None:
        with cases.case("all"):
            raise ZeroDivisionError("by nought")

    outcome = tried(one_of(check), SUBJECT)
    assert (outcome.status, outcome.good) == ("failed", False)
    assert outcome.reason == "ZeroDivisionError: by nought (case: all)"
    *lines, last = outcome.lines()
    assert lines[:2] == [
        "1 law could not be asked, because the part raised: a-law",
        "  raised for: scheduler constant(value=1.0), case: all",
    ]
    assert lines[2].endswith("in check")
    assert last == "  ZeroDivisionError: by nought"
    # What the law means where it is broken is not known to be so.
    assert "users" not in " ".join(lines)


def test_nothing_that_was_tried_is_no_success() -> None:
    def nothing(subject: Subject, cases: Cases) -> None: ...

    untried = tried(one_of(nothing), SUBJECT)
    assert not untried.good
    assert list(untried.lines()) == [
        "a-law: failed after 0 cases: the law tried nothing, which is a fault of the kit"
    ]
    unasked = report(SUBJECT, [one_of(nothing, lambda _: "it has none")])
    assert not unasked.good
    assert "  nothing was tried, which is no success" in unasked.lines()
    assert not report(SUBJECT, []).good


def test_a_law_that_cannot_say_whether_it_applies_has_failed() -> None:
    def applies(subject: Subject) -> str:
        raise LookupError("no such")

    outcome = tried(one_of(lambda *_: None, applies), SUBJECT)
    assert (outcome.status, outcome.reason) == ("failed", "LookupError: no such")


def test_a_law_may_turn_out_not_to_be_one_that_can_be_asked_here() -> None:
    def check(subject: Subject, cases: Cases) -> None:
        with cases.case("one"):
            raise NotAsked("no compiler")

    found = report(SUBJECT, [one_of(check)])
    assert (found.outcomes[0].status, found.outcomes[0].reason) == ("not asked", "no compiler")
    assert not found.good


def test_what_cannot_be_made_breaks_no_law_but_is_told() -> None:
    with pytest.raises(
        UserError, match=r"value has no default.*state examples = \(\{'value': …\},\)"
    ):
        report(Subject("scheduler", constant))


def test_each_example_is_a_subject() -> None:
    class Some:
        examples = ({"a": 1}, {"a": 2})

        def __init__(self, a: int) -> None:
            self.a = a

    assert [subject.make().a for subject in subjects("scheduler", Some)] == [1, 2]
    # An instance is what it is.
    one = Some(3)
    (only,) = subjects("scheduler", one)
    assert only.make().a == 3 and only.make() is not one


def test_unknown_kind() -> None:
    with pytest.raises(UnknownPartError, match="laws for a 'samplr'; did you mean 'sampler'"):
        laws_of("samplr")
    with pytest.raises(UnknownPartError):
        ebmkit.testing.suite("samplr", constant)


@pytest.mark.parametrize("kind", ["model", "sampler", "loss", "scheduler", "dataset", "hook"])
def test_every_law_says_what_rests_on_it(kind: str) -> None:
    for law in laws_of(kind):
        assert law.why.endswith("."), law.name
        assert law.means and not law.means.endswith("."), law.name


def test_broken_laws_are_failed_assertions() -> None:
    # pytest and hypothesis show those as failures and not as errors.
    assert issubclass(BrokenLaw, AssertionError)
    assert (counted(1, "case"), counted(0, "case")) == ("1 case", "0 cases")


MODULE = """
import ebmkit.testing


class Half:
    \"\"\"A schedule of one half.\"\"\"

    def __call__(self, step):
        if type(step) is not int or step < 0:
            raise ValueError(f"{type(self).__name__}: expected a step of 0 or more, got {step}")
        return 0.5


class Wild(Half):
    \"\"\"A schedule that is another one each time.\"\"\"

    calls = 0

    def __call__(self, step):
        Wild.calls += 1
        return super().__call__(step) + Wild.calls


class Needy(Half):
    \"\"\"A schedule that nobody can make.\"\"\"

    def __init__(self, value):
        self.value = value


class Slip(Half):
    \"\"\"A schedule that fails late.\"\"\"

    def __call__(self, step):
        super().__call__(step)
        return [0.5][step]


test_half = ebmkit.testing.suite("scheduler", Half)
test_slip = ebmkit.testing.suite("scheduler", Slip())
test_wild = ebmkit.testing.suite("scheduler", Wild())
test_needy = ebmkit.testing.suite("scheduler", Needy)
"""


def test_one_line_of_use(tmp_path: Path) -> None:
    """Laws as tests of an author's own run, and the summary at its end."""
    (tmp_path / "test_mine.py").write_text(MODULE)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-k",
            "not spawn",
            "test_mine.py",
        ],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = done.stdout
    assert done.returncode == 1, said + done.stderr
    failed = [line for line in said.splitlines() if line.startswith("FAILED")]
    names = {line.split()[1].removeprefix("test_mine.py::") for line in failed}
    assert "test_wild[same-value-at-a-step]" in names
    assert "test_needy[can-be-tried]" in names
    assert not any(name.startswith("test_half") for name in names), said
    assert "value has no default, and the kit cannot know what to give" in said
    assert "for users: " in said and "Traceback" not in said
    # Each law that a part raises in fails, and the first of them alone shows what was raised.
    slips = [name for name in names if name.startswith("test_slip")]
    assert len(slips) > 2, said
    # On CI pytest's summary repeats messages in full.
    shown = said.partition("short test summary info")[0]
    assert shown.count("return [0.5][step]") == 1
    assert shown.count("raised the same as in test_slip[") == len(slips) - 1
    assert "ebmkit laws" in said
    assert "scheduler Half: " in said.partition("ebmkit laws")[2]
    assert (
        "  not asked: configuration-round-trip, wrong-values-refused (it has no parameters)" in said
    )


def test_a_run_without_suites_has_no_summary(tmp_path: Path) -> None:
    (tmp_path / "test_none.py").write_text("def test_it():\n    pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_none.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "ebmkit laws" not in done.stdout
