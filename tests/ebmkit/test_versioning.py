"""The protocols' version, what plugins state of it, and deprecations."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ebmkit
from ebmkit import versioning
from ebmkit.registry import registry, scan
from ebmkit.versioning import deprecated, unserved

CORE = f"ebmkit-core {importlib.metadata.version('ebmkit-core')}"


@pytest.mark.parametrize(
    "keywords",
    [
        [],
        ["MCMC,ebmkit-protocols"],
        ["ebmkit-protocol~=1.0"],
        ["a, b,ebmkit-protocol>=1.0,<2,zeta"],
        ["Ebmkit_Protocol >= 1.0, < 2"],
        ["ebmkit-protocol==1.*", "x"],
    ],
)
def test_ranges_that_hold_this_protocol(
    keywords: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versioning, "PROTOCOL", "1.3")
    assert unserved(keywords) == ""


@pytest.mark.parametrize(
    ("keywords", "stated"),
    [
        ("ebmkit-protocol~=2.0", "~=2.0"),
        ("MCMC,ebmkit-protocol>=1.4,<2,zeta", ">=1.4,<2"),
        ("ebmkit-protocol>=1.0,<1.3", ">=1.0,<1.3"),
        ("ebmkit-protocol>=1,zeta,ebmkit-protocol<1.2", ">=1,<1.2"),
    ],
)
def test_ranges_that_do_not(keywords: str, stated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versioning, "PROTOCOL", "1.3")
    expected = f"it serves protocol {stated} and {CORE} has protocol 1.3; update one of the two"
    assert unserved([keywords]) == expected


@pytest.mark.parametrize("said", ["ebmkit-protocol", "ebmkit-protocol 1.0", "ebmkit-protocol~=1"])
def test_ranges_that_cannot_be_read(said: str) -> None:
    assert "cannot be read; an example is ebmkit-protocol~=1.0" in unserved([said])


@pytest.mark.parametrize("backend", ["hatchling", "setuptools"])
def test_in_a_wheel(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> None:
    hook = {"hatchling": "hatchling.build", "setuptools": "setuptools.build_meta"}[backend]
    (tmp_path / "foo_x.py").write_text("raise RuntimeError")
    (tmp_path / "pyproject.toml").write_text(
        f"""[build-system]
requires = ["{backend}"]
build-backend = "{hook}"

[project]
name = "foo-x"
version = "1.0"
keywords = ["zeta", "ebmkit-protocol>=2.1,<3", "MCMC"]

[project.entry-points."ebmkit.samplers"]
x = "foo_x:X"
"""
    )
    build = "import sys, importlib; importlib.import_module(sys.argv[1]).build_wheel('.')"
    command = [sys.executable, "-c", build, hook]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    monkeypatch.syspath_prepend(str(wheel))
    registry.cache_clear()
    [found] = [c for c in scan().components if c.distribution == "foo-x"]
    held = f"{CORE} has protocol {ebmkit.PROTOCOL}"
    reason = f"it serves protocol >=2.1,<3 and {held}; update one of the two"
    assert (found.status, found.reason) == ("incompatible", reason)
    said = cli("describe", "sampler", "x")
    assert (said.code, said.errors) == (2, [f"sampler 'x' of foo-x 1.0 cannot be used: {reason}"])


def test_a_deprecation_names_the_release_and_blames_the_caller() -> None:
    def old() -> None:
        deprecated("old()", removed_in="2.0", instead="new()")

    with pytest.warns(ebmkit.EbmkitDeprecationWarning) as caught:
        old()
    [warning] = caught
    expected = "old() is deprecated and will be removed in ebmkit-core 2.0; use new()"
    assert (str(warning.message), warning.filename) == (expected, __file__)
    assert issubclass(warning.category, DeprecationWarning)


def test_a_command_shows_a_deprecation_as_a_note(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def old(*_: Any) -> str:
        deprecated("it", removed_in="2.0", instead="another")
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", old)
    said = cli("--version")
    assert said.err.splitlines() == [
        "note: it is deprecated and will be removed in ebmkit-core 2.0; use another"
    ]
