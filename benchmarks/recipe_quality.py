"""Train recipes over several seeds and report each one's exact KL and its training time."""

from __future__ import annotations

import argparse
import time

import torch

import ebmkit

BARS = {"two-moons": 0.5, "eight-gaussians": 0.10}
"""KL in nats that every seed must stay below."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="*", default=list(BARS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, help="training steps, in place of the recipe's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    missed = []
    for recipe in arguments.recipes:
        for seed in arguments.seeds:
            training = {"seed": seed} | ({"steps": arguments.steps} if arguments.steps else {})
            pipeline = ebmkit.compose(recipe, training=training)
            wall, cpu = time.perf_counter(), time.process_time()
            while pipeline.step < (pipeline.training.steps or 0):
                pipeline.train_step()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            numbers = pipeline.evaluate()
            kl = numbers.get("kl_nats", float("inf"))
            print(
                f"{recipe} seed {seed}: KL {kl:.4f} nats, MMD² {numbers['mmd2']:.5f}, "
                f"{pipeline.step} steps in {wall:.0f} s ({cpu:.0f} s of CPU)",
                flush=True,
            )
            if kl > BARS.get(recipe, float("inf")):
                missed.append(f"{recipe} seed {seed}")
    if missed:
        raise SystemExit(f"above the bar: {', '.join(missed)}")


if __name__ == "__main__":
    main()
