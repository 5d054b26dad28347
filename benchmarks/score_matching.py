"""What a training step of the three score-matching losses costs.

    python benchmarks/score_matching.py speed          against TorchEBM where it is installed
    python benchmarks/score_matching.py memory         peak memory of a step, a process each
    python benchmarks/score_matching.py growth         over the dimension, with a picture

Arms alternate in one process on the same network and data, a block of consecutive steps each, as in
training; times are medians over the blocks, of loss, backward and zeroed gradients. "floor" is one
forward and backward of the energy alone, with no derivative in x.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import ebmkit

SIZES = [(2, 128, 2, 256), (16, 128, 2, 128), (64, 256, 3, 128)]
"""Dimension, width, hidden layers, batch."""
DIMENSIONS = [4, 8, 16, 32, 64, 128, 256]
BLOCK = 5
"""Consecutive steps that are timed as one."""


def network(dimension: int, width: int, depth: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(dimension, width), nn.SiLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, 1), nn.Flatten(0))


def ours(
    name: str, model: nn.Module, x: Tensor, mode: str, **options: object
) -> Callable[[], None]:
    objective = ebmkit.objective(
        ebmkit.create("loss", name, **options),
        model,
        generator=torch.Generator().manual_seed(0),
        compile=mode,
    )

    def step() -> None:
        model.zero_grad(set_to_none=True)
        objective(x).loss.backward()

    return step


def theirs(name: str, model: nn.Module, x: Tensor) -> Callable[[], None]:
    """The same loss of TorchEBM on the same network."""
    from torchebm import losses
    from torchebm.core import BaseModel

    class Energy(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    energy = Energy()
    loss = {
        "exact": lambda: losses.ScoreMatching(model=energy),
        "sliced": lambda: losses.SlicedScoreMatching(model=energy, n_projections=5),
        "denoising": lambda: losses.DenoisingScoreMatching(model=energy, noise_scale=0.1),
    }[name]()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss(x).backward()

    return step


def floor(model: nn.Module, x: Tensor) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(x).mean().backward()

    return step


def medians(arms: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds a step of each round, arms in turn, every other round in reverse."""
    for step in arms.values():
        for _ in range(BLOCK):
            step()
    times: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds):
        order = list(arms.items())
        for name, step in order if turn % 2 else reversed(order):
            step()  # refills the caches with this arm's own numbers
            started = time.perf_counter()
            for _ in range(BLOCK):
                step()
            times[name].append(1e3 * (time.perf_counter() - started) / BLOCK)
    return times


LOSSES: dict[str, tuple[str, dict[str, object]]] = {
    "exact": ("score-matching", {}),
    "sliced": ("sliced-score-matching", {"n_projections": 5}),
    "sliced, estimated norm": (
        "sliced-score-matching",
        {"n_projections": 5, "variance_reduction": False},
    ),
    "denoising": ("denoising-score-matching", {"sigma": 0.1}),
}


def speed(rounds: int) -> None:
    peer = find_spec("torchebm") is not None
    if not peer:
        print("torchebm is not installed: its column is missing")
    print("| d | loss | floor | eager | compiled | TorchEBM | eager / it | compiled / it |")
    print("|---|---|---|---|---|---|---|---|")
    for dimension, width, depth, batch in SIZES:
        torch.manual_seed(0)
        model = network(dimension, width, depth)
        x = torch.randn(batch, dimension)
        for label, (name, options) in LOSSES.items():
            arms = {
                "floor": floor(model, x),
                "eager": ours(name, model, x, "off", **options),
                "compiled": ours(name, model, x, "on", **options),
            }
            if peer:
                arms["peer"] = theirs(label.partition(",")[0], model, x)
            times = medians(arms, rounds)
            shown = [f"{statistics.median(times[arm]):.2f} ms" for arm in arms]
            for arm in ("eager", "compiled") if peer else ():
                pairs = zip(times["peer"], times[arm], strict=True)
                shown.append(f"{statistics.median(a / b for a, b in pairs):.1f}×")
            print(f"| {dimension} | {label} | {' | '.join(shown)} |", flush=True)


def memory() -> None:
    arms = ["eager", "compiled", *(["peer"] if find_spec("torchebm") else [])]
    print("| d | batch | network | arm | peak above the start | seconds a step |")
    print("|---|---|---|---|---|---|")
    for size in [(64, 256, 3, 128), (784, 256, 3, 64)]:
        for arm in arms:
            subprocess.run(
                [sys.executable, __file__, "one", *map(str, size), arm], check=True, timeout=600
            )


def one(dimension: int, width: int, depth: int, batch: int, arm: str) -> None:
    """Peak resident memory of a step of the exact loss above what stands before it."""
    model = network(dimension, width, depth)
    x = torch.randn(batch, dimension)
    if arm == "peer":
        step = theirs("exact", model, x)
    else:
        step = ours("score-matching", model, x, {"eager": "off", "compiled": "on"}[arm])
    floor(model, x)()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(3):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"| {dimension} | {batch} | {width}×{depth} | {arm} | {peak:.0f} MiB | {min(times):.2f} |",
        flush=True,
    )


def growth(rounds: int, picture: Path) -> None:
    """Time over the dimension, all arms in turn, so that a slow minute of the machine meets all.

    The network is wide enough for its input layer, which grows too, to be a small part of it.
    """
    width, depth, batch = 256, 3, 128
    arms: dict[str, Callable[[], None]] = {}
    for dimension in DIMENSIONS:
        torch.manual_seed(0)
        model = network(dimension, width, depth)
        x = torch.randn(batch, dimension)
        arms[f"floor {dimension}"] = floor(model, x)
        for label in ("exact", "sliced"):
            name, options = LOSSES[label]
            arms[f"{label} {dimension}"] = ours(name, model, x, "off", **options)
    times = medians(arms, rounds)
    table = {
        label: [statistics.median(times[f"{label} {d}"]) for d in DIMENSIONS]
        for label in ("floor", "exact", "sliced")
    }
    print("| d | floor | exact | sliced, 5 projections |")
    print("|---|---|---|---|")
    for dimension, *row in zip(DIMENSIONS, *table.values(), strict=True):
        print(f"| {dimension} | " + " | ".join(f"{time:.2f} ms" for time in row) + " |")
    exact, sliced = np.array(table["exact"]), np.array(table["sliced"])
    slope, intercept = np.polyfit(DIMENSIONS, exact, 1)
    fitted = slope * np.array(DIMENSIONS) + intercept
    unexplained = ((exact - fitted) ** 2).sum() / ((exact - exact.mean()) ** 2).sum()
    spread = sliced.max() / sliced.min() - 1
    print(f"exact: {intercept:.2f} ms + {slope:.4f} ms a dimension, R² = {1 - unexplained:.4f}")
    print(f"sliced: longest over shortest {1 + spread:.2f}")
    draw(table, fitted, picture)


def draw(table: dict[str, list[float]], fitted: np.ndarray, picture: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "ebmkit"}):
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(DIMENSIONS, table["exact"], "o", label="score-matching")
        axes.plot(DIMENSIONS, fitted, "-", color="C0", linewidth=1, label="straight line")
        axes.plot(DIMENSIONS, table["sliced"], "s-", color="C1", label="sliced, 5 projections")
        axes.set(xlabel="dimension d", ylabel="milliseconds a step", ylim=(0, None))
        axes.legend(frameon=False)
        figure.savefig(picture, metadata={"Date": None})
    print(f"picture: {picture}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["speed", "memory", "growth", "one"])
    parser.add_argument("size", nargs="*")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--picture", type=Path, default=Path("docs/score-matching-growth.svg"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.what == "one":
        *size, arm = arguments.size
        dimension, width, depth, batch = map(int, size)
        one(dimension, width, depth, batch, arm)
        return
    print(
        f"torch {torch.__version__}, python {platform.python_version()}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads"
    )
    match arguments.what:
        case "speed":
            speed(arguments.rounds)
        case "memory":
            memory()
        case "growth":
            growth(arguments.rounds, arguments.picture)


if __name__ == "__main__":
    main()
