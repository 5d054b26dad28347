"""Energies and samplers on which the answers are known."""

from __future__ import annotations

from typing import Any, NamedTuple

import attrs
import pytest
import torch
from attrs import field
from attrs.validators import gt
from torch import Tensor, nn

import ebmkit
from ebmkit import scheduled

# Nothing is skipped: without such a device these have nothing to be tried on.
collect_ignore = [] if torch.cuda.is_available() else ["test_on_cuda.py"]


class Where(NamedTuple):
    x: Tensor


class Jump(NamedTuple):
    """A nested state: points, what belongs to each chain, and what belongs to all."""

    x: Tensor
    inner: Where
    energy: Tensor
    taken: Tensor


@attrs.frozen
class Walk:
    """A random walk that keeps energies, an inner state, and how many steps it took."""

    scale: float | ebmkit.Scheduler = field(default=0.5, validator=scheduled(gt(0)))

    def init(self, energy: Any, x: Tensor) -> Jump:
        with torch.no_grad():
            return Jump(x, Where(-x), energy(x), torch.zeros((), dtype=x.dtype))

    def draw(self, state: Jump, *, generator: torch.Generator) -> Tensor:
        return torch.randn(state.x.shape, generator=generator, dtype=state.x.dtype)

    def step(
        self, energy: Any, state: Jump, noise: Tensor, *, scale: float
    ) -> tuple[Jump, dict[str, Tensor]]:
        x = state.x + scale * noise
        with torch.no_grad():
            energies = energy(x)
        return Jump(x, Where(-x), energies, state.taken + 1), {"size": noise.abs().mean()}


class Net(nn.Module):
    """A network as a user brings it, without a formula for its gradient."""

    def __init__(self, size: int = 2, hidden: int = 16) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.layers = nn.Sequential(
                nn.Linear(size, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.Tanh()
            )
            self.last = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        base: Tensor = x.flatten(1).square().sum(1) / 2
        energies: Tensor = self.last(self.layers(x.flatten(1))).squeeze(1)
        return energies + base


@pytest.fixture
def net() -> Net:
    return Net()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int = 12, size: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(n, size, generator=seeded(seed))


def cliff(x: Tensor) -> Tensor:
    """NaN beyond 2 along the first axis."""
    return torch.where(x[:, 0] > 2, torch.nan, 1.0) * x.square().sum(1) / 2


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Graphs run as they were traced, which takes no compiler; the list counts them."""
    made: list[Any] = []

    def keep(graph: Any, **_: Any) -> Any:
        made.append(graph)
        return graph.forward

    monkeypatch.setattr("ebmkit.chains.chunks.compiled", keep)
    return made
