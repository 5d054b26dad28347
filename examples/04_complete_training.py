"""A complete hand-written training loop on two moons, with a plot of its loss.

    python examples/04_complete_training.py --epochs 100 --out loss.png

The same pipeline assembled from names is ``05_compose.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader

import ebmkit


class Network(nn.Module):
    """A bounded network on a weak Gaussian base, so that exp(-E) can be normalised."""

    def __init__(self, dimensions: int, width: int, bound: float = 10.0) -> None:
        super().__init__()
        self.bound = bound
        self.layers = nn.Sequential(
            nn.Linear(dimensions, width),
            nn.SELU(),
            nn.Linear(width, width),
            nn.SELU(),
            nn.Linear(width, 1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        energies: Tensor = self.bound * self.layers(x).squeeze(-1)
        return energies + x.square().sum(-1) / 18


def main(
    epochs: int = 100, out: str | Path = "loss.png", width: int = 64
) -> tuple[nn.Module, list[float]]:
    """Train for ``epochs`` passes and plot the loss to ``out``; the model and each epoch's loss."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator(device).manual_seed(0)
    dataset = ebmkit.create("dataset", "two-moons", n_samples=3000, noise=0.05, seed=42)
    loader = DataLoader(
        dataset,
        batch_size=256,
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(0),
    )
    model = Network(dimensions=2, width=width).to(device)
    loss = ebmkit.create(
        "loss",
        "persistent-contrastive-divergence",
        sampler={"use": "langevin", "step_size": 2e-3},
        k_steps=10,
        buffer_size=1024,
    )
    objective = ebmkit.objective(loss, model, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    history = []
    for epoch in range(1, epochs + 1):
        model.train()
        total = 0.0
        for batch in loader:
            output = objective(batch.to(device))
            optimizer.zero_grad()
            output.loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            total += output.loss.item()
        history.append(total / len(loader))
        if epoch % 10 == 0 or epoch == epochs:
            print(f"epoch {epoch}/{epochs}  loss {history[-1]:+.4f}")

    plot(history, Path(out))
    return model, history


def plot(history: list[float], out: Path) -> None:
    """The mean loss of each epoch, as a picture."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(history) + 1), history)
    axes.set(xlabel="epoch", ylabel="mean E(positives) - mean E(negatives)", title="training loss")
    axes.grid(alpha=0.3)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", default="loss.png", help="where the plot goes")
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.out)
