"""Some thousand spoilt inputs for each reader, the same ones at every run, and some that hypothesis
thinks of. The long run is ``python -m tests.fuzz``."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebmkit.spec import to_toml
from tests.fuzz.targets import TARGETS, attempt

COUNTS = {
    "spec": 300,
    "composed": 150,
    "overrides": 300,
    "csv": 1500,
    "npy": 1500,
    "npz": 1000,
    "checkpoint": 300,
    "run": 300,
    "records": 500,
    "report": 100,
    "metadata": 300,
}


def test_every_target_is_tried() -> None:
    assert COUNTS.keys() == TARGETS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_spoilt_inputs_end_well_or_in_a_message(name: str) -> None:
    target = TARGETS[name]
    target.warm_up()
    ends: Counter[bool] = Counter()
    for number in range(COUNTS[name]):
        data = target.spoilt(random.Random(f"test {number}"))
        try:
            ends[bool(attempt(target, data).refused)] += 1
        except AssertionError as error:
            raise AssertionError(f"input {number}: {error}\n{data[:2000]!r}") from error
    # Not all of them are spoilt beyond use, so that what is read of them is tried too.
    assert ends[False] > 0.02 * COUNTS[name]
    assert ends[True] > 0 or name in ("metadata", "records", "report")


@pytest.mark.parametrize("name", COUNTS)
def test_what_is_not_spoilt_is_read(name: str) -> None:
    target = TARGETS[name]
    target.warm_up()
    refused = [seed for seed in target.seeds() if attempt(target, seed).refused]
    # Some rows are of objects or not there, options are tried on rows that they do not fit.
    assert len(refused) <= {"csv": 5, "npy": 4, "npz": 4, "overrides": 1, "composed": 1}.get(
        name, 0
    )


names = st.sampled_from(
    [
        "use",
        "mlp",
        "langevin",
        "two-moons",
        "@sampler",
        "model",
        "hidden",
        "steps",
        "",
        "a.b",
        "é\n",
    ]
)
scalars = (
    names
    | st.text(max_size=8)
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.booleans()
    | st.datetimes()
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(names | st.text(), inner, max_size=4)
    ),
    max_leaves=20,
)
sections = st.sampled_from(
    [
        "model",
        "sampler",
        "loss",
        "dataset",
        "training",
        "chains",
        "evaluation",
        "hooks",
        "parts",
        "x",
    ]
)
known: dict[str, Any] = {"max_examples": 100, "deadline": None, "derandomize": True}
known["suppress_health_check"] = [*HealthCheck]


@given(st.dictionaries(sections, values, max_size=6))
@settings(**known)
def test_tables_of_any_values(tables: dict[str, Any]) -> None:
    try:
        text = to_toml(tables).encode()
    except UnicodeEncodeError:
        return
    TARGETS["spec"].warm_up()
    attempt(TARGETS["spec"], text)


@pytest.mark.parametrize("name", COUNTS)
def test_any_bytes(name: str) -> None:
    target = TARGETS[name]
    target.warm_up()

    @given(st.binary(max_size=300))
    @settings(**known)
    def read(data: bytes) -> None:
        attempt(target, data)

    read()


@given(st.lists(st.tuples(st.text(max_size=12), values), max_size=3))
@settings(**known)
def test_any_overrides(assignments: list[tuple[str, Any]]) -> None:
    TARGETS["overrides"].warm_up()
    words = [f"{path}={value!r}" for path, value in assignments]
    attempt(TARGETS["overrides"], "\n".join(words).encode("utf-8", "surrogatepass"))


@given(
    st.lists(
        st.lists(st.floats(width=32) | st.integers() | st.text(max_size=4), min_size=1, max_size=4),
        max_size=6,
    ),
    st.integers(0, 20),
)
@settings(**known)
def test_any_cells(rows: list[list[Any]], way: int) -> None:
    text = "\n".join(",".join(map(str, row)) for row in rows)
    attempt(TARGETS["csv"], bytes((way,)) + text.encode("utf-8", "surrogatepass"))
