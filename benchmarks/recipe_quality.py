"""Train recipes over several seeds and report each one's exact KL and its training time."""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

import ebmkit

FALLING = {"use": "cosine", "start_value": 0.4, "end_value": 0.02}
CASES: dict[str, tuple[str, dict[str, Any], float]] = {
    "two-moons": ("two-moons", {}, 0.5),
    "eight-gaussians": ("eight-gaussians", {}, 0.10),
    "gaussian-mixture-sm": ("gaussian-mixture-sm", {}, 0.002),
    "gaussian-mixture-ssm": ("gaussian-mixture-ssm", {}, 0.005),
    "gaussian-mixture-dsm": (
        "gaussian-mixture-sm",
        {"loss": {"use": "denoising-score-matching", "sigma": FALLING}},
        0.01,
    ),
    "two-moons-dsm": ("two-moons-dsm", {}, 0.15),
}
"""A recipe, what is changed of it, and the KL in nats that every seed must stay below."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, help="training steps, in place of the recipe's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    missed = []
    for case in arguments.cases:
        recipe, changes, bar = CASES[case]
        for seed in arguments.seeds:
            training = {"seed": seed} | ({"steps": arguments.steps} if arguments.steps else {})
            pipeline = ebmkit.compose(recipe, training=training, **changes)
            wall, cpu = time.perf_counter(), time.process_time()
            while pipeline.step < (pipeline.training.steps or 0):
                pipeline.train_step()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            numbers = pipeline.evaluate()
            kl = numbers.get("kl_nats", float("inf"))
            print(
                f"{case} seed {seed}: KL {kl:.5f} nats, MMD² {numbers['mmd2']:.5f}, "
                f"{pipeline.step} steps in {wall:.0f} s ({cpu:.0f} s of CPU)",
                flush=True,
            )
            if kl > bar:
                missed.append(f"{case} seed {seed}")
    if missed:
        raise SystemExit(f"above the bar: {', '.join(missed)}")


if __name__ == "__main__":
    main()
