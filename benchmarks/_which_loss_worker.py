"""One run of `which_loss.py` in a process of its own: settings come in as JSON, figures go out.

The baseline is the Gaussian with the mean and the covariance of the training rows.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from digits_auroc import auroc, classifiers
from torch import Tensor, nn

import ebmkit
from ebmkit.evaluation.quadrature import kl_divergence
from ebmkit.hooks import Hooks

NOISE_DRAWS = 5
"""Draws of noise on each held-out row: the test loss is to be of the model, not of one draw."""
FIT_ROWS = 100_000
"""Draws of an endless data set that the baseline is fitted to."""

Figures = dict[str, Any]


class Gaussian(nn.Module):
    """E(x) = ½ (x − m)ᵀ C⁻¹ (x − m) for x (batch, *event), m and C those of rows with noise added."""

    def __init__(self, rows: Tensor, noise: float) -> None:
        super().__init__()
        flat = rows.flatten(1).double()
        eye = torch.eye(flat.shape[1], dtype=flat.dtype)
        self.event_shape, self.mean = rows.shape[1:], flat.mean(0)
        self.root = torch.linalg.cholesky(flat.T.cov() + noise**2 * eye)
        self.precision = torch.cholesky_inverse(self.root).float()

    def forward(self, x: Tensor) -> Tensor:
        centred = x.flatten(1) - self.mean.float()
        return 0.5 * ((centred @ self.precision) * centred).sum(1)

    def draw(self, n: int, *, generator: torch.Generator) -> Tensor:
        z = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        return (self.mean + z @ self.root.T).float().unflatten(1, self.event_shape)


def train(spec: dict[str, Any], noise: float | None) -> Figures:
    """What a loss's model is worth after its training; `reason` where it did not come to the end."""
    pipeline = ebmkit.compose(spec)
    figures: Figures = {}
    before, started = _peak_mib(), time.process_time()
    try:
        for _ in range(pipeline.training.steps or 0):
            pipeline.train_step()
        figures["seconds"] = time.process_time() - started
        figures["memory_mib"] = _peak_mib() - before
        if noise is None:
            return figures | _of_evaluation(pipeline.evaluate())
        return figures | _judged(pipeline, pipeline.model, pipeline.sample, noise)
    except ebmkit.DivergenceError as error:
        return figures | {"reason": f"step {pipeline.step}: {error}"}


def baseline(spec: dict[str, Any], noise: float | None) -> Figures:
    """The same figures of the baseline."""
    pipeline, generator = ebmkit.compose(spec), torch.Generator().manual_seed(1)
    if noise is None:
        rows = pipeline.dataset.draw(FIT_ROWS, generator=generator).x
        density = pipeline.dataset.log_density  # type: ignore[attr-defined]
        return {"kl_nats": kl_divergence(density, Gaussian(rows, 0.0), rows[:1000]).kl_nats}
    gaussian = _fitted(pipeline, noise)
    return _judged(pipeline, gaussian, lambda n: gaussian.draw(n, generator=generator), noise)


def tip(spec: dict[str, Any]) -> Figures:
    """What a run of the plain recipe comes to."""
    pipeline = ebmkit.compose(spec)
    started = time.process_time()
    try:
        run = pipeline.fit(hooks=Hooks({}))
        figures = _of_evaluation(run.evaluation or {})
    except ebmkit.DivergenceError as error:
        figures = {"reason": f"step {pipeline.step}: {error}"}
    return figures | {"seconds": time.process_time() - started, "step": pipeline.step}


def pace(specs: dict[str, Any]) -> Figures:
    """Milliseconds of CPU a training step of each loss, by blocks taken in turn."""
    pipelines = {name: ebmkit.compose(spec) for name, spec in specs.items()}
    times: dict[str, list[float]] = {name: [] for name in specs}
    for turn in range(6):
        for name, pipeline in pipelines.items():
            started = time.process_time()
            for _ in range(20):
                pipeline.train_step()
            if turn:
                times[name].append((time.process_time() - started) / 20 * 1e3)
    return {name: statistics.median(each) for name, each in times.items()}


def _of_evaluation(numbers: dict[str, Any]) -> Figures:
    kl = numbers.get("kl_nats")
    if kl is None or not math.isfinite(kl):
        return {"reason": f"no KL: {numbers.get('refused', kl)}"}
    return {"kl_nats": kl, "energy_gap": numbers.get("energy_gap"), "mmd2": numbers.get("mmd2")}


def _judged(
    pipeline: Any, model: nn.Module, sample: Callable[[int], Tensor], noise: float
) -> Figures:
    """Samples told from held-out rows by fresh classifiers (AUROC, 0.5 is indistinguishable);
    held-out rows told from the baseline's draws by the model's energy (1 is perfect, 0.5 knows no
    more than the baseline); and the exact score-matching loss on held-out rows."""
    generator = torch.Generator().manual_seed(2)
    held_out = pipeline.dataset.held_out_batch.x

    def noisy() -> Tensor:
        return held_out + noise * torch.randn(held_out.shape, generator=generator)

    data = noisy()
    foil = _fitted(pipeline, noise).draw(len(data), generator=generator)
    samples = sample(len(data))
    told = {
        name: auroc(classifier, data, samples, folds=5, seed=0)
        for name, classifier in classifiers(0).items()
    }
    with torch.no_grad():
        energy_auroc = ebmkit.evaluation.auroc(model(foil), model(data))
    exact = ebmkit.objective(ebmkit.create("loss", "score-matching"), model)
    loss = exact(torch.cat([noisy() for _ in range(NOISE_DRAWS)])).loss.item()
    return {"told": told, "energy_auroc": energy_auroc, "test_loss": loss}


def _fitted(pipeline: Any, noise: float) -> Gaussian:
    generator = torch.Generator().manual_seed(3)
    return Gaussian(pipeline.dataset.draw(FIT_ROWS, generator=generator).x, noise)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    torch.set_num_threads(1)
    case = json.load(sys.stdin)
    asked = [case["spec"]]
    if case["does"] in ("train", "baseline"):
        asked.append(case["noise"])
    does = {"train": train, "baseline": baseline, "tip": tip, "pace": pace}[case["does"]]
    print(json.dumps(does(*asked)))


if __name__ == "__main__":
    main()
