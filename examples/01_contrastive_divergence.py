"""Contrastive divergence: one optimizer step with a network of your own.

Any ``nn.Module`` that maps points (batch, *event) to energies (batch,) is a model. The objective
binds a loss to it; called on a batch it returns the loss, metrics and the negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ebmkit


class BoundedNetwork(nn.Module):
    """An energy in [-1, 1]: a bounded head keeps the gap between positives and negatives finite."""

    def __init__(self, dimensions: int, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dimensions, width),
            nn.SELU(),
            nn.Linear(width, width),
            nn.SELU(),
            nn.Linear(width, 1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        energies: Tensor = self.layers(x)
        return energies.squeeze(-1)


def main(k_steps: int = 10, batch_size: int = 128) -> tuple[nn.Module, ebmkit.LossOutput]:
    """Take one training step; the model after it, and what the objective returned."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = BoundedNetwork(dimensions=2).to(device)
    sampler = ebmkit.create("sampler", "langevin", step_size=0.1)
    loss = ebmkit.create("loss", "contrastive-divergence", sampler=sampler, k_steps=k_steps)
    objective = ebmkit.objective(loss, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    batch = torch.randn(batch_size, 2, device=device)
    output = objective(batch)
    optimizer.zero_grad()
    output.loss.backward()
    optimizer.step()
    return model, output


if __name__ == "__main__":
    _, result = main()
    assert result.negatives is not None
    print(f"loss {result.loss.item():+.4f}, negatives {tuple(result.negatives.shape)}")
