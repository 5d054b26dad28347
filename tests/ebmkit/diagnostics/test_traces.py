"""R̂, effective sample sizes and errors: ArviZ's numbers, known limits, and laws.

The reference numbers are those of ArviZ 0.23.4 on the very traces; benchmarks/arviz_agreement.py
compares the two on many more.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ebmkit.diagnostics.traces
from ebmkit.diagnostics import (
    autocorrelation,
    e_bfmi,
    effective_sample_size,
    mean_error,
    r_hat,
)

Trace = Callable[..., Tensor]
NAN, INF = math.nan, math.inf

# R̂, ESS of the bulk, of the tail and of the mean, standard error of the mean
REFERENCE = {
    "plain": (1.03772256914, 89.1829549591, 181.35560303, 87.9071364989, 0.0384474286739),
    "slow": (1.04535861621, 36.4404040366, 34.8508231915, 36.0154327592, 0.138887235663),
    "alternating": (0.994601344686, 571.250698011, 217.437694751, 571.250698011, 0.0149285311017),
    "odd draws": (1.03882690921, 69.2553794921, 226.786478391, 69.3533925738, 0.043385466789),
    "one chain": (NAN, 113.421930374, 183.81776437, 116.096101303, 0.0283173009478),
    "shifted": (1.25251382835, 14.1635060528, 53.2643421336, 14.1002070661, 0.113810916828),
    "heavy tails": (1.01010946603, 317.531323412, 402.589799222, 391.231261522, 1.96515232341),
    "two values": (1.03528641754, 135.968267256, 135.968267256, 135.968267256, 0.0410226973844),
    "even odds": (0.977939241021, 53.0767577115, 53.0767577115, 53.0767577115, 0.0690636074634),
    "ties": (1.03467414386, 93.9155101891, 199.234213575, 93.3052007206, 0.0152594714802),
    "four draws": (1.18017957259, 19.2659197225, 19.2659197225, 19.2659197225, 0.068815058679),
    "five draws": (1.13796054655, 12.9501749526, 12.9501749526, 12.9501749526, 0.0769104220877),
    "eight draws": (1.40273432826, 48.1647993062, 48.1647993062, 48.1647993062, 0.051397910718),
    "an end in the middle of a pair": (
        1.1493834428427248,
        15.118740935998314,
        26.020599913279625,
        16.38494324809571,
        0.07227434012662656,
    ),
    # Between the two equal values about the 5 % quantile ArviZ's quantile is rounded below them.
    "ties about a quantile": (
        1.0300716179582683,
        122.4657656442177,
        174.0780796690908,
        124.58372539452294,
        0.0273208488137198,
    ),
    "constant": (NAN, 90.0, 90.0, 90.0, 0.0),
    "still chains": (INF, 3.75, 3.75, 3.75, 0.423999152003),
}


def all_of(x: Tensor) -> tuple[float, ...]:
    sizes = (effective_sample_size(x, kind) for kind in ("bulk", "tail", "mean"))
    return tuple(map(float, (r_hat(x), *sizes, mean_error(x))))


class TestAgainstArviZ:
    @pytest.mark.parametrize("name", REFERENCE)
    def test_numbers(self, name: str, trace: Trace) -> None:
        assert all_of(trace(name)) == pytest.approx(REFERENCE[name], rel=1e-6, abs=0, nan_ok=True)

    def test_autocorrelation(self, trace: Trace) -> None:
        expected = [
            [1.0, 1.0, 1.0, 1.0],
            [0.656847967312, 0.541646638528, 0.531706684274, 0.645200192729],
            [0.401512336923, 0.178653473235, 0.137568051026, 0.495448365768],
            [-0.152074124243, -0.091737760863, 0.264294441290, -0.019266842667],
            [0.011300506888, -0.001073352594, 0.008986525443, 0.000183058087],
        ]
        found = autocorrelation(trace("plain"))[[0, 1, 2, 10, 99]]
        expected_ = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(found, expected_, rtol=1e-6, atol=1e-9)

    def test_e_bfmi(self, trace: Trace) -> None:
        expected = [0.6492329466285814, 0.9144871193230232, 0.916380518050352, 0.7081106038530981]
        assert e_bfmi(trace("plain")).tolist() == pytest.approx(expected, rel=1e-9)


class TestKnownAnswers:
    """Five standard errors: a false alarm has probability below 6e-7, and the traces never change."""

    @pytest.mark.parametrize("phi", [-0.5, 0.0, 0.3, 0.8])
    def test_autoregressive_chains(self, phi: float, ar1: Trace) -> None:
        draws, chains = 4000, 4
        x = ar1(draws, chains, phi, seed=11)
        expected = draws * chains * (1 - phi) / (1 + phi)
        found = float(effective_sample_size(x, "mean"))
        # The relative error of τ̂ is about √(2 (2 T + 1) / S) for a sum that ends at lag T.
        ends = 2 + 8 / -math.log(abs(phi) + 1e-3)
        error = math.sqrt(2 * (2 * ends + 1) / (draws * chains))
        assert found == pytest.approx(expected, rel=5 * error)
        assert float(r_hat(x)) < 1.01
        lag_one = autocorrelation(x, lags=2)[1]
        assert (lag_one - phi).abs().max() < 5 * math.sqrt((1 - phi**2) / draws) + 5 / draws

    def test_the_error_of_the_mean(self, ar1: Trace) -> None:
        # var of a mean of S values is σ² / S with σ² = ∑ of all autocovariances = (1/12) / (1 − φ)².
        phi, draws, chains = 0.7, 4000, 4
        expected = math.sqrt(1 / 12) / (1 - phi) / math.sqrt(draws * chains)
        assert float(mean_error(ar1(draws, chains, phi))) == pytest.approx(expected, rel=0.15)

    def test_chains_at_different_places(self, ar1: Trace) -> None:
        x = ar1(500, 4, 0.2)
        moved = x + torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
        assert float(r_hat(x)) < 1.01
        assert float(r_hat(moved)) > 1.1

    def test_chains_of_different_widths(self, ar1: Trace) -> None:
        # What only the folded half sees: one mean, two scales.
        x = ar1(2000, 4, 0.0)
        x = x - x.mean(0)
        wide = x * torch.tensor([1.0, 1.0, 1.0, 4.0], dtype=torch.float64)
        assert float(r_hat(wide)) > 1.05

    def test_a_chain_that_has_not_arrived(self, ar1: Trace) -> None:
        # What only split chains see: all four move in the same way.
        x = ar1(400, 4, 0.0) + torch.linspace(0, 2, 400, dtype=torch.float64)[:, None]
        assert float(r_hat(x)) > 1.1

    def test_e_bfmi_of_independent_and_of_slow_energies(self, ar1: Trace) -> None:
        # Σ (H_n − H_{n−1})² / Σ (H − H̄)² tends to 2 (1 − φ).
        for phi in (0.0, 0.9):
            found = e_bfmi(ar1(4000, 3, phi))
            assert (found - 2 * (1 - phi)).abs().max() < 0.1
        still = e_bfmi(torch.ones(10, 2))
        assert still.isnan().all()


class TestLaws:
    @settings(max_examples=40, deadline=None)
    @given(
        draws=st.integers(4, 40),
        chains=st.integers(1, 4),
        seed=st.integers(0, 2**20),
        scale=st.sampled_from([-8.0, 0.25, 2.0, 64.0]),
    )
    def test_units_do_not_matter(
        self, ar1: Trace, draws: int, chains: int, seed: int, scale: float
    ) -> None:
        x = ar1(draws, chains, 0.5, seed=seed)
        a, b = all_of(x), all_of(scale * x)
        if scale > 0:
            assert b[:4] == pytest.approx(a[:4], rel=1e-9, nan_ok=True)
        else:  # the tails change places, up to which of them holds a value at its edge
            assert (b[0], b[1], b[3]) == pytest.approx((a[0], a[1], a[3]), rel=1e-9, nan_ok=True)
        assert b[4] == pytest.approx(abs(scale) * a[4], rel=1e-9)

    @settings(max_examples=40, deadline=None)
    @given(draws=st.integers(4, 40), chains=st.integers(2, 4), seed=st.integers(0, 2**20))
    def test_the_order_of_chains_does_not_matter(
        self, ar1: Trace, draws: int, chains: int, seed: int
    ) -> None:
        x = ar1(draws, chains, 0.5, seed=seed)
        assert all_of(x.flip(1)) == pytest.approx(all_of(x), rel=1e-9)

    def test_ranks_alone_decide(self, ar1: Trace) -> None:
        x = ar1(60, 3, 0.5)
        cubed = effective_sample_size(x**3)
        assert float(cubed) == pytest.approx(float(effective_sample_size(x)), rel=1e-12)


class TestShapes:
    @pytest.mark.parametrize("piece", [1, 2**12, 2**25])
    def test_each_number_is_judged_by_itself(
        self, piece: int, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ebmkit.diagnostics.traces, "_PIECE_BYTES", piece)
        singles = [trace(name) for name in ("plain", "shifted", "ties", "two values")]
        x = torch.stack([*singles, torch.full_like(singles[0], 0.3)] * 2, -1)
        x = x.reshape(*x.shape[:2], 5, 2)
        assert r_hat(x).shape == effective_sample_size(x).shape == mean_error(x).shape == (5, 2)
        assert autocorrelation(x, lags=7).shape == (7, 4, 5, 2)
        for i in range(5):
            for j in range(2):
                one = all_of(x[:, :, i, j])
                many = (r_hat(x), *(effective_sample_size(x, k) for k in ("bulk", "tail", "mean")))
                assert [float(v[i, j]) for v in many] == pytest.approx(
                    one[:4], rel=1e-12, nan_ok=True
                )
                torch.testing.assert_close(
                    autocorrelation(x, lags=7)[:, :, i, j],
                    autocorrelation(x[:, :, i, j], lags=7),
                    equal_nan=True,
                )

    def test_single_precision_and_booleans(self, trace: Trace) -> None:
        x = trace("ties").float()
        assert all_of(x) == pytest.approx(all_of(x.double()), rel=1e-12)
        two = trace("two values")
        assert all_of(two > 0) == all_of(two)
        assert r_hat(x).dtype == torch.float64

    def test_not_finite_is_nan_and_stays_with_its_number(self, trace: Trace) -> None:
        x = trace("plain")
        for value in (NAN, INF):
            bad = torch.stack([x, x], -1)
            bad[3, 1, 0] = value
            for found in (r_hat(bad), effective_sample_size(bad), mean_error(bad)):
                assert found[0].isnan()
                assert found[1].isfinite()

    def test_a_chain_that_stands_still_has_no_autocorrelation(self, trace: Trace) -> None:
        x = trace("plain").clone()
        x[:, 1] = 0.3
        found = autocorrelation(x)
        assert found[:, 1].isnan().all()
        assert found[:, [0, 2, 3]].isfinite().all()

    @pytest.mark.parametrize("shape", [(10,), (3, 2), (10, 0), (10, 3, 0)])
    def test_what_is_refused(self, shape: tuple[int, ...]) -> None:
        for judge in (r_hat, effective_sample_size, mean_error):
            with pytest.raises(ValueError, match="expected traces"):
                judge(torch.zeros(shape))

    def test_other_refusals(self) -> None:
        x = torch.zeros(10, 2)
        with pytest.raises(ValueError, match="expected kind"):
            effective_sample_size(x, "median")  # type: ignore[arg-type]
        for lags in (0, 11):
            with pytest.raises(ValueError, match="expected lags"):
                autocorrelation(x, lags)
        for h in (torch.zeros(1, 2), torch.zeros(4), torch.zeros(4, 2, 2)):
            with pytest.raises(ValueError, match="expected Hamiltonians"):
                e_bfmi(h)
