"""Whether something is of a kind, and what it lacks where it is not."""

from __future__ import annotations

import inspect
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ebmkit.parameters import PROTOCOLS, REQUIRED
from ebmkit.registry import Component

LIVE = re.compile(r"<(\w+)>")
"""What stands in a run's tables for a live object: its type's name."""
_PROTOCOL_OF_KIND: dict[str, Any] = {kind: protocol for protocol, kind in PROTOCOLS.items()}
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 200


def lacks(kind: str, value: Any) -> str:
    """The methods that keep an object from being of a kind; empty where it is of it."""
    protocol = _PROTOCOL_OF_KIND.get(kind, object)
    wanted = [n for n in vars(protocol) if _is_public(n)]
    # Statically first, for reading a property may open a file.
    return ", ".join(
        n
        for n in wanted
        if inspect.getattr_static(value, n, None) is None and not hasattr(value, n)
    )


def unsuited(kind: str, value: Any) -> str:
    """Why a live object cannot be used as a part of a kind, and the remedy; empty where it can."""
    if inspect.isclass(value):
        return (
            f"expected an object, got the class {value.__name__}; write "
            f"{value.__name__}({'…' if _asks(value) else ''})"
        )
    if missing := lacks(kind, value):
        what = f"{type(value).__name__} object is no {kind}: it lacks {missing}"
        return f"{what}{as_points(kind, value) or f'; {_wanted(kind)}'}"
    return _uncallable(kind, value)


def as_points(kind: str, value: Any) -> str:
    """The remedy where rows of numbers are given for a data set; nothing where they are not."""
    if kind != "dataset" or not (isinstance(value, list) or hasattr(value, "__array__")):
        return ""
    rows = "rows.to_numpy()" if hasattr(value, "to_numpy") else "rows"
    return f"; write torch.as_tensor({rows}, dtype=torch.float32)"


def brief(value: Any) -> str:
    """A value in a message: its first parts where it is long."""
    return _BRIEF.repr(value)


def again(path: str, former: str) -> str:
    """What to do where a run's tables say that a part was a live object, which they cannot hold."""
    given = f"{path}=..." if path.isidentifier() else f'**{{"{path}": ...}}'
    return (
        f"was a live object of type {former} when the run was made, which its files do not hold; give "
        f"it again, from Python, as ebmkit.load(..., {given})"
    )


def unfit(component: Component, made: Any) -> str:
    """Why what a component has made is of another kind; empty where it is of its own."""
    missing = lacks(component.kind, made)
    what = (
        f"{component.target} makes an object of type {type(made).__name__}, which lacks {missing}"
    )
    if missing:
        return component.broken(f"is no {component.kind}: {what}")
    wrong = _uncallable(component.kind, made)
    return component.broken(f"is no {component.kind}: {wrong}") if wrong else ""


def misfit(component: Component, part: Any) -> str:
    """Why what a component leads to makes no part of its kind, as far as can be told before."""
    if component.kind == "hook":
        return ""
    if not callable(part):
        return component.broken(
            f"is no class or function that makes a {component.kind}: {component.target} is of type "
            f"{type(part).__name__}"
        )
    if not inspect.isclass(part):
        return ""
    # Properties may be attributes that a constructor sets; methods are there from the beginning.
    protocol = vars(_PROTOCOL_OF_KIND.get(component.kind, object))
    methods = [n for n, value in protocol.items() if inspect.isfunction(value)]
    wanted = [n for n in methods if _is_public(n)]
    missing = [n for n in wanted if not any(n in vars(base) for base in part.__mro__)]
    if not missing or any("__getattr__" in vars(base) for base in part.__mro__):
        return ""
    what = f"is no {component.kind}: {component.target} lacks {', '.join(missing)}"
    return component.broken(what)


def _is_public(name: str) -> bool:
    return name == "__call__" or not name.startswith("_")


def _asks(kind: type) -> bool:
    """Whether a class cannot be made without arguments."""
    try:
        asked = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.default is REQUIRED and p.kind not in _VARIABLE for p in asked)


def _wanted(kind: str) -> str:
    """What a part of a kind has, as its protocol says, and where to begin."""
    members = {n: m for n, m in vars(_PROTOCOL_OF_KIND[kind]).items() if _is_public(n)}
    told = [f"{n}{_form(m)}" if inspect.isfunction(m) else n for n, m in members.items()]
    return (
        f"a {kind} has {', '.join(told)}, as the documentation's page of the protocols says; "
        f"`ebmkit new-plugin NAME --kind {kind}` writes one to begin with"
    )


def _form(method: Callable[..., Any], *, within: bool = False) -> str:
    """A protocol's method as it is called, or ``within`` its class as it is written: names alone."""
    signature = inspect.signature(method)
    form = _bare(signature)
    if within:
        return str(form)
    form = form.replace(parameters=list(form.parameters.values())[1:])
    return f"{form} -> {signature.return_annotation}"


def _bare(signature: inspect.Signature) -> inspect.Signature:
    """A signature without its types."""
    parameters = [p.replace(annotation=REQUIRED) for p in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=REQUIRED)


def _uncallable(kind: str, value: Any) -> str:
    """Which method of an object does not take what it is called with; empty where all do."""
    protocol: Mapping[str, Any] = vars(_PROTOCOL_OF_KIND.get(kind, object))
    for name, method in protocol.items():
        # What a model takes is told by calling it, for only some take a condition.
        if kind == "model" or not inspect.isfunction(method) or not _is_public(name):
            continue
        called = getattr(value, name)
        if name == "__call__":
            called = value.forward if isinstance(value, nn.Module) else value
        passed = list(inspect.signature(method).parameters.values())[1:]
        ordered = [p.name for p in passed if p.kind is p.POSITIONAL_OR_KEYWORD]
        named = {p.name: None for p in passed if p.kind is p.KEYWORD_ONLY}
        try:
            signature = inspect.signature(called)
        except (TypeError, ValueError):
            if not callable(called):
                return f"{name} of {type(value).__name__} is no method; {_wanted(kind)}"
            continue  # it is not of Python, and says nothing of its parameters
        kind_name, form = type(value).__name__, _form(method, within=True)
        if any(p.kind is p.VAR_KEYWORD for p in passed):
            # A step is given its scheduled parameters by names of the part's own.
            own = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
            for keyword in own:
                if not hasattr(value, keyword):
                    return (
                        f"{name} of {kind_name} takes the keyword {keyword}, which is no field of "
                        f"{kind_name}; give it a field {keyword}, or leave the keyword out"
                    )
            named |= dict.fromkeys(own)
            form = f"(self, {', '.join(ordered)}), with scheduled parameters behind a *"
        try:
            signature.bind(*ordered, **named)
        except TypeError as error:
            return (
                f"{name} of {kind_name} takes {_bare(signature)} and is called with "
                f"{', '.join([*ordered, *(f'{n}=…' for n in named)])} ({error}); write def {name}{form}"
            )
    return ""
