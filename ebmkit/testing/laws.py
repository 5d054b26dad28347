"""Laws: what holds of every part of a kind, and what it means for users where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ebmkit.testing.subject import Subject

ALL = ("model", "sampler", "loss", "scheduler", "dataset", "hook")
"""The kinds that there are laws for."""


class BrokenLaw(AssertionError):  # noqa: N818
    """A law that a part breaks; the message says how, and in which case."""


class NotAsked(Exception):  # noqa: N818
    """A law that turns out, while it is tried, not to be one that can be asked here; says why."""


class Cases:
    """Counts what a law is tried on, and remembers what the present case is."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        """What random choices of the law begin with."""
        self.count = 0
        self.label = ""

    @contextmanager
    def case(self, label: str) -> Iterator[None]:
        """One case; what is raised in it names it."""
        self.count += 1
        before, self.label = self.label, label
        yield
        self.label = before

    def expect(self, holds: bool, message: str) -> None:
        """Raise BrokenLaw where it does not hold."""
        if not holds:
            raise BrokenLaw(f"{message} (case: {self.label})" if self.label else message)


Check = Callable[["Subject", Cases], None]


class Law(NamedTuple):
    """What holds of every part of some kinds."""

    name: str
    kinds: tuple[str, ...]
    check: Check
    """Tries it on a part, and raises BrokenLaw where the part breaks it."""
    why: str
    """One sentence: what rests on it."""
    means: str
    """What users would see where it is broken."""
    applies: Callable[[Subject], str]
    """Why it cannot be asked of a part; empty where it can."""


LAWS: dict[tuple[str, str], Law] = {}
"""All laws, by kind and name, in the order in which they are tried."""


def law(
    *kinds: str,
    why: str,
    means: str,
    applies: Callable[[Any], str] = lambda _: "",
) -> Callable[[Check], Check]:
    """Makes a function (subject, cases) a law of some kinds, by the function's name."""

    def made(check: Check) -> Check:
        name = check.__name__.replace("_", "-")
        found = Law(name, kinds, check, why, means, applies)
        for kind in kinds:
            if (kind, name) in LAWS:
                raise ValueError(f"{kind}: two laws are called {name}")
            LAWS[kind, name] = found
        return check

    return made
