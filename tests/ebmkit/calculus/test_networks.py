"""Networks that hypothesis builds from every supported layer, against the second route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

Block = Callable[[int], nn.Module]


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Gated(nn.Module):
    """A product of two carried values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x).sigmoid() * self.value(x)


class Attention(nn.Module):
    """Each number of the row is a token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 2)
        self.mix = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.unsqueeze(2))
        mixed = functional.scaled_dot_product_attention(tokens, tokens.sin(), tokens)
        return self.mix(mixed.flatten(1))


class Convolved(nn.Module):
    """The row as an image of one row of pixels, or as a signal."""

    def __init__(self, width: int, dimensions: int) -> None:
        super().__init__()
        kind = (nn.Conv1d, nn.Conv2d)[dimensions - 1]
        pool = (nn.AvgPool1d, nn.AvgPool2d)[dimensions - 1]
        self.shape = (1, width) if dimensions == 1 else (1, 1, width)
        self.layers = nn.Sequential(
            kind(1, 2, 3, padding=1), nn.GroupNorm(2, 2), nn.SiLU(), pool(3, 1, 1), kind(2, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.reshape(-1, *self.shape)).flatten(1)


class Of(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


BLOCKS: list[Block] = [
    lambda w: nn.Linear(w, w),
    lambda w: nn.Linear(w, w, bias=False),
    lambda w: nn.SiLU(),
    lambda w: nn.Softplus(beta=1.5),
    lambda w: nn.Tanh(),
    lambda w: nn.GELU(),
    lambda w: nn.ELU(),
    lambda w: nn.Sigmoid(),
    lambda w: nn.Mish(),
    lambda w: nn.LogSigmoid(),
    lambda w: Of(torch.sin),
    lambda w: Of(lambda x: torch.exp(-(x**2))),
    lambda w: Of(lambda x: 1 / (1 + x.square())),
    lambda w: Of(lambda x: torch.cat([x[:, 1:], x.softmax(1)[:, :1]], 1)),
    lambda w: Of(lambda x: x - x.logsumexp(1, keepdim=True)),
    lambda w: Of(lambda x: x.reshape(len(x), 1, -1).permute(0, 2, 1).squeeze(2)),
    lambda w: Of(lambda x: x @ torch.ones(w, w).double().triu() / w),
    lambda w: Of(lambda x: x / (1 + x.square().sum(1, keepdim=True)).sqrt()),
    lambda w: nn.CELU(0.5),  # torch's own derivative holds 1/α in float32
    lambda w: nn.Softsign(),
    lambda w: nn.LayerNorm(w),
    lambda w: nn.RMSNorm(w),
    lambda w: nn.BatchNorm1d(w).eval(),
    lambda w: Residual(nn.Linear(w, 2 * w), nn.SiLU(), nn.Linear(2 * w, w)),
    Gated,
    Attention,
    lambda w: Convolved(w, 1),
    lambda w: Convolved(w, 2),
]
KINKED: list[Block] = [
    lambda w: nn.SELU(),
    lambda w: nn.ReLU(),
    lambda w: nn.LeakyReLU(0.1),
    lambda w: nn.Hardtanh(-0.5, 0.7),
    lambda w: Of(torch.abs),
]
"""Random points lie at no kink, and the second route's derivatives are those beside it too."""


class Network(nn.Module):
    def __init__(self, blocks: list[Block], width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.layers = nn.Sequential(*(block(width) for block in blocks))
        self.last = nn.Linear(width, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        energies: Tensor = self.last(self.layers(self.first(x.flatten(1)))).squeeze(1)
        return energies + 0.5 * x.flatten(1).square().sum(1)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    blocks=st.lists(st.sampled_from(range(len(BLOCKS + KINKED))), min_size=1, max_size=4),
    width=st.integers(3, 5),
    image=st.booleans(),
    rows=st.integers(1, 3),
    directions=st.sampled_from(["identity", "shared", "for each row"]),
    seed=st.integers(0, 2**16),
)
def test_networks(
    agree: Any,
    blocks: list[int],
    width: int,
    image: bool,
    rows: int,
    directions: str,
    seed: int,
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Network([(BLOCKS + KINKED)[i] for i in blocks], width)
    generator = torch.Generator().manual_seed(seed)
    event = (1, 1, width) if image else (width,)
    x = torch.randn(rows, *event, generator=generator, dtype=torch.float64)
    shape = {"identity": None, "shared": (2, *event), "for each row": (3, rows, *event)}[directions]
    v = None if shape is None else torch.randn(shape, generator=generator, dtype=torch.float64)
    agree(model, x, v, quiet=all(i < len(BLOCKS) for i in blocks))
