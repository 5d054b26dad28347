"""One line of an author's test file: all laws of a kind as one parametrised test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ebmkit.errors import EbmkitError
from ebmkit.testing.crashes import Key
from ebmkit.testing.laws import Law
from ebmkit.testing.reports import by_reason as by_reason
from ebmkit.testing.reports import laws_of, tried
from ebmkit.testing.subject import Subject, subjects


class Trial(NamedTuple):
    """One law to be tried on one subject."""

    law: Law
    subject: Subject

    def unasked(self) -> str:
        """Why the law does not apply. What is raised instead of an answer is told by the trial."""
        try:
            return self.law.applies(self.subject)
        except Exception:
            return ""


RECORDED = "ebmkit"
"""The name by which a test tells pytest's reports what was tried."""


def suite(
    kind: str,
    part: Any,
    *,
    event_shape: tuple[int, ...] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Callable[..., None]:
    """A test, parametrised by law, that a part keeps the laws of its kind.

    ``part`` is an instance, or a class or function that makes one; then each configuration of its
    attribute ``examples`` is tried, or its defaults. ``event_shape`` says of what shape events are,
    where the part does not take any; ``batch_size`` is the largest batch that a loss takes; ``seed`` is
    what random choices begin with. A module of tests states

        test_mine = ebmkit.testing.suite("sampler", MySampler(step_size=0.1))

    What the part raises in several tests alike is shown in full by the first of them, to which the
    others refer. Laws that do not apply are no tests; the summary at the end says why they do not.
    Where none applies, or the part cannot be made, the test fails.

    Raises:
        UnknownPartError: there are no laws for such a kind.
    """
    import pytest

    laws = laws_of(kind)
    options = {"event_shape": event_shape, "batch_size": batch_size}
    stated = {name: value for name, value in options.items() if value is not None}
    asked: list[Any] = []
    shown: dict[Key, str] = {}
    try:
        found = subjects(kind, part, **stated)
        for number, subject in enumerate(found):
            subject.make()
            for trial in (Trial(law, subject) for law in laws):
                if reason := trial.unasked():
                    unasked.append((str(subject), trial.law.name, reason))
                    continue
                name = trial.law.name if len(found) == 1 else f"{number}-{trial.law.name}"
                asked.append(pytest.param(trial, id=name))
        nothing = f"no law applies to {kind} {part!r}, so nothing was tried"
    except Exception as error:
        asked = []
        said = str(error) if isinstance(error, EbmkitError) else f"{type(error).__name__}: {error}"
        nothing = f"{kind} {part!r} cannot be tried: {said}"

    @pytest.mark.parametrize("trial", asked or [pytest.param(None, id="can-be-tried")])
    def test(
        trial: Trial | None,
        record_property: Callable[[str, object], None],
        request: pytest.FixtureRequest,
    ) -> None:
        if trial is None:
            pytest.fail(nothing, pytrace=False)
        outcome = tried(trial.law, trial.subject, seed)
        if outcome.status == "not asked":
            pytest.skip(outcome.reason)
        record_property(RECORDED, (str(trial.subject), trial.law.name, outcome.cases))
        if not outcome.good:
            here, there = f"in {request.node.name}", ""
            if outcome.crash:
                there = shown.setdefault(outcome.crash.key, here)
            told = outcome.lines("" if there == here else there)
            pytest.fail(f"{trial.subject}\n" + "\n".join(told), pytrace=False)

    return test


unasked: list[tuple[str, str, str]] = []
"""Subject, law and reason of what suites of this process left out."""
