"""The judge, judged: closed forms for KL, second routes for the two-sample numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

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
