"""The judge, judged: closed forms for KL, second routes for the two-sample numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

import ebmkit
from ebmkit.errors import EvaluationError
from ebmkit.evaluation.quadrature import kl_divergence
from ebmkit.evaluation.two_sample import auroc, mmd2


def standard(x: Tensor) -> Tensor:
    return -x.square().sum(1) / 2 - math.log(2 * math.pi)


DATA = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("std", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_kl_of_gaussians_is_the_closed_form(std: float, shift: float) -> None:
    # KL(N(0, I) ‖ N(m, s² I)) in two dimensions; the energy's constant must not matter.
    result = kl_divergence(
        standard, lambda x: (x - shift).square().sum(1) / (2 * std**2) + 37.0, DATA
    )
    expected = 2 * math.log(std) + (2 + 2 * shift**2) / (2 * std**2) - 1
    assert result.kl_nats == pytest.approx(expected, abs=2e-4)
    assert result.data_mass == pytest.approx(1, abs=1e-6)
    assert result.log_z == pytest.approx(math.log(2 * math.pi * std**2) - 37, abs=2e-4)
    assert result.kl_error < 1e-4


def test_a_second_mode_far_from_the_data_counts() -> None:
    # Half of the model's mass sits nine standard deviations away: KL = log 2.
    def energy(x: Tensor) -> Tensor:
        far = torch.tensor([9.0, 0.0])
        modes = torch.stack([x.square().sum(1), (x - far).square().sum(1)])
        return -torch.logsumexp(-modes / 2, 0)

    assert kl_divergence(standard, energy, DATA).kl_nats == pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize("energy", [lambda x: 0 * x[:, 0], lambda x: torch.tanh(x[:, 0])])
def test_refuses_a_model_whose_mass_leaves_the_grid(energy: object) -> None:
    with pytest.raises(EvaluationError, match="mass leaves the grid"):
        kl_divergence(standard, energy, DATA)  # type: ignore[arg-type]


def test_refuses_energies_that_are_nan() -> None:
    with pytest.raises(EvaluationError, match="NaN"):
        kl_divergence(standard, lambda x: x[:, 0].log() + x.square().sum(1), DATA)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=30),
    st.lists(st.integers(-5, 5), min_size=1, max_size=30),
)
def test_auroc_agrees_with_scikit_learn_ties_included(high: list[int], low: list[int]) -> None:
    expected = roc_auc_score([1] * len(high) + [0] * len(low), [*high, *low])
    assert auroc(torch.tensor(high), torch.tensor(low)) == pytest.approx(expected)


def test_mmd_agrees_with_the_sums_written_out() -> None:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(12, 3, generator=g).double(), 1 + torch.randn(9, 3, generator=g).double()
    value, kernel = mmd2(x, y)
    distances = [float((a - b).norm()) for i, a in enumerate(x) for b in x[i + 1 :]]
    width = float(torch.tensor(distances).double().median())
    assert kernel.startswith(f"gaussian, h = {width:.4g}")

    def k(a: Tensor, b: Tensor) -> float:
        return math.exp(-float((a - b).square().sum()) / (2 * width**2))

    xx = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (12 * 11)
    yy = sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (9 * 8)
    xy = sum(k(a, b) for a in x for b in y) / (12 * 9)
    assert value == pytest.approx(xx + yy - 2 * xy)


def test_mmd_is_zero_in_the_mean_for_equal_distributions() -> None:
    # 200 repetitions; five standard errors of their mean, false alarm below 6e-7.
    g = torch.Generator().manual_seed(2)
    values = torch.tensor(
        [
            mmd2(torch.randn(40, 2, generator=g), torch.randn(40, 2, generator=g))[0]
            for _ in range(200)
        ]
    )
    assert abs(values.mean()) < 5 * values.std() / math.sqrt(200)
    far = mmd2(torch.randn(40, 2, generator=g), 3 + torch.randn(40, 2, generator=g))[0]
    assert far > 0.5


class TestLossOnHeldOutRows:
    def pipeline(self, tmp_path: Path, **overrides: Any) -> ebmkit.Pipeline:
        rows = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
        np.save(tmp_path / "rows.npy", rows.numpy())
        scale = torch.tensor([1.0, 2.0, 4.0])
        tables: dict[str, Any] = {
            # E = xᵀ A x / 2 with A diagonal: the loss of a row is |A x|²/2 − tr A.
            "model": lambda x: (scale * x.square()).sum(1) / 2,
            "loss": {"use": "dsm"},
            "dataset": {"use": "array", "path": str(tmp_path / "rows.npy"), "held_out": 0.25},
            "evaluation": {"loss": {"use": "score-matching"}, "n_samples": 100},
        }
        return ebmkit.compose(tables, **overrides)

    def test_is_the_closed_form(self, tmp_path: Path) -> None:
        pipeline = self.pipeline(tmp_path)
        dataset: Any = pipeline.dataset
        rows = dataset.held_out_batch.x
        of_rows = (torch.tensor([1.0, 2.0, 4.0]) * rows).square().sum(1) / 2 - 7
        numbers = pipeline.evaluate()
        assert numbers["test_loss"] == pytest.approx(float(of_rows.mean()), rel=1e-5)
        assert numbers["test_loss_error"] == pytest.approx(float(of_rows.std()) / 10, rel=1e-5)

    def test_has_the_noise_of_training(self, tmp_path: Path) -> None:
        quiet, noisy = (
            self.pipeline(tmp_path, **{"training.data_noise": s}).evaluate() for s in (0.0, 2.0)
        )
        # Noise of 2 adds 4·(1 + 4 + 16)/2 = 42 in the mean, with a deviation of about 6.
        assert abs(noisy["test_loss"] - quiet["test_loss"] - 42) < 5 * 6.5

    def test_says_why_there_is_no_standard_error(self, tmp_path: Path) -> None:
        class MeanEnergy:
            """A loss of one's own that reports no metrics."""

            def init(self, model: Any, batch: Any, *, generator: Any) -> tuple[()]:
                return ()

            def draw(self, model: Any, batch: Any, state: Any, step: int, *, generator: Any) -> Any:
                return None, state

            def __call__(self, model: Any, batch: Any, draws: Any) -> Any:
                return model(batch.x).mean(), {}

        numbers = self.pipeline(tmp_path, **{"evaluation.loss": MeanEnergy()}).evaluate()
        assert numbers["test_loss_error"] is None
        assert "loss_standard_error" in numbers["refused"]["test_loss_error"]

    def test_is_left_out_unless_asked_for(self, tmp_path: Path) -> None:
        assert "test_loss" not in self.pipeline(tmp_path, **{"evaluation.loss": None}).evaluate()


@pytest.mark.parametrize(
    ("one", "words"),
    [(torch.zeros(1, 2), "two points of each"), (torch.zeros(50, 2), "the median distance")],
)
def test_mmd_refuses_points_that_have_no_kernel(one: Tensor, words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        mmd2(one, torch.randn(50, 2))


def test_a_chain_that_runs_away_while_judging_costs_that_number_alone(tmp_path: Path) -> None:
    """Training went well, so it is kept, and the run is finished."""
    tables: dict[str, Any] = {
        "model": {"use": "mlp", "hidden": [4], "base_scale": 1.0},
        "loss": {"use": "dsm"},
        "dataset": {"use": "array", "path": str(tmp_path / "rows.npy"), "held_out": 0.4},
        "sampler": {"use": "langevin", "step_size": 1e20},
        "training": {"steps": 3, "batch_size": 2},
        "evaluation": {"chain_steps": 50, "n_samples": 10, "loss": "@loss"},
    }
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(5, 3)))
    pipeline = ebmkit.compose(tables)
    run = pipeline.fit(out=tmp_path / "run")
    assert run.step == 3
    numbers = pipeline.evaluate()
    assert "not finite" in numbers["refused"]["auroc"]
    assert numbers["test_loss"] > 0
    assert ebmkit.load(tmp_path / "run").step == 3
