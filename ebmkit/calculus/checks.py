"""Whether an energy gave what an energy gives."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import torch
from torch import Tensor

from ebmkit.errors import EnergyError
from ebmkit.layers import energy_name
from ebmkit.protocols import Energy


def check_scalar(energy: Energy, energies: Any, x: Tensor) -> None:
    """One number a row.

    Raises:
        EnergyError: it is something else.
    """
    if not isinstance(energies, Tensor) or energies.shape != x.shape[:1]:
        raise EnergyError(
            f"{energy_name(energy)} must return one energy a row, shape ({len(x)},), got "
            f"{described(energies, len(x))}"
        )
    if not energies.is_floating_point():
        raise EnergyError(
            f"{energy_name(energy)} must return real numbers, got energies of {energies.dtype}"
        )


def check_depends(energy: Energy, slope: Tensor | None) -> Tensor:
    """The gradient in x, where there is one.

    Raises:
        EnergyError: the energies do not depend on x in a way that can be differentiated.
    """
    if slope is None:
        raise independent(energy)
    return slope


def independent(energy: Energy) -> EnergyError:
    """The error of an energy that no operation on x led to."""
    return EnergyError(
        f"{energy_name(energy)} does not depend on x, as far as gradients can tell; look for no_grad, "
        "detach or .data in it"
    )


def described(result: Any, rows: int) -> str:
    """What was returned, in words."""
    if not isinstance(result, Tensor):
        return type(result).__name__
    shape = tuple(result.shape)
    return f"shape {shape}; squeeze its last axis" if shape == (rows, 1) else f"shape {shape}"


def uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Runs what torch.compile has compiled as the plain code that it was: compiled code can neither be
    followed by rules nor differentiated twice."""
    if "torch._dynamo" not in sys.modules or torch.compiler.is_compiling():
        return contextlib.nullcontext()
    eager: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return eager
