"""The picture of a diagnosis shows what it found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ebmkit_reporting.diagnosis import draw_diagnosis
from torch import Tensor

from ebmkit import Diagnosis, autocorrelation
from ebmkit.diagnostics.verdict import Spread

ONE = Spread(1.2, 1.0, 1.05)


def diagnosis(x: Tensor, **changes: Any) -> Diagnosis:
    settings: dict[str, Any] = {
        "r_hat": ONE,
        "worst_number": (0,) * (x.ndim - 2),
        "trajectory": x,
        "energies": x.reshape(*x.shape[:2], -1)[..., 0],
    }
    return Diagnosis("not yet", "Because.", x.shape[1], 2 * len(x), 0, 2, **{**settings, **changes})


def walk(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).cumsum(0)


def axes(found: Diagnosis) -> list[Any]:
    figure = draw_diagnosis(found)
    assert figure is not None
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]


def test_rows_are_the_energy_and_the_worst_number() -> None:
    x = walk(60, 10, 3, 2)
    energies = walk(60, 10) ** 2
    drawn = axes(diagnosis(x, worst_number=(2, 1), energies=energies))
    assert [ax.get_title() for ax in drawn[::3]] == [
        "energy: R̂ = 1.050",
        "x[2, 1], the worst: R̂ = 1.200",
    ]
    assert [ax.get_ylabel() for ax in drawn[::3]] == ["energy", "x[2, 1]"]
    for ax, values in zip(drawn[::3], (energies, x[:, :, 2, 1]), strict=True):
        assert len(ax.lines) == 8
        assert ax.get_xlabel() == "step, 8 of 10 chains"
        for line, chain in zip(ax.lines, values.T, strict=False):
            np.testing.assert_allclose(line.get_ydata(), chain.numpy())
            assert line.get_xdata()[[0, -1]].tolist() == [2, 120]


def test_autocorrelations_are_those_of_the_kernel() -> None:
    x = walk(60, 4)
    ax = axes(diagnosis(x))[2]
    expected = autocorrelation(x, 30)
    for line, chain in zip(ax.lines, expected.T, strict=False):
        np.testing.assert_allclose(line.get_ydata(), chain.numpy())
    np.testing.assert_allclose(ax.lines[4].get_ydata(), expected.mean(1).numpy())
    assert ax.lines[0].get_xdata()[1] == 2


def ranks(x: Tensor) -> Any:
    return axes(diagnosis(x))[1].images[0].get_array()


def test_ranks_of_chains_that_agree_are_even() -> None:
    x = torch.randn(2000, 5, generator=torch.Generator().manual_seed(1))
    found = ranks(x)
    assert found.shape == (5, 20)
    # 100 draws are expected in a cell: five standard errors, 6e-7 for each of 100 cells.
    assert abs(found - 1).max() < 0.5
    np.testing.assert_allclose(found.sum(1), 20)


def test_ranks_of_a_chain_that_is_elsewhere() -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    x[:, 3] += 100
    found = ranks(x)
    assert (found[3, :15] == 0).all()
    np.testing.assert_allclose(found[3, 15:], 4)
    assert (found[:3, 15:] == 0).all()


def test_ranks_of_two_values_are_even_too() -> None:
    x = (torch.rand(2000, 4, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    assert abs(ranks(x) - 1).max() < 0.5


@pytest.mark.parametrize("shape", [(4, 2, 2), (40, 3, 1, 8, 8), (600, 12, 2)])
def test_any_shape_is_drawn(shape: tuple[int, ...], tmp_path: Any) -> None:
    figure = draw_diagnosis(diagnosis(walk(*shape)))
    assert figure is not None
    figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_chains_that_stand_still_are_drawn(tmp_path: Any) -> None:
    x = torch.ones(40, 3, 2)
    drawn = axes(diagnosis(x, worst_number=None))
    assert len(drawn) == 3
    figure = draw_diagnosis(diagnosis(x))
    assert figure is not None
    figure.savefig(tmp_path / "a.png")


def test_without_chains_there_is_nothing_to_draw() -> None:
    found = Diagnosis("diverging", "Chains are not finite.", 4, 10, 0, 1)
    assert draw_diagnosis(found) is None
