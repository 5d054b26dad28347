"""What a part raises while laws are tried on it: where in its own code, and for which input."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, NamedTuple

from torch import Tensor

from ebmkit.errors import UserError
from ebmkit.testing.subject import Subject

Key = tuple[str, str]
"""What crashes of one cause have in common."""


class Crash(NamedTuple):
    """What a part raised instead of an answer."""

    type: str
    message: str
    place: str
    """File and line of the last frame in the part's own code, or of the last one where none is."""
    frames: str
    """The traceback's frames in the part's own code, and its last one; empty of an error that is
    raised on purpose, which says all itself."""
    subject: str
    """The part, in the configuration that it was tried in."""
    case: str
    """What the law said of its case."""
    event_shape: tuple[int, ...] | None
    """Of the points that the part was given, as far as it was given any."""
    dtype: str
    """Of them, too."""

    @property
    def first_line(self) -> str:
        return f"{self.type}: {self.message.partition(chr(10))[0]}".rstrip(": ")

    @property
    def key(self) -> Key:
        """Laws try batches of many sizes, and a message that counts rows is the same all the same."""
        return re.sub(r"0x[0-9a-f]+|\d+", "0", self.first_line), self.place

    @property
    def hint(self) -> str:
        """What its author may not have thought of; empty where nothing is known."""
        if not self.frames or len(self.event_shape or ()) < 2:
            return ""
        return (
            f"events may have any shape, here {self.event_shape}: flatten(1) and then sum(1) sums "
            "over an event"
        )

    @property
    def where(self) -> str:
        """Configuration, case, and what the case does not say of event shape and dtype."""
        given = (
            [f"event shape {self.event_shape}"] if str(self.event_shape) not in self.case else []
        )
        said = [*(given if self.event_shape else []), self.dtype * (self.dtype not in self.case)]
        return ", ".join(filter(None, [self.subject, *said, self.case and f"case: {self.case}"]))

    def lines(self, laws: Iterable[str], shown: str = "") -> Iterator[str]:
        """What a person should read; short where it is shown already, and ``shown`` says where."""
        names = list(laws)
        count = f"{len(names)} law{'s' * (len(names) != 1)}"
        same = f" the same as {shown}" if shown else ""
        yield f"{count} could not be asked, because the part raised{same}: {', '.join(names)}"
        if shown:
            yield f"  {self.first_line} ({self.place})"
            return
        yield f"  raised for: {self.where}"
        said = f"{self.frames}{self.type}: {self.message}".rstrip(": \n")
        yield from (f"  {line}" for line in said.splitlines())
        if self.hint:
            yield f"  hint: {self.hint}"


def crash(error: BaseException, subject: Subject, case: str) -> Crash:
    """What is told of an exception that was raised in a case of a law."""
    package = _package(subject)
    found, own = error, _own(error, package)
    # A hook's exception is raised again as another one, from the first.
    while not own and (cause := found.__cause__) is not None:
        found, own = cause, _own(cause, package)
    if not own:
        found = error
    stack = traceback.extract_tb(found.__traceback__)
    chosen = sorted({*own, len(stack) - 1}) if own else list(range(len(stack)))
    last = stack[own[-1] if own else -1]
    shape, dtype = _given([frame for frame, _ in traceback.walk_tb(found.__traceback__)], own)
    return Crash(
        type(error).__name__,
        str(error),
        f"{last.filename}:{last.lineno}",
        ""
        if isinstance(error, UserError)
        else "".join(traceback.format_list([stack[i] for i in chosen])),
        str(subject),
        case,
        shape,
        dtype,
    )


def _package(subject: Subject) -> str:
    """Where the part's own code is: its package, or of what is the kit's own its module."""
    module = str(getattr(subject.type, "__module__", "builtins"))
    top = module.partition(".")[0]
    return module if top == __name__.partition(".")[0] else top


def _own(error: BaseException, package: str) -> list[int]:
    """Which frames are of the part's own code."""
    names = (str(f.f_globals.get("__name__")) for f, _ in traceback.walk_tb(error.__traceback__))
    return [i for i, name in enumerate(names) if name == package or name.startswith(f"{package}.")]


def _given(frames: list[FrameType], own: list[int]) -> tuple[tuple[int, ...] | None, str]:
    """Event shape and dtype of the points that the part's code was called with first; or that the kit
    had last, where the part's code has returned."""
    if own:
        looked = [(frames[i], frames[i].f_code.co_argcount) for i in own]
    else:
        looked = [(frame, frame.f_code.co_nlocals) for frame in reversed(frames)]
    for frame, names in looked:
        for name in frame.f_code.co_varnames[:names]:
            value: Any = frame.f_locals.get(name)
            points = value if own and isinstance(value, Tensor) else _points(value)
            if points is not None and points.ndim > 1:
                return tuple(points.shape[1:]), str(points.dtype).removeprefix("torch.")
    return None, ""


def _points(value: Any) -> Tensor | None:
    """x of a batch or of chains' state."""
    x = getattr(value, "x", None) if isinstance(value, tuple) else None
    return x if isinstance(x, Tensor) else None
