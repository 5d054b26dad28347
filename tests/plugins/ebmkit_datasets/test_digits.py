"""The 8×8 digits."""

from __future__ import annotations

import sys

import attrs
import numpy as np
import pytest
import torch
from ebmkit_datasets.digits import Digits
from torch.utils.data import DataLoader

from ebmkit import Batch, DataError, Dataset

load_digits = pytest.importorskip("sklearn.datasets").load_digits


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


def test_shapes_labels_and_range(digits: Digits) -> None:
    assert isinstance(digits, Dataset)
    assert (digits.event_shape, digits.n_classes) == ((1, 8, 8), 10)
    batch = digits.draw(300, generator=generator())
    assert batch.x.shape == (300, 1, 8, 8)
    assert batch.x.dtype == torch.get_default_dtype()
    assert (float(batch.x.min()), float(batch.x.max())) == (-1.0, 1.0)
    assert batch.condition is not None
    assert batch.condition.shape == (300,)
    assert batch.condition.dtype == torch.int64
    assert set(batch.condition.tolist()) == set(range(10))
    assert all(field.metadata.get("doc") for field in attrs.fields(Digits))


def test_training_and_held_out_rows_are_all_the_digits_once(digits: Digits) -> None:
    held_out = digits.held_out_batch
    assert held_out is not None
    assert held_out.condition is not None
    assert (len(digits), digits.n_samples, len(held_out.x)) == (1617, 1617, 180)
    train = digits[:]
    images, labels = load_digits(return_X_y=True)
    ours = torch.cat([train.x, held_out.x]).flatten(1) * 8 + 8
    rows = zip(ours.tolist(), torch.cat([train.condition, held_out.condition]), strict=True)
    assert sorted((*x, int(y)) for x, y in rows) == sorted(
        (*x, int(y)) for x, y in zip(images.tolist(), labels, strict=True)
    )


def test_split_follows_the_seed(digits: Digits) -> None:
    assert torch.equal(Digits().held_out_batch.x, digits.held_out_batch.x)
    assert not torch.equal(Digits(seed=1).held_out_batch.x, digits.held_out_batch.x)


def test_without_held_out_rows_the_order_is_the_files() -> None:
    digits = Digits(held_out=0.0, scale="unit")
    images, labels = load_digits(return_X_y=True)
    assert digits.held_out_batch is None
    assert torch.equal(digits[:].x, torch.tensor(images / 16).float().view(-1, 1, 8, 8))
    assert torch.equal(digits[:].condition, torch.from_numpy(labels))


def test_draws_follow_their_generator_and_touch_no_other() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    fresh = Digits(seed=5)
    one, same, other = (fresh.draw(20, generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(one.x, same.x)
    assert torch.equal(one.condition, same.condition)
    assert not torch.equal(one.x, other.x)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


def test_data_loader_serves_batches(digits: Digits) -> None:
    loader = DataLoader(digits, batch_size=500, shuffle=True, generator=generator())
    batches = list(loader)
    assert all(isinstance(batch, Batch) for batch in batches)
    assert [len(batch.x) for batch in batches] == [500, 500, 500, 117]
    counts = torch.cat([batch.condition for batch in batches]).bincount()
    assert torch.equal(counts, digits[:].condition.bincount())
    assert digits[3].x.shape == (1, 8, 8)


def test_missing_scikit_learn_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits = Digits()
    assert digits.event_shape == (1, 8, 8)
    with pytest.raises(DataError, match=r'pip install "ebmkit-core\[sklearn\]"'):
        digits.draw(1, generator=generator())


def test_binarised_pixels_are_one_from_half_of_the_range_on() -> None:
    digits = Digits(binarise=True, held_out=0.0)
    grey = Digits(scale="unit", held_out=0.0)
    assert digits.discrete
    assert not grey.discrete
    assert torch.equal(digits[:].x, (grey[:].x >= 0.5).float())
    assert digits[:].x.unique().tolist() == [0, 1]
    assert digits[0].x.shape == (1, 8, 8)
    # Half of the range itself is there, so that > would not do.
    assert (grey[:].x == 0.5).any()


def test_a_scale_means_nothing_to_binarised_pixels() -> None:
    for scale in ("symmetric", "unit"):
        with pytest.raises(ValueError, match=f'scale: .* got "{scale}"; leave scale out'):
            Digits(scale=scale, binarise=True)
    assert torch.equal(Digits(scale="symmetric")[:].x, Digits()[:].x)
    with pytest.raises(TypeError, match="binarise"):
        Digits(binarise=1)


@pytest.mark.parametrize("fields", [{"held_out": 1.0}, {"held_out": -0.1}, {"scale": "byte"}])
def test_fields_out_of_bounds_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Digits(**fields)
