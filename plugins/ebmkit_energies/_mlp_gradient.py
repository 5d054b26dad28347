"""A perceptron's output and its gradient in the inputs, without a graph of the operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Pull: TypeAlias = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
"""(layer, outer derivative g, its input z, its output h) -> g h'(z), by torch's own derivative."""

_aten: Any = torch.ops.aten


def _elu(alpha: float, scale: float, g: Tensor, h: Tensor) -> Tensor:
    pulled: Tensor = _aten.elu_backward(g, alpha, scale, 1.0, True, h)
    return pulled


# selu's constants, as Self-Normalizing Neural Networks (Klambauer and others, 2017) derives them.
_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946

_PULLS: dict[type[nn.Module], Pull] = {
    nn.SiLU: lambda _, g, z, _h: _aten.silu_backward(g, z),
    nn.Softplus: lambda m, g, z, _h: _aten.softplus_backward(g, z, m.beta, m.threshold),
    nn.Tanh: lambda _, g, _z, h: _aten.tanh_backward(g, h),
    nn.GELU: lambda m, g, z, _h: _aten.gelu_backward(g, z, approximate=m.approximate),
    nn.SELU: lambda _, g, _z, h: _elu(_SELU_ALPHA, _SELU_SCALE, g, h),
    nn.ELU: lambda m, g, _z, h: _elu(m.alpha, 1.0, g, h),
    nn.ReLU: lambda _, g, _z, h: _aten.threshold_backward(g, h, 0),
}


def output_and_gradient(
    network: nn.Module, inputs: Tensor, n_inputs: int
) -> tuple[Tensor, Tensor] | None:
    """f (batch,) and its gradient (batch, ``n_inputs``) in the first inputs of rows (batch, numbers).

    The same operations as autograd's, without its bookkeeping. None where the network is not a sequence
    of linear layers with activations between them that are known here, as where somebody has put in
    others.
    """
    # By the exact class: one derived from it may do anything.
    if type(network) is not nn.Sequential:
        return None
    layers: list[Any] = list(network)
    linear, activations = layers[::2], layers[1::2]
    if len(layers) % 2 == 0 or any(type(layer) is not nn.Linear for layer in linear):
        return None
    # What works in place would change z, at which the derivative is taken.
    if any(type(a) not in _PULLS or getattr(a, "inplace", False) for a in activations):
        return None
    last = linear.pop()
    if last.out_features != 1:
        return None
    passed = []
    h = inputs
    for layer, activation in zip(linear, activations, strict=True):
        z = nn.functional.linear(h, layer.weight, layer.bias)
        h = activation.forward(z)
        passed.append((layer.weight, activation, z, h))
    output = nn.functional.linear(h, last.weight, last.bias)
    g = last.weight.expand(len(inputs), -1)
    while passed:
        weight, activation, z, h = passed.pop()
        g = _PULLS[type(activation)](activation, g, z, h) @ (
            weight if passed else weight[:, :n_inputs]
        )
    return output.squeeze(1), g
