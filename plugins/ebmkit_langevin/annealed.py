"""Langevin dynamics at noise levels that fall along the chain."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Self

import attrs
import torch
from attrs import field, validators
from attrs.validators import gt
from torch import Tensor

from ebmkit import (
    Energy,
    Metrics,
    Scheduler,
    UserError,
    doc,
    energy_and_gradient,
    finite,
    normals,
    scheduled,
)
from ebmkit_langevin._arithmetic import plus, plus_, root
from ebmkit_langevin.langevin import LangevinState


class NoiseLevelsError(UserError, ValueError):
    """An energy, or a length of chain, that noise levels cannot be used with."""


def falling(_: Any, attribute: attrs.Attribute[Any], value: list[float]) -> None:
    for level in value:
        finite(None, attribute, level)
    if any(level <= 0 for level in value) or any(a <= b for a, b in pairwise(value)):
        raise ValueError(
            f"{attribute.name}: expected numbers > 0 in strictly decreasing order, got {value!r}"
        )


@attrs.frozen
class _Staircase:
    """The levels in turn along a chain, for numbers of steps that differ by one at most."""

    levels: tuple[float, ...]
    n_steps: int | None = None
    clock = "chain"
    length = None

    def over(self, n_steps: int) -> Self:
        if n_steps < len(self.levels):
            raise NoiseLevelsError(
                f"AnnealedLangevin: expected chains of at least {len(self.levels)} steps, one a "
                f"level, got {n_steps}; run longer chains, or state fewer levels"
            )
        return attrs.evolve(self, n_steps=n_steps)

    def __call__(self, step: int) -> float:
        if self.n_steps is None:
            raise ValueError("AnnealedLangevin: its levels are not yet spread over a chain")
        return self.levels[step * len(self.levels) // self.n_steps]


@attrs.frozen
class AnnealedLangevin:
    """Annealed Langevin dynamics, x' = x − ε_i ∇E(x | σ_i) + √(2 ε_i) z at falling noise levels σ_i.

    ε_i = ε σ_i² / σ_L², with ε the step size at the lowest level σ_L, and z standard normal of x's
    shape (batch, *event). The chain's steps are spread over the levels σ_1 > … > σ_L in equal numbers,
    up to one. The energy is a noise-conditional model: it has an attribute ``noise_conditional = True``
    and takes σ_i (batch,) as keyword ``noise_level``. The last points are noisy by σ_L; take
    σ_L² ∇E(x | σ_L) off them for the expected data.

    Raises UserError where the energy is not noise-conditional, and where a chain has fewer steps than
    levels.

    Source: Generative Modeling by Estimating Gradients of the Data Distribution (Song and Ermon, 2019).
    """

    bias_order = 1
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"levels": [1.0, 0.5], "step_size": 0.01},)

    levels: list[float] = field(
        validator=[validators.min_len(1), falling],
        metadata=doc(
            "σ_i, units of x, > 0, strictly decreasing; in a geometric sequence as a rule"
        ),
    )
    step_size: float | Scheduler = field(
        default=1e-5,
        validator=scheduled(gt(0)),
        metadata=doc("ε, in squared units of x, at the lowest level; below 2σ_L²"),
    )

    @property
    def sigma(self) -> Scheduler:
        """The present level, a schedule on the chain's clock."""
        return _Staircase(tuple(self.levels))

    def check(self, energy: Energy) -> None:
        """Raises UserError where the energy takes no noise level."""
        inner = energy
        while isinstance(inner, functools.partial):
            inner = inner.func
        if getattr(inner, "noise_conditional", None) is not True:
            name = getattr(inner, "__name__", type(inner).__name__)
            raise NoiseLevelsError(
                f"AnnealedLangevin: expected a noise-conditional energy, got {name}, which takes no "
                "noise_level; choose the sampler langevin, or a noise-conditional model"
            )

    def init(self, energy: Energy, x: Tensor) -> LangevinState:
        self.check(energy)
        return LangevinState(x)

    def draw(self, state: LangevinState, *, generator: torch.Generator) -> Tensor:
        x = state.x
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    def draw_steps(self, state: LangevinState, steps: int, *, generator: torch.Generator) -> Tensor:
        return normals(steps, state.x.shape, generator=generator, like=state.x)

    def step(
        self,
        energy: Energy,
        state: LangevinState,
        noise: Tensor,
        *,
        step_size: float | Tensor,
        sigma: float | Tensor,
    ) -> tuple[LangevinState, Metrics]:
        x = state.x
        conditional: Any = energy
        if isinstance(sigma, Tensor):
            levels = sigma.to(x).expand(len(x))
        else:
            levels = x.new_full((len(x),), sigma)
        at_level = functools.partial(conditional, noise_level=levels)
        _, gradient = energy_and_gradient(at_level, x)
        epsilon = step_size * (sigma / self.levels[-1]) ** 2
        after = plus_(plus(x, gradient, -epsilon), noise, root(2 * epsilon))
        return LangevinState(after), {}
