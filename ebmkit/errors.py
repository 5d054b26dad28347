"""Every error that ebmkit raises on purpose. Each message names culprit, place and remedy.

A ``UserError`` is something its reader can mend (exit code 2); a ``PluginError`` is a fault of a
plugin and names it (exit code 1).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple


class EbmkitError(Exception):
    """Anything that ebmkit raises on purpose."""

    exit_code = 1


class UserError(EbmkitError):
    """A mistake in what was asked for; the message says how to mend it."""

    exit_code = 2


_TOLD = 100


def legible(text: str, most: int = 4000) -> str:
    """A text of a stranger's as a terminal can show it: no character that moves the cursor, and its
    middle left out where it is long."""
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]} … {len(text) - 2 * half:,} characters … {text[-half:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class Problem(NamedTuple):
    """One thing that is wrong with a spec."""

    path: str
    """Where, as a dotted path such as ``loss.sampler.step_size``; empty for the whole."""
    message: str
    """What was expected, what was got, and the remedy."""
    line: int | None = None
    """Line in the file, counted from 1, where the spec came from a file."""

    def render(self, origin: str | None = None) -> str:
        """The problem in one line, as ``file:line: path: message``."""
        place = f"{origin}:{self.line}" if origin and self.line else origin
        parts = (place, legible(self.path, 200), legible(self.message))
        return ": ".join(part for part in parts if part)


def at_field(path: str, message: str, fields: Container[str]) -> tuple[str, str]:
    """The path and the words of what the part at ``path`` says: those of one of its fields where the
    message begins with its name and a colon."""
    name, colon, rest = message.partition(": ")
    return (f"{path}.{name}", rest) if colon and name in fields else (path, message)


class SpecError(UserError):
    """A spec with one problem or several, all of them reported at once; of very many the first 100."""

    def __init__(self, problems: Sequence[Problem], origin: str | None = None) -> None:
        self.problems = tuple(problems)
        self.origin = origin
        lines = [
            # A key that an override set stands in no file.
            problem.render(origin if problem.line or not problem.path else None)
            for problem in self.problems[:_TOLD]
        ]
        if more := len(self.problems) - len(lines):
            lines.append(f"and {more:,} more problems")
        super().__init__("\n".join(lines))


class UnknownPartError(UserError):
    """A part, or a kind of part, that nobody offers."""


class AmbiguousPartError(UserError):
    """A bare name that several distributions offer."""


class BlockedPartError(UserError):
    """A part that exists and was switched off."""


class IncompatiblePartError(UserError):
    """A part whose distribution asks for another version of ebmkit-core."""


class DataError(UserError):
    """A data file or a tensor that cannot be used as it is."""


class CompileError(UserError):
    """A loss that was to be compiled and cannot be."""


class EnergyError(UserError):
    """An energy that does not return one number a row, or cannot be differentiated as asked."""


class ScheduleError(UserError, ValueError):
    """A schedule that a chain would not run through to its end."""


class DeviceError(UserError):
    """A device that this machine does not have."""


class MemoryNeededError(UserError):
    """Something that would need more memory than the machine has."""


class RunDirectoryError(UserError):
    """A run directory that cannot be written, read or overwritten."""


class EvaluationError(UserError):
    """A number that was asked for and cannot be computed honestly."""


class DivergenceError(EbmkitError):
    """Training or a chain turned non-finite, and the policy is to stop."""

    def __init__(self, message: str, *, step: int | None = None, chains: int | None = None) -> None:
        self.step = step
        self.chains = chains
        super().__init__(message)


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""

    exit_code = 143


class ProcessError(EbmkitError):
    """Another process of the run is gone."""


class PluginError(EbmkitError):
    """A plugin failed; the message names its distribution, and the cause is chained."""


class BrokenPluginError(PluginError):
    """A plugin that cannot be imported, or whose entry point leads nowhere."""


class HookError(PluginError):
    """A hook implementation that raised."""


def expect_parts(**parts: object) -> None:
    """Expect parts that are made, each under its kind, and not their names or classes.

    Raises:
        UserError: one is a name or a class; the message says how to make it.
    """
    for kind, part in parts.items():
        if isinstance(part, str):
            raise UserError(
                f"{kind}: expected a {kind}, got the name {part!r}; make it by "
                f'ebmkit.create("{kind}", "{part}")'
            )
        if isinstance(part, type):
            raise UserError(
                f"{kind}: expected a {kind}, got the class {part.__name__}; make an instance of it, "
                f"{part.__name__}(…)"
            )


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that more memory was asked for than there is."""
    if isinstance(error, MemoryError):
        return True
    said = ("allocate memory", "out of memory", "Storage size calculation overflowed")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the nearest known name, or nothing."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
