"""The formula that an energy has for its own gradient, and when that is sure to hold."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _modules

from ebmkit.calculus.checks import check_scalar, described
from ebmkit.errors import EnergyError
from ebmkit.layers import energy_name, offered
from ebmkit.protocols import Energy

_NAME = "energy_and_gradient"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def formula_of(energy: Energy, x: Tensor) -> Callable[[Tensor], Any] | None:
    """The energy's own ``energy_and_gradient``, its condition bound; None where it has none, or where
    that may not be the gradient of what a call of the energy gives.

    It is passed over where a class derived from the formula's defines any method of its own; where a
    module or one inside it has hooks, a ``forward`` of the instance's own or is compiled; and under
    autocast.
    """
    inner: Any = energy
    while isinstance(inner, functools.partial):
        inner = inner.func
    kind: Any = type(inner)
    if not _stated(kind) or _autocast(x.device.type):
        return None
    if isinstance(inner, nn.Module):
        anywhere = _modules._has_any_global_hook()  # type: ignore[no-untyped-call]
        if anywhere or not _untouched(inner):
            return None
    formula: Callable[[Tensor], Any] | None = offered(energy, _NAME)
    return formula


def checked(energy: Energy, found: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a formula gave, detached.

    Raises:
        EnergyError: it is not one energy a row and a gradient of x's shape.
    """
    if not isinstance(found, tuple) or len(found) != 2:
        raise EnergyError(
            f"{energy_name(energy)}: {_NAME} must return energies and gradients, or None, got "
            f"{described(found, len(x))}"
        )
    energies, gradient = found
    check_scalar(energy, energies, x)
    if not isinstance(gradient, Tensor) or gradient.shape != x.shape or gradient.dtype != x.dtype:
        dtype = f" of {gradient.dtype}" if isinstance(gradient, Tensor) else ""
        raise EnergyError(
            f"{energy_name(energy)}: {_NAME} must return gradients of shape {tuple(x.shape)} of "
            f"{x.dtype}, got {described(gradient, -1)}{dtype}"
        )
    return energies.detach(), gradient.detach()


@functools.lru_cache(maxsize=256)
def _stated(kind: Any) -> bool:
    """Whether a class has a formula, and none derived from the one that states it adds a method: that
    might be part of what the energy is computed by."""
    for owner in kind.__mro__:
        attributes = vars(owner)
        if _NAME in attributes:
            return True
        if any(_is_code(name, value) for name, value in attributes.items()):
            return False
    return False


def _is_code(name: str, value: Any) -> bool:
    # Of the special methods only these have a say in what a call or an attribute gives.
    if name.startswith("__") and name not in ("__call__", "__getattr__", "__getattribute__"):
        return False
    return callable(value) or hasattr(value, "__get__")


def _autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _untouched(module: nn.Module) -> bool:
    """Whether no hooks, replaced ``forward`` or compiled call are on a module or on any inside it."""
    attributes = vars(module)
    for name in _HOOKS:
        if attributes.get(name):
            return False
    if "forward" in attributes or attributes.get("_compiled_call_impl") is not None:
        return False
    return all(inner is None or _untouched(inner) for inner in attributes["_modules"].values())
