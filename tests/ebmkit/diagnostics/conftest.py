"""Traces that are made by whole numbers and plain arithmetic, the same on every machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def uniforms(count: int, seed: int) -> list[float]:
    """Numbers in [0, 1) of a linear congruence modulo 2³²."""
    state, numbers = seed, []
    for _ in range(count + 8):
        state = (1664525 * state + 1013904223) % 2**32
        numbers.append((state >> 8) / 2**24)
    return numbers[8:]


def autoregressive(draws: int, chains: int, phi: float, seed: int = 1) -> Tensor:
    """x_i = φ x_{i−1} + u_i − ½, (draws, chains)."""
    numbers = iter(uniforms(draws * chains, seed))
    rows, last = [], [0.0] * chains
    for _ in range(draws):
        last = [phi * x + next(numbers) - 0.5 for x in last]
        rows.append(last)
    return torch.tensor(rows, dtype=torch.float64)


def _trace(name: str) -> Tensor:
    x = autoregressive(100, 4, 0.6)
    shifts = torch.tensor([0.0, 0.3, -0.2, 0.5], dtype=torch.float64)
    return {
        "plain": lambda: x,
        "slow": lambda: autoregressive(250, 3, 0.95, seed=2),
        "alternating": lambda: autoregressive(120, 2, -0.7, seed=3),
        "odd draws": lambda: autoregressive(101, 4, 0.6, seed=4),
        "one chain": lambda: autoregressive(200, 1, 0.5, seed=5),
        "shifted": lambda: x + shifts,
        "heavy tails": lambda: 1 / (x + 0.0123),
        "two values": lambda: (x > 0.2).double(),
        "even odds": lambda: (torch.arange(40)[:, None] // 3 % 2 == torch.arange(2)).double(),
        "ties": lambda: (4 * x).round() / 10,
        "four draws": lambda: x[:4],
        "five draws": lambda: x[:5, :3],
        "eight draws": lambda: x[:8],
        "an end in the middle of a pair": lambda: autoregressive(10, 2, 0.6, seed=38),
        "ties about a quantile": lambda: autoregressive(76, 4, 0.6, seed=3).repeat_interleave(3, 0)[
            :-1
        ],
        "constant": lambda: torch.full((30, 3), 0.25, dtype=torch.float64),
        "still chains": lambda: torch.arange(3.0, dtype=torch.float64).expand(30, 3),
    }[name]()


@pytest.fixture(scope="session")
def trace() -> Callable[[str], Tensor]:
    """A trace (draws, chains) by name."""
    return _trace


@pytest.fixture(scope="session")
def ar1() -> Callable[..., Tensor]:
    """An autoregressive trace (draws, chains) of a coefficient."""
    return autoregressive
