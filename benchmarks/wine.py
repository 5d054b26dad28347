"""Train the recipe `wine` by four losses on several splits of the rows; print their test losses.

Each run stops early and keeps the weights of its least validation loss, as the recipe says; the test
loss is exact score matching whatever the run was trained by, and lower is better. The noise level of
denoising is chosen by the validation loss.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import ebmkit
from ebmkit.hooks import Hooks

LOSSES: dict[str, dict[str, Any]] = {
    "exact SM": {"use": "score-matching"},
    "SSM": {"use": "sliced-score-matching", "variance_reduction": False},
    "SSM-VR": {"use": "sliced-score-matching"},
    "DSM": {"use": "denoising-score-matching"},
}


class Result(NamedTuple):
    """Exact losses of a trained model, and what it took."""

    test: float
    validation: float
    best_step: int
    seconds: float
    """CPU time of the process, validation included."""
    sigma: float | None
    """Of denoising."""


def composed(arguments: argparse.Namespace, seed: int, loss: Mapping[str, Any]) -> Any:
    """The recipe with a loss, on one split of the rows."""
    said = {"dataset.path": str(arguments.data), "dataset.separator": arguments.separator}
    seeds = {"dataset.seed": seed, "training.seed": seed}
    return ebmkit.compose("wine", loss=loss, **said, **seeds)


def train(arguments: argparse.Namespace, seed: int, loss: Mapping[str, Any]) -> Result:
    pipeline = composed(arguments, seed, loss)
    started = time.process_time()
    pipeline.fit(hooks=Hooks(pipeline.hooks))
    seconds = time.process_time() - started
    (stopping,) = pipeline.hooks.values()
    test = pipeline.evaluate()["test_loss"]
    return Result(test, stopping.best, stopping.best_step, seconds, loss.get("sigma"))


def best_of(name: str, seed: int, results: Sequence[Result]) -> Result:
    """The result whose validation loss is least; prints all."""
    for result in results:
        level = "" if result.sigma is None else f" σ {result.sigma:g}"
        print(
            f"{name}{level} seed {seed}: test {result.test:.2f}, validation "
            f"{result.validation:.2f} at step {result.best_step}, {result.seconds:.0f} s of CPU",
            flush=True,
        )
    return min(results, key=lambda result: result.validation)


def print_table(table: Mapping[str, Sequence[Result]]) -> None:
    """Test losses with the standard error of their mean over the splits, and those of the differences
    to exact score matching, split by split."""
    print("\n| loss | test, exact SM | less exact SM's | each split | steps | seconds of CPU | σ |")
    print("|---|---|---|---|---|---|---|")
    first = [result.test for result in next(iter(table.values()))]
    for name, results in table.items():
        tests = [result.test for result in results]
        paired = _mean([a - b for a, b in zip(tests, first, strict=True)])
        each = ", ".join(f"{test:.1f}" for test in tests)
        steps = "/".join(str(result.best_step) for result in results)
        seconds = "/".join(f"{result.seconds:.0f}" for result in results)
        levels = "/".join(f"{result.sigma:g}" for result in results if result.sigma is not None)
        print(f"| {name} | {_mean(tests)} | {paired} | {each} | {steps} | {seconds} | {levels} |")


def _mean(values: Sequence[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.1f} ± {error:.1f}"


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """What both wine benchmarks are asked."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="winequality-red.csv")
    parser.add_argument("--separator", default=",", help="of the file's cells; ';' in UCI's")
    parser.add_argument("--losses", nargs="*", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--sigmas", type=float, nargs="*", default=[0.05, 0.1, 0.2, 0.3])
    parser.add_argument("--threads", type=int, default=1)
    return parser


def main() -> None:
    parser = parser_of(__doc__)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table: dict[str, list[Result]] = {name: [] for name in arguments.losses}
    try:
        for seed in arguments.seeds:
            for name, results in table.items():
                loss = LOSSES[name]
                losses = (
                    [{**loss, "sigma": s} for s in arguments.sigmas] if name == "DSM" else [loss]
                )
                results.append(best_of(name, seed, [train(arguments, seed, one) for one in losses]))
    except ebmkit.UserError as error:
        parser.error(str(error))
    print_table(table)


if __name__ == "__main__":
    main()
