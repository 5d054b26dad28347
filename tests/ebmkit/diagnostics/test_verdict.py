"""The verdict and its reasons, on evidence made by hand."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from ebmkit.diagnostics.drift import Drift
from ebmkit.diagnostics.training import TrainingPath
from ebmkit.diagnostics.verdict import Evidence, Spread, judged

LEVEL = torch.ones(40, 4)
RAMP = torch.linspace(0, 1, 40)[:, None].expand(40, 4)
GOOD = Evidence(
    r_hat=Spread(1.004, 1.001, 1.002),
    ess_bulk=Spread(900.0, 950.0, 800.0),
    ess_tail=Spread(700.0, 750.0, 600.0),
    moving=True,
    lost=0,
    energies=LEVEL,
    distances=LEVEL,
)


def verdict(**changes: Any) -> tuple[str, str]:
    return judged(attrs.evolve(GOOD, **changes))


def test_all_good_is_converged() -> None:
    said, reason = judged(GOOD)
    assert said == "converged"
    assert reason == ("Every R̂ is below 1.01 (worst 1.0040) and every ESS above 400 (least 600).")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r_hat": Spread(1.01, 1.0, 1.0)}, "worst R̂ is 1.01"),
        ({"r_hat": Spread(float("nan"), 1.0, 1.0)}, "worst R̂ is nan"),
        ({"r_hat": Spread(float("inf"), 1.0, 1.0)}, "worst R̂ is inf"),
        ({"r_hat": Spread(1.0, 1.0, 1.3)}, "R̂ of the energy is 1.3"),
        ({"ess_bulk": Spread(400.0, 900.0, 900.0)}, "least ESS is 400"),
        ({"ess_tail": Spread(900.0, 900.0, 12.0)}, "least ESS is 12"),
        ({"moving": False}, "No chain moves"),
    ],
)
def test_whatever_lacks_is_not_yet(changes: dict[str, Any], words: str) -> None:
    said, reason = verdict(**changes)
    assert said == "not yet"
    assert words in reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"energies": torch.where(RAMP > 0.9, torch.inf, LEVEL)}, "not finite"),
        ({"lost": 3}, "not finite 3 times"),
        ({"distances": 1 + 2 * RAMP}, "from a mean distance of"),
        ({"distances": (3 * RAMP).exp()}, "from a mean distance of"),
        ({"energies": -50 * RAMP, "distances": 1 + RAMP / 10}, "energies fall without slowing"),
    ],
)
def test_what_does_not_end_is_diverging(changes: dict[str, Any], words: str) -> None:
    said, reason = verdict(**changes)
    assert said == "diverging"
    assert words.lower() in reason.lower()


@pytest.mark.parametrize(
    "changes",
    [
        {"energies": -50 * RAMP},  # falls while chains stay: not there yet, perhaps
        {"energies": -50 * RAMP, "distances": 2 - RAMP},
        {"energies": -5 * RAMP, "distances": 1 + RAMP / 10},  # a small fall
        {"energies": 50 * (-5 * RAMP).exp(), "distances": 1 + RAMP / 10},  # it slows
        {"distances": 5 - 5 * (-5 * RAMP).exp()},  # a growth that slows
        {"distances": 1 + RAMP / 2},  # a small growth
        {"energies": -50 * RAMP[:7], "distances": 1 + 9 * RAMP[:7]},  # too few draws to tell
    ],
)
def test_what_slows_or_is_small_is_not_diverging(changes: dict[str, Tensor]) -> None:
    assert verdict(**changes)[0] == "converged"


def test_asides_are_told_with_any_verdict() -> None:
    drift = Drift(10, 500, 3.0, -9.0, -12.0, 0.5)
    training = TrainingPath(20, -1.0, 1.0, "expansion", 8.0, 4.0)
    asides: dict[str, Any] = {"least_e_bfmi": 0.2, "drift": drift, "training": training}
    for changes in ({}, {"moving": False}, {"lost": 1}):
        _, reason = verdict(**asides, **changes)
        assert "E-BFMI is 0.20" in reason
        assert "chains of 500 steps lie 12 ± 0.5 nats below those of 10" in reason
        assert "energies expanded while the force grew" in reason
    above = attrs.evolve(drift, drift=12.0)
    assert "nats above those" in verdict(drift=above)[1]
    quiet = attrs.evolve(drift, drift=-0.9)
    assert ";" not in verdict(least_e_bfmi=0.3, drift=quiet)[1]
