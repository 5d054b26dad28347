"""Train a deep kernel exponential family on the red wine data in two stages, as in the literature.

All four losses are quadratic in the inducing points' weights α. In each step α is solved for on one
half of the batch under a ridge λ, the loss is taken on the other half, and its gradient trains the
rest, λ included, through the solution. Training stops when the loss itself, on the validation rows
with α solved for on the training rows, has found no new minimum for ``--patience`` steps; then λ is
chosen on the validation rows. Judged is the exact score-matching loss of the test rows; the noise
level of denoising is chosen by that of the validation rows. Rows are those of the recipe `wine`, with
its noise added once to all.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from wine import LOSSES, Result, best_of, composed, parser_of, print_table

import ebmkit


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


class Rows(NamedTuple):
    """Whitened rows (rows, 11) with the noise of the recipe added once."""

    train: Tensor
    validation: Tensor
    test: Tensor


def split(arguments: argparse.Namespace, seed: int) -> Rows:
    """The rows of the recipe's split."""
    pipeline = composed(arguments, seed, LOSSES["SSM-VR"])
    data, noise = pipeline.dataset, pipeline.training.data_noise
    generator = torch.Generator().manual_seed(seed)
    parts = (data[:], data.validation_batch.x, data.held_out_batch.x)
    return Rows(
        *(
            x.double() + noise * torch.randn(x.shape, generator=generator, dtype=torch.float64)
            for x in parts
        )
    )


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
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=3000, help="at most")
    parser.add_argument("--patience", type=int, default=200, help="steps without a new minimum")
    parser.add_argument("--evaluate-every", type=int, default=10, help="steps")
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table: dict[str, list[Result]] = {name: [] for name in arguments.losses}
    for seed in arguments.seeds:
        rows = split(arguments, seed)
        for name, results in table.items():
            sigmas = arguments.sigmas if name == "DSM" else [None]
            tried = [train(name, rows, sigma, seed, arguments) for sigma in sigmas]
            results.append(best_of(name, seed, tried))
    print_table(table)


if __name__ == "__main__":
    main()
