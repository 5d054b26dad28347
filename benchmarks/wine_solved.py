"""Train a deep kernel exponential family on the red wine data in two stages, as in the literature.

All four losses are quadratic in the inducing points' weights α. In each step α is solved for on one
half of the batch under a ridge λ, the loss is taken on the other half, and its gradient trains the
rest, λ included, through the solution. Training stops when the loss itself, on the validation rows
with α solved for on the training rows, has found no new minimum for ``--patience`` steps; then λ is
chosen on the validation rows. Judged is the exact score-matching loss of the test rows; the noise
level of denoising is chosen by that of the validation rows. Rows are prepared as in ``wine.py``,
but for noise, which is added once to all.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from wine import Rows, load

import ebmkit

LOSSES = ["exact SM", "SSM", "SSM-VR", "DSM"]


class Terms(NamedTuple):
    """A loss as a function of α: mean[½‖r + Dα‖² + c·α + c₀] over the rows."""

    features: Tensor
    """D (rows, k, M)."""
    offsets: Tensor
    """r (rows, k)."""
    linear: Tensor
    """c (rows, M)."""
    constant: Tensor
    """c₀ (rows,)."""

    def solved(self, ridge: Tensor) -> Tensor:
        """The α (M,) that is best on these rows under λ‖α‖²/2."""
        features = self.features.flatten(0, 1)
        gram = features.T @ features / len(self.offsets)
        slope = features.T @ self.offsets.flatten() / len(self.offsets) + self.linear.mean(0)
        return torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), -slope)

    def loss(self, alpha: Tensor) -> Tensor:
        residuals = self.offsets + self.features @ alpha
        rows = 0.5 * residuals.square().sum(1) + self.linear @ alpha + self.constant
        return rows.mean()


def derivatives(model: Any, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """First derivatives (rows, k, M) of the kernels, and second ones summed over the directions."""
    carried = model.kernels(ebmkit.Jet(x, directions, None))
    return carried.first.movedim(0, 1), carried.second


def terms(
    name: str, model: Any, x: Tensor, sigma: float | None, *, generator: torch.Generator
) -> Terms:
    count, dim = x.shape
    everywhere = torch.eye(dim, dtype=x.dtype).unsqueeze(1).expand(dim, count, dim)
    precision = 1 / model.base_scale**2
    zero = x.new_zeros(count)
    if name == "DSM":
        assert sigma is not None
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = x + sigma * noise
        first, _ = derivatives(model, x, everywhere)
        return Terms(first, noise / sigma - precision * x, x.new_zeros(count, first.shape[2]), zero)
    if name == "exact SM":
        first, second = derivatives(model, x, everywhere)
        return Terms(first, -precision * x, second, zero - precision * dim)
    signs = 2.0 * torch.randint(2, x.shape, generator=generator).to(x.dtype) - 1
    first, second = derivatives(model, x, signs.unsqueeze(0))
    offsets = -precision * (x * signs).sum(1, keepdim=True)
    if name == "SSM-VR":
        first, _ = derivatives(model, x, everywhere)
        offsets = -precision * x
    return Terms(first, offsets, second, zero - precision * dim)


class Result(NamedTuple):
    """Exact losses of the finished model, and what it took."""

    test: float
    validation: float
    best_step: int
    seconds: float
    """CPU time of the process, validation included."""
    sigma: float | None
    """Of denoising."""


def train(
    name: str, rows: Rows, sigma: float | None, seed: int, arguments: argparse.Namespace
) -> Result:
    generator = torch.Generator().manual_seed(seed)
    model: Any = ebmkit.create("model", "deep-kernel", event_shape=(11,), generator=generator)
    model = model.to(torch.float64)
    drawn = torch.randperm(len(rows.train), generator=generator)[: model.n_inducing]
    with torch.no_grad():
        model.inducing_points.copy_(rows.train[drawn])
    log_ridge = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))
    # The weights are solved for.
    trained = [p for p in model.parameters() if p is not model.weights] + [log_ridge]
    optimizer = torch.optim.Adam(trained, lr=arguments.lr)
    best, best_step, kept = math.inf, 0, None
    started = time.process_time()
    size, order, step = arguments.batch_size, torch.empty(0, dtype=torch.int64), 0

    def of(x: Tensor, loss: str = name) -> Terms:
        return terms(loss, model, x, sigma, generator=generator)

    def detached(x: Tensor) -> Terms:
        return Terms(*(t.detach() for t in of(x)))

    while step < arguments.steps and step - best_step < arguments.patience:
        if len(order) < size:
            order = torch.randperm(len(rows.train), generator=generator)
        x, order = rows.train[order[:size]], order[size:]
        half = size // 2
        alpha = of(x[:half]).solved(10**log_ridge)
        optimizer.zero_grad()
        of(x[half:]).loss(alpha).backward()
        nn.utils.clip_grad_norm_(trained, 100.0)
        optimizer.step()
        step += 1
        if step % arguments.evaluate_every == 0:
            alpha = detached(rows.train).solved(10 ** log_ridge.detach())
            validation = detached(rows.validation).loss(alpha).item()
            if validation < best:
                best, best_step = validation, step
                kept = copy.deepcopy((model.state_dict(), log_ridge.data))
    seconds = time.process_time() - started
    assert kept is not None
    model.load_state_dict(kept[0])
    fitted, held = detached(rows.train), detached(rows.validation)
    ridges = [10 ** (kept[1] + shift) for shift in torch.linspace(-2, 2, 41)]
    alpha = min((fitted.solved(ridge) for ridge in ridges), key=lambda a: held.loss(a).item())

    def exact(x: Tensor) -> float:
        return of(x, "exact SM").loss(alpha).item()

    return Result(exact(rows.test), exact(rows.validation), best_step, seconds, sigma)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="winequality-red.csv")
    parser.add_argument("--separator", default=",", help="of the file's cells; ';' in UCI's")
    parser.add_argument("--losses", nargs="*", default=LOSSES, choices=LOSSES)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--sigmas", type=float, nargs="*", default=[0.05, 0.1, 0.2, 0.3])
    parser.add_argument("--noise", type=float, default=0.05, help="in whitened units")
    parser.add_argument("--steps", type=int, default=3000, help="at most")
    parser.add_argument("--patience", type=int, default=200, help="steps without a new minimum")
    parser.add_argument("--evaluate-every", type=int, default=5, help="steps")
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.dequantise = True
    torch.set_num_threads(arguments.threads)
    table: dict[str, list[Result]] = {name: [] for name in arguments.losses}
    for seed in arguments.seeds:
        rows = load(arguments, seed)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(rows.train.shape, generator=generator, dtype=torch.float64)
        rows = Rows(*(part.double() for part in rows))
        rows = rows._replace(train=rows.train + arguments.noise * noise)
        for name, results in table.items():
            tried = []
            for sigma in arguments.sigmas if name == "DSM" else [None]:
                result = train(name, rows, sigma, seed, arguments)
                tried.append(result)
                level = "" if sigma is None else f" σ {sigma:g}"
                print(
                    f"{name}{level} seed {seed}: test {result.test:.2f}, validation "
                    f"{result.validation:.2f} at step {result.best_step}, "
                    f"{result.seconds:.0f} s of CPU",
                    flush=True,
                )
            results.append(min(tried, key=lambda result: result.validation))
    print("\n| loss | test, exact SM | seeds | steps to the best | seconds of CPU | σ |")
    print("|---|---|---|---|---|---|")
    for name, results in table.items():
        tests = [result.test for result in results]
        spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
        each = ", ".join(f"{test:.1f}" for test in tests)
        steps = "/".join(str(result.best_step) for result in results)
        seconds = "/".join(f"{result.seconds:.0f}" for result in results)
        levels = "/".join(f"{result.sigma:g}" for result in results if result.sigma is not None)
        print(
            f"| {name} | {statistics.mean(tests):.1f} ± {spread:.1f} | {each} | {steps} | {seconds} "
            f"| {levels} |"
        )


if __name__ == "__main__":
    main()
