"""The kit's laws of models: our own keep them, and each of these broken ones breaks one."""

from __future__ import annotations

from typing import Any

import pytest
from ebmkit_energies.ackley import Ackley
from ebmkit_energies.banana import Banana
from ebmkit_energies.conv import Conv
from ebmkit_energies.deep_kernel import DeepKernel
from ebmkit_energies.double_well import DoubleWell
from ebmkit_energies.funnel import Funnel
from ebmkit_energies.gaussian import Gaussian
from ebmkit_energies.gaussian_mixture import GaussianMixture
from ebmkit_energies.harmonic import Harmonic
from ebmkit_energies.ising import Ising
from ebmkit_energies.mlp import MLP
from ebmkit_energies.noise_conditional_mlp import NoiseConditionalMLP
from ebmkit_energies.potts import Potts
from ebmkit_energies.rastrigin import Rastrigin
from ebmkit_energies.rbm import RBM
from ebmkit_energies.rosenbrock import Rosenbrock

from ebmkit.testing import Subject, report
from ebmkit.testing.reference import Network
from ebmkit.testing.reports import laws_of

FILES = ("models", "derivatives", "normalisers")
LAWS = [law for law in laws_of("model") if law.check.__module__.endswith(FILES)]

COVARIANCE = [[2.0, 0.5], [0.5, 1.0]]
OWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "ackley": (Ackley, {}),
    "banana": (Banana, {"scale": 2.0, "curvature": 0.2}),
    "conv": (Conv, {"channels": [4, 3]}),
    "conv-all": (
        Conv,
        {"channels": [4], "conditional": True, "noise_conditional": True, "base_scale": 2.0},
    ),
    "deep-kernel": (DeepKernel, {"n_inducing": 5, "hidden": [6], "n_features": 4}),
    "double-well": (DoubleWell, {}),
    "funnel": (Funnel, {}),
    "gaussian": (Gaussian, {"mean": [0.5, 1.0], "covariance": COVARIANCE}),
    "gaussian-trained": (Gaussian, {"mean": [0.5, 1.0, 0.0], "trainable": True}),
    "gaussian-mixture": (GaussianMixture, {"means": [[1.0, 2.0], [-2.0, 0.0]], "std": 0.5}),
    "harmonic": (Harmonic, {}),
    "ising": (Ising, {"field": 0.3}),
    "ising-trained": (Ising, {"periodic": True, "trainable": True}),
    "mlp": (MLP, {"hidden": [8, 8]}),
    "mlp-all": (MLP, {"hidden": [8], "conditional": True, "output_bound": 5.0, "base_scale": 2.0}),
    "noise-conditional-mlp": (NoiseConditionalMLP, {"hidden": [8], "base_scale": 1.0}),
    "noise-conditional-mlp-labels": (NoiseConditionalMLP, {"hidden": [8], "conditional": True}),
    "potts": (Potts, {"field": [0.1, 0.5, -0.3]}),
    "potts-trained": (Potts, {"trainable": True}),
    "rastrigin": (Rastrigin, {}),
    "rbm": (RBM, {"n_hidden": 4}),
    "rosenbrock": (Rosenbrock, {}),
    "reference": (Network, {}),
}


@pytest.mark.parametrize("name", OWN)
def test_our_own_keep_every_law(name: str) -> None:
    part, keywords = OWN[name]
    for seed in range(5 if name in ("mlp-all", "rbm", "ising") else 1):
        found = report(Subject("model", part, keywords), LAWS, seed)
        assert found.good, "\n".join(found.lines())
