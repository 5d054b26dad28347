"""Two layers of binary units, each unit tied to those of the other layer alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, softplus

from ebmkit import EvaluationError

MOST_UNITS = 20
"""Units of the smaller layer up to which all of its states are gone through."""
_NUMBERS_AT_ONCE = 2**20


class Bipartite(NamedTuple):
    """p(v, h) ∝ exp(b·v + c·h + hᵀ W v), v (visible,) and h (hidden,) of zeros and ones."""

    visible_bias: Tensor
    """b, (visible,)"""
    weight: Tensor
    """W, (hidden, visible)"""
    hidden_bias: Tensor
    """c, (hidden,)"""

    def energies(self, v: Tensor) -> Tensor:
        """F(v) = −log Σₕ exp(b·v + c·h + hᵀ W v), (batch,), of v (batch, visible)."""
        inputs = linear(v, self.weight, self.hidden_bias)
        return -(v @ self.visible_bias) - _softplus(inputs).sum(1)

    def energies_and_gradient(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """F(v) (batch,) and ∇F(v) = −b − Wᵀ σ(c + W v), (batch, visible)."""
        inputs = linear(v, self.weight, self.hidden_bias)
        energies = -(v @ self.visible_bias) - _softplus(inputs).sum(1)
        return energies, -self.visible_bias - inputs.sigmoid() @ self.weight

    def hidden(self, v: Tensor) -> Tensor:
        """p(hⱼ = 1 | v), (batch, hidden)."""
        return linear(v, self.weight, self.hidden_bias).sigmoid()

    def visible(self, h: Tensor) -> Tensor:
        """p(vᵢ = 1 | h), (batch, visible)."""
        return (self.visible_bias + h @ self.weight).sigmoid()

    def sweep(self, v: Tensor, uniforms: Tensor) -> Tensor:
        """All hidden units, then all visible ones, drawn by uniforms (batch, hidden + visible)."""
        n_hidden = len(self.hidden_bias)
        h = states(self.hidden(v), uniforms[:, :n_hidden])
        return states(self.visible(h), uniforms[:, n_hidden:])

    def log_partition(self) -> Tensor:
        """log Σ exp(b·v + c·h + hᵀ W v) over all v and h, in float64, without dimensions.

        Raises:
            EvaluationError: both layers have too many units to go through all states of one.
        """
        b, w, c = (tensor.detach().double() for tensor in self)
        if len(c) > len(b):
            b, w, c = c, w.T, b
        if len(c) > MOST_UNITS:
            raise EvaluationError(
                f"log_partition: expected at most {MOST_UNITS} visible or {MOST_UNITS} hidden units "
                f"to sum over all states of, got {len(c)} and {len(b)}; estimate it by annealed "
                "importance sampling"
            )
        # The states of the low units are laid out once; those of the high ones pick a chunk.
        low = min(len(c), max((_NUMBERS_AT_ONCE // max(len(b), 1)).bit_length() - 1, 0))
        inner, outer = binary_states(low, c), binary_states(len(c) - low, c)
        inputs, weights = inner @ w[:low], inner @ c[:low]
        shifts, offsets = outer @ w[low:] + b, outer @ c[low:]
        sums = [
            (_softplus(inputs + shift).sum(1) + weights).logsumexp(0) + offset
            for shift, offset in zip(shifts, offsets, strict=True)
        ]
        return torch.stack(sums).logsumexp(0)


def binary_states(n: int, like: Tensor) -> Tensor:
    """All states (2ⁿ, n) of n binary units, in the dtype and on the device of ``like``."""
    bits = torch.arange(n, device=like.device)
    numbers = torch.arange(2**n, device=like.device)
    return ((numbers[:, None] >> bits) & 1).to(like.dtype)


def states(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """1 with the stated probabilities, else 0; NaN where a probability is NaN, so that it is seen."""
    drawn = (uniforms < probabilities).to(probabilities.dtype)
    return torch.where(probabilities.isnan(), probabilities, drawn)


def _softplus(x: Tensor) -> Tensor:
    # torch's threshold of 20 is an error of 2e-9, which shows in double precision.
    return softplus(x, threshold=40)
