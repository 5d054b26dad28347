"""Runs any sampler's chains: scheduled parameters, thinning, trajectories, the divergence guard."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmkit.clocks import values_at
from ebmkit.data import take
from ebmkit.errors import DivergenceError
from ebmkit.fields import generator_or_new
from ebmkit.objectives import evaluating
from ebmkit.protocols import Batch, Energy, Metrics, Model, Sampler, State


class Chain(NamedTuple):
    """What a run of chains leaves behind."""

    state: State
    """The sampler's last state."""
    metrics: Metrics
    """Each metric's mean over the steps."""
    trajectory: Tensor | None
    """(kept, batch, *event), or None where it was not asked for."""

    @property
    def x(self) -> Tensor:
        """The last points (batch, *event)."""
        x: Tensor = self.state.x
        return x


def run_chain(
    sampler: Sampler,
    energy: Energy,
    x: Tensor,
    *,
    steps: int,
    generator: torch.Generator,
    training_step: int = 0,
    previous: State | None = None,
    thin: int = 1,
    trajectory: bool = False,
) -> Chain:
    """Run ``steps`` steps of chains that start at x (batch, *event); what a loss calls in ``draw``.

    ``previous`` is a state of earlier chains whose adaptation (a step size) the sampler may carry
    over. The trajectory holds the points after every ``thin``-th step.

    Raises:
        DivergenceError: a chain ended at a point that is not finite; the message counts them.
        ValueError: ``steps`` or ``thin`` is out of range.
        ScheduleError: a schedule on the chain's clock is stated for more steps than the chain runs.
    """
    if steps < 0 or thin < 1:
        raise ValueError(f"expected steps ≥ 0 and thin ≥ 1, got steps={steps}, thin={thin}")
    if thin > 1 and not trajectory:
        raise ValueError(f"thin={thin} says which steps a trajectory keeps; set trajectory=True")
    x = x.detach()
    carry_over = getattr(sampler, "restart", None) if previous is not None else None
    state = carry_over(previous, energy, x) if carry_over else sampler.init(energy, x)
    values = values_at(sampler, steps, training_step)
    totals: dict[str, Tensor] = {}
    kept = []
    for step in range(steps):
        noise = sampler.draw(state, generator=generator)
        state, metrics = sampler.step(energy, state, noise, **values(step))
        for name, value in metrics.items():
            totals[name] = totals[name] + value if name in totals else value
        if trajectory and (step + 1) % thin == 0:
            kept.append(state.x)
    _guard(state, sampler, steps)
    return Chain(
        state,
        {name: total / steps for name, total in totals.items()},
        (torch.stack(kept) if kept else x.new_empty((0, *x.shape))) if trajectory else None,
    )


def sample(
    sampler: Sampler,
    model: Model,
    x: Tensor,
    *,
    steps: int,
    generator: torch.Generator | None = None,
    thin: int = 1,
    trajectory: bool = False,
) -> Tensor:
    """Points of chains that start at x (batch, *event): after ``steps`` steps (batch, *event), or
    with ``trajectory=True`` after every ``thin``-th step (steps // thin, batch, *event).

    The model is in evaluation mode meanwhile and its parameters get no gradients. Parameters that
    are scheduled on the training clock have their first value. Without a generator a new one is
    seeded from the operating system.

    Raises:
        DivergenceError: a chain ended at a point that is not finite.
        ValueError: ``steps`` or ``thin`` is out of range.
        ScheduleError: a schedule on the chain's clock is stated for more steps than the chain runs.
    """
    with evaluating(model):
        chain = run_chain(
            sampler,
            model,
            x,
            steps=steps,
            generator=generator_or_new(generator, x.device),
            thin=thin,
            trajectory=trajectory,
        )
    return chain.x if chain.trajectory is None else chain.trajectory


def starts_among(chains: Batch, n: int, *, generator: torch.Generator) -> Batch:
    """``n`` of the chains that are there, each taken as often as any other, or once more."""
    size, device = len(chains.x), chains.x.device
    rounds = -(-n // size)
    orders = [torch.randperm(size, generator=generator, device=device) for _ in range(rounds)]
    return take(chains, torch.cat(orders)[:n])


def starts_around(data: Batch, n: int, *, generator: torch.Generator) -> Batch:
    """``n`` normal points with the mean and standard deviation of ``n`` points of data or more, at
    conditions of those."""
    x = data.x
    noise = torch.randn((n, *x.shape[1:]), generator=generator, device=x.device, dtype=x.dtype)
    labels = None if data.condition is None else data.condition[:n]
    return Batch(x.mean(0) + x.std(0) * noise, labels)


def _guard(state: State, sampler: Any, steps: int) -> None:
    # Not the points alone: a chain at an energy or a force that is not finite never moves again.
    chains = len(state.x)
    rows = [
        tensor.isfinite().reshape(chains, -1).all(1)
        for tensor in state
        if isinstance(tensor, Tensor) and tensor.ndim and len(tensor) == chains
    ]
    finite = functools.reduce(torch.logical_and, rows)
    if bool(finite.all()):
        return
    bad = int((~finite).sum())
    raise DivergenceError(
        f"{type(sampler).__name__}: {bad} of {chains} chains are not finite after {steps} steps; "
        "a smaller step_size, or more regularisation of the energy, keeps chains finite",
        chains=bad,
    )
