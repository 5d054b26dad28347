"""Tries laws on a part, and tells what became of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from typing import Literal, NamedTuple

from ebmkit.errors import UnknownPartError, did_you_mean
from ebmkit.testing.crashes import Crash, Key, crash
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
    crash: Crash | None = None
    """What the part raised, and where."""

    @property
    def good(self) -> bool:
        return self.status in ("kept", "not asked")

    def lines(self, shown: str = "") -> Iterator[str]:
        """What a person should read where it is not good; short of a crash that is shown elsewhere."""
        if self.crash:
            yield from self.crash.lines([self.law.name], shown)
            return
        yield f"{self.law.name}: {self.status} after {counted(self.cases, 'case')}: {self.reason}"
        # A law that was not shown to be broken says nothing of users.
        if self.status == "broken":
            yield f"  for users: {self.law.means}"


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

    def crashes(self) -> Iterator[tuple[Crash, list[str]]]:
        """What the part raised, each once, with the laws that could not be asked because of it.

        The case is that of the fewest axes of an event, so that more of them are named as a cause
        only where they may be one.
        """
        together: dict[Key, list[tuple[Crash, str]]] = {}
        for outcome in self.outcomes:
            if found := outcome.crash:
                together.setdefault(found.key, []).append((found, outcome.law.name))
        for group in together.values():
            simplest = min(
                (found for found, _ in group), key=lambda c: len(c.event_shape or (0,) * 9)
            )
            yield simplest, [name for _, name in group]

    def lines(self, shown: MutableMapping[Key, str] | None = None) -> Iterator[str]:
        """The report as a person reads it.

        ``shown`` says where the crashes are shown that need not be again, and is told of those here.
        """
        shown = {} if shown is None else shown
        number = {
            s: sum(o.status == s for o in self.outcomes) for s in ("kept", "broken", "failed")
        }
        said = [f"{counted(number['kept'], 'law')} kept"]
        said += [f"{number['broken']} broken"] if number["broken"] else []
        said += [f"{number['failed']} that raised"] if number["failed"] else []
        yield f"{self.subject}: {', '.join(said)}, {counted(self.cases, 'case')}"
        unasked = [o for o in self.outcomes if o.status == "not asked"]
        for line in by_reason((o.law.name, o.reason) for o in unasked):
            yield f"  {line}"
        for outcome in self.outcomes:
            if not outcome.good and not outcome.crash:
                yield from (f"  {line}" for line in outcome.lines())
        for found, names in self.crashes():
            yield from (f"  {line}" for line in found.lines(names, shown.get(found.key, "")))
            shown.setdefault(found.key, f"above, for {found.subject}")
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
        return Outcome(law, "failed", cases.count, said, crash(error, subject, cases.label))
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
