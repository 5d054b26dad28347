"""One line of an author's test file: all laws of a kind as one parametrised test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ebmkit.testing.laws import Law
from ebmkit.testing.reports import laws_of, tried
from ebmkit.testing.subject import Subject, subjects


class Trial(NamedTuple):
    """One law to be tried on one subject."""

    law: Law
    subject: Subject

    def __str__(self) -> str:
        return self.law.name


RECORDED = "ebmkit"
"""The name by which a test tells pytest's reports what was tried."""


def suite(kind: str, part: Any, **options: Any) -> Callable[..., None]:
    """A test, parametrised by law, that a part keeps the laws of its kind.

    ``part`` is an instance, or a class or function that makes one; then each configuration of its
    attribute ``examples`` is tried, or its defaults. A module of tests states

        test_mine = ebmkit.testing.suite("sampler", MySampler(step_size=0.1))

    Laws that do not apply are no tests; the summary at the end says why they do not. Where none
    applies the test fails.

    Raises:
        UnknownPartError: there are no laws for such a kind.
    """
    import pytest

    found = subjects(kind, part, **options)
    trials = [Trial(law, subject) for subject in found for law in laws_of(kind)]
    asked = [trial for trial in trials if not trial.law.applies(trial.subject)]
    several = len(found) > 1

    def named(trial: Any) -> str:
        number = f"{found.index(trial.subject)}-" if several else ""
        return f"{number}{trial}"

    @pytest.mark.parametrize("trial", asked or [None], ids=named if asked else None)
    def test(trial: Trial | None, record_property: Callable[[str, object], None]) -> None:
        if trial is None:
            pytest.fail(f"no law applies to {found[0]}, so nothing was tried", pytrace=False)
        outcome = tried(trial.law, trial.subject)
        record_property(RECORDED, (str(trial.subject), trial.law.name, outcome.cases))
        if not outcome.good:
            pytest.fail(f"{trial.subject}\n" + "\n".join(outcome.lines()), pytrace=False)

    unasked.extend(
        (str(trial.subject), trial.law.name, trial.law.applies(trial.subject))
        for trial in trials
        if trial not in asked
    )
    return test


unasked: list[tuple[str, str, str]] = []
"""Subject, law and reason of what suites of this process left out."""
