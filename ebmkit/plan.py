"""Tables -> calls: every name, key, type and bound is checked here, and nothing is built yet."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from datetime import date, time
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from ebmkit.bounds import MOST_PARTS
from ebmkit.errors import BrokenPluginError, Problem, UnknownPartError, UserError, did_you_mean
from ebmkit.fitness import LIVE, again, as_points, brief, misfit, unsuited
from ebmkit.parameters import (
    REQUIRED,
    Parameter,
    describe_type,
    holds_data,
    parameters,
    protocol_of,
    structure,
    takes_any_keyword,
    validate,
    without_protocols,
)
from ebmkit.registry import Component, Registry
from ebmkit.spec import PARTS, Spec

_OWNER = re.compile(r"[A-Za-z0-9][\w.-]*==[\w.+!-]+", re.ASCII)
FROM_DATA = ("event_shape", "n_classes", "generator")
"""Parameters that the composer passes in by name where the spec does not."""


class Call(NamedTuple):
    """A component with its arguments, ready to be called."""

    path: str
    kind: str
    factory: Callable[..., Any]
    arguments: dict[str, Any]
    """Values, live objects, nested ``Call`` and ``Shared``, and lists of these."""
    component: Component | None = None

    def resolved(self) -> dict[str, Any]:
        """The table that says all of it: every key, defaults included."""
        table: dict[str, Any] = {"use": self.component.chosen} if self.component else {}
        for name, parameter in parameters(self.factory).items():
            value = self.arguments.get(name, parameter.default)
            if value is not None and value is not REQUIRED:
                table[name] = resolved(value)
        others = {name: value for name, value in self.arguments.items() if name not in table}
        return table | resolved(others)  # type: ignore[no-any-return]

    def components(self) -> list[Component]:
        """The components of this call and of those inside it."""
        found = [self.component] if self.component else []
        for value in self.arguments.values():
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, Call):
                    found += inner.components()
        return found


class Shared(NamedTuple):
    """A reference such as ``"@sampler"`` to a part of the pipeline."""

    kind: str


def resolved(value: Any) -> Any:
    """A planned value as TOML can say it; a live object by its type, in angle brackets."""
    if isinstance(value, Call):
        return value.resolved()
    if isinstance(value, Shared):
        return f"@{value.kind}"
    if isinstance(value, list | tuple):
        return [resolved(item) for item in value]
    if isinstance(value, Mapping):
        return {key: resolved(item) for key, item in value.items() if item is not None}
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    return f"<{type(value).__name__}>"


class Planner:
    """Plans parts one after another and collects every problem on the way."""

    def __init__(self, spec: Spec, registry: Registry) -> None:
        self.spec = spec
        self.registry = registry
        self.problems: list[Problem] = []

    def report(self, path: str, message: str) -> None:
        self.problems.append(self.spec.problem(path, message))

    def part(self, kind: str, value: Any, path: str, inside: tuple[str, ...] = ()) -> Any:
        """A ``Call``, a ``Shared`` reference or a live object; None where there is a problem."""
        if isinstance(value, str) and value.startswith("@"):
            return self._shared(kind, value, path, inside)
        if isinstance(value, str):
            value = {"use": value}
        if not isinstance(value, Mapping):
            return self._live(kind, value, path)
        if not isinstance(name := value.get("use"), str):
            self.report(
                path,
                f"`use` must name a {kind}, got {brief(name)}"
                if "use" in value
                else f"the table has no `use`; it names the {kind}, one of "
                f"{', '.join(self.registry.names(kind))}",
            )
            return None
        if (former := LIVE.fullmatch(name)) is not None:
            self.report(path, again(path, former[1]))
            return None
        try:
            component = self.registry.find(kind, name)
        except UserError as error:
            self.report(f"{path}.use", f"{error}{self._hint(kind, name, error)}")
            return None
        factory = self.registry.load(component)
        if wrong := misfit(component, factory):
            raise BrokenPluginError(wrong)
        table = {key: item for key, item in value.items() if key != "use"}
        return self.call(kind, factory, table, path, component, inside)

    def hooks(self, tables: Any) -> dict[str, Call]:
        """The calls of the hook plugins that a spec states, by ``dist:name``."""
        if not isinstance(tables, Mapping):
            self.report("hooks", f"expected a table for each hook plugin, got {brief(tables)}")
            return {}
        found = {}
        for name, table in tables.items():
            path = f"hooks.{name}"
            if not isinstance(table, Mapping):
                self.report(
                    path,
                    f"expected a table of the hook plugin's options, got {brief(table)}; a hook plugin "
                    "that is not installed goes to fit(hooks=...)",
                )
                continue
            try:
                component = self.registry.find("hook", str(name))
            except UserError as error:
                self.report(path, f"{error}{self._hint('hook', str(name), error)}")
                continue
            plugin = self.registry.load(component)
            if component.qualified in found:
                self.report(
                    path, f"states {component.qualified} a second time; keep one of the two"
                )
                continue
            if not inspect.isclass(plugin):
                self.report(path, f"hook plugin {component.qualified} takes no options")
                continue
            call = self.call("hook", plugin, table, path, component)
            if call is not None:
                found[component.qualified] = call
        return found

    def call(
        self,
        kind: str,
        factory: Callable[..., Any],
        table: Mapping[str, Any],
        path: str,
        component: Component | None = None,
        inside: tuple[str, ...] = (),
    ) -> Call | None:
        """The call of a factory with a table's keys as its keyword parameters."""
        before = len(self.problems)
        try:
            known = parameters(factory)
        except (NameError, TypeError, ValueError) as error:
            owner = f" of {component.distribution}" if component else ""
            raise BrokenPluginError(
                f"{kind} {path!r}{owner}: its parameters cannot be read: {error}"
            ) from error
        arguments: dict[str, Any] = {}
        for key, value in table.items():
            here = f"{path}.{key}"
            if key in known:
                arguments[key] = self._argument(known[key], value, here, inside)
            elif takes_any_keyword(factory):
                arguments[key] = value
            else:
                listed = ", ".join(n for n in known if n != "generator") or "none"
                self.report(here, f"no such key{did_you_mean(key, known)} (known: {listed})")
        for name, parameter in known.items():
            if name in arguments or name in FROM_DATA or parameter.default is not REQUIRED:
                continue
            wanted = protocol_of(parameter.type)
            if wanted in PARTS and wanted in self.spec.tables and wanted not in inside:
                arguments[name] = Shared(wanted)
            else:
                self.report(f"{path}.{name}", f"missing: {describe_type(parameter.type)} is needed")
        if len(self.problems) > before:
            return None
        return Call(path, kind, factory, arguments, component)

    def _argument(
        self, parameter: Parameter, value: Any, path: str, inside: tuple[str, ...]
    ) -> Any:
        kind = parameter.type
        wanted = protocol_of(kind)
        if get_origin(kind) is list and protocol_of(get_args(kind)[0]):
            return self._parts(protocol_of(get_args(kind)[0]) or "", value, path, inside)
        is_reference = isinstance(value, Mapping) and "use" in value
        is_shared = isinstance(value, str) and value.startswith("@")
        plain = isinstance(value, bool | int | float | str | Mapping | list | date | time)
        rest = without_protocols(kind) if wanted else kind
        is_name = isinstance(value, str) and bool(rest is type(None) or LIVE.fullmatch(value))
        if wanted and (is_reference or is_shared or is_name or not plain or rest is None):
            if value is None and rest is not None:
                return None
            return self.part(wanted, value, path, inside)
        if not plain and value is not None and not isinstance(value, tuple):
            if not holds_data(rest) or hasattr(value, "__iter__") or hasattr(value, "__float__"):
                return value  # a live object: its own type is its owner's business
        structured, complaints = structure(value, rest)
        for inner, message in complaints:
            self.report(f"{path}{inner}", message)
        if not complaints and (message := validate(parameter, structured)):
            self.report(path, message.removeprefix(f"{parameter.name}: "))
        return structured

    def _parts(self, kind: str, value: Any, path: str, inside: tuple[str, ...]) -> list[Any]:
        if not isinstance(value, list | tuple):
            self.report(path, f"expected a list of {kind}s, got {brief(value)}")
            return []
        if len(value) > MOST_PARTS:
            self.report(path, f"expected at most {MOST_PARTS} {kind}s, got {len(value):,}")
            return []
        return [self.part(kind, item, f"{path}[{i}]", inside) for i, item in enumerate(value)]

    def _shared(self, kind: str, value: str, path: str, inside: tuple[str, ...]) -> Shared | None:
        wanted = value[1:]
        if wanted not in PARTS:
            choices = [f"@{part}" for part in PARTS]
            self.report(path, f"{value!r} refers to nothing{did_you_mean(value, choices)}")
        elif wanted != kind:
            self.report(path, f"{value!r} is the pipeline's {wanted}, and a {kind} is needed")
        elif wanted in inside or path == wanted:
            around = " inside ".join((*inside[::-1],) or (wanted,))
            self.report(path, f"{value!r} refers to itself (it stands in {around})")
        elif wanted not in self.spec.tables:
            self.report(path, f"{value!r} refers to [{wanted}], which the spec does not have")
        else:
            return Shared(wanted)
        return None

    def _live(self, kind: str, value: Any, path: str) -> Any:
        if isinstance(value, bool | int | float | list | type(None)):
            self.report(
                path,
                f"expected a {kind}: a name, a table with `use`, got {brief(value)}"
                f"{as_points(kind, value)}",
            )
            return None
        if wrong := unsuited(kind, value):
            self.report(path, wrong)
            return None
        return value

    def _hint(self, kind: str, name: str, error: UserError) -> str:
        recorded = self.spec.tables.get("parts")
        owner = recorded.get(f"{kind}:{name}") if isinstance(recorded, Mapping) else None
        known = isinstance(owner, str) and _OWNER.fullmatch(owner)
        if isinstance(error, UnknownPartError) and known:
            return f"; this spec was written with {owner}: pip install {owner}"
        return ""
