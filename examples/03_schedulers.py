"""Schedules for a sampler's step size and noise scale, on either clock.

On the training clock, the default, a schedule moves from one training step to the next and is
constant along a chain. On the chain clock it moves along each chain; a length left open is spread
over the chain's k steps.
"""

from __future__ import annotations

from typing import Any

import torch

import ebmkit


def annealed_over_training(n_steps: int) -> ebmkit.Sampler:
    """Langevin whose step size and noise fall over ``n_steps`` training steps."""
    sampler: ebmkit.Sampler = ebmkit.create(
        "sampler",
        "langevin",
        step_size=ebmkit.create(
            "scheduler", "cosine", start_value=3e-2, end_value=5e-3, n_steps=n_steps
        ),
        noise_scale=ebmkit.create(
            "scheduler", "cosine", start_value=3e-1, end_value=1e-2, n_steps=n_steps
        ),
    )
    return sampler


def annealed_along_each_chain() -> ebmkit.Sampler:
    """Langevin whose step size and noise fall along every chain, however long it is."""
    step_size: dict[str, Any] = {"use": "cosine", "start_value": 3e-2, "end_value": 5e-3}
    noise_scale: dict[str, Any] = {"use": "linear", "start_value": 3e-1, "end_value": 1e-2}
    sampler: ebmkit.Sampler = ebmkit.create(
        "sampler",
        "langevin",
        step_size=step_size | {"clock": "chain"},
        noise_scale=noise_scale | {"clock": "chain"},
    )
    return sampler


def train(sampler: ebmkit.Sampler, steps: int, k_steps: int) -> float:
    """Train a small network on a Gaussian's draws; the last loss."""
    generator = torch.Generator().manual_seed(0)
    model = ebmkit.create(
        "model", "mlp", event_shape=[2], hidden=[64, 64], output_bound=1.0, generator=generator
    )
    loss = ebmkit.create("loss", "pcd", sampler=sampler, k_steps=k_steps)
    objective = ebmkit.objective(loss, model, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        output = objective(torch.randn(128, 2, generator=generator))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    return output.loss.item()


def main(steps: int = 100, k_steps: int = 10) -> dict[str, float]:
    """Train with either clock; the last losses by clock."""
    return {
        "training": train(annealed_over_training(steps), steps, k_steps),
        "chain": train(annealed_along_each_chain(), steps, k_steps),
    }


if __name__ == "__main__":
    for clock, loss in main().items():
        print(f"{clock} clock: loss {loss:+.4f}")
