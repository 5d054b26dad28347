"""What laws are tried on: a part of a kind, made anew for each case."""

from __future__ import annotations

import atexit
import copy
import inspect
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ebmkit.errors import UserError
from ebmkit.parameters import REQUIRED, parameters, parameters_of, protocol_of

SHAPES: tuple[tuple[int, ...], ...] = ((3,), (1, 8, 8))
"""Event shapes that parts are tried on where they do not state their own."""
N_CLASSES = 4
"""Classes of labelled data."""


@attrs.frozen(eq=False)
class Subject:
    """A part, and what the kit was told of it."""

    kind: str
    part: Any
    """An instance, or a class or function that makes one."""
    keywords: Mapping[str, Any] = attrs.field(factory=dict)
    """What it is made with, where it is made."""
    options: Mapping[str, Any] = attrs.field(factory=dict)
    """What the author says of it beyond that, as ``event_shape``."""

    def __str__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self.keywords.items())
        return f"{self.kind} {self.name}" + (f"({said})" if said else "")

    @property
    def name(self) -> str:
        return str(getattr(self.type, "__name__", self.type))

    @property
    def made(self) -> bool:
        """Whether the part is made by the kit, and not an instance that it was given."""
        return inspect.isclass(self.part) or inspect.isroutine(self.part)

    @property
    def type(self) -> Any:
        return self.part if self.made else type(self.part)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Event shapes to try it on."""
        stated = self.keywords.get("event_shape", self.options.get("event_shape"))
        if stated is None and not self.made:
            stated = getattr(self.part, "event_shape", None)
        if stated is None and self.made and "event_shape" not in parameters(self.type):
            stated = getattr(self.make(), "event_shape", None)
        return SHAPES if stated is None else (tuple(stated),)

    def make(self, *, seed: int = 0, **more: Any) -> Any:
        """A fresh one; ``more`` are parameters that come from the data, as ``event_shape``."""
        if not self.made:
            return copy.deepcopy(self.part)
        from ebmkit.testing import reference

        given = dict(self.keywords)
        for name, parameter in parameters(self.type).items():
            if name in given:
                continue
            if name in more:
                given[name] = more[name]
            elif name == "generator":
                given[name] = reference.generator(seed)
            elif parameter.default is not REQUIRED:
                continue
            elif name == "event_shape":
                given[name] = SHAPES[0]
            elif name == "n_classes":
                given[name] = N_CLASSES
            elif kind := protocol_of(parameter.type):
                given[name] = reference.part(kind)
            else:
                raise UserError(
                    f"{self.kind} {self.name}: {name} has no default, and the kit cannot know what to "
                    f"give; state examples = ({{{name!r}: …}},) in the class"
                )
        return self.part(**given)


def subjects(kind: str, part: Any, **options: Any) -> list[Subject]:
    """One for each configuration that the part is to be tried in, those of its class attribute
    ``examples`` or its defaults; an instance as it is.

    ``examples`` is a sequence of mappings of keywords, or a function that makes one when it is given
    an empty folder, for parts that read files. An ``event_shape`` among them that is no parameter of
    the part tells the kit what points it takes.
    """
    if not (inspect.isclass(part) or inspect.isroutine(part)):
        return [Subject(kind, part, {}, options)]
    told = set(parameters_of(part))
    found = []
    for example in _examples(part):
        beside = {n: v for n, v in example.items() if n == "event_shape" and n not in told}
        keywords = {n: v for n, v in example.items() if n not in beside}
        found.append(Subject(kind, part, keywords, {**beside, **options}))
    return found


def _examples(part: Any) -> Sequence[Mapping[str, Any]]:
    stated: Any = getattr(part, "examples", None)
    if callable(stated):
        # It stays as long as this process, for parts read their files whenever they need them.
        folder = tempfile.mkdtemp(prefix="ebmkit-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        stated = stated(Path(folder))
    return stated or ({},)
