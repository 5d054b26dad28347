"""Laws of specs: a round trip through TOML, a resolved spec that is its own resolution, and no
spec, however spoilt, that ends in a traceback."""

from __future__ import annotations

import copy
import datetime
import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ebmkit
from ebmkit import sources
from ebmkit.composer import load_spec
from ebmkit.registry import scan
from ebmkit.spec import PARTS, parse_toml, to_toml

BUILT_INS = scan(third_party=False).components
RECIPES = [c.name for c in BUILT_INS if c.kind == "recipe"]

keys = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=6)
scalars = (
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.booleans()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def _wine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the one file that a recipe takes from the current directory."""
    rows = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))
    lines = [",".join(f"column {i}" for i in range(12))]
    lines += [",".join(f"{cell:.3f}" for cell in row) for row in rows.tolist()]
    (tmp_path / "winequality-red.csv").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@given(st.dictionaries(keys, st.dictionaries(keys, values, max_size=4), max_size=4))
@settings(deadline=None, max_examples=200, derandomize=True)
def test_a_spec_survives_toml_and_back(tables: dict[str, Any]) -> None:
    once = parse_toml(to_toml(tables), "a test").tables
    assert once == tables
    assert to_toml(once) == to_toml(tables)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resolved_recipe_composes_again_and_says_the_same(recipe: str) -> None:
    first = ebmkit.compose(recipe)
    text = to_toml(first.tables)
    second = ebmkit.compose(parse_toml(text, "resolved"))
    assert second.tables == first.tables
    assert to_toml(second.tables) == text
    assert isinstance(first.model, torch.nn.Module) and isinstance(second.model, torch.nn.Module)
    theirs = second.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in first.model.state_dict().items())
    for part in ("model", "sampler", "loss", "dataset", "training", "evaluation"):
        assert part in first.tables
    assert first.tables["training"]["seed"] == first.training.seed


JUNK: list[Any] = [
    *(0, -1, 1, 3, 2**31, 2**63 - 1, -(2**63), 10**9, 0.0, -0.5, 1e-300, 1e308, -1e308, 2.5),
    *(math.nan, math.inf, -math.inf, True, False, "", "mlp", "adam", "@sampler", "@loss", "@"),
    *("two-moons", "langevin", "gaussian", "cosine", "dist:name", ":", "cuda", "cuda:99", "mps"),
    *("meta", "a b\n\t\x1b[31m", "\u2028", "x" * 5000, "../../etc/passwd", "__class__"),
    *([], [[]], [0], [-1], [10**9], [1e9], ["a"], [1, "a", None], [[1, 2], [3]], [2] * 50, {}),
    *(
        {"use": "mlp"},
        {"use": 3},
        {"use": None},
        {"use": "cosine"},
        {"use": "pcd"},
        {"a": {"b": {}}},
    ),
    *({"use": "constant", "value": -1.0}, {"use": "sequential"}, {"use": "langevin"}),
    {"use": "linear", "start_value": 1.0, "end_value": 0.0, "clock": "chain", "n_steps": 10**6},
    {"use": "sequential", "schedulers": [{"use": "constant", "value": 1.0}], "milestones": [0]},
    {"use": "warmup", "scheduler": {"use": "constant", "value": 1.0}, "n_steps": 10**9},
    datetime.datetime(2020, 1, 1),
    datetime.time(1, 2),
    10**400,
]
"""What a person, or a script, might write in place of a value."""


def tables_of(recipe: str) -> dict[str, Any]:
    tables: dict[str, Any] = copy.deepcopy(dict(load_spec(recipe).tables))
    return tables


def holders(table: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every key of a tree with the table it stands in."""
    for key, value in list(table.items()):
        yield table, key
        if isinstance(value, dict):
            yield from holders(value)


def typo(word: str, chance: random.Random) -> str:
    at = chance.randrange(len(word) + 1)
    return chance.choice(
        [
            word[:at] + word[at + 1 :],
            word[:at] + chance.choice("xé_ .") + word[at:],
            word.upper(),
            "",
        ]
    )


NUMBERS = [0, 1, 2, 3, 10, 64, -1, 10**9, 0.0, 0.01, 0.5, 1.0, 1.5, 20.0, -0.5, 1e30, 1e-30]
PLAUSIBLE: dict[str, list[Any]] = {
    "int": [0, 1, 2, 3, 10, 64, 300, -1, 10**6, 10**9, 2**62],
    "float": NUMBERS,
    "bool": [True, False],
    "str": ["no.npy", "x.csv", "/", "", "cpu", "chain", "training", "label", "silu", "data"],
    "list": [[], [1], [1, 2], [2, 1], [0.5, -1], [[0.0, 1.0], [2.0, 3.0]], [[1.0]], [1e30], ["a"]],
}
"""Values of the right type, in range or not."""


def plausible(kind: str, chance: random.Random, depth: int = 0) -> dict[str, Any]:
    """A part of a kind with some of its own keys at values that are nearly right."""
    component = chance.choice([c for c in BUILT_INS if c.kind == kind])
    table: dict[str, Any] = {"use": component.name}
    source = sources.read(component)
    for field in source.fields if source else ():
        left_out = 0.9 if field.name in ("event_shape", "generator") else 0.5
        if (field.default is not None or left_out == 0.9) and chance.random() < left_out:
            continue
        if "Scheduler" in field.type and depth < 2 and chance.random() < 0.5:
            part = plausible("scheduler", chance, depth + 1)
            table[field.name] = [part] * chance.randint(1, 3) if "list" in field.type else part
        elif "Literal" in field.type and chance.random() < 0.9:
            table[field.name] = chance.choice(re.findall(r"'([^']*)'", field.type))
        elif "Sampler" in field.type:
            table[field.name] = "@sampler" if depth or chance.random() < 0.5 else "langevin"
        else:
            fits = [name for name in PLAUSIBLE if re.search(rf"\b{name}\b", field.type)]
            fits = ["list"] if "list" in field.type or "tuple" in field.type else fits
            values_of = PLAUSIBLE[chance.choice(fits or ["float"])]
            table[field.name] = copy.deepcopy(chance.choice(values_of))
    return table


def mutate(tables: dict[str, Any], every_name: list[str], chance: random.Random) -> None:
    """One change, at a place taken at random."""
    if chance.random() < 0.4:
        part = chance.choice([*PARTS, "lr"])
        if part != "lr":
            tables[part] = plausible(part, chance)
        elif isinstance(tables.get("training"), dict):
            lr = plausible("scheduler", chance)
            tables["training"]["optimizer"] = {"use": chance.choice(["adam", "sgd"]), "lr": lr}
        return
    holder, key = chance.choice(list(holders(tables)) or [(tables, "model")])
    kind = chance.choice([0, 1, 2, 3, 3, 3, 4, 5])
    if kind == 0:
        holder.pop(key, None)
    elif kind == 1:
        holder[typo(key, chance)] = holder.pop(key, 1)
    elif kind == 2:
        other, name = chance.choice(list(holders(tables)) or [(tables, "model")])
        holder[key] = copy.deepcopy(other.get(name))
    elif kind == 3:
        holder[chance.choice([key, key, key, "seed", "n_samples"])] = copy.deepcopy(
            chance.choice(JUNK)
        )
    elif kind == 4 and isinstance(holder.get(key), str):
        holder[key] = typo(holder[key], chance)
    else:
        holder["use"] = chance.choice(every_name)


def spoil(text: str, chance: random.Random) -> str:
    """The text cut, or with a few characters changed."""
    if chance.random() < 0.3:
        return text[: chance.randrange(len(text))]
    letters = list(text)
    for _ in range(chance.randint(1, 4)):
        letters[chance.randrange(len(letters))] = chance.choice('"[]{}=.,#\n\t\\0-e@\x00é')
    return "".join(letters)


def spoilt(seed: int, every_name: list[str]) -> str:
    chance = random.Random(seed)
    tables = tables_of(chance.choice(RECIPES))
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        mutate(tables, every_name, chance)
    try:
        text = to_toml(tables)
    except (TypeError, ValueError):  # a value that TOML cannot say; its text can be spoilt instead
        text = to_toml(tables_of(chance.choice(RECIPES)))
        return spoil(text, chance)
    return spoil(text, chance) if chance.random() < 0.2 else text


def test_a_thousand_spoilt_specs_end_in_0_or_2(cli: Callable[..., Any], tmp_path: Path) -> None:
    names = sorted({c.name for c in BUILT_INS})
    path = tmp_path / "spoilt.toml"
    ends: Counter[int] = Counter()
    for seed in range(1000):
        text = spoilt(seed, names)
        path.write_text(text, encoding="utf-8", newline="")
        start = time.process_time()
        said = cli("validate", path)  # which fails on a traceback
        took = time.process_time() - start
        assert said.code in (0, 2), f"seed {seed}: {said}\n{text}"
        assert said.code == 0 or said.errors, f"seed {seed}: no message\n{text}"
        assert took < 10, f"seed {seed} took {took} s\n{text}"
        ends[said.code] += 1
    # Neither all spoilt beyond use nor all harmless.
    assert ends[0] > 50
    assert ends[2] > 500
