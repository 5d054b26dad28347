"""Plain values into types, strictly; and what is said where they do not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from attrs import field, validators
from hypothesis import given, settings
from hypothesis import strategies as st

from ebmkit import Sampler, Scheduler
from ebmkit.parameters import (
    REQUIRED,
    describe_type,
    parameters,
    protocol_of,
    structure,
    takes_any_keyword,
    validate,
    without_protocols,
)

FITS: list[tuple[Any, Any, Any]] = [
    (3, int, 3),
    (3, float, 3.0),
    (2.5, float, 2.5),
    ("x", str, "x"),
    (True, bool, True),
    (3, float | None, 3.0),
    (None, float | None, None),
    (3, float | Scheduler, 3.0),
    ([1, 2], list[int], [1, 2]),
    ([1, 2], list[float], [1.0, 2.0]),
    ([1, 2], tuple[int, ...], (1, 2)),
    ([1, 0.5], tuple[int, float], (1, 0.5)),
    ([[1], []], list[list[int]], [[1], []]),
    ("a", Literal["a", "b"], "a"),
    ("f.csv", Path, Path("f.csv")),
    ({"a": 1}, Mapping[str, Any], {"a": 1}),
    ({"a": 1}, dict[str, Any], {"a": 1}),
    ([1], list[int] | None, [1]),
    ("r", int | str, "r"),
    (object, Any, object),
]


@pytest.mark.parametrize(("value", "kind", "expected"), FITS)
def test_what_fits(value: Any, kind: Any, expected: Any) -> None:
    result, complaints = structure(value, kind)
    assert complaints == []
    assert result == expected
    assert type(result) is type(expected)


REFUSED: list[tuple[Any, Any, str]] = [
    (3.9, int, "expected a whole number, got 3.9 (float)"),
    (3.0, int, "expected a whole number, got 3.0 (float)"),
    ("3", int, "expected a whole number, got '3' (str)"),
    (True, int, "expected a whole number, got True (bool)"),
    ("false", bool, "expected true or false, got 'false' (str)"),
    (1, bool, "expected true or false, got 1 (int)"),
    (True, float, "expected a number, got True (bool)"),
    (1, str, "expected a string, got 1 (int)"),
    (math.nan, float, "expected a finite number, got nan"),
    (math.inf, float, "expected a finite number, got inf"),
    (10**400, float, "expected a finite number, got 1"),
    ("c", Literal["a", "b"], "expected one of 'a', 'b', got 'c'"),
    (["a"], Literal["a", "b"], "expected one of 'a', 'b', got ['a']"),
    (1, list[int], "expected a list of whole numbers, got 1 (int)"),
    ("ab", list[str], "expected a list of strings, got 'ab' (str)"),
    ([1], dict[str, Any], "expected a table, got [1] (list)"),
    (1, Path, "expected a path, got 1 (int)"),
    ([1], tuple[int, int], "expected 2 values, got 1"),
    ({"a": 1}, float | None, "expected a number, got {'a': 1} (dict)"),
    ("x", int | bool, "expected a whole number or true or false, got 'x' (str)"),
]


@pytest.mark.parametrize(("value", "kind", "message"), REFUSED)
def test_what_does_not_fit(value: Any, kind: Any, message: str) -> None:
    ((path, said),) = structure(value, kind)[1]
    assert path == ""
    assert said.startswith(message)


def test_every_wrong_item_of_a_list_is_named() -> None:
    complaints = structure([1, "a", [2.5]], list[int])[1]
    assert [path for path, _ in complaints] == ["[1]", "[2]"]
    assert [p for p, _ in structure([[1, "a"], ["b"]], list[list[int]])[1]] == ["[0][1]", "[1][0]"]


def test_depth_without_end_is_no_traceback() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    kind: Any = int
    for _ in range(50):
        kind = list[kind]
    assert structure(deep, kind)[1]
    assert structure(deep, int)[1]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(plain, st.sampled_from([kind for _, kind, _ in FITS]))
@settings(deadline=None, max_examples=200, derandomize=True)
def test_any_value_is_taken_or_complained_about(value: Any, kind: Any) -> None:
    result, complaints = structure(value, kind)
    assert all(isinstance(message, str) and message for _, message in complaints)
    if not complaints and kind is int:
        assert type(result) is int


@attrs.frozen
class Component:
    required: int
    bounded: float = field(default=1.0, validator=validators.gt(0))
    many: list[int] = field(factory=lambda: [1])
    sampler: Sampler | None = None
    schedule: float | Scheduler = 1.0


def plain_function(a: int, b: float = 2.0, *args: Any, **kwargs: Any) -> None:
    """A component written as a function."""


def test_parameters_of_a_class() -> None:
    found = parameters(Component)
    assert list(found) == ["required", "bounded", "many", "sampler", "schedule"]
    assert found["required"].default is REQUIRED
    assert found["many"].default == [1]
    assert [protocol_of(p.type) for p in found.values()] == [None] * 3 + ["sampler", "scheduler"]
    assert without_protocols(found["schedule"].type) is float
    assert without_protocols(Sampler) is None
    assert validate(found["bounded"], 1.0) == ""
    assert "must be > 0" in validate(found["bounded"], -1.0)
    assert not takes_any_keyword(Component)


def test_parameters_of_a_function() -> None:
    found = parameters(plain_function)
    assert list(found) == ["a", "b"]
    assert takes_any_keyword(plain_function)


def test_types_are_said_as_a_person_would() -> None:
    assert describe_type(int) == "a whole number"
    assert describe_type(float | None) == "a number"
    assert describe_type(list[int]) == "a list of whole numbers"
    assert describe_type(float | Scheduler) == "a number or a scheduler's table with `use`"
    assert describe_type(Literal["a", 1]) == "one of 'a', 1"
