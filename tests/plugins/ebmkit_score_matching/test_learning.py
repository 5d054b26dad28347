"""The losses through a whole pipeline: a short run learns a known density, judged by exact KL."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ebmkit_stopping.early_stopping import EarlyStopping

import ebmkit
from ebmkit.evaluation.quadrature import kl_divergence
from ebmkit.hooks import Hooks

SHORT = {
    "training.steps": 200,
    "training.batch_size": 256,
    "training.ema_decay": 0.9,
    "training.device": "cpu",
    "evaluation.chain_steps": 0,
    "evaluation.n_samples": 20,
}


def kl(pipeline: Any, std: float) -> float:
    """KL in nats from the four Gaussians of such a standard deviation to the model."""
    data = ebmkit.create("dataset", "gaussian-mixture", std=std)
    x = data.draw(2000, generator=torch.Generator().manual_seed(0)).x
    return kl_divergence(data.log_density, pipeline.model, x).kl_nats


@pytest.mark.parametrize("recipe", ["gaussian-mixture-sm", "gaussian-mixture-ssm"])
def test_short_runs_of_the_recipes_learn_the_data(recipe: str) -> None:
    pipeline = ebmkit.compose(recipe, **SHORT)
    assert kl(pipeline, 0.5) > 0.1
    pipeline.fit(hooks=Hooks({}))
    # 0.008 to 0.027 over eight runs.
    assert kl(pipeline, 0.5) < 0.05


def test_denoising_learns_the_convolved_data() -> None:
    sigma = 0.4
    pipeline = ebmkit.compose("gaussian-mixture-sm", loss={"use": "dsm", "sigma": sigma}, **SHORT)
    pipeline.fit(hooks=Hooks({}))
    # 0.004 to 0.012 over four runs; from the data themselves it stays at 0.07 to 0.09.
    assert kl(pipeline, math.hypot(0.5, sigma)) < 0.03
    assert kl(pipeline, 0.5) > 0.05


def wine(folder: Path) -> Path:
    """The red wines where they lie beside the project, else rows of the same layout."""
    real = Path(__file__).parents[4] / "shared" / "data" / "winequality-red.csv"
    if real.is_file():
        return real
    rows = torch.randn(600, 12, generator=torch.Generator().manual_seed(0)).cumsum(1)
    path = folder / "winequality-red.csv"
    lines = [",".join(f"column {i}" for i in range(12))]
    lines += [",".join(f"{cell:.1f}" for cell in row) for row in rows.tolist()]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_wine_learns_and_keeps_its_best_step(tmp_path: Path) -> None:
    pipeline = ebmkit.compose(
        "wine",
        **{
            "dataset.path": str(wine(tmp_path)),
            "training.steps": 60,
            "training.device": "cpu",
            "evaluation.n_samples": 100,
            "evaluation.chain_steps": 2,
        },
    )
    before = pipeline.evaluate()["test_loss"]
    pipeline.fit(hooks=Hooks(pipeline.hooks))
    after = pipeline.evaluate()
    # The base alone has 11/32 − 11/4 = −2.4 on whitened rows; 60 steps lead to −20 on the wines.
    assert after["test_loss"] < before - 1
    (stopping,) = pipeline.hooks.values()
    assert isinstance(stopping, EarlyStopping)
    assert after["kept_step"] == stopping.best_step > 0
    assert stopping.best < before
