"""Weak scaling: a training step's time in two processes, each with the work of one, over that in one.

A third arm is two processes at once that know nothing of each other: what they slow each other down by
is the machine's, and what two that exchange gradients take more is the exchange's. The arms have one
thread a process and are run in turn, in an order that alternates, so that what else the machine does
falls on all. Efficiency is the time of another arm / the time of two, paired; 1 is best.

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


def arm(name: str, kind: str, steps: int) -> float:
    """Median seconds a step of one process, of two that train together, or of two apart."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with tempfile.TemporaryDirectory() as folder:
        started, outs = [], []
        for number in range(2 if kind == "apart" else 1):
            outs.append(Path(folder) / f"{number}.json")
            command = [sys.executable, *(launcher if kind == "two" else ()), __file__]
            command += ["--work", name, "--steps", str(steps), "--out", str(outs[-1])]
            started.append(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
        ended = [process.wait() for process in started]
        if any(ended):
            raise SystemExit(f"{name}, {kind}: a process failed; what it said is above")
        return statistics.fmean(float(json.loads(out.read_text())) for out in outs)


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
        took: dict[str, list[float]] = {kind: [] for kind in ("one", "apart", "two")}
        for pair in range(given.pairs):
            for kind in list(took)[:: 1 if pair % 2 else -1]:
                took[kind].append(arm(name, kind, given.steps))
        times = ", ".join(f"{k} {1e3 * statistics.median(t):.2f} ms" for k, t in took.items())
        print(f"{name}, a step: {times}")
        for kind in ("one", "apart"):
            ratios = [a / b for a, b in zip(took[kind], took["two"], strict=True)]
            print(
                f"  efficiency against {kind}: {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f} in {given.pairs} turns)",
                flush=True,
            )
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
