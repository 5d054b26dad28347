"""Laws of all kinds: what a part's parameters are, as users state them in tables and in Python."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ebmkit.build import Builder
from ebmkit.errors import EbmkitError, SpecError, UserError
from ebmkit.parameters import (
    REQUIRED,
    Parameter,
    describe_type,
    members,
    parameters,
    parameters_of,
    structure,
    without_protocols,
)
from ebmkit.plan import Planner, resolved
from ebmkit.registry import registry
from ebmkit.spec import Spec, parse_toml, to_toml
from ebmkit.testing import reference
from ebmkit.testing.laws import ALL, Cases, law
from ebmkit.testing.subject import Subject

GENERATOR = "generator"
"""The parameter that is no configuration."""


class Thing:
    """What no parameter asks for."""

    def __repr__(self) -> str:
        return "<object>"


WRONG: tuple[Any, ...] = (
    "no-such-value",
    True,
    2.5,
    math.nan,
    math.inf,
    [Thing()],
    {"no-such-key": 1},
    Thing(),
)
"""Values, each of which is wrong for some types."""


def made(subject: Subject, seed: int = 0, event_shape: tuple[int, ...] | None = None) -> Any:
    """The part, as a pipeline makes it: what it draws from torch's global generator is seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return subject.make(seed=seed, event_shape=event_shape or subject.shapes[0])


def factory_of(subject: Subject) -> Callable[..., Any]:
    """What makes a part of its parameters."""
    found: Callable[..., Any] = subject.part if subject.made else subject.type
    return found


def configuration(subject: Subject, part: Any) -> dict[str, Any]:
    """The part's parameters and their values, as far as they can be told: those that it keeps as
    attributes of their names, and else what it was made with."""
    found = {}
    for name, parameter in parameters_of(factory_of(subject)).items():
        if name == GENERATOR:
            continue
        kept = getattr(part, parameter.attribute.name if parameter.attribute else name, REQUIRED)
        if kept is REQUIRED or not _fits(kept, parameter):
            kept = subject.keywords.get(name, parameter.default)
        if kept is not REQUIRED:
            found[name] = kept
    return found


def plain(value: Any) -> bool:
    """Whether a table can say a value."""
    if isinstance(value, Mapping):
        return all(plain(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str | Path)


def composed(
    kind: str, factory: Callable[..., Any], table: Mapping[str, Any], seed: int = 0
) -> Any:
    """A part of a table's keys, as a pipeline makes one.

    Raises:
        SpecError: the table is refused.
    """
    planner = Planner(Spec(tables={}), registry())
    call = planner.call(kind, factory, table, kind)
    if planner.problems:
        raise SpecError(planner.problems)
    builder = Builder({})
    builder.context = {GENERATOR: lambda: reference.generator(seed)}
    part = builder.build(call)
    if builder.problems:
        raise SpecError(builder.problems)
    return part


def _fits(value: Any, parameter: Parameter) -> bool:
    """Whether an attribute can be the parameter of its name, and not a layer or a tensor made of it."""
    if not isinstance(value, torch.nn.Module | torch.Tensor):
        return True
    return not structure(value, without_protocols(parameter.type))[1]


def _no_parameters(subject: Subject) -> str:
    names = set(parameters_of(factory_of(subject))) - {GENERATOR}
    return "" if names else "it has no parameters"


def _no_table(subject: Subject) -> str:
    if said := _no_parameters(subject):
        return said
    found = configuration(subject, made(subject))
    for name, parameter in parameters(factory_of(subject)).items():
        if name != GENERATOR and name not in found and parameter.default is REQUIRED:
            return f"it keeps no attribute {name}, so the kit cannot tell what it was made with"
    return ""


def _no_types(subject: Subject) -> str:
    if said := _no_table(subject):
        return said
    found = parameters(factory_of(subject))
    typed = [name for name in found if name != GENERATOR and found[name].type is not Any]
    return "" if typed else "its parameters have no types"


@law(
    *ALL,
    why="A run is kept as the tables that it was made of, and made of them again.",
    means="a run that is loaded or repeated from its spec.toml is another one",
    applies=_no_table,
)
def configuration_round_trip(subject: Subject, cases: Cases) -> None:
    """Parameters -> table -> TOML -> table -> a part of the same parameters. Live parts and other
    objects, which stand in tables of their own, are handed on as they are."""
    factory = factory_of(subject)
    before = configuration(subject, made(subject, cases.seed))
    live = {name: value for name, value in before.items() if not plain(value)}
    # TOML has no None: where that is not the default, it is lost.
    table = {
        name: resolved(value)
        for name, value in before.items()
        if name not in live and value is not None
    }
    with cases.case(f"parameters {', '.join(before)}"):
        text = to_toml({"part": table})
        again, part = parse_toml(text, "TOML").tables["part"], None
        try:
            part = composed(subject.kind, factory, {**again, **live}, cases.seed)
        except (EbmkitError, TypeError, ValueError) as error:
            cases.expect(False, f"its own configuration, written as TOML, is refused: {error}")
        after = configuration(subject, part)
        for name, value in before.items():
            if name in live:
                continue
            cases.expect(
                _same(value, after.get(name)),
                f"{name}: expected {value!r} to come back from TOML, got {after.get(name)!r}",
            )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return isinstance(a, bool) is isinstance(b, bool) and bool(a == b)


@law(
    *ALL,
    why="list-plugins, describe and the checks of pipelines read what a part says of itself.",
    means="nobody can look up what it is, what a parameter means, or what may be given for it",
)
def fields_documented(subject: Subject, cases: Cases) -> None:
    factory = factory_of(subject)
    with cases.case("docstring"):
        said = str(getattr(factory, "__doc__", None) or "").strip()
        # attrs and NamedTuple write one where there is none.
        written = said and not said.startswith(("Method generated by attrs", f"{subject.name}("))
        cases.expect(
            bool(written),
            "expected a docstring whose first line says what it is, got none",
        )
    try:
        found = parameters(factory)
    except (NameError, TypeError) as error:
        with cases.case("types"):
            cases.expect(False, f"the types of its parameters cannot be resolved: {error}")
        return
    except ValueError:  # made in C, and without a signature
        return
    text = f"{inspect.getdoc(factory)}\n{inspect.getdoc(getattr(factory, '__init__', None)) or ''}"
    typed = inspect.signature(factory).parameters
    for name, parameter in found.items():
        with cases.case(name):
            attribute = parameter.attribute
            stated = attribute.type if attribute else typed[name].annotation
            cases.expect(
                stated not in (None, inspect.Parameter.empty),
                f"{name}: expected a type, as {name}: float, got none",
            )
            documented = (
                bool(str(attribute.metadata.get("doc", "")).strip()) if attribute else False
            )
            if name == GENERATOR or (attribute is None and _named(name, text)):
                continue
            remedy = 'metadata=doc("…") of its field' if attribute else "a line of the docstring"
            cases.expect(documented, f"{name}: expected {remedy} to say what it is, got nothing")


def _named(name: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


@law(
    *ALL,
    why="A mistake in a file is mended by whoever reads where it is.",
    means="a wrong value is taken, and the run fails later elsewhere, or goes on with nonsense",
    applies=_no_types,
)
def wrong_values_refused(subject: Subject, cases: Cases) -> None:
    """Each value that is not of a parameter's type is refused in a table; NaN, infinity, booleans
    for numbers and objects that are none also in Python."""
    factory = factory_of(subject)
    given = configuration(subject, made(subject))
    more = {GENERATOR: reference.generator(0)} if GENERATOR in parameters(factory) else {}
    for name, parameter in parameters(factory).items():
        if name == GENERATOR or parameter.type is Any:
            continue
        rest = without_protocols(parameter.type)
        for value in WRONG:
            if rest is not None and not structure(value, rest)[1]:
                continue
            wrong = {**given, name: value}
            with cases.case(f"{name} = {value!r} in a table"):
                _refused(cases, parameter, value, partial(composed, subject.kind, factory, wrong))
            if isinstance(value, str | list | dict) or not set(members(rest)) & {int, float}:
                continue
            with cases.case(f"{subject.name}({name}={value!r}) in Python"):
                _refused(cases, parameter, value, partial(factory, **wrong, **more))


def _refused(cases: Cases, parameter: Parameter, value: Any, make: Callable[[], Any]) -> None:
    name = parameter.name
    expected = (
        f"{name}: expected a ValueError, TypeError or UserError that names {name}, which is "
        f"{describe_type(parameter.type)}"
    )
    try:
        make()
    except (ValueError, TypeError, UserError) as error:
        cases.expect(_named(name, str(error)), f"{expected}, got {type(error).__name__}: {error}")
    except Exception as error:
        cases.expect(False, f"{expected}, got {type(error).__name__}: {error}")
    else:
        cases.expect(False, f"{expected}, and {value!r} is accepted")
