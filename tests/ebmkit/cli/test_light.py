"""Commands that list import neither torch nor any plugin's module."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ebmkit.registry import scan

PROBE = """
import contextlib, io, json, sys
from ebmkit.__main__ import run

codes = {}
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()):
        codes[" ".join(words)] = run(words)
heavy = [m for m in sys.modules if m.partition(".")[0] in ("torch", "numpy", "matplotlib", "sklearn")]
plugins = [m for m in sys.modules if m.startswith("ebmkit_")]
print(json.dumps([codes, heavy, plugins]))
"""
LISTINGS = [
    ["--help"],
    ["--version"],
    ["list-plugins"],
    ["list-plugins", "--long"],
    ["list-plugins", "--json"],
    ["list-plugins", "--kind", "model"],
    ["--no-plugin", "ebmkit-core:cd", "list-plugins"],
    ["recipes"],
    ["recipes", "two-moons"],
    *(
        [command, "--help"]
        for command in (
            "check",
            "train",
            "validate",
            "sample",
            "evaluate",
            "diagnose",
            "report",
            "doctor",
            "new-plugin",
        )
    ),
]


def test_listing_is_light(python: Callable[..., Any]) -> None:
    described = [
        ["describe", c.kind, c.name, *option]
        for c in scan(third_party=False).components
        for option in ([], ["--json"])
    ]
    done = python("-c", PROBE, json.dumps([*described, *LISTINGS]))
    assert done.returncode == 0, done.stderr
    codes, heavy, plugins = json.loads(done.stdout.splitlines()[-1])
    assert {words for words, code in codes.items() if code} == set()
    assert heavy == []
    assert plugins == []


@pytest.mark.parametrize(
    "code", ["import ebmkit", "import ebmkit; ebmkit.__version__; dir(ebmkit)"]
)
def test_the_import_is_light(python: Callable[..., Any], code: str) -> None:
    done = python("-c", f"{code}\nimport sys\nprint(*sys.modules)")
    loaded = set(done.stdout.split())
    assert "ebmkit" in loaded
    assert not loaded & {"torch", "numpy", "attrs", "pluggy", "click", "rich"}
    assert not [name for name in loaded if name.startswith("ebmkit_")]


def test_completion_is_light(python: Callable[..., Any]) -> None:
    code = (
        "from click.shell_completion import ShellComplete\n"
        "from ebmkit.cli import ebmkit\n"
        "found = ShellComplete(ebmkit, {}, 'ebmkit', '_X').get_completions(['describe', 'model'], '')\n"
        "assert 'mlp' in [item.value for item in found]\n"
        "import sys\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
