"""Do persistent chains persist? A frozen landscape of eight far wells, 512 chains, 2,000 updates of
128 of them: prints how many chains each well still holds on the way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

import ebmkit


def main() -> None:
    angles = torch.arange(8) * 2 * math.pi / 8
    centres = 20 * torch.stack([angles.cos(), angles.sin()], 1)

    def wells(x: Tensor) -> Tensor:
        return -torch.logsumexp(-(x[:, None] - centres).square().sum(-1) / 2, 1)

    generator = torch.Generator().manual_seed(0)
    loss = ebmkit.create(
        "loss", "pcd", sampler={"use": "langevin", "step_size": 1e-2}, k_steps=5, buffer_size=512
    )
    objective = ebmkit.objective(loss, wells, generator=generator)
    data = centres.repeat(16, 1) + torch.randn(128, 2, generator=generator)
    objective(data)
    start = centres.repeat(64, 1) + 0.3 * torch.randn(512, 2, generator=generator)
    objective.state = objective.state._replace(x=start)
    for step in range(1, 2001):
        objective(data)
        if step in (1, 100, 500, 1000, 2000):
            nearest = (objective.state.x[:, None] - centres).square().sum(-1).argmin(1)
            counts = torch.bincount(nearest, minlength=8).tolist()
            print(f"{step:5d} updates: {sum(c > 0 for c in counts)} wells hold chains {counts}")


if __name__ == "__main__":
    main()
