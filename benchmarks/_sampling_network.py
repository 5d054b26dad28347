"""The network that the arms of a benchmark share: sizes, weights, what it is in each library."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from _sampling_harness import Numbers


class Work(NamedTuple):
    """Network and chains."""

    dimension: int
    width: int
    depth: int
    chains: int
    steps: int

    def __str__(self) -> str:
        return (
            f"d = {self.dimension}, MLP {self.width}×{self.depth}, {self.chains} chains, "
            f"{self.steps} steps"
        )


def arrays(work: Work, *, seed: int = 0, spread: float | None = None) -> dict[str, Numbers]:
    """Weights, uniform in ±1/√(inputs), and standard normal starting points.

    With ``spread`` the last layer is scaled until the points' energies have that standard deviation,
    for a fresh network is so flat that chains hardly feel the force.
    """
    numbers = np.random.default_rng(seed)
    widths = [work.dimension, *[work.width] * work.depth, 1]
    stored: dict[str, Numbers] = {}
    for i, (before, after) in enumerate(pairwise(widths)):
        for name, shape in ((f"weight{i}", (after, before)), (f"bias{i}", (after,))):
            stored[name] = numbers.uniform(-1, 1, shape) / math.sqrt(before)
    stored["x"] = numbers.normal(size=(work.chains, work.dimension))
    if spread is not None:
        factor = spread / quantities(stored)(stored["x"])["energy"].std()
        for name in (f"weight{work.depth}", f"bias{work.depth}"):
            stored[name] = stored[name] * factor
    return {name: array.astype(np.float32) for name, array in stored.items()}


def layers(stored: dict[str, Numbers]) -> list[tuple[Numbers, Numbers]]:
    count = sum(name.startswith("weight") for name in stored)
    return [(stored[f"weight{i}"], stored[f"bias{i}"]) for i in range(count)]


def quantities(stored: dict[str, Numbers]) -> Callable[[Numbers], dict[str, Numbers]]:
    """Energy and squared norm of each chain; one tells of the force, the other of the noise."""
    *inner, (weight, bias) = layers(stored)

    def of(x: Numbers) -> dict[str, Numbers]:
        a = x.astype(np.float64)
        for w, b in inner:
            z = a @ w.T + b
            a = z / (1 + np.exp(-z))
        return {"energy": (a @ weight.T + bias)[:, 0], "squared norm": np.square(x).sum(1)}

    return of


def sequential(stored: dict[str, Numbers]) -> Any:
    import torch
    from torch import nn

    modules: list[nn.Module] = []
    for weight, bias in layers(stored):
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data, linear.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
        modules += [linear, nn.SiLU()]
    return nn.Sequential(*modules[:-1])


def module(stored: dict[str, Numbers], base: Any = None) -> Any:
    """The network as a user writes it: a module that squeezes its output."""
    from torch import nn

    class Energy(base or nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = sequential(stored)

        def forward(self, x: Any) -> Any:
            return self.net(x).squeeze(-1)

    return Energy()


def jax_energy(stored: dict[str, Numbers]) -> Callable[[Any], Any]:
    import jax

    *inner, (weight, bias) = layers(stored)

    def energy(x: Any) -> Any:
        for w, b in inner:
            x = jax.nn.silu(x @ w.T + b)
        return (x @ weight.T + bias)[..., 0]

    return energy
