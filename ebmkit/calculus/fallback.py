"""Second derivatives by torch's own means: forward over reverse, for energies without a rule."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ebmkit.calculus import composite
from ebmkit.calculus.checks import check_depends, check_scalar
from ebmkit.calculus.jet import NoRuleError
from ebmkit.calculus.normalisation import instance_norm, layer_norm, native_instance_norm
from ebmkit.errors import EnergyError, out_of_memory
from ebmkit.layers import energy_name, module_of
from ebmkit.protocols import Energy


def forward_over_reverse(
    energy: Energy, x: Tensor, directions: Tensor, memory: int, layer: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Energies, first and summed second derivatives along directions; ``layer`` is what to name where
    that is impossible."""
    _refuse_scripts(energy)
    _check_gradient(energy, x)

    def total(y: Tensor) -> tuple[Tensor, Tensor]:
        energies = energy(y)
        return energies.sum(), energies

    gradient = torch.func.grad(total, has_aux=True)
    try:
        with warnings.catch_warnings():
            # torch's forward mode itself uses what torch has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.func.jvp(torch.sin, (x[:0],), (x[:0],))
        with _Composed():
            slope, energies = gradient(x)
            if not len(directions):
                return energies, x.new_zeros((0, len(x))), torch.zeros_like(energies)

            def along(v: Tensor) -> tuple[Tensor, Tensor]:
                v = v.expand_as(x)
                curve = torch.func.jvp(lambda y: gradient(y)[0], (x,), (v,))[1]
                return _row_sums(slope * v), _row_sums(curve * v)

            # What a network keeps a direction is not known here; ten times the input is common.
            size = max(1, int(memory / (10 * max(x.numel(), 1) * x.element_size())))
            first, second = torch.vmap(along, chunk_size=size)(directions)
    except (RuntimeError, NotImplementedError) as error:
        if out_of_memory(error):
            raise
        raise EnergyError(
            f"{layer} cannot be differentiated twice in x: {error}; choose another layer, "
            "denoising-score-matching, which needs first derivatives alone, or register a rule "
            "with ebmkit.register_rule"
        ) from error
    return energies, first, second.sum(0)


class _Composed(TorchFunctionMode):
    """Functions in plain operations whose own derivatives torch 2.13 gets wrong the third time, as
    finite differences show of layer normalisation, or cannot take, as those of norms."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        composed = _COMPOSED.get(func)
        if composed is not None:
            try:
                return composed(*args, **kwargs)
            except (NoRuleError, TypeError):
                pass  # called in a way that torch alone knows
        return func(*args, **kwargs)


_COMPOSED: dict[Any, Any] = {
    functional.layer_norm: layer_norm,
    torch.layer_norm: layer_norm,
    functional.instance_norm: instance_norm,
    torch.instance_norm: native_instance_norm,
    functional.normalize: composite.normalize,
    functional.cosine_similarity: composite.cosine_similarity,
    functional.pairwise_distance: composite.pairwise_distance,
    torch.norm: composite.norm,
    torch.Tensor.norm: composite.norm,
    torch.linalg.norm: composite.norm,
    torch.linalg.vector_norm: composite.norm,
    torch.std: composite.std,
    torch.Tensor.std: composite.std,
}


def _row_sums(x: Tensor) -> Tensor:
    return x.sum(tuple(range(1, x.ndim))) if x.ndim > 1 else x


def _check_gradient(energy: Energy, x: Tensor) -> None:
    x = x.detach().requires_grad_(True)
    energies = energy(x)
    check_scalar(energy, energies, x)
    slope = None
    if energies.requires_grad:
        ones = torch.ones_like(energies)
        (slope,) = torch.autograd.grad(energies, x, ones, allow_unused=True)
    check_depends(energy, slope)


def _refuse_scripts(energy: Energy) -> None:
    module = module_of(energy)
    scripts = (torch.jit.ScriptModule, torch.jit.ScriptFunction)
    inside: list[nn.Module] = [] if module is None else list(module.modules())
    if isinstance(energy, scripts) or any(isinstance(m, scripts) for m in inside):
        raise EnergyError(
            f"{energy_name(energy)} holds TorchScript, which has no second derivatives; give the "
            "module as it was before torch.jit"
        )
