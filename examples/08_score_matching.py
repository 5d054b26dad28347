"""Exact score matching in a hand-written loop over a DataLoader.

    python examples/08_score_matching.py --epochs 10

No sampler and no negatives: the loss asks for the energy's Laplacian, which is carried forward
through the network beside its values.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import ebmkit


class Network(nn.Module):
    """An energy with smooth activations: score matching needs its second derivatives in x."""

    def __init__(self, dimensions: int, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dimensions, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        energies: Tensor = self.layers(x)
        return energies.squeeze(-1)


def main(epochs: int = 10) -> tuple[nn.Module, list[float]]:
    """Train for ``epochs`` passes; the model and each epoch's mean loss."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = ebmkit.create(
        "dataset", "gaussian-mixture", n_components=4, std=0.1, n_samples=500, seed=123
    )
    loader = DataLoader(
        dataset, batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    model = Network(dimensions=2).to(device)
    objective = ebmkit.objective(ebmkit.create("loss", "score-matching"), model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    history = []
    for epoch in range(1, epochs + 1):
        total = 0.0
        for batch in loader:
            output = objective(batch.to(device))
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            total += output.loss.item()
        history.append(total / len(loader))
        print(f"epoch {epoch}/{epochs}  loss {history[-1]:+.4f}")
    return model, history


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    main(parser.parse_args().epochs)
