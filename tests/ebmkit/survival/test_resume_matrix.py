"""Every built-in loss with every sampler, interrupted twice: bit for bit the run that was not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ebmkit.registry import registry

PLANE = {"use": "eight-gaussians"}
SAMPLERS: dict[str, dict[str, Any]] = {
    "adaptive": {"sampler": {"use": "mala", "step_size": 0.05}},
    "annealed-langevin": {"levels": [1.0, 0.3], "step_size": 0.01},
    "gibbs": {},
    "gibbs-with-gradients": {},
    "gradient-descent": {"step_size": 0.01},
    "hmc": {"step_size": 0.05, "n_leapfrog": 3},
    "langevin": {"step_size": 0.01},
    "mala": {"step_size": 0.05},
    "nuts": {"step_size": 0.1, "max_depth": 3},
    "parallel-tempering": {"sampler": {"use": "langevin", "step_size": 0.01}},
    "preconditioned-langevin": {"step_size": 0.01},
    "underdamped-langevin": {"step_size": 0.05},
}
DISCRETE = {"gibbs", "gibbs-with-gradients"}
TRAININGS = {
    "momentum": {"optimizer": {"use": "sgd", "lr": 1e-2, "momentum": 0.9}},
    "ema": {
        "optimizer": {
            "use": "adam",
            "lr": {"use": "cosine", "start_value": 1e-2, "end_value": 0.0},
        },
        "ema_decay": 0.9,
    },
}
SCORES: dict[str, dict[str, Any]] = {
    "score-matching": {},
    "sliced-score-matching": {"n_projections": 2},
    "denoising-score-matching": {"sigma": 0.3},
}


def names(kind: str) -> set[str]:
    found = registry().of_kind(kind)
    return {c.name for c in found if c.distribution == "ebmkit-core"}


def test_no_built_in_is_left_out() -> None:
    assert names("sampler") == set(SAMPLERS)
    aliases = {"cd", "pcd", "sm", "ssm", "dsm"}
    chains = {"contrastive-divergence", "persistent-contrastive-divergence"}
    assert names("loss") - aliases == chains | set(SCORES)


DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Keys of a training that repeats itself bit for bit."""
    if request.param == "cpu":
        return {"device": "cpu"}
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return {"device": "cuda", "deterministic": True}


def spec(loss: dict[str, Any], training: dict[str, Any], **tables: Any) -> dict[str, Any]:
    common = {"steps": 9, "batch_size": 16, "seed": 3, "checkpoint_every": 4}
    return {
        "model": {"use": "mlp", "hidden": [8]},
        "dataset": PLANE,
        "loss": loss,
        "training": common | training,
        "evaluation": {"n_samples": 4, "chain_steps": 1},
        **tables,
    }


@pytest.fixture(scope="module")
def bits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A finite data set of bits."""
    path = tmp_path_factory.mktemp("data") / "bits.npy"
    np.save(path, np.random.default_rng(0).integers(0, 2, (90, 6)).astype(np.float32))
    return {"use": "array", "path": str(path), "discrete": True}


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("loss", ["cd", "pcd"])
@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"annealed-langevin"}))
def test_losses_with_chains(
    sampler: str,
    loss: str,
    training: str,
    device: dict[str, Any],
    bits: dict[str, Any],
    straight_and_resumed: Callable[..., Any],
    differing: Callable[..., list[str]],
) -> None:
    extra = {"buffer_size": 40, "restart_rate": 0.1} if loss == "pcd" else {}
    moved = {"use": sampler, **SAMPLERS[sampler]}
    asked = spec(
        {"use": loss, "sampler": moved, "k_steps": 2, **extra}, TRAININGS[training] | device
    )
    if sampler in DISCRETE:
        asked |= {"model": {"use": "rbm", "n_hidden": 4}, "dataset": bits}
    whole, parts = straight_and_resumed(asked, 3, 6)
    assert not differing(whole, parts)
    assert whole["step"] == 9


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("loss", SCORES)
def test_losses_of_scores(
    loss: str,
    training: str,
    device: dict[str, Any],
    straight_and_resumed: Callable[..., Any],
    differing: Callable[..., list[str]],
) -> None:
    asked = spec({"use": loss, **SCORES[loss]}, TRAININGS[training] | device | {"data_noise": 0.1})
    assert not differing(*straight_and_resumed(asked, 2, 7))


@pytest.mark.parametrize("training", TRAININGS)
def test_a_model_of_noise_levels_and_its_sampler(
    training: str,
    device: dict[str, Any],
    straight_and_resumed: Callable[..., Any],
    differing: Callable[..., list[str]],
) -> None:
    asked = spec(
        {"use": "denoising-score-matching", "sigma": [1.0, 0.3]},
        TRAININGS[training] | device,
        model={"use": "noise-conditional-mlp", "hidden": [8], "lowest_level": 0.3},
        sampler={"use": "annealed-langevin", **SAMPLERS["annealed-langevin"]},
    )
    asked["evaluation"]["chain_steps"] = 2
    assert not differing(*straight_and_resumed(asked, 2, 7))
