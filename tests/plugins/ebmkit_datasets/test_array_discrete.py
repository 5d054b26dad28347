"""Files of discrete states: bits as they are, categories one-hot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ebmkit_datasets.array import Array
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import ebmkit
from ebmkit import DataError

KINDS = [np.bool_, np.uint8, np.int64, np.float32]


def saved(path: Path, values: Any) -> str:
    file = path / "a.npy"
    np.save(file, np.asarray(values))
    return str(file)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    shape=arrays.array_shapes(min_dims=2, max_dims=4, max_side=4),
    q=st.integers(2, 5),
    kind=st.sampled_from(KINDS[1:]),
    data=st.data(),
)
def test_states_are_served_as_they_are(
    tmp_path: Path, shape: tuple[int, ...], q: int, kind: Any, data: Any
) -> None:
    values = data.draw(arrays.arrays(np.int64, shape, elements=st.integers(0, q - 1)))
    dataset = Array(saved(tmp_path, values.astype(kind)), discrete=True, categories=q)
    index = torch.from_numpy(values)
    assert dataset.discrete and dataset.event_shape == (*shape[1:], q)
    assert torch.equal(dataset[:], torch.nn.functional.one_hot(index, q).float())
    assert dataset[0].shape == dataset.event_shape
    assert torch.equal(dataset.restored(dataset[:]), index)
    bits = Array(saved(tmp_path, (values > 0).astype(kind)), discrete=True)
    assert bits.event_shape == shape[1:] and bits[:].dtype == torch.float32
    assert torch.equal(bits[:], (index > 0).float())


def test_booleans_are_bits(tmp_path: Path) -> None:
    dataset = Array(saved(tmp_path, [[True, False], [True, True]]), discrete=True)
    assert dataset[:].tolist() == [[1, 0], [1, 1]]
    assert not Array(dataset.path).discrete


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0])
def test_what_is_no_bit_is_named(tmp_path: Path, value: float) -> None:
    table = np.zeros((20_000, 3))
    table[17_000, 1] = value
    words = rf"row 17000 .*, column 1: expected 0 or 1 .* got {value:g}; .* state categories"
    with pytest.raises(DataError, match=words):
        Array(saved(tmp_path, table), discrete=True).draw(1, generator=torch.Generator())
    images = np.zeros((4, 2, 2))
    images[3, 1, 0] = value
    with pytest.raises(
        DataError, match=re.escape("row 3 (counted from 0, without names), entry (1, 0)")
    ):
        _ = Array(saved(tmp_path, images), discrete=True).event_shape


def test_what_is_no_category_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a,b\n0,1\n2,3\n")
    assert Array(str(file), discrete=True, categories=4).event_shape == (2, 4)
    words = r"row 1 .*, column 'b': expected a category 0, …, 2 .* got 3"
    with pytest.raises(DataError, match=words):
        _ = Array(str(file), discrete=True, categories=3).event_shape


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"discrete": True, "standardise": True}, "dataset.standardise"),
        ({"discrete": True, "whiten": True}, "dataset.whiten"),
        ({"discrete": True, "dequantise": True}, "dataset.dequantise"),
        ({"categories": 3}, "dataset.categories"),
        ({"discrete": True, "categories": 1}, "dataset.categories"),
    ],
)
def test_what_contradicts_is_refused(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(ebmkit.SpecError) as caught:
        ebmkit.create("dataset", "array", path="a.npy", **fields)
    (problem,) = caught.value.problems
    assert problem.path == path


@pytest.mark.parametrize(
    ("model", "categories"), [("rbm", None), ("ising", None), ("potts", 3), ("mlp", 3)]
)
def test_models_of_discrete_states_are_trained_on_a_file(
    tmp_path: Path, model: str, categories: int | None
) -> None:
    rng = np.random.default_rng(0)
    path = saved(tmp_path, rng.integers(0, categories or 2, (60, 4)))
    sampler: dict[str, Any] = {"use": "gibbs"}
    if model == "mlp":
        sampler["categories"] = categories
    trainable = {"trainable": True} if model in ("ising", "potts") else {}
    dataset: dict[str, Any] = {"use": "array", "path": path, "discrete": True}
    if categories:
        dataset["categories"] = categories
    pipeline = ebmkit.compose(
        {
            "model": {"use": model, **trainable},
            "sampler": sampler,
            "loss": {"use": "pcd", "k_steps": 1, "buffer_size": 16},
            "dataset": dataset,
            "training": {"steps": 2, "batch_size": 8},
        }
    )
    pipeline.train_step()
    x = pipeline.sample(6)
    assert ((x == 0) | (x == 1)).all()
    assert categories is None or (x.sum(-1) == 1).all()
