"""What the doctor finds: each plugin below is made up for the test and imported in another process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ebmkit.cli import _imports
from ebmkit.cli._imports import trials
from ebmkit.errors import PluginError
from ebmkit.registry import Component, scan

Command = Callable[..., Any]
GOOD = """
import time
time.sleep(0.3)


class X:
    def init(self, energy, x): ...
    def draw(self, state, *, generator): ...
    def step(self, energy, state, noise): ...
"""
HANGING = "import time\nwhile True:\n    time.sleep(60)\n"
CASES = {
    "good": (GOOD, ""),
    "loud": ("print('{}')\nX = print", ""),
    "raise": ("1 / 0", "cannot be imported: {}:X raised ZeroDivisionError: division by zero"),
    "exit": (
        "import os\nos._exit(3)",
        "cannot be imported: its import ended the process with exit code 3",
    ),
    "abort": (
        "import os\nos.abort()",
        "cannot be imported: its import ended the process by signal 6",
    ),
    "method": (GOOD.replace("def step", "def stop"), "is no sampler: {}:X lacks step"),
    "number": ("X = 3", "is no class or function that makes a sampler: {}:X is of type int"),
    "late": (HANGING, "cannot be imported: its import took longer than 2 s"),
}


def samplers(install: Any, texts: dict[str, str]) -> list[Component]:
    """A distribution foo-NAME of one sampler for each."""
    for name, text in texts.items():
        entry = {"ebmkit.samplers": {name: f"foo_{name}:X"}}
        install(f"foo-{name}", entry, {f"foo_{name}.py": text})
    return [c for c in scan().components if c.distribution.startswith("foo-")]


def message(name: str) -> str:
    error = CASES[name][1].format(f"foo_{name}")
    return error and (
        f"sampler {name!r} of foo-{name} 1.0 {error}; mend or update the distribution, or switch it "
        f"off with --no-plugin foo-{name}"
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_what_becomes_of_imports(install: Any) -> None:
    parts = samplers(install, {name: text for name, (text, _) in CASES.items()})
    found = {component.name: trial for component, trial in trials(parts, 2)}
    assert {name: trial.error for name, trial in found.items()} == {n: message(n) for n in CASES}
    assert 0.3 <= found["good"].seconds < 2 <= found["late"].seconds
    assert not [name for name in sys.modules if name.startswith("foo_")]


def test_what_becomes_of_imports_where_a_system_cannot_fork(
    install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "fork", raising=False)
    parts = samplers(install, {name: CASES[name][0] for name in ("exit", "method")})
    assert [trial.error for _, trial in trials(parts, 20)] == [message("exit"), message("method")]
    monkeypatch.setattr(_imports, "_HELPER_SECONDS", 0)
    [late] = [c for c in samplers(install, {"late": HANGING}) if c.name == "late"]
    [(_, trial)] = trials([late], 2)
    assert trial.error == message("late")


def test_a_fault_of_the_helpers_is_no_parts(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_imports, "_START", "import ebmkit.nothing")
    with pytest.raises(PluginError, match="No module named 'ebmkit"):
        list(trials(samplers(install, {"good": GOOD}), 20))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process each is slow for all built-ins")
def test_as_json(cli: Command, install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EBMKIT_X", "TORCH_HOME", "MALLOC_CONF", "UNRELATED"):
        monkeypatch.setenv(name, "a value")
    samplers(install, {"good": GOOD})
    hook = "from ebmkit import hookimpl\n\nclass H:\n    @hookimpl\n    def doctor(self):\n        "
    modules = {
        "foo_h.py": f"{hook}raise RuntimeError('no luck')",
        "foo_i.py": f"{hook}while True: pass",
    }
    install("foo-h", {"ebmkit.hooks": {"h": "foo_h:H", "i": "foo_i:H"}}, modules)
    said = cli("doctor", "--timing", "--json", "--timeout", 5)
    assert said.code == 1
    found = json.loads(said.out)
    raised = (
        "hook doctor of foo-h:h raised RuntimeError: no luck; mend or update the plugin, or switch "
        "it off with --no-plugin foo-h:h"
    )
    late = (
        "hook 'i' of foo-h 1.0 cannot be used: its import and doctor() took longer than 5 s; mend "
        "or update the distribution, or switch it off with --no-plugin foo-h"
    )
    assert found["healthy"] is False
    assert found["problems"] == [raised, late]
    states = {(p["distribution"], p["name"]): (p["status"], p["reason"]) for p in found["parts"]}
    assert states["foo-good", "good"] == states["ebmkit-core", "mlp"] == ("ok", "")
    assert states["foo-h", "h"] == ("broken", raised)
    assert states["foo-h", "i"] == ("broken", late)
    assert found["packages"]["ebmkit-core"]
    assert found["devices"][0] == "cpu"
    told = found["environment"]
    assert told["EBMKIT_X"] == told["TORCH_HOME"] == told["MALLOC_CONF"] == "a value"
    assert "UNRELATED" not in told
    costs = {row["module"]: row["milliseconds"] for row in found["imports"]}
    assert costs["foo_good"] >= 300
    assert costs["foo_i"] >= 5000
    modules = {p["target"].split(":")[0] for p in found["parts"] if p["kind"] != "recipe"}
    assert set(costs) == modules


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process each is slow for all built-ins")
def test_as_text(cli: Command, install: Any) -> None:
    samplers(install, {"number": "X = 3"})
    said = cli("doctor", "--timing")
    assert said.code == 1
    lines = said.out.splitlines()
    assert f"sampler\tnumber\tfoo-number\t1.0\tbroken\t{message('number')}" in lines
    assert f"problem: {message('number')}" in lines
    assert any(line.startswith("foo_number\tfoo-number\t") for line in lines)
    assert lines[-1] == "1 problem"


def test_no_time_at_all_is_refused(cli: Command) -> None:
    assert cli("doctor", "--timeout", 0).code == 2
