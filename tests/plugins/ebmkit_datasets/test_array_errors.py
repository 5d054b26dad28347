"""What a file can get wrong, and that the message says where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ebmkit_datasets.array import Array

from ebmkit import DataError

TABLE = np.arange(12.0).reshape(4, 3)


def holed(value: float, dtype: str = "f8") -> np.ndarray:
    table = TABLE.astype(dtype)
    table[2, 1] = value
    return table


CSV = [
    ("a,b\n1,2\n3,x\n", {}, ["row 3", "column 'b'", "finite number", "'x'"]),
    (
        "a,site\n1,north\n3,south\n",
        {},
        ["row 2", "column 'site'", "the row or, where all of", "others by columns = [...]"],
    ),
    ("a,b\n1,2\n3,\n", {}, ["row 3", "column 'b'", "an empty cell; mend or remove the row"]),
    ("a,b\n1,2\nnan,4\n", {}, ["row 3", "column 'a'", "'nan'"]),
    ("a,b\n1,2\n-inf,4\n", {}, ["row 3", "column 'a'", "'-inf'"]),
    ("a,b\n1,2\n1e39,4\n", {}, ["row 3", "column 'a'", "3.4e+38", "'1e39'"]),
    ("1,2\n1_0,4\n", {}, ["row 2", "column 0", "'1_0'"]),
    ("1,nan\n3,4\n", {}, ["row 1", "column 1", "'nan'"]),
    ("1,\n3,4\n", {}, ["row 1", "column 1", "an empty cell"]),
    ('a,b\n"1",2\n"\n3",4\n"5\n",z\n', {}, ["row 6", "column 'b'", "'z'"]),
    ("a,b\n1,2\n3\n", {}, ["row 3", "expected 2 cells", "got 1"]),
    ("1,2\n3,4,5\n", {}, ["row 2", "expected 2 cells", "got 3"]),
    ("1,2\n\n3,4\n", {}, ["row 2", "blank line"]),
    ("", {}, ["expected rows of numbers, got none"]),
    ("\n\n", {}, ["expected rows of numbers, got none"]),
    ("a,b\n", {}, ["expected rows of numbers, got none"]),
    ("", {"columns": ["a"]}, ["expected rows of numbers, got none"]),
    ('1,2\n3,"4\n', {}, ["row 2", "separated by commas"]),
    ("width,height\n1,2\n", {"columns": ["widht"]}, ["'widht'", "did you mean 'width'?"]),
    ("width,height\n1,2\n", {"label": "hight"}, ["'hight'", "did you mean 'height'?"]),
    ("a,a\n1,2\n", {"columns": ["a"]}, ["expected one column 'a', got 2"]),
    ("a,b\n1,2\n", {"columns": ["a", "a"]}, ["twice"]),
    ("a,b\n1,2\n", {"columns": ["a", "b"], "label": "b"}, ["column 'b' is both the label"]),
    ("a\n1\n", {"label": "a"}, ["no column is left"]),
    ("1,2\n", {"columns": ["a"]}, ["have no names", "'a'"]),
    ("1,2\n", {"columns": [2]}, ["from 0 to 1", "got 2"]),
    ("1,2\n", {"columns": [-1]}, ["from 0 to 1", "got -1"]),
    ("a,y\n1,0\n1,1.5\n", {"label": "y"}, ["row 3", "column 'y'", "class label", "'1.5'"]),
    ("a,y\n1,0\n1,-1\n", {"label": "y"}, ["row 3", "column 'y'", "class label", "'-1'"]),
    ("a,y\n1,cat\n", {"label": "y"}, ["row 2", "column 'y'", "class label", "'cat'"]),
    ("a,y\n1,inf\n", {"label": "y"}, ["row 2", "column 'y'", "class label", "'inf'"]),
    ("a,b\n1,2\n", {"key": "a"}, ["key is for npz files"]),
    ("a,b\n1,2\n3,2\n", {"standardise": True}, ["column 'b' is constant, at 2.0"]),
    ("1,2\n3,2\n", {"standardise": True}, ["column 1 is constant, at 2.0"]),
    ("a,b\n1,2\n3,2\n", {"whiten": True}, ["column 'b' is constant", "set whiten = false"]),
    (
        "a,b,c\n1,5,2\n3,1,6\n2,7,4\n4,4,8\n",
        {"whiten": True},
        ["column 'a' and column 'c' determine one another", "1e-10", "leave one of them out"],
    ),
    (
        "0.5,2.5,7\n1.5,1,3\n0.5,1.5,4\n",
        {"whiten": True},
        ["3 training rows of 3 columns", "more rows"],
    ),
    (
        "a;b\n1;2\n3;4\n",
        {},
        ["row 2", "column 'a;b'", "'1;2'", "by semicolons", 'separator = ";"'],
    ),
    ("1\t2\n3\t4\n", {}, ["row 2", "'3\\t4'", "by tabs", 'separator = "\\t"']),
    ('"a";"b"\n1;2\n', {}, ["row 1", "separated by commas", "set separator"]),
    ("a;b\n1;2\n3\n", {"separator": ";"}, ["row 3", "got 1", "separated by semicolons"]),
    ("1,2\n", {"held_out": 0.5}, ["held_out = 0.5 of 1 rows leaves none"]),
]


def expect(dataset: Array, path: Path | str, parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        assert dataset[:] is not None
    for part in [str(path), *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize(("text", "fields", "parts"), CSV)
def test_csv(tmp_path: Path, text: str, fields: dict[str, Any], parts: list[str]) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(text.encode())
    place = "" if "held_out" in fields else path
    expect(Array(str(path), **fields), place, parts)


@pytest.mark.parametrize("cell", ["", " ", "nan", "inf"])
def test_columns_are_no_remedy_where_a_number_is_missing(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(f"a,b\n1,2\n3,{cell}\n")
    with pytest.raises(DataError, match=r"; mend or remove the row$"):
        Array(str(path))[:]


def test_csv_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(b"1,2\n\xff\xfe,3\n")
    expect(Array(str(path)), path, ["UTF-8"])


@pytest.mark.parametrize(
    ("values", "fields", "parts"),
    [
        (holed(np.nan), {}, ["row 2", "column 1", "nan"]),
        (holed(-np.inf, "f4"), {}, ["row 2", "column 1", "-inf"]),
        (holed(1e39), {}, ["row 2", "column 1", "3.4e+38", "1e+39"]),
        (holed(np.nan).reshape(2, 2, 3), {}, ["row 1", "entry (0, 1)", "nan"]),
        (holed(np.nan), {"columns": [2, 1]}, ["row 2", "column 1", "nan"]),
        (holed(0.5), {"label": 1}, ["row 0", "class label", "0.5"][1:]),
        (holed(-4.0), {"label": 1}, ["row 2", "class label", "-4.0"]),
        (holed(np.nan), {"label": 1}, ["row 2", "class label", "nan"]),
        (TABLE + 1j, {}, ["real numbers", "complex128"]),
        (TABLE.astype("U8"), {}, ["real numbers", "<U"]),
        (np.zeros(3, dtype=[("a", "f8")]), {}, ["real numbers", "'a'"]),
        (TABLE.astype("M8[s]"), {}, ["real numbers", "datetime64"]),
        (TABLE.astype(object), {}, ["without pickle", "Object arrays"]),
        (np.zeros(5), {}, ["shape (5,)", "(rows, 1)"]),
        (np.float64(3.0), {}, ["shape ()"]),
        (np.zeros((0, 3)), {}, ["rows of numbers", "shape (0, 3)"]),
        (np.zeros((3, 0)), {}, ["rows of numbers", "shape (3, 0)"]),
        (TABLE, {"columns": [0, 3]}, ["from 0 to 2", "got 3"]),
        (TABLE, {"columns": ["a"]}, ["have no names", "'a'"]),
        (TABLE, {"columns": [0, 0]}, ["twice"]),
        (TABLE, {"label": 3}, ["from 0 to 2", "got 3"]),
        (TABLE, {"label": "y"}, ["label names an array of an npz file"]),
        (TABLE, {"key": "x"}, ["key names an array of an npz file"]),
        (TABLE.reshape(2, 2, 3), {"columns": [0]}, ["shape (2, 2, 3)", "columns"]),
        (TABLE.reshape(2, 2, 3), {"label": 0}, ["shape (2, 2, 3)", "label"]),
        (holed(5.0) * [1, 0, 1], {"standardise": True}, ["column 1 is constant, at 0.0"]),
        (
            TABLE.reshape(4, 1, 3) * [1, 0, 1],
            {"standardise": True},
            ["entry (0, 1) is constant, at 0.0"],
        ),
    ],
)
def test_npy(tmp_path: Path, values: Any, fields: dict[str, Any], parts: list[str]) -> None:
    path = tmp_path / "bad.npy"
    np.save(path, values, allow_pickle=True)
    expect(Array(str(path), **fields), path, parts)


@pytest.mark.parametrize(
    ("arrays", "fields", "parts"),
    [
        ({"images": TABLE, "labels": TABLE}, {}, ["got 2", "'images', 'labels'", "key"]),
        ({"images": TABLE}, {"key": "imges"}, ["'imges'", "did you mean 'images'?"]),
        ({"images": TABLE, "y": TABLE}, {"label": "labels"}, ["got 2"]),
        (
            {"images": TABLE, "labels": TABLE},
            {"key": "images", "label": "lables"},
            ["'lables'", "did you mean 'labels'?"],
        ),
        ({"x": TABLE, "y": np.arange(3)}, {"label": "y"}, ["shape (4,)", "shape (3,)"]),
        ({"x": TABLE, "y": np.arange(4) / 2}, {"label": "y"}, ["row 1", "class label", "0.5"]),
        ({"x": TABLE, "y": np.array(list("abcd"))}, {"label": "y"}, ["real numbers", "<U1"]),
        ({"x": TABLE.astype(object)}, {}, ["without pickle"]),
        ({"x": holed(np.nan)}, {}, ["['x']", "row 2", "column 1", "nan"]),
        ({}, {}, ["expected one array of events, got 0"]),
    ],
)
def test_npz(
    tmp_path: Path, arrays: dict[str, np.ndarray], fields: dict[str, Any], parts: list[str]
) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    expect(Array(str(path), **fields), path, parts)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("content", [b"", b"1,2\n3,4\n", b"PK\x03\x04 cut short", b"\x93NUMPY\x01"])
def test_files_that_are_not_what_their_names_say(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    expect(Array(str(path)), path, ["without pickle"])


def test_missing_file_other_kinds_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expect(Array("data/none.csv"), "data/none.csv", ["no such file", str(tmp_path)])
    expect(Array("table.parquet"), "table.parquet", [".npy, .npz or .csv", "'.parquet'"])
    expect(Array("table"), "table", [".npy, .npz or .csv", "''"])
    (tmp_path / "folder.csv").mkdir()
    expect(Array("folder.csv"), "folder.csv", ["no such file"])


def test_whiten_and_standardise_together_are_refused() -> None:
    with pytest.raises(ValueError, match="whiten: expected one of whiten and standardise"):
        Array("a.csv", whiten=True, standardise=True)


def test_columns_that_nearly_determine_one_another_are_told_from_those_that_do(
    tmp_path: Path,
) -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 500))
    path = tmp_path / "a.npy"
    np.save(path, np.stack([one, other, one - other + 1e-3 * other**2], 1))
    assert np.abs(np.cov(Array(str(path), whiten=True)[:].T) - np.eye(3)).max() < 0.01
    np.save(path, np.stack([one, other, one - other], 1).astype(np.float32))
    expect(Array(str(path), whiten=True), path, ["column 0", "column 1", "column 2"])


@pytest.mark.parametrize(
    "fields",
    [
        {"path": ""},
        {"columns": []},
        {"held_out": 1.0},
        {"held_out": -0.5},
        {"seed": -1},
        {"separator": "|"},
    ],
)
def test_fields_out_of_bounds_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Array(**{"path": "a.csv", **fields})
