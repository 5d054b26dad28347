"""What `which_loss.py` trains: every loss on every data set, and the tips for stable training."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

Table = dict[str, Any]

SEEDS = (0, 1, 2, 3, 4)
TRIAL_SEED = 100
"""Of the runs that each loss's learning rate is chosen by; in no figure."""
LEARNING_RATES = (5e-4, 2e-3, 8e-3)

FALLING: Table = {
    "use": "exponential-decay",
    "start_value": 0.5,
    "decay_rate": 0.998,
    "min_value": 0.02,
}
"""Noise of denoising in two dimensions, where what is judged is the density without it."""

LOSSES: dict[str, Table] = {
    "CD": {"use": "contrastive-divergence", "k_steps": 10},
    "PCD": {"use": "persistent-contrastive-divergence", "k_steps": 10, "buffer_size": 1024},
    "SM": {"use": "score-matching"},
    "SSM": {"use": "sliced-score-matching", "n_projections": 5},
    "DSM": {"use": "denoising-score-matching", "weighting": "sigma-squared"},
}
BASELINE = "Gaussian"
"""Row beside the losses: the Gaussian of the training rows' mean and covariance."""

DATA: dict[str, Table] = {
    "two moons": {
        "dataset": {"use": "two-moons", "noise": 0.05},
        "sampler": {"use": "mala", "step_size": 0.002},
    },
    "eight Gaussians": {
        "dataset": {"use": "eight-gaussians"},
        "sampler": {"use": "mala", "step_size": 0.05},
    },
    "wine": {
        "dataset": {"use": "array", "standardise": True, "dequantise": True, "held_out": 0.2},
        "training": {"data_noise": 0.1},
    },
    "digits": {
        "dataset": {"use": "digits", "held_out": 0.2},
        "model": {"hidden": [128, 128], "input_scale": 1.0},
        "training": {"steps": 2500, "batch_size": 128, "data_noise": 0.3},
    },
}
"""What is said of a data set beside COMMON. Rows of the last two are learned, and judged, with noise
on them: cells are rounded and border pixels constant, so that they have no density of their own."""

COMMON: dict[str, Table] = {
    "model": {"use": "mlp", "hidden": [64, 64, 64], "base_scale": 2.0, "input_scale": 2.0},
    # Moves the negatives of CD and PCD, and draws what every model is judged by.
    "sampler": {"use": "mala", "step_size": 0.005, "target_acceptance": 0.574},
    "training": {
        "steps": 2000,
        "batch_size": 256,
        "ema_decay": 0.99,
        # One code path for all; graphs pay in longer runs, and are measured apart.
        "compile": "off",
        "device": "cpu",
    },
    "chains": {"compile": "off"},
    "evaluation": {"n_samples": 1000, "chain_steps": 1000},
}


def loss_case(data: str, loss: str, lr: float, seed: int) -> Table:
    """The pipeline of a loss on a data set."""
    own = DATA[data]
    spec = {name: {**table, **own.get(name, {})} for name, table in COMMON.items()}
    spec |= {name: dict(own[name]) for name in ("dataset", "sampler") if name in own}
    spec["loss"] = dict(LOSSES[loss])
    if loss == "DSM":
        spec["loss"]["sigma"] = spec["training"].pop("data_noise", FALLING)
    if "held_out" in spec["dataset"]:
        spec["dataset"]["seed"] = seed
    falling = {"use": "cosine", "start_value": lr, "end_value": 0.0}
    spec["training"].update(seed=seed, optimizer={"use": "adam", "lr": falling})
    return copy.deepcopy(spec)


PLAIN: Table = {
    "model": {"use": "mlp", "hidden": [128, 128], "base_scale": 2.0},
    "sampler": {"use": "langevin", "step_size": 2e-3},
    "loss": {"use": "persistent-contrastive-divergence", "k_steps": 10, "buffer_size": 1024},
    "dataset": {"use": "two-moons", "noise": 0.1},
    "training": {
        "steps": 1000,
        "batch_size": 256,
        "optimizer": {"use": "adam"},
        "compile": "off",
        "device": "cpu",
    },
    "chains": {"compile": "off"},
    "evaluation": {"n_samples": 500, "chain_steps": 200},
}
"""PCD as loops have it, with unadjusted chains and a constant learning rate: none of the tips."""

TIP_RATES = (1e-3, 1e-1)
"""One that runs well, and one that is too large."""

_COSINE: Table = {"use": "cosine", "start_value": 1.0, "end_value": 0.0}
_WARM: Table = {"use": "warmup", "n_steps": 300, "scheduler": {"use": "constant", "value": 1.0}}
_STEP: Table = {"use": "cosine", "start_value": 4e-3, "end_value": 5e-4, "n_steps": 1000}
_ALONG: Table = {"use": "linear", "start_value": 4e-3, "end_value": 5e-4, "clock": "chain"}
_NOISE: Table = {"use": "linear", "start_value": 1.5, "end_value": 0.5, "clock": "chain"}

TIPS: dict[str, dict[str, Table]] = {
    "none": {"the plain recipe": {}},
    "1 L2 on energies": {
        f"weight {weight:g}": {"loss.energy_regularisation": weight} for weight in (0.01, 0.1, 1.0)
    },
    "2 gradient clipping": {
        f"norm {norm:g}": {"training.gradient_clip": norm} for norm in (0.1, 1.0, 10.0)
    },
    "3 learning rate": {
        "a tenth": {"lr": 0.1},
        "warmed up over 300 steps": {"lr": _WARM},
        "falling to 0 by a cosine": {"lr": _COSINE},
    },
    "4 sampling steps": {f"k = {k}": {"loss.k_steps": k} for k in (1, 3, 30)},
    "5 batch size": {
        f"{size}": {"training.batch_size": size, "loss.buffer_size": max(1024, size)}
        for size in (32, 64, 1024)
    },
    "6 schedules": {
        "step size falling with training": {"sampler.step_size": _STEP},
        "step size falling along each chain": {"sampler.step_size": _ALONG},
        "noise falling along each chain": {"sampler.noise_scale": _NOISE},
    },
    "7 watching energies": {
        "stop at a gap of 20 nats": {"training.energy_gap_limit": 20.0},
        "go back at a gap of 20 nats": {
            "training.energy_gap_limit": 20.0,
            "training.on_divergence": "rollback",
            "training.checkpoint_every": 100,
        },
    },
    "no tip of the seven": {
        "Metropolis correction (mala)": {"sampler.use": "mala"},
        "averaged weights (0.99)": {"training.ema_decay": 0.99},
    },
}
"""Settings of each tip as changes of PLAIN; `lr` multiplies the learning rate."""


def tip_case(tip: str, setting: str, lr: float, seed: int) -> Table:
    """The plain recipe under one setting of one tip."""
    spec = copy.deepcopy(PLAIN)
    spec["training"]["seed"] = seed
    changes = dict(TIPS[tip][setting])
    factor = changes.pop("lr", 1.0)
    spec["training"]["optimizer"]["lr"] = _scaled(factor, lr)
    for path, value in changes.items():
        part, key = path.split(".")
        spec[part][key] = value
    return copy.deepcopy(spec)


def _scaled(factor: float | Table, lr: float) -> Any:
    """A learning rate, or its schedule, from one that is stated for a rate of 1."""
    if not isinstance(factor, Mapping):
        return factor * lr
    values = {"value", "start_value", "end_value"}
    return {
        key: value * lr if key in values else _scaled(value, lr) if key == "scheduler" else value
        for key, value in factor.items()
    }


def digest(spec: Table) -> str:
    """Tells whether a result is of these settings."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
