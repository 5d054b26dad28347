"""The primitive of score matching: first and summed second derivatives along directions."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ebmkit.calculus.checks import check_depends, check_scalar, independent, uncompiled
from ebmkit.calculus.fallback import forward_over_reverse
from ebmkit.calculus.jet import Jet, NoRuleError, RandomError
from ebmkit.calculus.kinks import noticing
from ebmkit.errors import EnergyError
from ebmkit.layers import energy_name, layer_name, module_of
from ebmkit.loops import tracing
from ebmkit.lowering import Unsuitable
from ebmkit.protocols import Energy

MEMORY_BUDGET = 512 * 2**20
"""Bytes that the derivatives along the directions may take; more directions go in chunks."""
_CACHE = 64 * 2**20
"""Bytes beyond which a pass goes through main memory: that many directions at once are fastest."""
_ROOMY = 2000
"""Bytes of intermediate results a byte of input directions, which no common network reaches."""
_LITTLE = 4 * 2**20
"""Bytes of input directions of which more than one chunk would not be worth asking."""


class CalculusWarning(UserWarning):
    """Second derivatives that leave something out, or that take a slower way.

    The energy has kinks (ReLU), whose curvature no trace sees, or a layer without a rule for
    derivatives carried forward.
    Remedy: a smooth activation; for a layer, ``ebmkit.register_rule``.
    """


class Derivatives(NamedTuple):
    """What an energy's Taylor expansion to second order along directions holds."""

    energies: Tensor
    """E(x) (batch,)."""
    first: Tensor
    """∇E · v_i (directions, batch)."""
    second: Tensor
    """Σ_i v_iᵀ ∇²E v_i (batch,); with the identity as directions, the Laplacian."""
    gradient: Tensor | None = None
    """∇E (batch, *event), where it was asked for."""


def directional_derivatives(
    energy: Energy,
    x: Tensor,
    directions: Tensor | None = None,
    *,
    gradient: bool = False,
    memory: int = MEMORY_BUDGET,
) -> Derivatives:
    """Energies, directional first derivatives and summed second derivatives of E at x in one pass.

    x (batch, *event); directions V (n, *event), the same for all rows, or (n, batch, *event); by
    default the identity, which gives the gradient and the Laplacian. With ``gradient`` the whole
    gradient is taken beside directions that do not span the space, by one backward pass through the
    same forward pass. All results can be differentiated in the energy's parameters once.

    (E, J, l) is carried forward through the energy: a linear map acts on all three, an elementwise
    f sends them to (f, f′J, f′l + f″ΣJ²). An energy with a function that has no rule is
    differentiated forward over reverse instead, and a warning says so once, by the layer's name.
    Directions go through in chunks that caches hold; where all together would take more than
    ``memory`` bytes, chunks are computed once more in the backward pass (forward over reverse keeps
    them).

    Rows must not depend on each other. Of functions with kinks (ReLU) the derivatives are those
    almost everywhere, and a warning says so once.

    Raises:
        EnergyError: the energy does not return one number a row, or does not depend on x.

    Source: Forward Laplacian: A New Computational Framework for Neural Network-based Variational
    Monte Carlo (Li and others, 2023); Collapsing Taylor Mode Automatic Differentiation (Dangel and
    others, 2025).
    """
    shape = x.shape[1:]
    if directions is None:
        size = math.prod(shape)
        directions = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, *shape)
    directions = directions.to(x.dtype)
    if directions.shape[1:] not in (shape, x.shape):
        raise ValueError(
            f"directions: expected shape (n, {', '.join(map(str, shape))}), or with the batch "
            f"{len(x)} after n, got {tuple(directions.shape)}"
        )
    with torch.enable_grad():
        if gradient:
            x = x.detach().requires_grad_(True)
        try:
            with noticing() as kinks:
                result = _in_chunks(energy, x, directions, memory)
        except RandomError as random:
            layer = layer_name(random.__traceback__, energy)
            raise EnergyError(
                f"{layer}: {random.function} makes the energy a random one, which has no second "
                "derivatives; leave it out, or call the model's eval() before"
            ) from None
        except NoRuleError as missing:
            layer = layer_name(missing.__traceback__, energy)
            _say_once(
                energy,
                f"{layer}: {missing.function} has no rule for carried derivatives, so the energy's "
                "are taken forward over reverse, which is slower; "
                "ebmkit.register_rule(function, rule) adds a rule",
            )
            with uncompiled():
                found = forward_over_reverse(energy, x, directions, memory, layer)
            result = Derivatives(*found)
        for name in dict.fromkeys(kinks):
            _say_once(
                energy,
                f"{energy_name(energy)} uses {name}, whose slope jumps: its second derivative is "
                "taken almost everywhere, so the curvature that sits at the kinks is missing from "
                "the Laplacian and from score matching's loss; choose a smooth activation (silu, "
                "softplus, tanh)",
            )
        if gradient:
            ones = torch.ones_like(result.energies)
            (slope,) = torch.autograd.grad(
                result.energies, x, ones, create_graph=True, allow_unused=True
            )
            result = result._replace(gradient=check_depends(energy, slope))
    return result


def _in_chunks(energy: Energy, x: Tensor, directions: Tensor, memory: int) -> Derivatives:
    count = len(directions)
    each = _bytes_a_direction(energy, x, directions, memory)
    roomy = each * count <= memory
    if roomy and (tracing() or each * count <= _CACHE):
        return _carry(energy, x, directions)
    most = max(1, int(min(memory, _CACHE) / each))
    size = math.ceil(count / math.ceil(count / most))
    if tracing():
        raise Unsuitable(f"its {count} directions go in chunks of {size}")
    energies: Tensor | None = None
    firsts: list[Tensor] = []
    second: Any = 0.0
    for chunk in torch.split(directions, size):
        if roomy:
            part = _carry(energy, x, chunk)
        else:
            # Kept whole, the chunks together would need what one pass needs: each keeps its inputs
            # alone and is computed once more in the backward pass.
            part = checkpoint(
                _carry, energy, x, chunk, use_reentrant=False, preserve_rng_state=False
            )
        energies = part.energies if energies is None else energies
        firsts.append(part.first)
        second = second + part.second
    assert energies is not None
    return Derivatives(energies, torch.cat(firsts), second)


def _carry(energy: Energy, x: Tensor, directions: Tensor) -> Derivatives:
    if directions.ndim == x.ndim:
        directions = directions.unsqueeze(1).expand(len(directions), *x.shape)
    with uncompiled():
        y = energy(Jet(x, directions, None))
    if not isinstance(y, Jet):
        check_scalar(energy, y, x)
        raise independent(energy)
    check_scalar(energy, y.value, x)
    second = torch.zeros_like(y.value) if y.second is None else y.second
    return Derivatives(y.value, y.first, second)


def _bytes_a_direction(energy: Energy, x: Tensor, directions: Tensor, memory: int) -> float:
    """What a direction keeps for the backward pass, told from a pass along one; 0 where that is
    little beside both budgets."""
    count = len(directions)
    needed = count * x.numel() * x.element_size()
    if count < 2 or (needed <= _LITTLE and needed * _ROOMY <= memory):
        return 0.0
    module = module_of(energy)
    known = _bytes_a_row.setdefault(module, {}) if module is not None else {}
    kind = (x.shape[1:], x.dtype, directions.ndim == x.ndim)
    if kind not in known:
        # All rows, for an energy may hold something for each, such as a condition.
        before = torch.get_rng_state()
        kept = [_bytes_kept(energy, x.detach(), directions[:n]) for n in (0, 1)]
        if not torch.equal(before, torch.get_rng_state()):
            torch.set_rng_state(before)
            raise EnergyError(
                f"{energy_name(energy)} draws random numbers, and its {count} directions go in chunks "
                "that would each draw others; give it the numbers from outside"
            )
        known[kind] = max(kept[1] - kept[0], 1) / len(x)
    return known[kind] * len(x)


def _bytes_kept(energy: Energy, x: Tensor, directions: Tensor) -> int:
    """Bytes that a pass keeps for its backward pass."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _carry(energy, x, directions)
    return kept


_bytes_a_row: WeakKeyDictionary[nn.Module, dict[Any, float]] = WeakKeyDictionary()
"""Of each energy, what a row along one direction keeps for the backward pass."""


_said: set[tuple[str, str]] = set()


def _say_once(energy: Energy, message: str) -> None:
    key = (energy_name(energy), message)
    if key not in _said:
        _said.add(key)
        warnings.warn(message, CalculusWarning, stacklevel=4)
