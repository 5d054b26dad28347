"""A component's keyword parameters, and plain TOML values structured into their types."""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import attrs
import cattrs

from ebmkit.protocols import Dataset, Loss, Model, Sampler, Scheduler

PROTOCOLS: dict[Any, str] = {
    Model: "model",
    Sampler: "sampler",
    Loss: "loss",
    Scheduler: "scheduler",
    Dataset: "dataset",
}
REQUIRED = inspect.Parameter.empty
_TOLD = 20
"""Values of one list that are told to be wrong."""


class Parameter(NamedTuple):
    """One keyword parameter of a component."""

    name: str
    type: Any
    default: Any
    """``REQUIRED`` where there is none."""
    attribute: attrs.Attribute[Any] | None = None
    """The attrs attribute with the validator, where the component is an attrs class."""


@functools.cache
def parameters(factory: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword parameters of a component, by name.

    Raises:
        NameError, TypeError: a type annotation cannot be resolved at run time.
    """
    fields: tuple[attrs.Attribute[Any], ...] = getattr(factory, "__attrs_attrs__", ())
    attributes = {a.alias: a for a in fields}
    described: Any = factory
    if not fields and inspect.isclass(factory):
        described = factory.__init__
    hints = typing.get_type_hints(described)
    found = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = parameter.default
        attribute = attributes.get(name)
        if attribute is not None and hasattr(attribute.default, "takes_self"):
            default = _factory_default(attribute)
        found[name] = Parameter(name, hints.get(name, Any), default, attribute)
    return found


def parameters_of(kind: Any) -> dict[str, Parameter]:
    """The keyword parameters of a live part's class; none where its types cannot be told."""
    try:
        return parameters(kind)
    except (NameError, TypeError, ValueError):
        return {}


def takes_any_keyword(factory: Callable[..., Any]) -> bool:
    """Whether a component swallows unknown keywords, so that its keys cannot be checked."""
    kinds = [p.kind for p in inspect.signature(factory).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def validate(parameter: Parameter, value: Any) -> str:
    """What a parameter's own validator has against a value; empty where it has nothing."""
    if parameter.attribute is None or parameter.attribute.validator is None:
        return ""
    try:
        parameter.attribute.validator(None, parameter.attribute, value)
    except Exception as error:
        return str(error.args[0]) if error.args else type(error).__name__
    return ""


def members(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def protocol_of(kind: Any) -> str | None:
    """The kind of part that a type refers to ("sampler" for ``Sampler | None``), if it does."""
    return next((PROTOCOLS[m] for m in members(kind) if _hashable(m) and m in PROTOCOLS), None)


def without_protocols(kind: Any) -> Any:
    """The type's other members: ``float`` for ``float | Scheduler``."""
    rest = [m for m in members(kind) if not (_hashable(m) and m in PROTOCOLS)]
    return functools.reduce(lambda a, b: a | b, rest) if rest else None


def holds_data(kind: Any) -> bool:
    """Whether a type is of plain values alone, as numbers, words, paths and lists of them."""
    if get_origin(kind) in (Union, types.UnionType, list, tuple):
        return all(holds_data(m) for m in get_args(kind) if m is not Ellipsis)
    return get_origin(kind) is Literal or kind in (bool, int, float, str, Path, type(None))


def structure(value: Any, kind: Any) -> tuple[Any, list[tuple[str, str]]]:
    """A plain value as ``kind``, and what stands against it as (path inside it, message).

    Strict: nothing is converted but a whole number where a float is asked for, a list into a tuple,
    and a string into a Path.
    """
    if kind is Any:
        return value, []
    try:
        return _converter().structure(value, kind), []
    except RecursionError:
        return None, [("", "nested too deeply")]
    except Exception as error:
        return None, _complaints(error)


def describe_type(kind: Any) -> str:
    """A type as a person would say it."""
    names = {
        int: "a whole number",
        float: "a number",
        str: "a string",
        bool: "true or false",
        type(None): "nothing",
        Path: "a path",
    }
    if _hashable(kind) and kind in names:
        return names[kind]
    if _hashable(kind) and kind in PROTOCOLS:
        return f"a {PROTOCOLS[kind]}'s table with `use`"
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(m) for m in arguments if m is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in arguments)
    if origin in (list, tuple) and arguments:
        return f"a list of {describe_type(arguments[0]).removeprefix('a ')}s"
    if _is_mapping(kind):
        return "a table"
    return getattr(kind, "__name__", str(kind))


def _factory_default(attribute: attrs.Attribute[Any]) -> Any:
    factory: Any = attribute.default
    return REQUIRED if factory.takes_self else factory.factory()


def _origin(kind: Any) -> Any:
    return get_origin(kind)


def _hashable(value: Any) -> bool:
    return getattr(value, "__hash__", None) is not None


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind) or kind
    return inspect.isclass(origin) and issubclass(origin, Mapping)


def _expected(kind: Any, value: Any) -> TypeError:
    return TypeError(f"expected {describe_type(kind)}, got {value!r} ({type(value).__name__})")


def _strict(kind: type) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise _expected(kind, value)
        return value

    return hook


def _number(value: Any, _: Any) -> float:
    if type(value) not in (int, float):
        raise _expected(float, value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {value!r}")
    return number


def _path(value: Any, _: Any) -> Path:
    if not isinstance(value, str | Path):
        raise _expected(Path, value)
    return Path(value)


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for kind in (bool, int, str):
        converter.register_structure_hook(kind, _strict(kind))
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(Path, _path)
    converter.register_structure_hook_func(lambda kind: kind is type(None), _nothing)
    converter.register_structure_hook_func(
        lambda kind: _origin(kind) in (Union, types.UnionType), _union
    )
    converter.register_structure_hook_func(lambda kind: _origin(kind) is Literal, _literal)
    converter.register_structure_hook_func(lambda kind: _origin(kind) in (list, tuple), _sequence)
    converter.register_structure_hook_func(_is_mapping, _mapping)
    return converter


def _nothing(value: Any, _: Any) -> None:
    if value is not None:
        raise _expected(type(None), value)


def _literal(value: Any, kind: Any) -> Any:
    if not any(type(value) is type(a) and value == a for a in get_args(kind)):
        raise ValueError(f"expected {describe_type(kind)}, got {value!r}")
    return value


def _union(value: Any, kind: Any) -> Any:
    for member in get_args(kind):
        if _hashable(member) and member in PROTOCOLS:
            continue
        try:
            return _converter().structure(value, member)
        except Exception:  # the next member may fit; if none does, the union is what was expected
            continue
    raise _expected(kind, value)


def _sequence(value: Any, kind: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise _expected(kind, value)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise ValueError(f"expected {len(arguments)} values, got {len(value)}")
        inner = list(arguments)
    else:
        inner = [arguments[0] if arguments else Any] * len(value)
    converted, complaints = [], []
    for position, (item, member) in enumerate(zip(value, inner, strict=True)):
        result, found = structure(item, member)
        converted.append(result)
        complaints += [(f"[{position}]{path}", message) for path, message in found]
        if len(complaints) >= _TOLD:
            break
    if complaints:
        raise _ComplaintsError(complaints)
    return origin(converted) if origin else converted


def _mapping(value: Any, kind: Any) -> Any:
    if not isinstance(value, Mapping):
        raise _expected(kind, value)
    return dict(value)


class _ComplaintsError(ValueError):
    def __init__(self, found: list[tuple[str, str]]) -> None:
        self.found = found
        super().__init__(found)


def _complaints(error: Exception) -> list[tuple[str, str]]:
    if isinstance(error, _ComplaintsError):
        return error.found
    if isinstance(error, cattrs.BaseValidationError):
        return [("", message) for message in cattrs.transform_error(error)]
    return [("", str(error))]
