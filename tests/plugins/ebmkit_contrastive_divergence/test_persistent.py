"""PCD's replay buffer: chains persist, slots are distinct, and each is written back to its own."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from ebmkit_contrastive_divergence.persistent import PersistentContrastiveDivergence
from ebmkit_langevin.langevin import Langevin
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ebmkit
from ebmkit import Batch


class Where(NamedTuple):
    x: Tensor


class Counting:
    """A sampler without randomness: each step adds one."""

    def init(self, energy: Any, x: Tensor) -> Where:
        return Where(x)

    def draw(self, state: Where, *, generator: torch.Generator) -> None:
        return None

    def step(self, energy: Any, state: Where, noise: None) -> tuple[Where, dict[str, Tensor]]:
        return Where(state.x + 1), {}


def flat(x: Tensor) -> Tensor:
    return 0 * x.flatten(1).sum(1)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    slots=st.integers(1, 40),
    batch=st.integers(1, 40),
    k_steps=st.integers(1, 4),
    updates=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_every_slot_moves_by_its_own_steps_alone(
    slots: int, batch: int, k_steps: int, updates: int, seed: int
) -> None:
    # The number of steps that a slot has taken is its age times k, and nothing is lost: a write to
    # another slot, or two chains in one slot, would break the equality.
    batch = min(batch, slots)
    loss = PersistentContrastiveDivergence(
        Counting(), k_steps=k_steps, buffer_size=slots, fill="uniform", fill_scale=0.25
    )
    g = torch.Generator().manual_seed(seed)
    data = Batch(torch.zeros(batch, 2))
    state = loss.init(flat, data, generator=g)
    start = state.x
    for step in range(updates):
        draws, state = loss.draw(flat, data, state, step, generator=g)
        assert len(draws.negatives) == batch
    torch.testing.assert_close(
        state.x - start, (k_steps * state.age)[:, None].expand(-1, 2).float()
    )
    assert state.age.sum() == batch * updates
    assert state.age.max() <= updates


def test_eight_far_wells_keep_their_chains() -> None:
    # 512 chains on a frozen landscape, a quarter of them moved in each of 2,000 updates.
    angles = torch.arange(8) * 2 * math.pi / 8
    centres = 20 * torch.stack([angles.cos(), angles.sin()], 1)

    def wells(x: Tensor) -> Tensor:
        return -torch.logsumexp(-(x[:, None] - centres).square().sum(-1) / 2, 1)

    g = torch.Generator().manual_seed(0)
    data = Batch(centres.repeat(16, 1) + torch.randn(128, 2, generator=g))
    loss = PersistentContrastiveDivergence(Langevin(step_size=1e-2), k_steps=5, buffer_size=512)
    state = loss.init(wells, data, generator=g)
    start = centres.repeat(64, 1) + 0.3 * torch.randn(512, 2, generator=g)
    state = state._replace(x=start)
    for step in range(2000):
        _, state = loss.draw(wells, data, state, step, generator=g)
    nearest = (state.x[:, None] - centres).square().sum(-1).argmin(1)
    # No chain crosses 15 units of flat land in 2,500 steps of size 0.14: every well keeps its 64.
    assert torch.bincount(nearest, minlength=8).tolist() == [64] * 8


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_restarts_at_the_stated_rate(rate: float) -> None:
    loss = PersistentContrastiveDivergence(
        Counting(), k_steps=1, buffer_size=20_000, restart_rate=rate, fill="uniform"
    )
    g = torch.Generator().manual_seed(1)
    data = Batch(torch.zeros(20_000, 1))
    state = loss.init(flat, data, generator=g)
    for step in range(2):
        _, state = loss.draw(flat, data, state, step, generator=g)
    restarted = (state.age == 1).double().mean()
    # Five standard errors of a proportion: false alarm below 6e-7.
    assert abs(restarted - rate) <= 5 * math.sqrt(rate * (1 - rate) / 20_000)
    assert (state.x[state.age == 1] < 1 + 0.1 + 1e-6).all()
    assert (state.x[state.age == 2] > 2 - 0.1 - 1e-6).all()


@pytest.mark.parametrize("fill", ["data", "gaussian", "uniform"])
def test_fills_as_configured(fill: str) -> None:
    loss = PersistentContrastiveDivergence(
        Counting(), buffer_size=50_000, fill=fill, fill_scale=0.5
    )  # type: ignore[arg-type]
    data = Batch(torch.tensor([[10.0], [20.0]]))
    x = loss.init(flat, data, generator=torch.Generator().manual_seed(2)).x.double()
    if fill == "data":
        centre = torch.where(x < 15, 10, 20)
        assert abs((centre == 10).double().mean() - 0.5) < 5 * math.sqrt(0.25 / 50_000)
        x = x - centre
    expected = 0.25 / 3 if fill == "uniform" else 0.25
    assert abs(x.mean()) < 5 * math.sqrt(expected / 50_000)
    assert abs(x.var() - expected) < 5 * expected * math.sqrt(2 / 50_000)
    if fill == "uniform":
        assert x.abs().max() <= 0.5


def test_slots_keep_their_label_and_restart_with_a_rows() -> None:
    # Rows of label c stand at 100 c: a slot whose label were lost would leave its well.
    def model(x: Tensor, condition: Tensor) -> Tensor:
        return (x - 100.0 * condition[:, None]).square().sum(1) / 2

    labels = torch.arange(10).repeat(20)
    batch = Batch(100.0 * labels[:, None].float(), labels)
    loss = PersistentContrastiveDivergence(
        Langevin(step_size=0.1), k_steps=5, buffer_size=400, restart_rate=0.3
    )
    objective = ebmkit.objective(loss, model, generator=torch.Generator().manual_seed(3))
    for _ in range(30):
        objective(batch)
    state = objective.state
    assert state.condition.dtype == labels.dtype
    assert (state.x[:, 0] - 100 * state.condition).abs().max() < 8
    assert len(state.condition.unique()) == 10


def test_a_chain_that_is_not_finite_leaves_the_buffer_as_it_was() -> None:
    calls = 0

    def model(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x.square().sum(1) * (torch.nan if calls > 10 else 1.0)

    loss = PersistentContrastiveDivergence(Langevin(step_size=0.1), k_steps=3, buffer_size=64)
    objective = ebmkit.objective(loss, model, generator=torch.Generator().manual_seed(4))
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(5))
    objective(x)
    objective(x)
    before = objective.state.x.clone()
    with pytest.raises(ebmkit.DivergenceError, match="16 of 16 chains are not finite"):
        objective(x)
    assert objective.step == 2
    torch.testing.assert_close(objective.state.x, before, rtol=0, atol=0)


def test_number_of_negatives_may_differ_from_that_of_positives() -> None:
    loss = PersistentContrastiveDivergence(Counting(), buffer_size=100, n_negatives=60)
    output = ebmkit.objective(loss, flat)(torch.zeros(7, 2))
    assert output.negatives is not None
    assert output.negatives.shape == (60, 2)


def test_too_few_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="8 negatives need as many distinct slots"):
        ebmkit.objective(PersistentContrastiveDivergence(Counting(), buffer_size=4), flat)(
            torch.zeros(8, 2)
        )


def test_events_of_any_shape_and_double_precision() -> None:
    loss = PersistentContrastiveDivergence(
        Langevin(step_size=0.1), k_steps=2, buffer_size=32, restart_rate=0.5
    )
    x = torch.zeros(8, 1, 4, 4, dtype=torch.float64)
    output = ebmkit.objective(loss, lambda x: x.square().flatten(1).sum(1))(x)
    assert output.negatives is not None
    assert output.negatives.shape == (8, 1, 4, 4)
    assert output.negatives.dtype == torch.float64
