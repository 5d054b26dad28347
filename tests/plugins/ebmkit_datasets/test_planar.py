"""Laws of every set of points in the plane."""

from __future__ import annotations

import math
from typing import NamedTuple

import attrs
import numpy as np
import pytest
import scipy.stats
import torch
from ebmkit_datasets._planar import Planar
from ebmkit_datasets.checkerboard import Checkerboard
from ebmkit_datasets.eight_gaussians import EightGaussians
from ebmkit_datasets.gaussian_mixture import GaussianMixture
from ebmkit_datasets.pinwheel import Pinwheel
from ebmkit_datasets.rings import Rings
from ebmkit_datasets.spirals import Spirals
from ebmkit_datasets.swiss_roll import SwissRoll
from ebmkit_datasets.two_moons import TwoMoons
from hypothesis import given, settings
from hypothesis import strategies as st

from ebmkit import DataError, Dataset


class Case(NamedTuple):
    dataset: Planar
    half_width: float
    """Of a square about 0 that holds all but 1e-8 of the probability."""


# The boards' squares coincide with whole cells of the quadrature below.
CASES = [
    Case(TwoMoons(), 2.4),
    Case(TwoMoons(noise=0.3), 3.9),
    Case(GaussianMixture(), 4.0),
    Case(GaussianMixture(n_components=3, radius=2.0, std=0.3, weights=[1.0, 2.0, 5.0]), 4.0),
    Case(EightGaussians(), 3.3),
    Case(EightGaussians(radius=1.0, std=0.4), 3.6),
    Case(Checkerboard(), 4.0),
    Case(Checkerboard(half_width=0.3), 0.3),
    Case(Rings(), 3.7),
    Case(Rings(radii=[0.5, 2.0], noise=0.3), 3.9),
    Case(Spirals(), 3.7),
    Case(Spirals(radius=2.0, turns=0.75, noise=0.3), 3.9),
    Case(SwissRoll(), 3.7),
    Case(SwissRoll(radius=1.0, noise=0.2), 2.3),
    Case(Pinwheel(), 5.6),
    Case(Pinwheel(arms=3, radial_std=0.4, tangential_std=0.3, rate=-0.1, scale=1.0), 3.6),
]
IDS = [repr(case.dataset) for case in CASES]
SETS = [
    TwoMoons,
    GaussianMixture,
    EightGaussians,
    Checkerboard,
    Rings,
    Spirals,
    SwissRoll,
    Pinwheel,
]
N_CELLS, N_NODES, N_DRAWS = 32, 7, 100_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Cells(NamedTuple):
    edges: torch.Tensor
    probability: torch.Tensor
    """(N_CELLS, N_CELLS), by Gauss–Legendre quadrature in each cell."""
    log_density: torch.Tensor
    """∫ p log p over the square."""
    square: torch.Tensor
    """∫ p (log p)² over the square."""


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def cells(case: Case) -> Cells:
    node, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(N_NODES))
    edges = torch.linspace(-case.half_width, case.half_width, N_CELLS + 1, dtype=torch.float64)
    half = case.half_width / N_CELLS
    place = ((edges[:-1] + half)[:, None] + half * node).flatten()
    measure = (half * weight).repeat(N_CELLS)
    log_p = case.dataset.log_density(torch.cartesian_prod(place, place)).view(len(place), -1)
    mass = log_p.exp() * measure[:, None] * measure
    finite = log_p.clamp(min=-1e6)  # 0 log 0 = 0 on the checkerboard
    shape = (N_CELLS, N_NODES, N_CELLS, N_NODES)
    return Cells(
        edges, mass.view(shape).sum((1, 3)), (mass * finite).sum(), (mass * finite**2).sum()
    )


@pytest.fixture(scope="module")
def draws(case: Case) -> torch.Tensor:
    return case.dataset.draw(N_DRAWS, generator=generator(7)).x.double()


def test_density_integrates_to_one(cells: Cells) -> None:
    assert float(cells.probability.sum()) == pytest.approx(1.0, abs=2e-6)


def test_draws_fill_cells_as_the_density_says(cells: Cells, draws: torch.Tensor) -> None:
    place = torch.bucketize(draws.contiguous(), cells.edges) - 1
    inside = ((place >= 0) & (place < N_CELLS)).all(1)
    index = place[inside] @ torch.tensor([N_CELLS, 1])
    counts = torch.bincount(index, minlength=N_CELLS**2).double()
    expected = N_DRAWS * cells.probability.flatten()
    full = expected >= 10
    observed = torch.cat([counts[full], (N_DRAWS - counts[full].sum())[None]])
    expected = torch.cat([expected[full], (N_DRAWS - expected[full].sum())[None]])
    observed, expected = observed[expected > 1], expected[expected > 1]
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    # False-alarm rate 1e-6 for each case.
    assert chi_square < scipy.stats.chi2.isf(1e-6, len(expected) - 1)


def test_mean_log_density_of_draws_is_minus_the_entropy(
    case: Case, cells: Cells, draws: torch.Tensor
) -> None:
    variance = float(cells.square - cells.log_density**2)
    mean = float(case.dataset.log_density(draws).mean())
    # Five standard errors: false-alarm rate 6e-7 for each case. The checkerboard has none.
    bound = 5 * math.sqrt(max(variance, 0.0) / N_DRAWS) + 1e-5
    assert mean == pytest.approx(float(cells.log_density), abs=bound)


def test_log_density_keeps_dtype_and_loses_little_in_float32(case: Case) -> None:
    x = case.dataset.draw(200, generator=generator()).x
    assert x.dtype == torch.float32
    low, high = case.dataset.log_density(x), case.dataset.log_density(x.double())
    assert (low.dtype, high.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(low.double(), high, rtol=1e-6, atol=1e-6)


def test_log_density_of_blocks_is_that_of_points(case: Case) -> None:
    x = case.dataset.draw(5000, generator=generator()).x.double()
    whole = case.dataset.log_density(x)
    parts = torch.cat([case.dataset.log_density(part) for part in x.split(1234)])
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-10)
    assert case.dataset.log_density(x[:0]).shape == (0,)


def test_draws_follow_their_generator_and_touch_no_other(case: Case) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    one, same, other = (case.dataset.draw(50, generator=generator(s)).x for s in (1, 1, 2))
    finite = attrs.evolve(case.dataset, n_samples=20)
    finite.draw(5, generator=generator())
    case.dataset.log_density(one)
    assert one.shape == (50, 2)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch_state, torch.get_rng_state())
    after = np.random.get_state()  # noqa: NPY002
    assert numpy_state[0] == after[0]
    assert np.array_equal(numpy_state[1], after[1])
    assert numpy_state[2:] == after[2:]


# The checkerboard's density is constant on each square.
@pytest.mark.parametrize(
    "dataset", [c.dataset for c in CASES if not isinstance(c.dataset, Checkerboard)], ids=repr
)
def test_gradient_of_log_density_is_that_of_differences(dataset: Planar) -> None:
    x = dataset.draw(20, generator=generator()).x.double()
    x[-1] = 0.0
    gradient = torch.func.grad(lambda x: dataset.log_density(x).sum())(x)
    for axis in torch.eye(2, dtype=torch.float64):
        step = 1e-6 * axis
        change = dataset.log_density(x + step) - dataset.log_density(x - step)
        torch.testing.assert_close(gradient @ axis, change / 2e-6, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", SETS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    radius=st.floats(0.0, 1e30),
    angle=st.floats(-math.pi, math.pi),
)
def test_log_density_is_a_number_everywhere(
    make: type[Planar], radius: float, angle: float
) -> None:
    x = radius * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    value = float(make().log_density(x))
    if make is Checkerboard:
        assert value in (-math.inf, -math.log(32))
    else:
        assert math.isfinite(value)
        # Every set lies within 8 of the origin and no noise is wider than 0.6 a coordinate.
        assert value <= 4.0 - max(0.0, radius - 8.0) ** 2 / (2 * 0.6**2)


@pytest.mark.parametrize("make", SETS)
def test_infinite_points_have_no_density_and_nan_stays(make: type[Planar]) -> None:
    x = torch.tensor([[math.inf, 0.0], [math.nan, 0.0]])
    value = make().log_density(x)
    assert value[0] == -math.inf
    assert value[1].isnan()


@pytest.mark.parametrize("make", SETS)
def test_it_is_a_dataset(make: type[Planar]) -> None:
    dataset = make()
    assert isinstance(dataset, Dataset)
    assert dataset.event_shape == (2,)
    assert dataset.n_samples is None
    assert make() == dataset
    assert all(field.metadata.get("doc") for field in attrs.fields(make))


@pytest.mark.parametrize(
    "x", [torch.zeros(3), torch.zeros(3, 3), torch.zeros(1, 3, 2), torch.zeros(3, 2).long()]
)
def test_log_density_refuses_what_are_no_points(x: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"TwoMoons\.log_density: expected .*\(batch, 2\), got"):
        TwoMoons().log_density(x)
