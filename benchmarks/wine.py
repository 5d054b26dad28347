"""Train a deep kernel exponential family on the red wine data by four losses; print test losses.

Cells are rounded numbers, so uniform noise of a column's usual gap makes them continuous first. The
rows are split 80/10/10 into training, validation and test rows and whitened by the training rows.
Noise of standard deviation 0.05 is added: anew at every step to the training rows, once to the
others. Judged are moving averages of the weights: training stops when their exact score-matching
loss on the validation rows has found no new minimum for ``--patience`` steps, and those of that
minimum are given the exact loss of the test rows; lower is better. The noise level of denoising is
chosen by the validation loss.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import ebmkit

LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "exact SM": ("score-matching", {}),
    "SSM": ("sliced-score-matching", {"variance_reduction": False}),
    "SSM-VR": ("sliced-score-matching", {}),
    "DSM": ("denoising-score-matching", {}),
}


class Rows(NamedTuple):
    """Whitened rows (rows, 11); noise is on the last two alone."""

    train: Tensor
    validation: Tensor
    test: Tensor


class Result(NamedTuple):
    """Exact losses at the best step, and what it took to find it."""

    test: float
    validation: float
    best_step: int
    steps: int
    seconds: float
    """CPU time of the process."""
    sigma: float | None
    """Of denoising."""


def dequantised(x: Tensor, *, generator: torch.Generator) -> Tensor:
    """Uniform noise in ±1 median gap between a column's distinct values."""
    gaps = torch.stack([column.unique().diff().median() for column in x.T])
    return x + gaps * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1)


def load(arguments: argparse.Namespace, seed: int) -> Rows:
    """One split of the file's first 11 columns."""
    generator = torch.Generator().manual_seed(seed)
    columns = {"columns": list(range(11)), "separator": arguments.separator}
    raw: Any = ebmkit.create("dataset", "array", path=str(arguments.data), **columns)
    table = raw[:].double()
    if arguments.dequantise:
        table = dequantised(table, generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "wine.npy")
        np.save(path, table.numpy())
        scaling = {"whiten": True, "held_out": 0.2, "seed": seed}
        array: Any = ebmkit.create("dataset", "array", path=str(path), **scaling)
        apart = array.held_out_batch.x
    noise = arguments.noise
    apart = apart[torch.randperm(len(apart), generator=generator)]
    apart = apart + noise * torch.randn(apart.shape, generator=generator)
    return Rows(array[:], *apart.split([len(apart) // 2, len(apart) - len(apart) // 2]))


def exact_loss(model: Any, x: Tensor) -> float:
    """Mean of ½‖s‖² + tr ∇s over the rows."""
    loss = ebmkit.create("loss", "score-matching")
    frozen = copy.deepcopy(model).requires_grad_(False)
    return ebmkit.objective(loss, frozen)(x).loss.item()


def train(rows: Rows, loss: Any, seed: int, arguments: argparse.Namespace) -> Result:
    """One run with early stopping."""
    generator = torch.Generator().manual_seed(seed)
    model: Any = ebmkit.create("model", "deep-kernel", event_shape=(11,), generator=generator)
    objective = ebmkit.objective(loss, model, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=arguments.lr)
    averaged = copy.deepcopy(model)
    best, best_step, best_weights = float("inf"), 0, copy.deepcopy(model.state_dict())
    start = time.process_time()
    size, order, step = arguments.batch_size, torch.empty(0, dtype=torch.int64), 0
    while step < arguments.steps and step - best_step < arguments.patience:
        if len(order) < size:
            order = torch.randperm(len(rows.train), generator=generator)
        x, order = rows.train[order[:size]], order[size:]
        noise = torch.randn(x.shape, generator=generator)
        optimizer.zero_grad()
        torch.autograd.backward(objective(x + arguments.noise * noise).loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        with torch.no_grad():
            # As in ebmkit's own training: a young average leans on the present weights.
            decay = arguments.ema_decay
            weight = max(1 - decay, 9 / (step + 10)) if decay else 1.0
            torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), weight)
        step += 1
        if step % arguments.evaluate_every == 0:
            validation = exact_loss(averaged, rows.validation)
            if validation < best:
                best, best_step = validation, step
                best_weights = copy.deepcopy(averaged.state_dict())
    seconds = time.process_time() - start
    model.load_state_dict(best_weights)
    sigma = getattr(loss, "sigma", None)
    return Result(exact_loss(model, rows.test), best, best_step, step, seconds, sigma)


def run(name: str, rows: Rows, seed: int, arguments: argparse.Namespace) -> Result:
    """The result of one loss; for denoising that of the level best on the validation rows."""
    part, options = LOSSES[name]
    choices = [{"sigma": s} for s in arguments.sigmas] if name == "DSM" else [options]
    results = []
    for choice in choices:
        result = train(rows, ebmkit.create("loss", part, **choice), seed, arguments)
        results.append(result)
        level = "" if result.sigma is None else f" σ {result.sigma:g}"
        print(
            f"{name}{level} seed {seed}: test {result.test:.2f}, validation "
            f"{result.validation:.2f} at step {result.best_step} of {result.steps}, "
            f"{result.seconds:.0f} s of CPU",
            flush=True,
        )
    return min(results, key=lambda result: result.validation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="winequality-red.csv")
    parser.add_argument("--separator", default=",", help="of the file's cells; ';' in UCI's")
    parser.add_argument("--losses", nargs="*", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sigmas", type=float, nargs="*", default=[0.05, 0.1, 0.2, 0.3])
    parser.add_argument("--dequantise", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--noise", type=float, default=0.05, help="in whitened units")
    parser.add_argument("--steps", type=int, default=3000, help="at most")
    parser.add_argument("--patience", type=int, default=200, help="steps without a new minimum")
    parser.add_argument("--evaluate-every", type=int, default=5, help="steps")
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--ema-decay", type=float, default=0.99, help="0 judges the weights alone")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table: dict[str, list[Result]] = {name: [] for name in arguments.losses}
    try:
        for seed in arguments.seeds:
            rows = load(arguments, seed)
            for name, results in table.items():
                results.append(run(name, rows, seed, arguments))
    except ebmkit.UserError as error:
        parser.error(str(error))
    print("\n| loss | test, exact SM | seeds | steps to the best | seconds of CPU | σ |")
    print("|---|---|---|---|---|---|")
    for name, results in table.items():
        tests = [result.test for result in results]
        spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
        steps = "/".join(str(result.best_step) for result in results)
        seconds = "/".join(f"{result.seconds:.0f}" for result in results)
        levels = "/".join(f"{result.sigma:g}" for result in results if result.sigma is not None)
        each = ", ".join(f"{test:.2f}" for test in tests)
        print(
            f"| {name} | {statistics.mean(tests):.2f} ± {spread:.2f} | {each} | {steps} | {seconds} "
            f"| {levels} |"
        )


if __name__ == "__main__":
    main()
