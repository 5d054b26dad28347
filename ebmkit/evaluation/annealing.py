"""Annealed importance sampling: brackets on log ∫ exp(−E), or on log Σ exp(−E)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmkit.chains import run_chain
from ebmkit.errors import DivergenceError, EvaluationError
from ebmkit.evaluation.path import Path
from ebmkit.protocols import Energy, Sampler, State

_PILOT_RUNGS, _PILOT_STEPS, _PILOT_CHAINS = 16, 40, 48

Move = Callable[[Tensor, float], Tensor]
"""(points, inverse temperature) -> points after transitions that leave that distribution as it is."""


class Side(NamedTuple):
    """What the chains of one direction say about log Z."""

    mean: float
    """Mean of the chains' estimates of log Z: a bound in the mean."""
    error: float
    """Its standard error: the estimates' standard deviation over √chains."""
    pooled: float
    """The estimate from the mean of the weights: a bound in the mean too, and a closer one."""
    pooled_error: float
    """Its standard error by the delta method: the weights' standard deviation over their mean and
    over √chains."""
    effective: float
    """Effective sample size of the weights, (Σ w)² / Σ w², between 1 and the number of chains."""


def forward(
    path: Path,
    betas: Sequence[float],
    move: Move,
    chains: int,
    *,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Tensor:
    """Estimates of log Z (chains,) in float64, by chains from the base to the energy.

    log w = log Z₀ − Σₜ (E_{t+1}(xₜ) − E_t(xₜ)), where x₀ is drawn from the base and xₜ is moved from
    xₜ₋₁ at βₜ. The mean of w is Z at any ladder, so that the mean of log w is at most log Z.

    Raises:
        EvaluationError: energies are not finite.

    Source: Annealed Importance Sampling (Neal, 2001).
    """
    x = path.base.draw(chains, generator=generator, dtype=dtype)
    estimates = path.base.log_partition().expand(chains)
    for low, high in pairwise(betas):
        estimates = estimates - path.rise(x, low, high)
        if high < 1:
            x = _moved(move, x, high)
    return _finite(estimates)


def reverse(path: Path, betas: Sequence[float], move: Move, x: Tensor) -> Tensor:
    """Estimates of log Z (chains,) in float64, by chains that go back from x (chains, *event).

    Where x are independent draws of the energy's distribution, the mean of 1 / w is 1 / Z and that
    of log w is at least log Z. Where they are not, it may be lower.

    Raises:
        EvaluationError: energies are not finite.

    Source: Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse, Ghahramani
    and Adams, 2015); Accurate and conservative estimates of MRF log-likelihood using reverse
    annealing (Burda, Grosse and Salakhutdinov, 2015).
    """
    estimates = path.base.log_partition().expand(len(x))
    for high, low in pairwise(reversed(betas)):
        estimates = estimates - path.rise(x, low, high)
        if low > 0:
            x = _moved(move, x, low)
    return _finite(estimates)


def lower_side(estimates: Tensor) -> Side:
    """What ``forward``'s estimates say: both values are at most log Z in the mean."""
    n = len(estimates)
    log_mean = float(estimates.logsumexp(0)) - math.log(n)
    # Relative to the mean weight, which would overflow by itself.
    w = (estimates - log_mean).exp()
    effective = float(w.sum() ** 2 / w.square().sum())
    return Side(
        float(estimates.mean()),
        float(estimates.std()) / math.sqrt(n),
        log_mean,
        float(w.std()) / math.sqrt(n),
        effective,
    )


def upper_side(estimates: Tensor) -> Side:
    """What ``reverse``'s estimates say: both values are at least log Z in the mean, where chains
    started at draws of the energy's distribution."""
    side = lower_side(-estimates)
    return side._replace(mean=-side.mean, pooled=-side.pooled)


def mover(
    sampler: Sampler,
    path: Path,
    betas: Sequence[float],
    *,
    generator: torch.Generator,
    dtype: torch.dtype,
    steps: int = 1,
    training_step: int = 0,
) -> Move:
    """Transitions of ``steps`` steps of a sampler along a path.

    What the sampler adapts (a step size) is adapted on chains of its own, which climb the path once
    before; the chains that are weighted are then moved with it as it is, so that transitions depend
    on nothing but where they start.

    Raises:
        EvaluationError: the sampler does not say that it is ``exact``.
        UserError: the sampler cannot sample the path's energies.
        DivergenceError: chains are not finite.
    """
    if getattr(sampler, "exact", False) is not True:
        raise EvaluationError(
            f"annealing needs a sampler that leaves its target exactly as it is and says so by "
            f"exact = True, and {type(sampler).__name__} does not; state a Metropolis or a Gibbs "
            "sampler as [evaluation] annealing_sampler"
        )
    if (check := getattr(sampler, "check", None)) is not None:
        check(path.at(betas[len(betas) // 2] if len(betas) > 2 else 0.5))
    inner = betas[1:-1]
    states: dict[float, State] = {}
    if hasattr(sampler, "restart") and inner:
        rungs = [inner[i * len(inner) // _PILOT_RUNGS] for i in range(_PILOT_RUNGS)]
        x = path.base.draw(_PILOT_CHAINS, generator=generator, dtype=dtype)
        for beta in dict.fromkeys(rungs):
            states[beta] = _adapted(sampler, path.at(beta), x, generator, training_step)
            x = states[beta].x
    # A state whose adaptation has no end would follow the chains themselves from the second step.
    whole = not states or hasattr(sampler, "settle")
    blocks = [steps] if whole else [1] * steps

    def move(x: Tensor, beta: float) -> Tensor:
        energy = path.at(beta)
        previous = states[min(states, key=lambda rung: abs(rung - beta))] if states else None
        for block in blocks:
            x = run_chain(
                sampler,
                energy,
                x,
                steps=block,
                generator=generator,
                training_step=training_step,
                previous=previous,
            ).x
        return x

    return move


def _adapted(
    sampler: Any, energy: Energy, x: Tensor, generator: torch.Generator, training_step: int
) -> State:
    """A state adapted to an energy, from chains at x, with its adaptation ended."""
    state = None
    for last in (False, True):
        chain = run_chain(
            sampler,
            energy,
            x if state is None else state.x,
            steps=_PILOT_STEPS // 2,
            generator=generator,
            training_step=training_step,
            previous=state,
        )
        state = chain.state
        if not last and hasattr(sampler, "tune"):
            state = sampler.tune(state, energy)
    return sampler.settle(state) if hasattr(sampler, "settle") else state


def _moved(move: Move, x: Tensor, beta: float) -> Tensor:
    try:
        return move(x, beta)
    except DivergenceError as error:
        raise EvaluationError(f"annealing at inverse temperature {beta:.3g}: {error}") from error


def _finite(estimates: Tensor) -> Tensor:
    wrong = int((~estimates.isfinite()).sum())
    if wrong:
        raise EvaluationError(
            f"annealing: {wrong} of {len(estimates)} chains met energies that are not finite"
        )
    return estimates
