"""What a composed pipeline's training step costs over a hand-written loop of the same operations.

Both arms do the same arithmetic from the same start with the same random numbers (their weights are
compared at the end), in alternating blocks of one process. Prints each arm's median time a step and
the median of the paired ratios.
"""

from __future__ import annotations

import argparse
import copy
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import ebmkit
from ebmkit.hooks import Hooks, Run

EPSILON, K_STEPS, BATCH, SLOTS, LR, NOISE = 2e-3, 20, 256, 4096, 1e-3, 0.05


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(-1)


def hand_written(net: nn.Module, data: Tensor) -> Callable[[], None]:
    """PCD as one writes it in a script, drawing the same numbers in the same order."""
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, fused=True)
    feed = ebmkit.compose(SPEC, model=Net(), dataset=data).generator("data")
    g = ebmkit.compose(SPEC, model=Net(), dataset=data).generator("loss")
    state: dict[str, Tensor] = {}

    def batch() -> Tensor:
        if "order" not in state or int(state["position"]) + BATCH > len(data):
            state["order"] = torch.randperm(len(data), generator=feed)
            state["position"] = torch.tensor(0)
        start = int(state["position"])
        state["position"] = torch.tensor(start + BATCH)
        return data[state["order"][start : start + BATCH]]

    def step() -> None:
        x = batch()
        if not torch.isfinite(x).all():
            raise ValueError("data")
        optimizer.zero_grad(set_to_none=True)
        if "buffer" not in state:
            rows = torch.randint(BATCH, (SLOTS,), generator=g)
            state["buffer"] = x[rows] + 0.1 * torch.randn(SLOTS, 2, generator=g)
        slots = torch.randperm(SLOTS, generator=g)[:BATCH]
        y = state["buffer"][slots]
        net.eval()
        for _ in range(K_STEPS):
            z = torch.randn(y.shape, generator=g)
            y = y.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(net(y).sum(), y)
            y = y.detach().add(gradient, alpha=-EPSILON).add_(z, alpha=math.sqrt(2 * EPSILON))
        net.train()
        if not torch.isfinite(y).all():
            raise ValueError("chains")
        state["buffer"] = state["buffer"].index_copy(0, slots, y)
        energies = net(torch.cat([x, y]))
        loss = energies[:BATCH].mean() - energies[BATCH:].mean()
        if not torch.isfinite(loss):
            raise ValueError("loss")
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), math.inf)
        if not torch.isfinite(norm):
            raise ValueError("gradient")
        optimizer.step()

    return step


SPEC = {
    "model": None,
    "sampler": {"use": "langevin", "step_size": EPSILON},
    "loss": {"use": "pcd", "k_steps": K_STEPS, "buffer_size": SLOTS},
    "dataset": None,
    "training": {
        "steps": 10**6,
        "batch_size": BATCH,
        "optimizer": {"use": "adam", "lr": LR},
        "compile": "off",  # the same operations one by one, as in the hand-written loop
    },
    "chains": {"compile": "off"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20, help="training steps a block")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = (
        ebmkit.create("dataset", "two-moons")
        .draw(4096, generator=torch.Generator().manual_seed(0))
        .x
    )
    net = Net()
    twin = copy.deepcopy(net)
    pipeline = ebmkit.compose(SPEC, model=net, dataset=data)
    directory = Path(tempfile.mkdtemp())
    hooks = Hooks.installed()
    run = Run(pipeline, directory, 10**6)
    hooks.run_start(run)

    def composed() -> None:
        # As Pipeline.fit takes a step, progress bar and metrics file included.
        metrics = pipeline.trainer.step()
        run.step = pipeline.step
        hooks.step_end(run, metrics)

    arms = {"composed": composed, "hand-written": hand_written(twin, data)}
    times: dict[str, list[float]] = {name: [] for name in arms}
    for step in arms.values():
        for _ in range(5):
            step()
    for block in range(arguments.blocks):
        order = list(arms.items())
        for name, step in order if block % 2 else reversed(order):
            started = time.perf_counter()
            for _ in range(arguments.steps):
                step()
            times[name].append((time.perf_counter() - started) / arguments.steps)
    same = all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    ratios = [a / b for a, b in zip(times["composed"], times["hand-written"], strict=True)]
    print(
        f"torch {torch.__version__}, python {platform.python_version()}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads; PCD-{K_STEPS}, MLP 128×2, batch {BATCH}"
    )
    for name, values in times.items():
        print(f"{name:13s} {1e3 * statistics.median(values):8.3f} ms a step (median)")
    quarters = statistics.quantiles(ratios, n=4)
    print(
        f"ratio {statistics.median(ratios):.4f} (quartiles {quarters[0]:.4f} … {quarters[2]:.4f})"
    )
    print(f"weights of the two arms bit-identical: {same}")


if __name__ == "__main__":
    main()
