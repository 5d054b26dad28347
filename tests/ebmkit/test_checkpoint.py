"""Trees of tensors to a file and back; torn and foreign files are refused."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebmkit import checkpoint
from ebmkit.errors import RunDirectoryError


class State(NamedTuple):
    """A state as samplers and losses have it."""

    x: Any
    adapted: Any


dtypes = st.sampled_from(
    [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    seed = draw(st.integers(0, 1000))
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10
    tensor = drawn.abs().to(draw(dtypes))
    return tensor.T if tensor.ndim == 2 and draw(st.booleans()) else tensor


keys = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=5) | st.integers()
leaves = (
    tensors()
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=5)
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.builds(State, inner, inner)
    ),
    max_leaves=8,
)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, State):
        return one._fields == other._fields and all(map(equal, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and bool(one == other)


@given(tree=trees)
@settings(
    deadline=None,
    max_examples=150,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_tree_comes_back_as_it_was(tree: Any, tmp_path: Path) -> None:
    path = tmp_path / "tree.safetensors"
    checkpoint.write(path, tree)
    assert equal(tree, checkpoint.read(path))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_tensors_that_share_memory_come_back_apart(tmp_path: Path) -> None:
    weight = torch.arange(6.0)
    tree = {"whole": weight, "again": weight, "part": weight[2:4]}
    checkpoint.write(tmp_path / "t", tree)
    assert equal(tree, checkpoint.read(tmp_path / "t"))


def test_keys_that_look_like_paths_stay_apart(tmp_path: Path) -> None:
    tree = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}}
    checkpoint.write(tmp_path / "t", tree)
    assert equal(tree, checkpoint.read(tmp_path / "t"))


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tree.safetensors"
    checkpoint.write(path, {"x": torch.arange(100.0), "step": 3})
    whole = path.read_bytes()
    for kept in (0, 4, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(RunDirectoryError, match="not a readable checkpoint"):
            checkpoint.read(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "foreign.safetensors"
    with pytest.raises(RunDirectoryError, match="not a readable checkpoint"):
        checkpoint.read(path)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(RunDirectoryError, match="not a readable checkpoint"):
        checkpoint.read(path)
    for described in ("{}", "[]", "3", '{"tensor": "gone"}', '{"dict": 3}', '{"dict": [[1]]}'):
        save_file({"x": torch.zeros(2)}, path, {"tree": described})
        with pytest.raises(RunDirectoryError, match="not a readable checkpoint"):
            checkpoint.read(path)


class Trap:
    """Leaves a trace where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_by_another_name_is_refused_and_not_executed(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "step-00000001.safetensors"
    path.write_bytes(pickle.dumps(Trap(trace)))
    with pytest.raises(RunDirectoryError):
        checkpoint.read(path)
    torch.save({"x": Trap(trace)}, path)
    with pytest.raises(RunDirectoryError):
        checkpoint.read(path)
    assert not trace.exists()


def test_what_a_checkpoint_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="got object at /a/1"):
        checkpoint.write(tmp_path / "t", {"a": [1, object()]})
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "t", tmp_path / "no" / "t"):
        with pytest.raises(RunDirectoryError, match="cannot be written"):
            checkpoint.write(path, {})


def test_the_old_file_stays_where_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t"
    checkpoint.write(path, {"step": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunDirectoryError, match="No space left on device"):
        checkpoint.write(path, {"step": 2})
    assert checkpoint.read(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]
