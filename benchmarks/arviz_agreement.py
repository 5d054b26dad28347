"""The kernel's chain diagnostics against ArviZ's on random traces: the largest relative difference.

Needs ArviZ (0.x), which ebmkit does not. Exits 1 where any number differs by more than 1e-6.
"""

from __future__ import annotations

import argparse
import time
import warnings

import arviz
import numpy as np
import torch

from ebmkit.diagnostics import (
    autocorrelation,
    e_bfmi,
    effective_sample_size,
    mean_error,
    r_hat,
)

TOLERANCE = 1e-6
HUGE = 1e6
MEASURES = {
    "r_hat": (r_hat, lambda a: arviz.rhat(a)),
    "ess bulk": (effective_sample_size, lambda a: arviz.ess(a, method="bulk")),
    "ess tail": (
        lambda x: effective_sample_size(x, "tail"),
        lambda a: arviz.ess(a, method="tail"),
    ),
    "ess mean": (
        lambda x: effective_sample_size(x, "mean"),
        lambda a: arviz.ess(a, method="mean"),
    ),
    "mean error": (mean_error, lambda a: arviz.mcse(a, method="mean")),
    "autocorrelation": (autocorrelation, lambda a: arviz.autocorr(a, axis=1).T),
    "e_bfmi": (e_bfmi, lambda a: arviz.bfmi(a)),
}


def trace(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A kind of trace, and one of it (draws, chains)."""
    draws, chains = int(rng.integers(4, 600)), int(rng.integers(1, 9))
    phi = rng.uniform(-0.95, 0.99)
    noise = rng.normal(size=(draws, chains))
    x = np.empty_like(noise)
    x[0] = noise[0]
    for i in range(1, draws):
        x[i] = phi * x[i - 1] + np.sqrt(1 - phi**2) * noise[i]
    kinds = {
        "normal": lambda: x,
        "shifted chains": lambda: x + rng.normal(size=chains),
        "heavy tails": lambda: np.sinh(3 * x) ** 3,
        "two values": lambda: (x > rng.normal()).astype(float),
        "rounded": lambda: np.round(2 * x) / 10,
        "repeated": lambda: x[np.maximum.accumulate(np.arange(draws) * (noise[:, 0] > 0))],
        "constant": lambda: np.full_like(x, 0.25),
        "constant chains": lambda: np.tile(rng.integers(0, 3, size=chains) * 1.0, (draws, 1)),
        "trend": lambda: x + np.linspace(0, 5, draws)[:, None],
        "float32": lambda: x.astype(np.float32).astype(float),
    }
    name = rng.choice(list(kinds))
    return str(name), kinds[name]()


def difference(ours: torch.Tensor, theirs: object) -> float:
    """The largest relative difference; infinite where one is not finite and the other is."""
    a, b = ours.numpy(), np.asarray(theirs, dtype=float)
    # Chains that stand still at several places: infinite, or as large as rounding makes it.
    a, b = np.where(a > HUGE, HUGE, a), np.where(b > HUGE, HUGE, b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b) / np.maximum(np.abs(b), 1e-6)
    return float(np.where(same, 0, np.nan_to_num(apart, nan=np.inf)).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    worst = dict.fromkeys(MEASURES, (0.0, ""))
    seconds = {"ebmkit": 0.0, "arviz": 0.0}
    # Both say with warnings that nothing can be said of constant chains.
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    arviz.stats.stats_utils._log.setLevel("ERROR")
    for _ in range(arguments.traces):
        kind, x = trace(rng)
        for name, (ours, theirs) in MEASURES.items():
            if name == "e_bfmi" and kind == "constant":
                continue
            started = time.perf_counter()
            mine = ours(torch.from_numpy(x))
            between = time.perf_counter()
            other = theirs(np.ascontiguousarray(x.T))
            seconds["ebmkit"] += between - started
            seconds["arviz"] += time.perf_counter() - between
            apart = difference(mine, other)
            if apart > worst[name][0]:
                worst[name] = (apart, f"{kind}, {x.shape[0]} draws, {x.shape[1]} chains")
    for name, (apart, where) in worst.items():
        print(f"{name:16} {apart:.2e}  {where}")
    print(f"{arguments.traces} traces one by one: {seconds}")
    return int(max(apart for apart, _ in worst.values()) > TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main())
