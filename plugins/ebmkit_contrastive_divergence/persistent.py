"""Persistent contrastive divergence: chains that go on from one training step to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import and_, ge, gt, in_, le, optional
from torch import Tensor

from ebmkit import (
    Batch,
    Metrics,
    Model,
    Sampler,
    State,
    UserError,
    bind,
    doc,
    finite,
    offered,
    run_chain,
    whole,
)
from ebmkit_contrastive_divergence._energies import Draws, compare


class ReplayBuffer(NamedTuple):
    """The persistent chains. A slot is one chain: it is read, moved and written back in place."""

    x: Tensor
    """(slots, *event)"""
    condition: Tensor | None
    """What each slot is conditioned on, (slots, ...), or None."""
    age: Tensor
    """Training steps that each slot took part in since it was last restarted, (slots,)."""
    chains: State | None
    """The sampler's last state, whose adaptation (a step size) goes on."""


@attrs.frozen
class PersistentContrastiveDivergence:
    """Persistent contrastive divergence (PCD): chains live in a replay buffer across training steps.

    L(θ) = mean E(x⁺) − mean E(x⁻) + α (mean E(x⁺)² + mean E(x⁻)²), with x⁺ the batch (batch, *event)
    and x⁻ the chains of distinct slots, moved k steps and written back to the same slots. As the
    chains keep up with the model they sample it, and the gradient tends to the log likelihood's.
    Conditional models: a slot keeps its condition, and takes that of a data row when it restarts.

    The buffer is filled, and slots restart with probability ``restart_rate``, by ``fill``:
    "data" is rows of the batch plus normal noise of standard deviation s, "gaussian" is normal
    with standard deviation s, "uniform" is the box [−s, s]; s is ``fill_scale``. Where the sampler
    moves discrete states, "data" is rows of the batch as they are, "uniform" is independent fair
    bits, or categories where sampler or model has such, and there is no "gaussian". The buffer lives
    on the batch's device.

    Raises DivergenceError where a chain is not finite; the buffer is then left as it was. Raises
    UserError where discrete chains would start from "gaussian".

    Source: Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient
    (Tieleman, 2008); restarts and energy regularisation: Implicit Generation and Modeling with
    Energy-Based Models (Du and Mordatch, 2019).
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {
            "k_steps": 5,
            "buffer_size": 600,
            "n_negatives": 64,
            "restart_rate": 0.02,
            "fill": "gaussian",
            "fill_scale": 1.0,
            "energy_regularisation": 0.01,
        },
    )

    sampler: Sampler = field(metadata=doc("what moves the chains"))
    k_steps: int = field(
        default=10, validator=and_(whole, ge(1)), metadata=doc("steps a training step")
    )
    buffer_size: int = field(default=1024, validator=and_(whole, ge(1)), metadata=doc("slots"))
    n_negatives: int | None = field(
        default=None,
        validator=optional(and_(whole, ge(1))),
        metadata=doc("slots moved a training step; as many as positives if unset"),
    )
    restart_rate: float = field(
        default=0.0,
        validator=and_(finite, ge(0), le(1)),
        metadata=doc("probability that a slot restarts before it is moved"),
    )
    fill: Literal["data", "gaussian", "uniform"] = field(
        default="data",
        validator=in_(("data", "gaussian", "uniform")),
        metadata=doc("where chains start"),
    )
    fill_scale: float = field(
        default=0.1,
        validator=and_(finite, gt(0)),
        metadata=doc("s, in units of x; of continuous states alone"),
    )
    energy_regularisation: float = field(
        default=0.0,
        validator=and_(finite, ge(0)),
        metadata=doc("α, weight of the mean squared energies; 0 is off"),
    )

    @property
    def consistent(self) -> bool:
        return getattr(self.sampler, "exact", False) and not self.energy_regularisation

    def check(self, model: Model) -> None:  # noqa: ARG002
        if self.fill == "gaussian" and getattr(self.sampler, "discrete", False):
            raise UserError(
                'fill: expected "data" or "uniform" where the sampler moves discrete states, got '
                '"gaussian"; choose one of those'
            )

    def init(self, model: Model, batch: Batch, *, generator: torch.Generator) -> ReplayBuffer:
        self.check(model)
        x, condition = self._draw_starts(model, batch, self.buffer_size, generator)
        age = torch.zeros(self.buffer_size, dtype=torch.long, device=x.device)
        return ReplayBuffer(x, condition, age, None)

    def draw(
        self,
        model: Model,
        batch: Batch,
        state: ReplayBuffer,
        step: int,
        *,
        generator: torch.Generator,
    ) -> tuple[Draws, ReplayBuffer]:
        device = state.x.device
        count = self.n_negatives or len(batch.x)
        held = len(state.x)
        if count > held:
            raise ValueError(
                f"persistent-contrastive-divergence: {count} negatives need as many distinct slots, "
                f"and there are {held}; state a larger buffer_size"
            )
        order = torch.randperm(held, generator=generator, device=device)
        slots = order[:count]
        x, age = state.x[slots], state.age[slots] + 1
        condition = None if state.condition is None else state.condition[slots]
        if self.restart_rate:
            chance = torch.rand(count, generator=generator, device=device)
            restarted = chance < self.restart_rate
            starts, labels = self._draw_starts(model, batch, count, generator)
            x = torch.where(_widened(restarted, x), starts, x)
            age = age.masked_fill(restarted, 1)
            if condition is not None and labels is not None:
                condition = torch.where(_widened(restarted, condition), labels, condition)
        chain = run_chain(
            self.sampler,
            bind(model, condition),
            x,
            steps=self.k_steps,
            generator=generator,
            training_step=step,
            previous=state.chains,
        )
        moved = chain.x
        if chain.bad is not None:
            # The last finite point of a chain that cannot go on from it is no place to come back to.
            moved = torch.where(_widened(chain.bad, moved), state.x[slots], moved)
        buffer = ReplayBuffer(
            state.x.index_copy(0, slots, moved),
            # A new tensor rather than a write in place: a step that fails leaves the old state whole.
            None
            if state.condition is None or condition is None
            else state.condition.index_copy(0, slots, condition),
            state.age.index_copy(0, slots, age),
            chain.state if hasattr(self.sampler, "restart") else None,
        )
        return Draws(chain.x, condition, chain.metrics), buffer

    def __call__(self, model: Model, batch: Batch, draws: Draws) -> tuple[Tensor, Metrics]:
        return compare(model, batch, draws, self.energy_regularisation)

    def chains(self, state: ReplayBuffer) -> Batch:
        """Where the persistent chains are: a start for sampling from the trained model."""
        return Batch(state.x, state.condition)

    def split(self, state: ReplayBuffer, parts: int) -> list[ReplayBuffer]:
        """The slots in as many shares; what the sampler has adapted is each one's to go on from."""
        held = len(state.x)
        if held % parts:
            raise UserError(
                f"buffer_size: {held} slots cannot be shared alike by {parts} processes; state a "
                f"multiple of {parts}"
            )
        needed = self.n_negatives or 0
        if held // parts < needed:
            raise UserError(
                f"buffer_size: {held} slots in {parts} shares are fewer than {needed} negatives each; "
                f"state {parts * needed}"
            )
        rows = [slice(start, start + held // parts) for start in range(0, held, held // parts)]
        return [
            state._replace(
                x=state.x[own],
                condition=None if state.condition is None else state.condition[own],
                age=state.age[own],
            )
            for own in rows
        ]

    def joined(self, states: Sequence[ReplayBuffer]) -> ReplayBuffer:
        """The buffer of which these are the shares, with what the first one's sampler has adapted."""
        conditions = [s.condition for s in states if s.condition is not None]
        return states[0]._replace(
            x=torch.cat([s.x for s in states]),
            condition=torch.cat(conditions) if conditions else None,
            age=torch.cat([s.age for s in states]),
        )

    def _draw_starts(
        self, model: Model, batch: Batch, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        data = batch.x
        rows = torch.randint(len(data), (count,), generator=generator, device=data.device)
        condition = None if batch.condition is None else batch.condition[rows]
        shape = (count, *data.shape[1:])
        if getattr(self.sampler, "discrete", False):
            if self.fill == "data":
                return data[rows], condition
            categories = getattr(self.sampler, "categories", None) or offered(model, "categories")
            return _fair_states(shape, categories, data, generator), condition
        if self.fill == "uniform":
            noise = torch.rand(shape, generator=generator, device=data.device, dtype=data.dtype)
            return self.fill_scale * (2 * noise - 1), condition
        noise = torch.randn(shape, generator=generator, device=data.device, dtype=data.dtype)
        start = data[rows] if self.fill == "data" else torch.zeros_like(noise)
        return start + self.fill_scale * noise, condition


def _fair_states(
    shape: tuple[int, ...], categories: int | None, like: Tensor, generator: torch.Generator
) -> Tensor:
    """States of the given shape, each bit or category as likely as any other."""
    if categories is None:
        bits = torch.randint(2, shape, generator=generator, device=like.device)
        return bits.to(like.dtype)
    drawn = torch.randint(categories, shape[:-1], generator=generator, device=like.device)
    return (torch.arange(categories, device=like.device) == drawn[..., None]).to(like.dtype)


def _widened(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (like.ndim - 1))
