"""Whether something is of a kind, and what it lacks where it is not."""

from __future__ import annotations

import inspect
from typing import Any

from ebmkit.parameters import PROTOCOLS
from ebmkit.registry import Component

_PROTOCOL_OF_KIND: dict[str, Any] = {kind: protocol for protocol, kind in PROTOCOLS.items()}


def lacks(kind: str, value: Any) -> str:
    """The methods that keep an object from being of a kind; empty where it is of it."""
    protocol = _PROTOCOL_OF_KIND.get(kind, object)
    wanted = [n for n in vars(protocol) if n == "__call__" or not n.startswith("_")]
    # Statically first, for reading a property may open a file.
    return ", ".join(
        n
        for n in wanted
        if inspect.getattr_static(value, n, None) is None and not hasattr(value, n)
    )


def unfit(component: Component, made: Any) -> str:
    """Why what a component has made is of another kind; empty where it is of its own."""
    missing = lacks(component.kind, made)
    what = (
        f"{component.target} makes an object of type {type(made).__name__}, which lacks {missing}"
    )
    return component.broken(f"is no {component.kind}: {what}") if missing else ""


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
    wanted = [n for n in methods if n == "__call__" or not n.startswith("_")]
    missing = [n for n in wanted if not any(n in vars(base) for base in part.__mro__)]
    if not missing or any("__getattr__" in vars(base) for base in part.__mro__):
        return ""
    what = f"is no {component.kind}: {component.target} lacks {', '.join(missing)}"
    return component.broken(what)
