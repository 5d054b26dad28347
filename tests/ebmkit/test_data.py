"""Batches and the order in which data are gone through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ebmkit
from ebmkit import Batch, DataError
from ebmkit.data import Feed, Points, as_batch, take, with_noise


@settings(deadline=None, max_examples=60, derandomize=True)
@given(rows=st.integers(1, 50), batch=st.integers(1, 50), seed=st.integers(0, 99))
def test_an_epoch_visits_each_row_once_and_in_an_order_of_its_own(
    rows: int, batch: int, seed: int
) -> None:
    batch = min(batch, rows)
    data = Points(torch.arange(rows, dtype=torch.float32)[:, None])
    feed = Feed(data, batch, generator=torch.Generator().manual_seed(seed), labels=False)
    for _ in range(3):
        epoch = torch.cat([feed.draw().x[:, 0] for _ in range(rows // batch)])
        assert len(epoch) == rows // batch * batch
        assert len(epoch.unique()) == len(epoch)


def test_orders_differ_between_epochs_and_repeat_with_the_seed() -> None:
    data = Points(torch.arange(100.0)[:, None])

    def epochs(seed: int) -> list[torch.Tensor]:
        feed = Feed(data, 100, generator=torch.Generator().manual_seed(seed), labels=False)
        return [feed.draw().x for _ in range(2)]

    first, second = epochs(0)
    assert not torch.equal(first, second)
    assert torch.equal(first, epochs(0)[0])
    assert not torch.equal(first, epochs(1)[0])


def test_an_endless_set_gives_fresh_draws() -> None:
    moons = ebmkit.create("dataset", "two-moons")
    feed = Feed(moons, 8, generator=torch.Generator().manual_seed(0), labels=False)
    assert not torch.equal(feed.draw().x, feed.draw().x)


def test_labels_are_kept_where_the_model_wants_them_and_left_out_elsewhere() -> None:
    digits = ebmkit.create("dataset", "digits")
    for labels in (True, False):
        feed = Feed(digits, 16, generator=torch.Generator().manual_seed(0), labels=labels)
        condition = feed.draw().condition
        assert (condition is not None) is labels
    whole = Feed(digits, 16, generator=torch.Generator().manual_seed(0), labels=True).draw()
    rows = digits.draw(2000, generator=torch.Generator().manual_seed(1))
    match = (rows.x.flatten(1)[:, None] == whole.x.flatten(1)).all(-1).nonzero()
    assert len(match) > 0
    for row, place in match.tolist():
        assert whole.condition is not None
        assert rows.condition is not None
        assert rows.condition[row] == whole.condition[place]


def test_noise_has_the_stated_scale() -> None:
    feed = Feed(
        Points(torch.zeros(20_000, 2)),
        20_000,
        generator=torch.Generator().manual_seed(0),
        labels=False,
    )
    noisy = with_noise(feed.draw(), 0.3, generator=feed.generator).x
    # Five standard errors of a standard deviation: false alarm below 6e-7.
    assert abs(noisy.std() - 0.3) < 5 * 0.3 / (2 * 40_000) ** 0.5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3), r"shape \(size, \*event\)"),
        (torch.zeros(0, 2), "at least one row"),
        (torch.zeros(3, 2, dtype=torch.int64), "floating dtype"),
        (torch.tensor([[1.0], [float("nan")], [2.0]]), "row 1 is not finite"),
    ],
)
def test_tensors_that_are_no_data_are_refused(value: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Points(value)


def test_a_batch_comes_from_what_a_loader_gives() -> None:
    x, labels = torch.zeros(4, 2), torch.arange(4)
    assert as_batch(x) == Batch(x)
    assert as_batch([x])[1] is None
    assert as_batch([x, labels]).condition is labels
    assert as_batch(Batch(x, labels)).condition is labels
    for wrong in (np.zeros((4, 2)), [x, labels, labels], "x", [1, 2]):
        with pytest.raises(DataError, match="expected a batch"):
            as_batch(wrong)


def test_rows_are_taken_with_their_labels() -> None:
    batch = Batch(torch.arange(5.0)[:, None], torch.arange(5))
    taken = take(batch, torch.tensor([3, 1]))
    assert taken.x[:, 0].tolist() == [3, 1]
    assert taken.condition is not None
    assert taken.condition.tolist() == [3, 1]
