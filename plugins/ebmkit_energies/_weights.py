"""First weights of trainable energies: drawn from a generator, never torch's global one."""

from __future__ import annotations

import math

import torch
from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "selu": nn.SELU,
    "elu": nn.ELU,
    "relu": nn.ReLU,
}
MOST_WEIGHTS = 2**28
"""A gibibyte in float32: a slip of the pen is refused before it fills the memory."""


# torch's layers fill their weights from its global generator; on meta there is nothing to fill.
def undrawn_linear(before: int, after: int) -> nn.Linear:
    layer = nn.Linear(before, after, device="meta")
    return layer.to_empty(device=torch.get_default_device())


def undrawn_conv(before: int, after: int) -> nn.Conv2d:
    """A 3×3 convolution that keeps height and width."""
    layer = nn.Conv2d(before, after, 3, padding=1, device="meta")
    return layer.to_empty(device=torch.get_default_device())


def draw_weights(model: nn.Module, generator: torch.Generator) -> None:
    """Weights and biases of each layer uniform in ±1/√(numbers that an output takes in)."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                assert layer.bias is not None
                for parameter in (layer.weight, layer.bias):
                    drawn = torch.empty_like(parameter, device=generator.device)
                    parameter.copy_(drawn.uniform_(-bound, bound, generator=generator))
