"""Sliced and denoising score matching: the loss is one name, the loop stays as it is.

Sliced score matching estimates the Laplacian along a few random directions; denoising score
matching needs first derivatives alone, and learns the score of the data with noise on them.
"""

from __future__ import annotations

from typing import Any

import torch

import ebmkit

LOSSES: dict[str, dict[str, Any]] = {
    "score-matching": {},
    "sliced-score-matching": {"n_projections": 5},
    "denoising-score-matching": {"sigma": 0.1},
}


def main(steps: int = 200) -> dict[str, float]:
    """Train a network by each loss; the mean distance of its score from the data's, in the data."""
    # Normal data: the score is known, so what was learned can be judged.
    data = torch.randn(4096, 2, generator=torch.Generator().manual_seed(0))
    errors = {}
    for name, options in LOSSES.items():
        generator = torch.Generator().manual_seed(1)
        model = ebmkit.create("model", "mlp", event_shape=[2], hidden=[64, 64], generator=generator)
        objective = ebmkit.objective(
            ebmkit.create("loss", name, **options), model, generator=generator
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(steps):
            rows = torch.randint(len(data), (256,), generator=generator)
            output = objective(data[rows])
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
        difference = ebmkit.score(model, data) + data
        errors[name] = difference.norm(dim=1).mean().item()
    return errors


if __name__ == "__main__":
    for loss, error in main().items():
        print(f"{loss:26s} mean ‖s(x) − ∇ log p(x)‖ = {error:.3f}")
