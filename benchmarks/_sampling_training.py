"""Training steps of persistent contrastive divergence on two moons: ebmkit against torchebm.

Equal network, data, batch, Langevin steps, buffer, optimizer; no restarts of chains and no
regularisation in either. A composed pipeline's step is its whole step, checks and metrics included.
torchebm's is its loss, backward and optimizer in a plain loop over shuffled batches.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from _sampling_harness import Arms, Numbers, Spec
from _sampling_network import Work, module, sequential
from _sampling_network import arrays as network_arrays
from _sampling_worker import Arm

EPSILON, K_STEPS, BATCH, SLOTS, LR = 1e-2, 10, 256, 4096, 1e-3
NETWORK = Work(2, 64, 2, BATCH, K_STEPS)
"""That of the guide of torchebm."""
OURS, PEER = "ebmkit", "torchebm"


def specs(steps: int) -> dict[str, Spec]:
    """Arms that take so many training steps a block."""
    here = "_sampling_training"
    return {
        OURS: Spec(f"{here}:ours", {"steps": steps, "loss": "on", "chains": "chunk"}),
        "ebmkit, auto": Spec(f"{here}:ours", {"steps": steps, "loss": "auto", "chains": "auto"}),
        "ebmkit, eager": Spec(f"{here}:ours", {"steps": steps, "loss": "off", "chains": "off"}),
        PEER: Spec(f"{here}:torchebm", {"steps": steps}),
    }


def arrays(seed: int = 0) -> dict[str, Numbers]:
    """Weights as in the sampling works, and 4,096 points of two moons."""
    import torch

    import ebmkit

    moons = ebmkit.create("dataset", "two-moons")
    data = moons.draw(4096, generator=torch.Generator().manual_seed(seed)).x
    return {**network_arrays(NETWORK, seed=seed), "data": data.numpy()}


def _judged(model: Any, data: Any) -> Arm:
    """Energies of data and of points uniform in a box around them (2, n)."""
    import torch

    low, high = data.min(0).values - 1, data.max(0).values + 1
    noise = low + (high - low) * torch.rand(data.shape, generator=torch.Generator().manual_seed(0))

    def energies(_: Any) -> Numbers:
        with torch.no_grad():
            found: Numbers = torch.stack([model(data), model(noise)]).numpy()
        return found

    return Arm(lambda seed: None, energies)  # noqa: ARG005


def ours(stored: dict[str, Numbers], *, steps: int, loss: str, chains: str) -> Arm:
    """With ``loss`` and ``chains`` compiled or not; the first steps, which are not timed, compile."""
    import torch

    import ebmkit

    data = torch.from_numpy(stored["data"])
    model = ebmkit.create("model", "mlp", event_shape=(2,), hidden=[NETWORK.width] * NETWORK.depth)
    model.layers.load_state_dict(sequential(stored).state_dict())
    spec = {
        "model": None,
        "sampler": {"use": "langevin", "step_size": EPSILON},
        "loss": {"use": "pcd", "k_steps": K_STEPS, "buffer_size": SLOTS},
        "dataset": None,
        "training": {
            "steps": 10**6,
            "batch_size": BATCH,
            "optimizer": {"use": "adam", "lr": LR},
            "compile": loss,
        },
        "chains": {"compile": chains},
    }
    pipeline = ebmkit.compose(spec, model=model, dataset=data)

    def run(seed: int) -> None:  # noqa: ARG001
        for _ in range(steps):
            pipeline.train_step()

    return _judged(model, data)._replace(run=run)


def torchebm(stored: dict[str, Numbers], *, steps: int) -> Arm | None:
    if find_spec("torchebm") is None:
        return None
    import torch
    from torchebm.core import BaseModel
    from torchebm.losses import ContrastiveDivergence
    from torchebm.samplers import LangevinDynamics

    data = torch.from_numpy(stored["data"])
    model = module(stored, BaseModel)
    loss_of = ContrastiveDivergence(
        model=model,
        sampler=LangevinDynamics(model, step_size=EPSILON),
        k_steps=K_STEPS,
        persistent=True,
        buffer_size=SLOTS,
        new_sample_ratio=0.0,
        energy_reg_weight=0.0,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    batches: list[Any] = []

    def run(seed: int) -> None:  # noqa: ARG001
        for _ in range(steps):
            if not batches:
                batches.extend(data[torch.randperm(len(data))].split(BATCH))
            optimizer.zero_grad()
            loss, _ = loss_of(batches.pop())
            loss.backward()
            optimizer.step()

    return _judged(model, data)._replace(run=run)


def check(arms: Arms) -> None:
    """Refuse to time an arm that does not learn to put the data below the points of a box."""
    for name in arms.workers:
        for seed in range(3):
            _, (data, box) = arms.outcome(name, seed)
        gap = box.mean() - data.mean()
        error = float(np.hypot(data.std(), box.std())) / len(data) ** 0.5
        if not gap > 5 * error:
            raise SystemExit(
                f"{name}: after some training steps the data's mean energy lies {gap:.3g} below that "
                f"of points in a box, with a standard error of {error:.2g}: it does not learn"
            )
