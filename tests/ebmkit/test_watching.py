"""Imports that take long, and those that are interrupted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ebmkit import watching
from ebmkit.registry import registry

WHOSE = "sampler 'x' of foo-x 1.0"
SLOW = """
import time

time.sleep(0.5)
X = 3
"""


@pytest.fixture
def load(install: Any) -> Callable[[str], Any]:
    """What the part of a distribution with such a module leads to."""

    def call(text: str) -> Any:
        install("foo-x", {"ebmkit.samplers": {"x": "foo_x:X"}}, {"foo_x.py": text})
        return registry().load(registry().find("sampler", "x"))

    return call


def test_one_that_takes_long_is_named(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "PATIENCE", 0.1)
    with pytest.warns(watching.SlowImportWarning) as caught:
        assert load(SLOW) == 3
    [warning] = caught
    assert str(warning.message) == (
        f"{WHOSE} is still being imported after 0.1 s (foo_x:X); mend or update the distribution, or "
        "switch it off with --no-plugin foo-x"
    )


def test_a_quick_one_is_not(load: Callable[[str], Any]) -> None:
    assert load("X = 3") == 3  # a warning would be an error


def test_one_that_is_interrupted_is_named(
    load: Callable[[str], Any], cli: Callable[..., Any]
) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        load("raise KeyboardInterrupt")
    told = f"during the import of {WHOSE} (foo_x:X), which --no-plugin foo-x switches off"
    assert str(caught.value) == told
    said = cli("validate", "two-moons", "--set", "sampler.use=x")
    assert (said.code, said.err.splitlines()[-1]) == (130, f"interrupted {told}")
