"""Every error that ebmkit raises on purpose. Each message names culprit, place and remedy.

A ``UserError`` is something its reader can mend (exit code 2); a ``PluginError`` is a fault of a
plugin and names it (exit code 1).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any, NamedTuple


class EbmkitError(Exception):
    """Anything that ebmkit raises on purpose.

    The base of all of the others, to be caught where any of them is meant; nothing raises it
    itself.
    Remedy: that of the class that was raised, which its message states.
    """

    exit_code = 1


class UserError(EbmkitError):
    """A mistake in what was asked for; the message says how to mend it.

    An argument, an option or a part is other than expected, in a way that has no class of its own.
    Remedy: what the message says.
    """

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
    """A spec with one problem or several, all of them reported at once; of very many the first 100.

    A pipeline names a part or a key that does not exist, leaves out one that is needed, or states a
    value of another type or out of bounds. Nothing has been drawn or built.
    Remedy: go through the lines, each with its place in the file; ``ebmkit describe KIND NAME`` has
    the keys of a part, ``ebmkit validate`` tries the pipeline again without a run.
    """

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

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is made again of its arguments, which is here the text alone.
        return type(self), (self.problems, self.origin), self.__dict__


class UnknownPartError(UserError):
    """A part, or a kind of part, that nobody offers.

    The name is misspelt, or the distribution that offers it is not installed in this environment.
    Remedy: take the name that the message suggests, or one of ``ebmkit list-plugins``; or install
    the distribution.
    """


class AmbiguousPartError(UserError):
    """A bare name that several distributions offer.

    Two installed plugins offer a part of one kind by one name, and neither goes before the other.
    Remedy: write ``dist:name`` as the message does, or switch one off by ``--no-plugin DIST``.
    """


class BlockedPartError(UserError):
    """A part that exists and was switched off.

    ``--no-plugin``, ``EBMKIT_DISABLE_PLUGINS`` or ``EBMKIT_DISABLE_THIRD_PARTY`` names it or all of
    its kind.
    Remedy: leave the option or the variable out, or name another part.
    """


class IncompatiblePartError(UserError):
    """A part whose distribution asks for another version of ebmkit-core.

    Its metadata require a version that is not installed, or serve another version of the protocols.
    Remedy: update the distribution, or install the version of ebmkit-core that it asks for.
    """


class DataError(UserError):
    """A data file or a tensor that cannot be used as it is.

    The file is missing or of another kind, a cell is no finite number, or rows have other shapes
    than the first.
    Remedy: mend the row that the message names, or leave the column out by ``columns``.
    """


class CompileError(UserError):
    """A loss that was to be compiled and cannot be.

    ``compile`` is "on", and loss or energy do something that a graph cannot hold, or there is no
    compiler.
    Remedy: state "auto", which goes on without and warns, or "off".
    """


class EnergyError(UserError):
    """An energy that does not return one number a row, or cannot be differentiated as asked.

    The network's last axis was kept, as in (batch, 1), or a layer has no second derivative and the
    loss asks for one.
    Remedy: end in ``squeeze(-1)`` or ``Flatten(0)``; choose another layer, or denoising score
    matching.
    """


class ScheduleError(UserError, ValueError):
    """A schedule that a chain would not run through to its end.

    A schedule on the chain clock states more steps than the chain has.
    Remedy: leave its length open, which spreads it over the chain; or run longer chains; or state
    ``clock="training"``.
    """


class DeviceError(UserError):
    """A device that this machine does not have.

    ``training.device`` names one that is not there, or that torch was built without.
    Remedy: state "auto" or one of those that the message lists.
    """


class MemoryNeededError(UserError):
    """Something that would need more memory than the machine has.

    A size in the pipeline, as ``buffer_size`` or ``hidden``, is larger than meant. None of it was
    asked for.
    Remedy: state smaller sizes, or draw fewer samples at a time.
    """


class RunDirectoryError(UserError):
    """A run directory that cannot be written, read or overwritten.

    There is no run at the path, one is there already, another process is at work in it, or its
    files are torn or of other versions.
    Remedy: look at the path; state another ``--out``, or ``--force`` where the run there may go.
    """


class EvaluationError(UserError):
    """A number that was asked for and cannot be computed honestly.

    The number does not exist or is out of reach, as the KL divergence of an energy without a finite
    integral. In ``evaluate`` it stands under ``refused``, and the other numbers are there.
    Remedy: give the energy what it lacks, as a base by ``base_scale``, or do without the number.
    """


class DivergenceError(EbmkitError):
    """Training or a chain turned non-finite, and the policy is to stop.

    The sampler's step is too large for the energy's steepest direction, the learning rate is too
    large, or the gap between positives and negatives runs away.
    Remedy: go on from the last checkpoint with a smaller step or learning rate, with ``mala`` in
    place of ``langevin``, or with ``training.on_divergence = "rollback"``.
    """

    def __init__(self, message: str, *, step: int | None = None, chains: int | None = None) -> None:
        self.step = step
        self.chains = chains
        super().__init__(message)


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM.

    A scheduler or a person ended it. The checkpoint has been written first.
    Remedy: ``ebmkit resume`` goes on exactly there.
    """

    exit_code = 143


class ProcessError(EbmkitError):
    """Another process of the run is gone.

    One of several processes of a distributed run was killed, ran out of memory or lost its network.
    Remedy: look at that process's own message; ``torchrun --max-restarts`` or ``ebmkit resume``
    goes on from the last checkpoint.
    """


class PluginError(EbmkitError):
    """A plugin failed; the message names its distribution, and the cause is chained.

    A part raised something that is no UserError where it was asked about a pipeline or used, or a
    loss returned something else than its protocol says.
    Remedy: update the distribution or tell its authors; ``--no-plugin`` switches it off meanwhile. In
    a loss of one's own: return what the message says.
    """


class BrokenPluginError(PluginError):
    """A plugin that cannot be imported, or whose entry point leads nowhere.

    A package that it needs is missing, or what its metadata name is not in its module.
    Remedy: install what is missing, or update the distribution; ``ebmkit doctor`` imports all of
    them and says which fail.
    """


class HookError(PluginError):
    """A hook implementation that raised.

    A hook failed at its time in the run; the run ends, with its checkpoint.
    Remedy: mend the hook, or switch it off by ``--no-plugin DIST:NAME``, and resume.
    """


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
