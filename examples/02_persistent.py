"""Persistent contrastive divergence: chains that go on from one training step to the next.

The objective owns the replay buffer. Each step takes distinct slots, moves their chains k steps
and writes them back to the same slots.
"""

from __future__ import annotations

import torch

import ebmkit


def main(steps: int = 20, buffer_size: int = 1024) -> tuple[ebmkit.Objective, ebmkit.LossOutput]:
    """Train a little on random batches; the objective with its buffer, and its last output."""
    generator = torch.Generator().manual_seed(0)
    model = ebmkit.create(
        "model", "mlp", event_shape=[2], hidden=[64, 64], output_bound=1.0, generator=generator
    )
    loss = ebmkit.create(
        "loss",
        "persistent-contrastive-divergence",
        sampler={"use": "langevin", "step_size": 0.1},
        k_steps=10,
        buffer_size=buffer_size,
        restart_rate=0.05,
    )
    objective = ebmkit.objective(loss, model, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        output = objective(torch.randn(128, 2, generator=generator))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    return objective, output


if __name__ == "__main__":
    bound, last = main()
    ages = bound.state.age.double()
    print(f"loss {last.loss.item():+.4f}")
    print(f"{len(ages)} chains, moved in {ages.mean():.2f} training steps each on average")
