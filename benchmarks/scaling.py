"""Weak scaling: a training step's time in two processes, each with the work of one, over that in one.

Both arms are started by torchrun with one thread a process, in turn and in an order that alternates,
so that what else the machine does falls on both. Efficiency is time of one / time of two, paired; 1 is
best.

python benchmarks/scaling.py [--pairs 6] [--steps 200]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SPECS: dict[str, dict[str, Any]] = {
    "pcd, 2-128-128-1, 20 steps of 256 chains": {
        "model": {"use": "mlp", "hidden": [128, 128]},
        "dataset": "two-moons",
        "sampler": {"use": "langevin", "step_size": 2e-3},
        "loss": {"use": "pcd", "k_steps": 20, "buffer_size": 4096},
    },
    "dsm, 2-256-256-256-1, 1024 rows": {
        "model": {"use": "mlp", "hidden": [256, 256, 256]},
        "dataset": "two-moons",
        "loss": {"use": "dsm", "sigma": 0.3},
        "training": {"batch_size": 1024},
    },
}
WARM_UP = 20


def work(name: str, steps: int, out: Path) -> None:
    """One process of an arm."""
    import torch

    import ebmkit
    from ebmkit.starting import started

    torch.set_num_threads(1)
    spec = SPECS[name]
    with started():
        fixed = {"steps": steps + WARM_UP, "device": "cpu", "compile": "off"}
        training = {"batch_size": 256, **spec.get("training", {}), **fixed}
        pipeline = ebmkit.compose({**spec, "training": training, "chains": {"compile": "off"}})
        for _ in range(WARM_UP):
            pipeline.train_step()
        seconds = []
        for _ in range(steps):
            began = time.perf_counter()
            pipeline.train_step()
            seconds.append(time.perf_counter() - began)
        if pipeline.ranks.lead:
            out.write_text(json.dumps(statistics.median(seconds)))


def arm(name: str, processes: int, steps: int) -> float:
    """Median seconds a step."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seconds.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes), __file__]
        command += ["--work", name, "--steps", str(steps), "--out", str(out)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        seconds: float = json.loads(out.read_text())
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--work")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.steps, given.out)
        return
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"{platform.machine()}, {cores} cores, load {load:.1f} at the start")
    for name in SPECS:
        ratios, ones, twos = [], [], []
        for pair in range(given.pairs):
            order = (1, 2) if pair % 2 else (2, 1)
            took = {n: arm(name, n, given.steps) for n in order}
            ones.append(took[1])
            twos.append(took[2])
            ratios.append(took[1] / took[2])
        print(
            f"{name}: one {1e3 * statistics.median(ones):.2f} ms, two "
            f"{1e3 * statistics.median(twos):.2f} ms a step; efficiency "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in "
            f"{given.pairs} pairs)",
            flush=True,
        )
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
