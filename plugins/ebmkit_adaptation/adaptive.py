"""A Metropolis sampler with its step size and its scales adapted."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from attrs import field
from attrs.validators import and_, ge, gt, instance_of, lt, optional
from torch import Tensor

from ebmkit import Energy, Metrics, Sampler, doc, finite, is_scheduled, whole
from ebmkit_adaptation._rescaled import Rescaled
from ebmkit_adaptation._state import AdaptationError, AdaptiveState

_GAMMA, _T0, _KAPPA = 0.05, 10, 0.75
_PRIOR = 5
"""Points that the scale so far counts for when a new one is estimated."""
_ULPS = 100
"""Rounding errors of a mean above which a standard deviation is one."""
_FIRST = 50
"""Steps after which ``restart`` renews the scales for the first time; twice as many each time."""


@attrs.frozen
class Adaptive:
    """A Metropolis sampler whose step size and scales are adapted to the energy.

    The inner sampler moves y = x / s, x (batch, *event), on the energy E(s y), s (1, *event), with a
    step size ε that follows its mean acceptance α at step t by dual averaging towards the target δ:

    H ← (1 − 1/(t + t₀)) H + (δ − α) / (t + t₀),  log ε = μ − H √t / γ,
    log ε̄ ← t^−κ log ε + (1 − t^−κ) log ε̄

    with γ = 0.05, t₀ = 10, κ = 0.75 and μ = log 10 ε₀, ε₀ the ``step_size`` of the inner sampler. With
    ``mass``, s are the standard deviations of all chains' points, which is a diagonal mass matrix for
    any sampler. ``tune`` renews them, and where it is never called ``restart`` after 50 steps, then
    100 and so on; t then starts again, with μ from ε̄. ``settle`` ends adaptation, at ε̄.

    While it adapts the chains' distribution is not exactly p(x) ∝ exp(−E(x)): points count after
    ``settle``. Chains should start about where they will be, or be tuned a few times, each after more
    steps: a scale is found where chains have been. Targets that suit: 0.574 for MALA, 0.65 to 0.8 for
    Hamiltonian samplers. Over HMC state a jitter of 0.1 to 0.3: rescaled, all directions have the same
    period, and trajectories as long as that lead nowhere. The metric ``step_size`` is that of y.

    Raises UserError where the inner sampler has no step size, is not exact, adapts or schedules its
    own step size, moves discrete states with ``mass``, or reports no acceptance.

    Source: The No-U-Turn Sampler: Adaptively Setting Path Lengths in Hamiltonian Monte Carlo (Hoffman
    and Gelman, 2014); variances over steps and chains: Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances (Chan, Golub and LeVeque, 1979).
    """

    sampler: Sampler = field(
        metadata=doc("what moves the chains; has a step_size and reports its acceptance")
    )
    target_acceptance: float = field(
        default=0.8,
        validator=and_(finite, gt(0), lt(1)),
        metadata=doc("δ; 0.574 suits MALA, 0.65 to 0.8 Hamiltonian samplers"),
    )
    mass: bool = field(
        default=True, validator=instance_of(bool), metadata=doc("whether scales are adapted too")
    )
    steps: int | None = field(
        default=None,
        validator=optional(and_(whole, ge(1))),
        metadata=doc("steps after which adaptation ends; goes on until the warm-up ends if unset"),
    )

    def __attrs_post_init__(self) -> None:
        inner: Any = self.sampler
        name = type(inner).__name__
        step_size = getattr(inner, "step_size", None)
        if step_size is None:
            raise AdaptationError(
                f"sampler: expected one with a step_size, got {name}; choose a Metropolis sampler "
                "such as mala, and wrap others around this one"
            )
        if getattr(inner, "exact", False) is not True:
            raise AdaptationError(
                f"sampler: expected one that leaves p(x) exactly as it is, says so by exact = True and "
                f"reports an acceptance_rate, got {name}, which does not say so; choose a Metropolis "
                "sampler such as mala, hmc or nuts"
            )
        if is_scheduled(step_size):
            raise AdaptationError(
                f"sampler: expected {name}.step_size to be a number, from which it is adapted, got "
                f"the schedule {step_size!r}; state a number, or take {name} alone"
            )
        if getattr(inner, "target_acceptance", None) is not None:
            raise AdaptationError(
                f"sampler: expected {name}.target_acceptance unset, got {inner.target_acceptance!r}: "
                "its step size cannot be adapted twice"
            )
        if self.mass and self.discrete:
            raise AdaptationError(
                f"mass: expected false for {name}, whose states are discrete and have no scale"
            )

    @property
    def exact(self) -> bool:
        """Whether a step leaves p(x) as it is, once adaptation is settled."""
        return bool(getattr(self.sampler, "exact", False))

    @property
    def reversible(self) -> bool:
        """Whether a step is in detailed balance, once adaptation is settled."""
        return bool(getattr(self.sampler, "reversible", False))

    @property
    def discrete(self) -> bool:
        return bool(getattr(self.sampler, "discrete", False))

    @property
    def categories(self) -> int | None:
        return getattr(self.sampler, "categories", None)

    @property
    def traceable(self) -> bool:
        return bool(getattr(self.sampler, "traceable", True))

    def check(self, energy: Energy) -> None:
        """Raises UserError where the inner sampler cannot sample the energy."""
        if check := getattr(self.sampler, "check", None):
            check(energy)

    def init(self, energy: Energy, x: Tensor) -> AdaptiveState:
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        scale = torch.ones((1, *x.shape[1:]), device=x.device, dtype=dtype)
        step_size: Any = self.sampler.step_size  # type: ignore[attr-defined]
        log_step = math.log(step_size)
        # Each a tensor of its own: a graph takes one in several places for one that always is in all.
        zero, number = scale.new_zeros, scale.new_tensor
        return AdaptiveState(
            x=x,
            inner=self.sampler.init(self._rescaled(energy, scale), x),
            log_step=number(log_step),
            log_average=number(log_step),
            centre=number(log_step + math.log(10)),
            shortfall=zero(()),
            steps=zero(()),
            total=zero(()),
            due=number(_FIRST),
            scale=scale,
            seen=zero(()),
            mean=torch.zeros_like(scale),
            squares=torch.zeros_like(scale),
            adapting=torch.ones((), device=x.device, dtype=torch.bool),
        )

    def restart(self, state: AdaptiveState, energy: Energy, x: Tensor) -> AdaptiveState:
        due = state.steps >= state.due
        renewed = self._renewed(state, energy, x, due)
        later = torch.where(due & state.adapting, 2 * state.due, state.due)
        return renewed._replace(due=later)

    def tune(self, state: AdaptiveState, energy: Energy) -> AdaptiveState:
        tuned = self._renewed(state, energy, state.x, state.steps > 0)
        # From now on whoever runs the warm-up says when, and not `restart`.
        never = torch.full_like(state.due, torch.finfo(state.due.dtype).max)
        tuned = tuned._replace(due=never)
        if tune := getattr(self.sampler, "tune", None):
            return tuned._replace(inner=tune(tuned.inner, self._rescaled(energy, tuned.scale)))
        return tuned

    def settle(self, state: AdaptiveState) -> AdaptiveState:
        settle = getattr(self.sampler, "settle", None)
        return state._replace(
            inner=settle(state.inner) if settle else state.inner,
            log_step=torch.where(state.adapting, state.log_average, state.log_step),
            adapting=torch.zeros_like(state.adapting),
        )

    def draw(self, state: AdaptiveState, *, generator: torch.Generator) -> Any:
        return self.sampler.draw(state.inner, generator=generator)

    def step(
        self, energy: Energy, state: AdaptiveState, noise: Any, **inner: Any
    ) -> tuple[AdaptiveState, Metrics]:
        step_size = state.log_step.exp()
        rescaled = self._rescaled(energy, state.scale)
        moved, metrics = self.sampler.step(
            rescaled, state.inner, noise, **inner | {"step_size": step_size}
        )
        if "acceptance_rate" not in metrics:
            raise AdaptationError(
                f"Adaptive: {type(self.sampler).__name__} reports no acceptance_rate to adapt its "
                "step size to; choose a Metropolis sampler such as mala"
            )
        acceptance = metrics["acceptance_rate"]
        acceptance = torch.where(acceptance.isnan(), 0, acceptance)
        x = state.scale * moved.x if self.mass else moved.x
        new = state._replace(x=x, inner=moved)
        # No chains tell nothing.
        if len(x):
            new = self._adapted(new, acceptance)
        return new, metrics | {"acceptance_rate": acceptance, "step_size": step_size}

    def _adapted(self, state: AdaptiveState, acceptance: Tensor) -> AdaptiveState:
        steps, total = state.steps + 1, state.total + 1
        share = 1 / (steps + _T0)
        shortfall = (1 - share) * state.shortfall + share * (self.target_acceptance - acceptance)
        # So far that squares of ε are numbers: a step size of 0 would never be left again.
        bound = -math.log(torch.finfo(state.log_step.dtype).tiny) / 2
        log_step = (state.centre - steps.sqrt() / _GAMMA * shortfall).clamp(-bound, bound)
        weight = steps.pow(-_KAPPA)
        log_average = weight * log_step + (1 - weight) * state.log_average
        adapting = state.adapting
        if self.steps is not None:
            adapting = adapting & (total < self.steps)
            log_step = torch.where(adapting, log_step, log_average)
        changed: dict[str, Tensor] = {
            "log_step": log_step,
            "log_average": log_average,
            "shortfall": shortfall,
            "steps": steps,
            "total": total,
        }
        if self.mass:
            changed |= _counted(state)
        kept = {n: torch.where(state.adapting, t, getattr(state, n)) for n, t in changed.items()}
        return state._replace(**kept, adapting=adapting)

    def _renewed(
        self, state: AdaptiveState, energy: Energy, x: Tensor, due: Tensor
    ) -> AdaptiveState:
        """The state of chains at x, with new scales and dual averaging begun again where ``due``."""
        if self.mass:
            due = due & state.adapting
            spread = (state.squares / (state.seen - 1)).sqrt()
            weight = state.seen / (state.seen + _PRIOR)
            scale = spread.pow(weight) * state.scale.pow(1 - weight)
            # Where chains never moved, up to rounding, or are not finite, nothing is known.
            resolution = _ULPS * torch.finfo(scale.dtype).eps * state.mean.abs()
            known = scale.isfinite() & (spread > resolution)
            log_average, zero = state.log_average, torch.zeros_like(state.steps)
            begun: dict[str, Tensor] = {
                "scale": torch.where(known, scale, state.scale),
                "log_step": log_average,
                "centre": log_average + math.log(10),
                "shortfall": zero,
                "steps": zero,
                "seen": zero,
                "mean": torch.zeros_like(state.mean),
                "squares": torch.zeros_like(state.squares),
            }
            state = state._replace(
                **{n: torch.where(due, t, getattr(state, n)) for n, t in begun.items()}
            )
        y = x / state.scale if self.mass else x
        rescaled = self._rescaled(energy, state.scale)
        restart = getattr(self.sampler, "restart", None)
        inner = restart(state.inner, rescaled, y) if restart else self.sampler.init(rescaled, y)
        return state._replace(x=x, inner=inner)

    def _rescaled(self, energy: Energy, scale: Tensor) -> Energy:
        return Rescaled(energy, scale) if self.mass else energy


def _counted(state: AdaptiveState) -> dict[str, Tensor]:
    """What is known of the points' spread, with those of this step."""
    x, batch = state.x, len(state.x)
    seen = state.seen + batch
    mean = x.mean(0, keepdim=True)
    away = mean - state.mean
    own = (x - mean).square().sum(0, keepdim=True)
    return {
        "seen": seen,
        "mean": state.mean + away * (batch / seen),
        "squares": state.squares + own + away.square() * (state.seen * batch / seen),
    }
