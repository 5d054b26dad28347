"""The network that the arms of a benchmark share: sizes, weights, what it is in each library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
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


class Images(NamedTuple):
    """A convolutional network for square images of three channels, and chains."""

    side: int
    channels: tuple[int, ...]
    chains: int
    steps: int

    def __str__(self) -> str:
        maps = "/".join(map(str, self.channels))
        return (
            f"{self.side}×{self.side} images, convolutions of {maps} maps, {self.chains} chains, "
            f"{self.steps} steps"
        )


def image_arrays(work: Images, *, spread: float, seed: int = 0) -> dict[str, Numbers]:
    """Weights as ``conv`` starts with, its head scaled until the starting points, which are standard
    normal, have energies of that standard deviation."""
    numbers = np.random.default_rng(seed)
    stored: dict[str, Numbers] = {"channels": np.array(work.channels)}
    event = (3, work.side, work.side)
    stored["x"] = numbers.normal(size=(work.chains, *event)).astype(np.float32)
    for name, weight in _conv(work.channels, event).state_dict().items():
        bound = 1 / math.sqrt(weight[0].numel()) if weight.ndim > 1 else 0.0
        values = numbers.uniform(-bound, bound, tuple(weight.shape))
        stored[f"conv.{name}"] = values.astype(np.float32)
    energies = image_quantities(stored, "cpu")(stored["x"])["energy"]
    for name in ("conv.head.weight", "conv.head.bias"):
        stored[name] *= np.float32(spread / energies.std())
    return stored


def is_image(stored: dict[str, Numbers]) -> bool:
    return "channels" in stored


def _conv(channels: Iterable[int], event: tuple[int, ...]) -> Any:
    import ebmkit

    return ebmkit.create("model", "conv", event_shape=event, channels=[int(c) for c in channels])


def image_module(stored: dict[str, Numbers], base: Any = None) -> Any:
    import torch
    from torch import nn

    net = _conv(stored["channels"], stored["x"].shape[1:])
    names = list(net.state_dict())
    net.load_state_dict({name: torch.from_numpy(stored[f"conv.{name}"]) for name in names})

    class Energy(base or nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any) -> Any:
            return self.net(x)

    return Energy()


def image_quantities(stored: dict[str, Numbers], device: str) -> Callable[[Numbers], Any]:
    """Energy and squared norm of each chain."""
    import torch

    model = image_module(stored).to(device)

    def of(x: Numbers) -> dict[str, Numbers]:
        with torch.no_grad():
            energies = model(torch.from_numpy(x).to(device)).cpu().double().numpy()
        return {"energy": energies, "squared norm": np.square(x).reshape(len(x), -1).sum(1)}

    return of


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
