"""Parts of the kit's own: what a part under test is put together with, and targets whose answers are
known. None of them comes from a plugin."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import attrs
import torch
from attrs.validators import gt
from torch import Tensor, nn

from ebmkit.errors import UserError
from ebmkit.fields import doc, scheduled
from ebmkit.protocols import Batch, Energy, Metrics, Model, Scheduler


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


class Walk(NamedTuple):
    """Where the chains of a random walk are."""

    x: Tensor
    energy: Tensor


class WalkNoise(NamedTuple):
    normal: Tensor
    uniform: Tensor


@attrs.frozen
class RandomWalk:
    """Random-walk Metropolis: what losses and samplers under test move chains by."""

    exact = True
    reversible = True

    step_size: float | Scheduler = attrs.field(
        default=0.5,
        validator=scheduled(gt(0)),
        metadata=doc("standard deviation of a proposal, > 0"),
    )

    def init(self, energy: Energy, x: Tensor) -> Walk:
        with torch.no_grad():
            return Walk(x, energy(x))

    def draw(self, state: Walk, *, generator: torch.Generator) -> WalkNoise:
        x = state.x
        return WalkNoise(
            torch.randn(x.shape, generator=generator, dtype=x.dtype),
            torch.rand(len(x), generator=generator, dtype=x.dtype),
        )

    def step(
        self, energy: Energy, state: Walk, noise: WalkNoise, *, step_size: float | Tensor
    ) -> tuple[Walk, Metrics]:
        proposal = state.x + step_size * noise.normal
        with torch.no_grad():
            energies = energy(proposal)
        accepted = noise.uniform.log() < state.energy - energies
        wide = accepted.view(-1, *[1] * (state.x.ndim - 1))
        after = Walk(
            torch.where(wide, proposal, state.x), torch.where(accepted, energies, state.energy)
        )
        return after, {"acceptance_rate": accepted.to(state.x.dtype).mean()}


class Network(nn.Module):
    """A small smooth energy with parameters: tanh units above a wide Gaussian.

    E(x) = a · tanh(W x + b) + ‖x‖² / 8, times 1 + y / 4 where a condition y (batch,) is told

    x (batch, *event) of shape ``event_shape``; ``hidden`` units; W, b and a are drawn from ``seed``.
    """

    def __init__(self, event_shape: tuple[int, ...], hidden: int = 5, seed: int = 0) -> None:
        super().__init__()
        size = math.prod(event_shape)
        self.event_shape = event_shape
        self.weight = nn.Parameter(normal(hidden, size, seed=seed).float() / size**0.5)
        self.bias = nn.Parameter(normal(hidden, seed=seed + 1).float())
        self.out = nn.Parameter(normal(hidden, seed=seed + 2).float())

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        rows = x.flatten(1)
        bent = torch.tanh(rows @ self.weight.T + self.bias) @ self.out
        told: Tensor = bent + rows.square().sum(1) / 8
        return told if condition is None else told * (1 + condition.to(x.dtype) / 4)


class Constant:
    """The schedule of one value."""

    def __call__(self, step: int) -> float:  # noqa: ARG002
        return 0.5


@attrs.frozen
class Normal:
    """Standard normal points."""

    event_shape: tuple[int, ...] = attrs.field(default=(3,), metadata=doc("shape of one point"))

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(torch.randn(size, *self.event_shape, generator=generator))


class Nothing(NamedTuple):
    """No state."""


@attrs.frozen
class Contrast:
    """Mean softplus(E(x) − E(2z)), z standard normal: trains a model, and draws no chains."""

    def init(self, model: Model, batch: Batch, *, generator: torch.Generator) -> Nothing:  # noqa: ARG002
        return Nothing()

    def draw(
        self,
        model: Model,  # noqa: ARG002
        batch: Batch,
        state: Nothing,
        step: int,  # noqa: ARG002
        *,
        generator: torch.Generator,
    ) -> tuple[Tensor, Nothing]:
        return 2 * torch.randn(batch.x.shape, generator=generator, dtype=batch.x.dtype), state

    def __call__(self, model: Model, batch: Batch, draws: Tensor) -> tuple[Tensor, Metrics]:
        gap = torch.nn.functional.softplus(model(batch.x) - model(draws)).mean()
        return gap, {"energy_gap": gap.detach()}


_PARTS: dict[str, Any] = {
    "model": lambda: Network((3,)),
    "sampler": RandomWalk,
    "loss": Contrast,
    "scheduler": Constant,
    "dataset": Normal,
}


def part(kind: str) -> Any:
    """A part of a kind to put another one together with.

    Raises:
        UserError: the kit has none of that kind.
    """
    if kind not in _PARTS:
        raise UserError(f"the kit has no {kind} of its own to put a part together with")
    return _PARTS[kind]()
