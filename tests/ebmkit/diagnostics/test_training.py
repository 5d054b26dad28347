"""How training went, told from its metrics; and the drift of energies."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ebmkit.diagnostics.drift import drift_between
from ebmkit.diagnostics.training import TrainingPath, training_path


def records(gaps: list[float], forces: list[float] | None = None) -> list[dict[str, Any]]:
    return [
        {"step": i, "energy_gap": gap} | ({} if forces is None else {"force": forces[i]})
        for i, gap in enumerate(gaps)
    ]


def path(gaps: list[float], forces: list[float] | None = None) -> TrainingPath:
    found = training_path(records(gaps, forces))
    assert found is not None
    return found


class TestTendency:
    def test_a_gap_that_changes_sign_is_an_oscillation(self) -> None:
        found = path([0.2, -0.2] * 20)
        assert (found.tendency, found.expanding, found.records) == ("oscillation", 0.5, 20)
        assert found.energy_difference == pytest.approx(0)

    def test_negatives_above_positives_are_an_expansion(self) -> None:
        # energy_gap = E(negatives) − E(positives) = −d.
        found = path([0.5] * 40)
        assert (found.tendency, found.expanding) == ("expansion", 1.0)
        assert found.energy_difference == pytest.approx(-0.5)

    def test_negatives_below_positives_are_a_contraction(self) -> None:
        found = path([-0.5] * 40)
        assert (found.tendency, found.expanding) == ("contraction", 0.0)
        assert found.energy_difference == pytest.approx(0.5)

    def test_nine_in_ten_decide(self) -> None:
        assert path([1.0] * 20 + [1.0] * 18 + [-1.0] * 2).tendency == "expansion"
        assert path([1.0] * 20 + [1.0] * 17 + [-1.0] * 3).tendency == "oscillation"
        assert path([0.0] * 40).tendency == "oscillation"

    def test_only_the_later_half_counts(self) -> None:
        assert path([5.0] * 20 + [-1.0] * 20).tendency == "contraction"


class TestForce:
    def test_it_is_compared_with_the_quarter_before(self) -> None:
        found = path([0.5] * 40, [9.0] * 20 + [1.0] * 10 + [3.0] * 10)
        assert (found.force, found.force_growth) == (3.0, 3.0)
        assert found.runs_away

    def test_a_steady_force_or_a_balance_does_not_run_away(self) -> None:
        assert not path([0.5] * 40, [2.0] * 40).runs_away
        assert not path([0.5, -0.5] * 20, [1.0] * 30 + [3.0] * 10).runs_away
        assert not path([0.5] * 40).runs_away

    def test_without_forces_nothing_is_said_of_them(self) -> None:
        found = path([0.5] * 40)
        assert (found.force, found.force_growth) == (None, None)
        assert path([0.5] * 40, [0.0] * 40).force_growth is None


class TestWhatIsThere:
    def test_too_few_records(self) -> None:
        assert training_path([]) is None
        assert training_path(records([1.0] * 7)) is None
        assert training_path(records([1.0] * 8)) is not None

    def test_records_without_a_gap_are_left_out(self) -> None:
        assert training_path([{"step": i, "loss": 1.0} for i in range(50)]) is None
        mixed = records([1.0] * 20) + records([math.nan, math.inf] * 20)
        found = training_path(mixed)
        assert found is not None
        assert (found.records, found.energy_difference) == (10, -1.0)


class TestDrift:
    def test_it_is_paired(self) -> None:
        short = torch.tensor([0.0, 10.0, 20.0, 30.0])
        found = drift_between(short, short - torch.tensor([4.0, 6.0, 4.0, 6.0]), 5, 100)
        assert (found.short_energy, found.long_energy, found.drift) == (15.0, 10.0, -5.0)
        # The chains differ by far more than the drift of any: only the differences' spread counts.
        assert found.standard_error == pytest.approx(math.sqrt(4 / 3) / 2)
        assert found.notable

    def test_little_or_unsure_is_not_notable(self) -> None:
        still = torch.zeros(100)
        assert not drift_between(still, still + 0.5, 5, 100).notable
        unsure = torch.arange(100.0) - 40
        assert not drift_between(still, unsure, 5, 100).notable
