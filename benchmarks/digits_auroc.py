"""AUROC of fresh classifiers between held-out data and samples of a run; 0.5 is indistinguishable."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

import ebmkit

Numbers = np.ndarray[Any, np.dtype[Any]]


def classifiers(seed: int) -> dict[str, Any]:
    """Unfitted classifiers by name."""
    return {
        "forest": RandomForestClassifier(n_estimators=300, random_state=seed),
        "perceptron": make_pipeline(
            StandardScaler(),
            PCA(n_components=0.99, random_state=seed),
            MLPClassifier((64,), alpha=1.0, max_iter=2000, random_state=seed),
        ),
    }


def auroc(classifier: Any, data: Tensor, samples: Tensor, *, folds: int, seed: int) -> float:
    """AUROC of scores that each point is given by a classifier fitted without its fold."""
    x: Numbers = torch.cat([data, samples]).flatten(1).double().cpu().numpy()
    y = np.repeat([1, 0], [len(data), len(samples)])
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    scores = cross_val_predict(classifier, x, y, cv=split, method="predict_proba")
    return float(roc_auc_score(y, scores[:, 1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--n", type=int, default=1000, help="data and samples, at most, of each")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="splits into folds")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    pipeline = ebmkit.load(arguments.run)
    generator = torch.Generator(pipeline.device).manual_seed(arguments.seed)
    data = pipeline.data(arguments.n, generator=generator).x
    samples = pipeline.sample_batch(len(data)).x
    levels = getattr(pipeline.sampler, "levels", None)
    noise = levels[-1] if levels else pipeline.training.data_noise
    # The mean of the data that a noisy sample may stand for.
    level = {"noise_level": samples.new_full((len(samples),), noise)} if levels else {}
    _, slope = ebmkit.energy_and_gradient(lambda x: pipeline.model(x, **level), samples)
    denoised = samples - noise**2 * slope
    grid = data.unique()
    snapped = grid[torch.bucketize(denoised, (grid[1:] + grid[:-1]) / 2)]
    if not isinstance(noise, int | float):
        parser.error(f"{arguments.run}: training.data_noise is a schedule, expected a number")
    z = torch.randn(data.shape, generator=generator, device=data.device)
    # Half the data against the other half: what chance and the folds alone make of it.
    half = len(data) // 2
    pairs = {
        f"data with noise {noise:g} against samples": (data + noise * z, samples),
        "data against samples less their expected noise, on the data's grid": (data, snapped),
        "data against samples": (data, samples),
        "half the data against the other": (data[:half], data[half : 2 * half]),
    }
    for pair, (one, other) in pairs.items():
        for name in classifiers(0):
            values = [
                auroc(classifiers(repeat)[name], one, other, folds=arguments.folds, seed=repeat)
                for repeat in range(arguments.repeats)
            ]
            print(
                f"{pair}, {len(one)} : {len(other)}, {name}: AUROC {np.mean(values):.3f} "
                f"± {np.std(values):.3f} over {len(values)} splits",
                flush=True,
            )


if __name__ == "__main__":
    main()
