"""What a run says at its end."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ebmkit
from ebmkit.hooks import Hooks


class Slope(nn.Module):
    """E(x) = c x₁, down which chains go as far as their steps take them."""

    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c))

    def forward(self, x: Tensor) -> Tensor:
        return self.c * x[:, 0]


@pytest.mark.parametrize(("c", "parted"), [(10.0, False), (100.0, True)])
def test_a_run_whose_samples_and_data_have_parted_says_so(c: float, parted: bool) -> None:
    spec = {
        "model": Slope(c),
        "sampler": {"use": "gradient-descent", "step_size": 0.1},
        "loss": {"use": "cd", "k_steps": 1},
        "dataset": torch.randn(64, 2, generator=torch.Generator().manual_seed(0)),
        "training": {
            "steps": 1,
            "batch_size": 64,
            "optimizer": {"use": "sgd", "lr": 1e-9},
            "device": "cpu",
        },
        "evaluation": {"n_samples": 64, "chain_steps": 4},
    }
    run = ebmkit.compose(spec).fit(hooks=Hooks({}))
    assert run.evaluation is not None
    # Four steps of 0.1 c down a slope of c: 0.4 c² nats, less what the starts' mean is off by.
    assert run.evaluation["energy_gap"] == pytest.approx(-0.4 * c**2, abs=0.5 * c)
    said = [line for line in run.notices if "nats apart" in line]
    assert len(said) == parted
    assert all("-4" in line and "training.energy_gap_limit" in line for line in said)
