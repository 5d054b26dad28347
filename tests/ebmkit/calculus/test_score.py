"""Scores against closed forms and finite differences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ebmkit


def test_score_of_a_gaussian() -> None:
    x = torch.randn(6, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def energy(x: Tensor) -> Tensor:
        return (x - 2).square().flatten(1).sum(1) / (2 * 9)

    torch.testing.assert_close(ebmkit.score(energy, x), (2 - x) / 9)
    energies, gradient = ebmkit.energy_and_gradient(energy, x)
    torch.testing.assert_close(energies, energy(x))
    torch.testing.assert_close(gradient, (x - 2) / 9)


def test_gradient_of_a_network_matches_differences_and_touches_no_parameter() -> None:
    model = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 1), nn.Flatten(0)).double()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        _, gradient = ebmkit.energy_and_gradient(model, x)
        for i in range(3):
            shift = torch.zeros(3, dtype=torch.float64)
            shift[i] = 1e-6
            difference = (model(x + shift) - model(x - shift)) / 2e-6
            torch.testing.assert_close(gradient[:, i], difference, atol=1e-8, rtol=1e-6)
    assert not gradient.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert not x.requires_grad
