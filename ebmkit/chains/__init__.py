"""Runs any sampler's chains: warm-up, schedules, thinning, trajectories and moments, the guard."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ebmkit.chains.conduct import CompileChains, Conduct, OnDivergence, conducted, present
from ebmkit.chains.kept import Kept, Moments
from ebmkit.chains.noise import log_uniform, normals
from ebmkit.chains.run import Chain, ChainInterrupt, Progress, Run
from ebmkit.chains.starts import finite_rows
from ebmkit.chains.stepping import Stepper
from ebmkit.clocks import moving_names, values_at
from ebmkit.devices import keep_freed_memory
from ebmkit.errors import expect_parts
from ebmkit.fields import generator_or_new
from ebmkit.holding import evaluating, frozen
from ebmkit.protocols import Energy, Model, Sampler, State

__all__ = [
    "Chain",
    "ChainInterrupt",
    "Moments",
    "Progress",
    "log_uniform",
    "normals",
    "run_chain",
    "sample",
]


def run_chain(
    sampler: Sampler,
    energy: Energy,
    x: Tensor,
    *,
    steps: int,
    generator: torch.Generator,
    training_step: int = 0,
    previous: State | None = None,
    state: State | None = None,
    warm_up: int = 0,
    thin: int = 1,
    trajectory: bool = False,
    trace: Sequence[str] = (),
    moments: bool = False,
    progress: Progress | None = None,
) -> Chain:
    """Run ``steps`` steps of chains that start at x (batch, *event); what a loss calls in ``draw``.

    ``previous`` is a state of earlier chains whose adaptation (a step size) the sampler may carry
    over; ``state`` is one of the same chains, from which they go on exactly, whatever x is; but chains
    that were held still may move again, and schedules on the chain's clock begin anew. Before the steps
    come ``warm_up`` steps, in which the sampler may be tuned and after which its adaptation is settled.
    Trajectory, traces (of the state's fields) and moments are of the points after every ``thin``-th
    step. While chains run, the energy's parameters are detached.

    Whether steps are compiled, and what becomes of chains that diverge, is the business of what runs
    around: a training run, or ``sample``. Unless that says otherwise chains run eagerly and stop.

    Raises:
        DivergenceError: a chain is at a point that is not finite; the message counts them.
        ChainInterrupt: a KeyboardInterrupt, with what there is so far as ``chain``.
        ValueError: ``steps``, ``warm_up`` or ``thin`` is out of range.
        ScheduleError: a schedule on the chain's clock is stated for more steps than the chain runs.
    """
    keeps = trajectory or moments or bool(trace)
    if steps < 0 or thin < 1 or warm_up < 0:
        raise ValueError(
            f"expected steps ≥ 0, warm_up ≥ 0 and thin ≥ 1, got steps={steps}, warm_up={warm_up}, "
            f"thin={thin}"
        )
    if isinstance(trace, str):
        raise ValueError(
            f'trace: expected names of fields of the state, as ("{trace}",), got a string'
        )
    if thin > 1 and not keeps:
        raise ValueError(f"thin={thin} says which steps a trajectory keeps; set trajectory=True")
    if x.device.type == "cpu":
        keep_freed_memory()
    total, conduct = warm_up + steps, present()
    kept = Kept(trajectory, tuple(dict.fromkeys(trace)), moments, thin)
    run = Run(
        sampler,
        energy,
        generator,
        conduct,
        Stepper(
            sampler, energy, conduct, total=total, watch=kept.watch, moving=moving_names(sampler)
        ),
        values_at(sampler, total, training_step),
        kept,
        progress,
        total,
    )
    return frozen(energy, lambda: run.through(x.detach(), previous, state, warm_up, steps))  # type: ignore[no-any-return]


def sample(
    sampler: Sampler,
    model: Model,
    x: Tensor,
    *,
    steps: int,
    generator: torch.Generator | None = None,
    warm_up: int = 0,
    thin: int = 1,
    trajectory: bool = False,
    compile: CompileChains = "auto",  # noqa: A002
    on_divergence: OnDivergence = "stop",
    restart_from: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Points of chains that start at x (batch, *event): after ``warm_up`` and ``steps`` steps
    (batch, *event), or with ``trajectory=True`` after every ``thin``-th of the latter
    (steps // thin, batch, *event).

    The model is in evaluation mode meanwhile and its parameters get no gradients. Parameters that
    are scheduled on the training clock have their first value. Without a generator a new one is
    seeded from the operating system.

    ``compile`` says whether steps are compiled: "off", "step" (one a graph), "chunk" (about ten a
    graph, which on CPUs goes through up to 100 by a loop within it, unless chains restart), or "auto",
    which does so where the steps to come pay for it by an estimate from the operations of one step
    (never by the clock, so that a call repeated gives the same points). What cannot be compiled runs
    eagerly, with one CompileWarning.

    ``on_divergence`` says what becomes of a chain whose next point, energy or force is not finite:
    "stop" raises; "freeze" holds it at the last point from which its step was finite; "restart" lets it
    begin anew at a row of ``restart_from`` (n, *event), by default of x, within the next few steps.

    Raises:
        DivergenceError: a chain is at a point that is not finite, or cannot be restarted.
        ChainInterrupt: a KeyboardInterrupt, with what there is so far as ``chain``.
        ValueError: ``steps``, ``warm_up`` or ``thin`` is out of range.
        ScheduleError: a schedule on the chain's clock is stated for more steps than the chain runs.
        UserError: sampler or model is the name of one, or a class.
    """
    expect_parts(sampler=sampler, model=model)
    source = x if restart_from is None else restart_from.to(x)
    if source.shape[1:] != x.shape[1:] or (len(x) and not len(source)):
        raise ValueError(
            f"restart_from: expected rows of shape {tuple(x.shape[1:])}, got {tuple(source.shape)}"
        )
    conduct = Conduct(
        compile=compile,
        on_divergence=on_divergence,
        starts=lambda n, generator, _: finite_rows(source, n, generator=generator),
    )
    with evaluating(model), conducted(conduct):
        chain = run_chain(
            sampler,
            model,
            x,
            steps=steps,
            generator=generator_or_new(generator, x.device),
            warm_up=warm_up,
            thin=thin,
            trajectory=trajectory,
            progress=progress,
        )
    return chain.x if chain.trajectory is None else chain.trajectory
