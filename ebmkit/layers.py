"""What an energy, and a layer inside it, is called when something about it has to be said."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from torch import nn


def module_of(energy: Any) -> nn.Module | None:
    """The module behind an energy, through what is bound to it; None where there is none."""
    while isinstance(energy, functools.partial):
        energy = energy.func
    energy = energy if isinstance(energy, nn.Module) else getattr(energy, "__self__", None)
    return energy if isinstance(energy, nn.Module) else None


def modules_of(module: nn.Module) -> list[nn.Module]:
    """What ``module.modules()`` gives, in another order; that makes up each one's name on the way."""
    found, seen = [module], {module}
    for inner in found:  # which grows meanwhile
        for child in inner._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                found.append(child)
    return found


def unbound(energy: Any) -> tuple[Any, dict[str, Any]]:
    """An energy without what is bound to it by name, and that."""
    bound: dict[str, Any] = {}
    while isinstance(energy, functools.partial) and not energy.args:
        bound = {**energy.keywords, **bound}
        energy = energy.func
    return energy, bound


def offered(energy: Any, name: str) -> Any:
    """What an energy offers beside its call, as ``sweep``, with the condition bound that is bound to
    the energy; None where it offers nothing of that name."""
    inner, bound = unbound(energy)
    value = getattr(inner, name, None)
    return functools.partial(value, **bound) if bound and callable(value) else value


def energy_name(energy: Any) -> str:
    """``model MLP``, or ``energy f`` for a function."""
    module = module_of(energy)
    if module is not None:
        return f"model {type(module).__name__}"
    return f"energy {getattr(energy, '__qualname__', type(energy).__name__)}"


def layer_name(traceback: TracebackType | None, energy: Any) -> str:
    """The innermost module whose forward an error came through: ``layer 'net.3' (Upsample)``."""
    root = module_of(energy)
    names = {} if root is None else {inner: name for name, inner in root.named_modules()}
    path = ""
    for frame in _frames(traceback):
        caller = frame.f_locals.get("self")
        if isinstance(caller, nn.Module) and (name := names.get(caller)):
            path, layer = name, caller
    return f"layer {path!r} ({type(layer).__name__})" if path else energy_name(energy)


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next
