"""The complete training of ``04_complete_training.py``, assembled from names.

    python examples/05_compose.py --steps 1100 --out runs/composed

``compose`` checks the whole pipeline before anything is drawn; ``fit`` keeps weights, metrics,
pictures and the exact KL divergence in a run directory.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ebmkit

PIPELINE: dict[str, dict[str, Any]] = {
    "model": {
        "use": "mlp",
        "hidden": [64, 64],
        "activation": "selu",
        "output_bound": 10.0,
        "base_scale": 3.0,
    },
    "sampler": {"use": "langevin", "step_size": 2e-3},
    "loss": {
        "use": "persistent-contrastive-divergence",
        "sampler": "@sampler",
        "k_steps": 10,
        "buffer_size": 1024,
    },
    "dataset": {"use": "two-moons", "n_samples": 3000, "noise": 0.05, "seed": 42},
    "training": {
        "batch_size": 256,
        "optimizer": {"use": "adam", "lr": 1e-3},
        "gradient_clip": 1.0,
        "seed": 0,
    },
}


def main(
    steps: int = 1100, out: str | Path | None = "runs/composed", **overrides: Any
) -> ebmkit.Pipeline:
    """Train and keep the run at ``out``; the pipeline with its trained model."""
    pipeline = ebmkit.compose(PIPELINE, **{"training.steps": steps}, **overrides)
    pipeline.fit(out=out)
    return pipeline


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--out", default="runs/composed", help="the run directory")
    arguments = parser.parse_args()
    trained = main(arguments.steps, arguments.out)
    print(f"samples {tuple(trained.sample(1000).shape)}, kept in {arguments.out}")
