"""The losses through a whole pipeline: a short run learns a known density, judged by exact KL."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

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
