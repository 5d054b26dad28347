"""The five protocols. Everything that can be published for ebmkit satisfies one of them.

Shapes are written (batch, *event). Energies are low where points are likely:
p(x) ∝ exp(−E(x)), and the score is −∇ₓE(x).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

Energy: TypeAlias = Callable[[Tensor], Tensor]
"""(batch, *event) -> (batch,), low where likely; a model with its condition already bound."""

Metrics: TypeAlias = dict[str, Tensor]
"""Name -> tensor without dimensions, detached; never needed to compute the next step."""

State: TypeAlias = Any
"""A NamedTuple of tensors: all that the next step needs, and nothing else."""


class Batch(NamedTuple):
    """Points and, where the data are labelled, what each point is conditioned on."""

    x: Tensor
    """(batch, *event)"""
    condition: Tensor | None = None
    """(batch, ...) or None"""


@runtime_checkable
class Model(Protocol):
    """An energy function E(x) or E(x | condition).

    Any ``nn.Module`` or callable ``(batch, *event) -> (batch,)`` is a model; only one that takes a
    condition needs the second argument. A conditional model says so with an attribute
    ``conditional = True``, one of discrete states with ``discrete = True``, and where those are
    one-hot along the last axis, their number with ``categories``.

    Optional, each with the model's condition as a further argument where it takes one:
    ``energy_and_gradient(x)`` returns E(x) (batch,) and ∇ₓE(x) (batch, *event) by a formula, or None
    where the formula does not hold; ``log_partition()`` returns log Z, without dimensions, where it
    is known; ``sweep(x, uniforms)`` returns states (batch, *event) after one Gibbs sweep over all
    variables by numbers (batch, ``n_uniforms``) uniform in [0, 1); ``bridge(inverse_temperature,
    base)`` returns, up to a constant, an energy between independent variables of probabilities
    ``base`` (*event) of ones at 0 and a discrete model at 1.
    """

    def __call__(self, x: Tensor, /, *args: Any, **kwargs: Any) -> Tensor:
        """Energies (batch,) of points (batch, *event)."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """A Markov chain on points, written as one step.

    The state is a NamedTuple of tensors, or of NamedTuples of such, with a field ``x`` (batch, *event).
    A tensor whose first dimension is the batch holds a row for each chain; any other belongs to all
    chains together. ``draw`` is the only place of randomness, and reads of the state no more than
    shapes, dtypes and devices, for the numbers of many steps are drawn at once. ``step`` is a pure
    function of its arguments; a loop in it that depends on tensors' values is ``ebmkit.while_loop``.

    A field typed ``float | Scheduler`` is a *scheduled parameter*: ``step`` takes it as a keyword of
    the same name and is given its value at the chain's or the training's present step, as a number or
    as a tensor without dimensions: compute with operators rather than with ``math``. A sampler that
    moves chains by another one in its field ``sampler`` takes that one's as ``**keywords``.

    Optional: ``draw_steps(state, steps, *, generator)`` returns the random numbers of so many steps:
    what ``draw`` returns, but each tensor (steps, …), bit for bit those of as many calls one after
    another. Only compiled chains ask for it, and without it they stack draws.
    ``restart(state, energy, x)`` returns a state for new chains at ``x`` that keeps what
    ``state`` has adapted (a step size, a mass matrix); without it new chains start from ``init``.
    ``tune(state, energy)`` returns the state with what can only be adapted now and then; it is called
    a few times along a warm-up. ``settle(state)`` returns the state with its adaptation ended; it is
    called at the end of a warm-up. ``check(energy)`` raises ``UserError`` where such an energy cannot
    be sampled; a pipeline calls it once the model is built, before the first step.
    A sampler of discrete states says so with an attribute ``discrete = True``, and where it was told
    their number of categories with ``categories``. One of which a step from
    ``init`` leaves p(x) ∝ exp(−E(x)) exactly as it is says ``exact = True``: annealing takes no other,
    and whatever else the state holds must then need no start of its own. One whose steps cannot
    be traced into a graph says ``traceable = False``, and they run eagerly.

    What the conformance kit asks of a sampler: steps from exact draws of p(x) leave them such draws.
    One that is biased by design says how: ``bias_order = k`` where halving its ``step_size`` divides
    the bias by 2^k. One that samples nothing, as a descent, says ``stationary = False``. One of which
    a step from ``init`` at draws of p(x) is as likely as the step back says ``reversible = True``.
    """

    def init(self, energy: Energy, x: Tensor) -> State:
        """State of chains that start at x (batch, *event)."""
        ...

    def draw(self, state: State, *, generator: torch.Generator) -> Any:
        """The random numbers of one step, on the generator's device."""
        ...

    def step(
        self, energy: Energy, state: State, noise: Any, *args: Any, **kwargs: Any
    ) -> tuple[State, Metrics]:
        """One step of all chains. Keywords are the scheduled parameters, as numbers."""
        ...


@runtime_checkable
class Loss(Protocol):
    """A training objective. Randomness (noise, chains, projections) happens in ``draw``.

    Draws that hold negatives name them ``negatives`` (batch, *event), and what each is conditioned on,
    where the data are labelled, ``condition``: the metric ``force``, the mean of ‖∇E‖, is taken there.

    Optional: ``check(model)`` raises ``UserError`` where the loss cannot train such a model; it is
    called once the model is built, before the first step. ``continuous = True`` says that the loss is
    of continuous points alone: it is given no discrete data. A field typed ``float | Scheduler`` holds
    a schedule on the training clock, which the loss reads at ``draw``'s ``step``.
    ``chains(state)`` returns as a Batch where the chains are that a loss keeps from step to step.
    ``split(state, parts)`` returns as many states, one for each process of a run, and
    ``joined(states)`` one of several: what ``split`` has taken apart it puts together again. Each gets
    states of which the fields' names are those of its own, though their types may be others. Without
    the two each process keeps a whole state of its own.

    What the conformance kit asks of a loss: unless it says ``consistent = False``, the expected
    gradient is zero where the model is the data's distribution; unless it says ``averages = False``,
    it is a mean over the batch's rows; where it says ``estimates = "score-matching"``, its mean is
    ½ E‖s‖² + E tr ∇s up to a constant of the data. One that adds noise to the data tells it to a
    model that says ``noise_conditional = True``, by the keyword ``noise_level`` (batch,).
    """

    def init(self, model: Model, batch: Batch, *, generator: torch.Generator) -> State:
        """State before the first step, from a first batch; an empty NamedTuple where there is none."""
        ...

    def draw(
        self, model: Model, batch: Batch, state: State, step: int, *, generator: torch.Generator
    ) -> tuple[Any, State]:
        """The draws for one training step, and the state after it."""
        ...

    def __call__(self, model: Model, batch: Batch, draws: Any) -> tuple[Tensor, Metrics]:
        """The loss, a tensor without dimensions whose gradient trains the model, and metrics."""
        ...


@runtime_checkable
class Scheduler(Protocol):
    """A pure function of the step: nothing to save, nothing to restore.

    Optional attributes, read by the kernel: ``clock`` ("training", the default, or "chain") says
    which step it follows; ``length`` says for how many steps it is stated (None: no end);
    ``over(n_steps)`` returns the schedule with an open length spread over ``n_steps``.
    """

    def __call__(self, step: int) -> float:
        """The value at a step ≥ 0."""
        ...


@runtime_checkable
class Dataset(Protocol):
    """A source of points.

    Optional: ``log_density(x)`` (batch, *event) -> (batch,), the exact log density in nats;
    ``n_classes`` for labelled data; ``n_samples``, ``__len__`` and ``__getitem__`` for a finite set,
    which then serves ``torch.utils.data.DataLoader`` and training by epochs; ``held_out_batch`` and
    ``validation_batch``, Batches that are kept apart for evaluation and for early stopping;
    ``discrete = True`` for discrete states.

    Optional too, for ``ebmkit sample`` to write points as the data's source has them:
    ``restored(x)`` returns points (batch, *event) in the source's units, and as it numbers categories;
    ``event_names`` says what the source calls each number of such a point, in order, or None where it
    does not; ``condition_name`` what it calls the labels, or None.
    """

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point."""
        ...

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        """``size`` points on the generator's device."""
        ...
