"""A small run, and what tests of one and of several processes do with it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ebmkit
from ebmkit.data import Points
from ebmkit.hooks import Hooks

SPEC: dict[str, Any] = {
    "model": {"use": "mlp", "hidden": [8]},
    "dataset": "two-moons",
    "sampler": {"use": "langevin", "step_size": 0.01},
    "loss": {"use": "pcd", "k_steps": 2, "buffer_size": 32, "restart_rate": 0.1},
    "training": {
        "steps": 12,
        "batch_size": 12,
        "optimizer": {"use": "adam", "lr": 0.01},
        "ema_decay": 0.9,
        "checkpoint_every": 6,
        "log_every": 2,
        "device": "cpu",
    },
    "evaluation": {"n_samples": 20, "chain_steps": 2},
}


STEPS = 60
LONGER: dict[str, Any] = {
    **SPEC,
    "training": {**SPEC["training"], "steps": STEPS, "checkpoint_every": 10},
}


class FewRows(Points):
    """Twenty rows, each known by its first number."""

    def __init__(self) -> None:
        super().__init__(torch.arange(40.0).reshape(20, 2))


def cut_after(run: Path, copy: Path, step: int) -> None:
    """A copy of a run as it was after a step."""
    shutil.copytree(run, copy)
    for path in (copy / "checkpoints").iterdir():
        if path.name > f"step-{step:08d}.safetensors":
            path.unlink()
    (copy / "status.json").unlink()


def same_tree(one: Any, other: Any) -> bool:
    """Whether two trees hold the same, bit for bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_tree(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_tree, one, other))
    return bool(one == other)


if __name__ == "__main__":
    ebmkit.compose(SPEC).fit(out=sys.argv[1], hooks=Hooks({}))
