"""Built-in parts are imported with every pipeline that names them, and hook plugins with every run:
none brings along what only some calls need."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ebmkit.registry import scan

HEAVY = ("IPython", "jax", "matplotlib", "pandas", "PIL", "rich", "scipy", "sklearn", "tensorboard")
"""Slow to import, and of use to a few functions only."""
PROBE = """
import importlib, json, sys

found = {}
for module in json.loads(sys.argv[1]):
    before = set(sys.modules)
    importlib.import_module(module)
    found[module] = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def brought(python: Callable[..., Any]) -> dict[str, list[str]]:
    """What the import of each built-in module has brought, the kernel's face first."""
    modules = sorted({c.module for c in scan(third_party=False).components})
    done = python("-c", PROBE, json.dumps(["ebmkit", "torch", *modules]))
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_there_are_modules(brought: dict[str, list[str]]) -> None:
    assert len(brought) > 50
    assert "ebmkit_reporting" in {name for names in brought.values() for name in names}


def test_a_built_in_brings_nothing_heavy(brought: dict[str, list[str]]) -> None:
    heavy = {module: sorted({*names} & {*HEAVY}) for module, names in brought.items()}
    assert {module: names for module, names in heavy.items() if names} == {}
