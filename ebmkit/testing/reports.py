"""Tries laws on a part, and tells what became of each."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from ebmkit.errors import UnknownPartError, UserError, did_you_mean
from ebmkit.testing.laws import ALL, LAWS, BrokenLaw, Cases, Law, NotAsked
from ebmkit.testing.subject import Subject

Status = Literal["kept", "broken", "failed", "not asked"]


class Outcome(NamedTuple):
    """What became of one law."""

    law: Law
    status: Status
    """kept; broken; failed where the part raised something else; not asked where the law does not
    apply to it."""
    cases: int
    """How many cases were tried."""
    reason: str = ""
    """How it is broken, what was raised, or why it was not asked."""
    raised: str = ""
    """The traceback of a failure."""

    @property
    def good(self) -> bool:
        return self.status in ("kept", "not asked")

    def lines(self) -> Iterator[str]:
        """What a person should read where it is not good."""
        yield f"{self.law.name}: {self.status} after {counted(self.cases, 'case')}: {self.reason}"
        yield f"  for users: {self.law.means}"
        if self.raised:
            yield from (f"  {line}" for line in self.raised.rstrip().splitlines())


class Report(NamedTuple):
    """What became of all laws of a kind, tried on one part."""

    subject: Subject
    outcomes: tuple[Outcome, ...]

    @property
    def cases(self) -> int:
        return sum(outcome.cases for outcome in self.outcomes)

    @property
    def good(self) -> bool:
        """Whether every law was kept, and at least one was tried."""
        return self.cases > 0 and all(outcome.good for outcome in self.outcomes)

    def lines(self) -> Iterator[str]:
        """The report as a person reads it."""
        kept = sum(outcome.status == "kept" for outcome in self.outcomes)
        yield f"{self.subject}: {counted(kept, 'law')} kept, {counted(self.cases, 'case')}"
        unasked = [o for o in self.outcomes if o.status == "not asked"]
        for line in by_reason((o.law.name, o.reason) for o in unasked):
            yield f"  {line}"
        for outcome in self.outcomes:
            if not outcome.good:
                yield from (f"  {line}" for line in outcome.lines())
        if not self.cases:
            yield "  nothing was tried, which is no success"


def by_reason(unasked: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A line for each reason why laws were not asked, with their names."""
    names: dict[str, list[str]] = {}
    for name, reason in unasked:
        names.setdefault(reason, []).append(name)
    for reason, together in names.items():
        yield f"not asked: {', '.join(dict.fromkeys(together))} ({reason})"


def counted(number: int, what: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{number} {what}{'s' * (number != 1)}"


def laws_of(kind: str) -> list[Law]:
    """All laws of a kind, in the order in which they are tried.

    Raises:
        UnknownPartError: there are no laws for such a kind.
    """
    from ebmkit.testing import everything  # noqa: F401 - which declares them

    if kind not in ALL:
        raise UnknownPartError(
            f"there are no laws for a {kind!r}{did_you_mean(kind, ALL)} (kinds: {', '.join(ALL)})"
        )
    return [law for (of, _), law in LAWS.items() if of == kind]


def tried(law: Law, subject: Subject, seed: int = 0) -> Outcome:
    """What becomes of a law."""
    cases = Cases(seed)
    try:
        if reason := law.applies(subject):
            return Outcome(law, "not asked", 0, reason)
        law.check(subject, cases)
    except NotAsked as unasked:
        return Outcome(law, "not asked", 0, str(unasked))
    except BrokenLaw as broken:
        return Outcome(law, "broken", cases.count, str(broken))
    except Exception as error:
        where = f" (case: {cases.label})" if cases.label else ""
        said = f"{type(error).__name__}: {error}{where}"
        # What is said on purpose says all.
        raised = "" if isinstance(error, UserError) else traceback.format_exc()
        return Outcome(law, "failed", cases.count, said, raised)
    if not cases.count:
        return Outcome(law, "failed", 0, "the law tried nothing, which is a fault of the kit")
    return Outcome(law, "kept", cases.count)


def report(subject: Subject, laws: Iterable[Law] | None = None, seed: int = 0) -> Report:
    """What becomes of the laws of its kind.

    Raises:
        UserError: nobody has told what the part is to be made with; and what making it raises.
    """
    subject.make()
    found = laws_of(subject.kind) if laws is None else laws
    return Report(subject, tuple(tried(law, subject, seed) for law in found))
