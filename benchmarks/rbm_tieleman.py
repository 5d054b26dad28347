"""Does persistent contrastive divergence learn a better RBM than contrastive divergence? Tieleman's
claim (2008) on binarised 8×8 digits, by the exact log likelihood of held-out digits.

Each method has the same number of updates, the same batches of a seed, and a learning rate that falls
linearly to 0 from a first value, chosen for each method from the same few by the exact log
likelihood of digits that are neither trained nor tested on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import torch

import ebmkit

METHODS = {"CD-1": ("cd", 1), "CD-10": ("cd", 10), "PCD-1": ("pcd", 1)}
RATES = (0.1, 0.2, 0.4)
SEEDS = (0, 1, 2)
TUNING_SEED = 100
HIDDEN, BATCH = 20, 100


class Run(NamedTuple):
    """One model to train."""

    method: str
    rate: float
    seed: int
    updates: int


class Result(NamedTuple):
    """Exact mean log likelihoods in nats a digit, and the seconds that training took."""

    trained: float
    validated: float
    tested: float
    seconds: float


def train(run: Run) -> Result:
    torch.set_num_threads(1)
    kind, k = METHODS[run.method]
    digits = ebmkit.create("dataset", "digits", binarise=True, held_out=0.2, validation=0.1)
    generator = torch.Generator().manual_seed(run.seed)
    model = ebmkit.create(
        "model", "rbm", event_shape=(1, 8, 8), n_hidden=HIDDEN, generator=generator
    )
    fields = {"buffer_size": BATCH} if kind == "pcd" else {}
    loss = ebmkit.create("loss", kind, sampler={"use": "gibbs"}, k_steps=k, **fields)
    objective = ebmkit.objective(loss, model, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.rate)
    batches = torch.Generator().manual_seed(run.seed)
    data = digits[:].x
    start = time.perf_counter()
    for update in range(run.updates):
        for group in optimizer.param_groups:
            group["lr"] = run.rate * (1 - update / run.updates)
        rows = torch.randint(len(data), (BATCH,), generator=batches)
        optimizer.zero_grad()
        objective(data[rows]).loss.backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    log_z = model.log_partition()
    with torch.no_grad():
        likelihoods = [
            float(-model(x).double().mean() - log_z)
            for x in (data, digits.validation_batch.x, digits.held_out_batch.x)
        ]
    return Result(*likelihoods, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=12_000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    start = time.perf_counter()
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        tuning = [
            Run(method, rate, TUNING_SEED, options.updates)
            for method in reversed(METHODS)
            for rate in RATES
        ]
        tuned = dict(zip(tuning, pool.map(train, tuning), strict=True))
        best = {
            method: max(
                (run for run in tuned if run.method == method), key=lambda run: tuned[run].validated
            ).rate
            for method in METHODS
        }
        testing = [
            Run(method, best[method], seed, options.updates)
            for method in reversed(METHODS)
            for seed in SEEDS
        ]
        tested = dict(zip(testing, pool.map(train, testing), strict=True))
    print(
        f"{options.updates} updates of {BATCH} digits, {HIDDEN} hidden units; nats a digit, exact\n"
    )
    print("chosen on validation digits, seed", TUNING_SEED)
    for method in METHODS:
        rates = ", ".join(
            f"{r.rate:g}: {tuned[r].validated:.2f}" for r in tuned if r.method == method
        )
        print(f"  {method:6s} {rates}; first learning rate {best[method]:g}")
    print(f"\n{'':8s}{'trained on':>12s}{'held out':>10s}   held out by seed {SEEDS}      seconds")
    for method in METHODS:
        results = [tested[run] for run in testing if run.method == method]
        trained, held_out, seconds = (
            statistics.mean(column)
            for column in zip(*((r.trained, r.tested, r.seconds) for r in results), strict=True)
        )
        by_seed = "  ".join(f"{r.tested:8.2f}" for r in results)
        print(f"{method:8s}{trained:12.2f}{held_out:10.2f}   {by_seed}   {seconds:9.1f}")
    print(f"\n{time.perf_counter() - start:.0f} seconds in all")


if __name__ == "__main__":
    main()
