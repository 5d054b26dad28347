"""Finite and endless sets: rows, lengths, loaders, and the bounds of the fields."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
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
from torch.utils.data import DataLoader

from ebmkit import Batch

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


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("make", SETS)
def test_finite_set_is_one_draw_from_its_seed(make: type[Planar]) -> None:
    dataset = make(n_samples=30, seed=3)
    assert len(dataset) == dataset.n_samples == 30
    points = dataset[:]
    fresh = make().draw(30, generator=generator(3)).x
    assert points.dtype == fresh.dtype == torch.get_default_dtype()
    assert torch.equal(points, make(n_samples=30, seed=3)[:])
    assert not torch.equal(points, make(n_samples=30, seed=4)[:])
    assert torch.isfinite(dataset.log_density(points)).all()
    assert torch.equal(points, pickle.loads(pickle.dumps(dataset))[:])
    assert torch.equal(points, copy.deepcopy(dataset)[:])

    batch = dataset.draw(500, generator=generator())
    assert isinstance(batch, Batch)
    assert batch.condition is None
    assert batch.x.shape == (500, 2)
    assert {tuple(row) for row in batch.x.tolist()} == {tuple(row) for row in points.tolist()}


def test_points_do_not_depend_on_the_default_dtype() -> None:
    narrow = TwoMoons(n_samples=10)
    single = narrow[:]
    try:
        torch.set_default_dtype(torch.float64)
        double, late = TwoMoons(n_samples=10)[:], narrow[:]
        assert TwoMoons().draw(1, generator=generator()).x.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert double.dtype == torch.float64
    assert torch.equal(double, late)
    assert torch.equal(double.float(), single)


def test_rows_by_number_slice_and_tensor() -> None:
    dataset = TwoMoons(n_samples=9)
    points = dataset[:]
    assert torch.equal(dataset[-1], points[8])
    assert torch.equal(dataset[2:7:2], points[[2, 4, 6]])
    assert torch.equal(dataset[torch.tensor([3, 3, 0])], points[[3, 3, 0]])
    assert torch.equal(torch.stack(list(dataset)), points)
    with pytest.raises(IndexError):
        dataset[9]


def test_rows_cannot_be_changed_through_what_was_handed_out() -> None:
    dataset = TwoMoons(n_samples=3)
    before = dataset[:].clone()
    dataset[:].zero_()
    dataset[0].zero_()
    assert torch.equal(dataset[:], before)


def test_data_loader_serves_every_row_once() -> None:
    dataset = Spirals(n_samples=50)
    batches = list(DataLoader(dataset, batch_size=16, shuffle=True, generator=generator()))
    assert [len(batch) for batch in batches] == [16, 16, 16, 2]
    rows = torch.cat(batches)
    assert not torch.equal(rows, dataset[:])
    assert sorted(rows.tolist()) == sorted(dataset[:].tolist())


def test_endless_set_has_no_length_and_no_rows() -> None:
    dataset = Rings()
    assert dataset
    with pytest.raises(TypeError, match=r"Rings is endless.*set n_samples"):
        len(dataset)
    with pytest.raises(TypeError, match=r"Rings is endless.*set n_samples"):
        dataset[0]


@pytest.mark.parametrize(
    ("make", "fields", "culprit"),
    [
        (TwoMoons, {"noise": 0.0}, "noise"),
        (TwoMoons, {"noise": math.inf}, "noise"),
        (TwoMoons, {"noise": math.nan}, "noise"),
        (TwoMoons, {"n_samples": 0}, "n_samples"),
        (TwoMoons, {"seed": -1}, "seed"),
        (TwoMoons, {"seed": 2**63}, "seed"),
        (GaussianMixture, {"n_components": 0}, "n_components"),
        (GaussianMixture, {"radius": -1.0}, "radius"),
        (GaussianMixture, {"std": 0.0}, "std"),
        (GaussianMixture, {"weights": [1.0, 1.0, 1.0, 0.0]}, "weights"),
        (
            GaussianMixture,
            {"weights": [1.0, 1.0]},
            "weights: expected .* n_components = 4 .* got 2",
        ),
        (EightGaussians, {"radius": 0.0}, "radius"),
        (EightGaussians, {"std": -0.2}, "std"),
        (Checkerboard, {"half_width": 0.0}, "half_width"),
        (Rings, {"radii": []}, "radii"),
        (Rings, {"radii": [1.0, -1.0]}, "radii"),
        (Rings, {"noise": 0.0}, "noise"),
        (Spirals, {"turns": 0.0}, "turns"),
        (Spirals, {"radius": 0.0}, "radius"),
        (Spirals, {"noise": 0.0}, "noise"),
        (SwissRoll, {"radius": 0.0}, "radius"),
        (SwissRoll, {"noise": 0.0}, "noise"),
        (Pinwheel, {"arms": 0}, "arms"),
        (Pinwheel, {"radial_std": 0.0}, "radial_std"),
        (Pinwheel, {"tangential_std": 0.0}, "tangential_std"),
        (Pinwheel, {"rate": math.inf}, "rate"),
        (Pinwheel, {"scale": 0.0}, "scale"),
    ],
)
def test_fields_out_of_bounds_are_refused(
    make: type[Planar], fields: dict[str, object], culprit: str
) -> None:
    with pytest.raises(ValueError, match=culprit):
        make(**fields)
