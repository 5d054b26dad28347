"""Events from files: what is read, how it is split and scaled."""

from __future__ import annotations

import csv
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from ebmkit_datasets.array import Array
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.utils.data import DataLoader

from ebmkit import Batch, DataError, Dataset

round_trip = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    # Every example overwrites the one file.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
in_float32 = st.floats(allow_nan=False, allow_infinity=False, width=32)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@round_trip
@given(
    values=arrays.arrays(
        st.sampled_from([np.float32, np.dtype(">f4"), np.float16, np.uint8, np.int32, np.bool_]),
        arrays.array_shapes(min_dims=2, max_dims=4, max_side=4),
        elements={"allow_nan": False, "allow_infinity": False},
    )
)
def test_npy_and_npz_give_back_what_was_saved(tmp_path: Path, values: np.ndarray) -> None:
    npy, npz = tmp_path / "a.npy", tmp_path / "a.npz"
    np.save(npy, values)
    np.savez_compressed(npz, images=values, other=values[:1])
    expected = torch.from_numpy(values.astype(np.float64)).float()
    for dataset in (Array(str(npy)), Array(str(npz), key="images")):
        assert dataset.event_shape == values.shape[1:]
        assert torch.equal(dataset[:], expected)
        assert dataset[:].dtype == torch.float32


@round_trip
@given(
    values=arrays.arrays(
        np.float64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=in_float32
    ),
    header=st.booleans(),
    data=st.data(),
)
def test_csv_gives_back_what_was_written(
    tmp_path: Path, values: np.ndarray, header: bool, data: st.DataObject
) -> None:
    path, width = tmp_path / "a.csv", values.shape[1]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow([f"x{i}" for i in range(width)])
        writer.writerows(values.tolist())
    order = data.draw(st.permutations(range(width)))[: data.draw(st.integers(1, width))]
    assert torch.equal(Array(str(path))[:], torch.from_numpy(values).float())
    chosen = Array(str(path), columns=[f"x{i}" for i in order] if header else order)
    assert chosen.event_shape == (len(order),)
    assert torch.equal(chosen[:], torch.from_numpy(values[:, order]).float())


@round_trip
@given(n_rows=st.integers(2, 60), held_out=st.floats(0.0, 0.9), seed=st.integers(0, 2**63 - 1))
def test_split_is_a_partition(tmp_path: Path, n_rows: int, held_out: float, seed: int) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(n_rows)[:, None])
    dataset = Array(str(path), held_out=held_out, seed=seed)
    if round(held_out * n_rows) == n_rows:
        with pytest.raises(DataError, match="leaves none to train on"):
            len(dataset)
        return
    kept = dataset.held_out_batch
    apart = [] if kept is None else kept.x.flatten().tolist()
    train = dataset[:].flatten().tolist()
    assert (kept is None) == (held_out == 0)
    assert len(apart) == (max(1, round(held_out * n_rows)) if held_out else 0)
    assert (train, apart) == (sorted(train), sorted(apart))
    assert sorted(train + apart) == list(range(n_rows))
    assert set(dataset.draw(100, generator=generator()).x.flatten().tolist()) <= set(train)
    assert dataset.n_samples == len(train) == len(dataset)


@round_trip
@given(
    n_rows=st.integers(1, 60),
    held_out=st.sampled_from([0.0, 0.1, 0.5]),
    validation=st.floats(0.0, 0.9),
    seed=st.integers(0, 2**63 - 1),
)
def test_validation_rows_are_a_part_of_their_own(
    tmp_path: Path, n_rows: int, held_out: float, validation: float, seed: int
) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(n_rows)[:, None])
    dataset = Array(str(path), held_out=held_out, validation=validation, seed=seed)
    counts = [max(1, round(share * n_rows)) if share else 0 for share in (held_out, validation)]
    if sum(counts) >= n_rows:
        with pytest.raises(DataError, match="none to train on"):
            len(dataset)
        return
    batches = (dataset.held_out_batch, dataset.validation_batch)
    parts = [[] if batch is None else batch.x.flatten().tolist() for batch in batches]
    assert [len(part) for part in parts] == counts
    assert (dataset.validation_batch is None) == (validation == 0)
    assert sorted(sum(parts, dataset[:].flatten().tolist())) == list(range(n_rows))
    if held_out and max(1, round(held_out * n_rows)) < n_rows:
        same = Array(str(path), held_out=held_out, seed=seed).held_out_batch
        assert same is not None and same.x.flatten().tolist() == parts[0]


class TestDequantise:
    def rounded(self, tmp_path: Path) -> str:
        chance = np.random.default_rng(0)
        # Multiples of 1/2 and of 10, a constant, and a column of two values far apart.
        columns = [chance.integers(0, 20, 4000) * scale for scale in (0.5, 10.0)]
        columns += [np.full(4000, 3.0), chance.integers(0, 2, 4000) * 7.0]
        np.save(tmp_path / "a.npy", np.stack(columns, 1))
        return str(tmp_path / "a.npy")

    def test_noise_is_uniform_and_as_wide_as_the_gap(self, tmp_path: Path) -> None:
        path = self.rounded(tmp_path)
        raw, dataset = Array(path)[:].double(), Array(path, dequantise=True)[:].double()
        noise = dataset - raw
        assert torch.equal(noise[:, 2], torch.zeros(4000, dtype=torch.float64))
        for column, gap in ((0, 0.5), (1, 10.0), (3, 7.0)):
            share = noise[:, column] / gap
            assert share.abs().max() <= 1 + 1e-5
            # Kolmogorov's distance to uniform in ±1: above 0.0425 in fewer than 1e-6 of samples.
            ordered = (share.sort().values + 1) / 2
            steps = torch.arange(4001, dtype=torch.float64) / 4000
            distance = torch.maximum(ordered - steps[:-1], steps[1:] - ordered).max()
            assert distance < 0.0425

    def test_it_is_drawn_once_from_the_seed(self, tmp_path: Path) -> None:
        path = self.rounded(tmp_path)
        one, same, other = (Array(path, dequantise=True, seed=s) for s in (1, 1, 2))
        assert torch.equal(one[:], same[:])
        assert torch.equal(one[5:9], one[:][5:9])
        assert not torch.equal(one[:], other[:])
        both = Array(path, dequantise=True, seed=1, held_out=0.1, validation=0.1)
        assert both.validation_batch is not None and both.held_out_batch is not None
        rows = torch.cat([both[:], both.validation_batch.x, both.held_out_batch.x])
        assert sorted(rows.tolist()) == sorted(one[:].tolist())

    def test_events_keep_their_shape(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).integers(0, 17, (50, 1, 2, 3)).astype(np.uint8)
        np.save(tmp_path / "a.npy", values)
        dataset = Array(str(tmp_path / "a.npy"), dequantise=True)
        assert dataset.event_shape == (1, 2, 3)
        assert 0 < (dataset[:] - Array(str(tmp_path / "a.npy"))[:]).abs().max() <= 2


def test_labels_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeffa, kind ,b\n1,0,2\n3,2.0,4\n5,1,6\n\n\n", encoding="utf-8")
    dataset = Array(str(path), label="kind")
    assert isinstance(dataset, Dataset)
    assert (dataset.event_shape, dataset.n_classes, dataset.n_samples) == ((2,), 3, 3)
    assert torch.equal(dataset[:].x, torch.tensor([[1.0, 2], [3, 4], [5, 6]]))
    assert torch.equal(dataset[:].condition, torch.tensor([0, 2, 1]))
    assert torch.equal(Array(str(path), label=1, columns=[2])[:].x, torch.tensor([[2.0], [4], [6]]))
    loader = DataLoader(dataset, batch_size=2, shuffle=True, generator=generator())
    batches = list(loader)
    assert all(isinstance(batch, Batch) for batch in batches)
    assert sorted(torch.cat([batch.condition for batch in batches]).tolist()) == [0, 1, 2]
    drawn = dataset.draw(40, generator=generator())
    assert torch.equal(drawn.condition, torch.tensor([0, 2, 1])[(drawn.x[:, 0].long() - 1) // 2])


def test_unlabelled_rows_are_tensors(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(4))
    dataset = Array(str(tmp_path / "a.npy"))
    assert dataset.n_classes is None
    assert torch.equal(dataset[1], torch.eye(4)[1])
    assert dataset.draw(3, generator=generator()).condition is None
    rows = torch.cat(list(DataLoader(dataset, batch_size=3, shuffle=True, generator=generator())))
    assert sorted(rows.tolist()) == sorted(torch.eye(4).tolist())
    assert all(field.metadata.get("doc") for field in attrs.fields(Array))


def test_labels_of_npy_and_npz(tmp_path: Path) -> None:
    table = np.array([[0.5, 1.0, 7.0], [1.5, 0.0, 8.0]])
    np.save(tmp_path / "a.npy", table)
    by_column = Array(str(tmp_path / "a.npy"), label=1)
    assert torch.equal(by_column[:].x, torch.tensor([[0.5, 7.0], [1.5, 8.0]]))
    assert torch.equal(by_column[:].condition, torch.tensor([1, 0]))

    images, kinds = np.random.default_rng(0).random((2, 1, 3, 3)), np.array([3, 1], dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, kinds=kinds)
    by_name = Array(str(tmp_path / "a.npz"), label="kinds")
    assert (by_name.event_shape, by_name.n_classes) == ((1, 3, 3), 4)
    assert torch.equal(by_name[:].x, torch.from_numpy(images).float())
    assert by_name[0].condition == 3


def test_standardise_uses_the_training_rows(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal([5.0, -1.0], [3.0, 0.01], (40, 2))
    np.save(tmp_path / "a.npy", values)
    dataset = Array(str(tmp_path / "a.npy"), standardise=True, held_out=0.25)
    raw = Array(str(tmp_path / "a.npy"), held_out=0.25)
    train, apart = raw[:].double().numpy(), raw.held_out_batch.x.double().numpy()
    mean, std = train.mean(0), train.std(0)
    np.testing.assert_allclose(dataset[:], (train - mean) / std, atol=2e-5)
    np.testing.assert_allclose(dataset.held_out_batch.x, (apart - mean) / std, atol=2e-5)
    torch.testing.assert_close(dataset[4], dataset[:][4])
    assert abs(float(dataset[:].mean())) < 1e-6
    torch.testing.assert_close(dataset[:].std(0, correction=0), torch.ones(2))


def test_whiten_uses_the_training_rows(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    mix = np.array([[2.0, 0.0, 1.0], [0.5, 0.01, 0.0], [-1.0, 0.0, 300.0]])
    values = chance.exponential(size=(90, 3)) @ mix.T + [5.0, -1.0, 100.0]
    np.save(tmp_path / "a.npy", values)
    raw = Array(str(tmp_path / "a.npy"), held_out=0.25)
    dataset = Array(str(tmp_path / "a.npy"), held_out=0.25, whiten=True)
    try:
        torch.set_default_dtype(torch.float64)
        train, apart = raw[:].numpy(), raw.held_out_batch.x.numpy()
        white, white_apart = dataset[:].numpy(), dataset.held_out_batch.x.numpy()
        torch.testing.assert_close(dataset[4], dataset[:][4])
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(3), atol=1e-8)
    factor = np.linalg.cholesky(np.cov(train.T, bias=True))
    np.testing.assert_allclose(white @ factor.T + train.mean(0), train, rtol=1e-8)
    np.testing.assert_allclose(white_apart @ factor.T + train.mean(0), apart, rtol=1e-8)


@pytest.mark.parametrize("scaled", [{}, {"standardise": True}, {"whiten": True}])
def test_restored_rows_are_those_of_the_file(tmp_path: Path, scaled: dict[str, bool]) -> None:
    mix = np.array([[2.0, 0.0, 1.0], [0.5, 0.1, 0.0], [-1.0, 0.0, 300.0]])
    values = np.random.default_rng(0).normal(size=(60, 3)) @ mix.T + [5.0, -1.0, 100.0]
    np.save(tmp_path / "flat.npy", values.astype(np.float32))
    np.save(tmp_path / "a.npy", values.astype(np.float32).reshape(60, 3, 1))
    for name in ("flat.npy", "a.npy"):
        raw = Array(str(tmp_path / name), held_out=0.25)
        dataset = Array(str(tmp_path / name), held_out=0.25, **scaled)
        apart = dataset.held_out_batch.x
        assert torch.equal(apart, raw.held_out_batch.x) is (not scaled)
        restored = dataset.restored(apart)
        assert restored.dtype is apart.dtype
        torch.testing.assert_close(restored, raw.held_out_batch.x, rtol=1e-4, atol=1e-4)
        assert torch.equal(dataset.restored(apart.numpy()), restored)


def test_names_are_those_of_the_columns_chosen_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a, kind ,"b, mm",c\n1,0,2,3\n4,1,5,6\n', encoding="utf-8")
    whole = Array(str(path))
    assert (whole.event_names, whole.condition_name) == (("a", "kind", "b, mm", "c"), None)
    labelled = Array(str(path), label=1)
    assert (labelled.event_names, labelled.condition_name) == (("a", "b, mm", "c"), "kind")
    chosen = Array(str(path), label="kind", columns=["c", "a"])
    assert (chosen.event_names, chosen.condition_name) == (("c", "a"), "kind")
    assert Array(str(path), columns=[2, 0]).event_names == ("b, mm", "a")


def test_files_without_names_have_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,0\n2,1\n", encoding="utf-8")
    np.save(tmp_path / "a.npy", np.eye(2))
    np.savez(tmp_path / "a.npz", x=np.eye(2), kinds=np.array([0, 1]))
    for name in ("a.csv", "a.npy"):
        dataset = Array(str(tmp_path / name), label=1)
        assert (dataset.event_names, dataset.condition_name) == (None, None)
    by_name = Array(str(tmp_path / "a.npz"), label="kinds")
    assert (by_name.event_names, by_name.condition_name) == (None, "kinds")


def test_whitened_events_keep_their_shape(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(50, 2, 3)) * [1.0, 2.0, 3.0]
    np.save(tmp_path / "a.npy", values)
    np.save(tmp_path / "flat.npy", values.reshape(50, 6))
    dataset = Array(str(tmp_path / "a.npy"), whiten=True)
    assert dataset.event_shape == (2, 3)
    assert torch.equal(dataset[:].flatten(1), Array(str(tmp_path / "flat.npy"), whiten=True)[:])


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text('"fixed acidity","pH",quality\n7.4,3.51,5\n7.8,3.2,6\n'.replace(",", separator))
    dataset = Array(str(path), columns=["fixed acidity", "pH"], separator=separator)
    assert torch.equal(dataset[:], torch.tensor([[7.4, 3.51], [7.8, 3.2]]))


def test_file_is_read_when_first_needed_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = Array("later.csv")
    Path("later.csv").write_text("1,2\n3,4\n")
    assert dataset.event_shape == (2,)
    Path("later.csv").unlink()
    assert len(dataset) == 2


def test_draws_follow_their_generator_and_touch_no_other(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(1000.0)[:, None])
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    dataset = Array(str(tmp_path / "a.npy"), held_out=0.5)
    one, same, other = (dataset.draw(20, generator=generator(s)).x for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


def test_numbers_may_be_larger_where_the_default_dtype_is(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1e300\n")
    try:
        torch.set_default_dtype(torch.float64)
        assert float(Array(str(tmp_path / "a.csv"))[0]) == 1e300
    finally:
        torch.set_default_dtype(torch.float32)
