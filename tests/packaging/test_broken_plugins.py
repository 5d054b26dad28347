"""Each way in which a plugin can be broken, end to end: what listing, the doctor and a pipeline say.

Distributions are made up in a folder on the path of fresh interpreters.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
HOME = f"ebmkit-core {version('ebmkit-core')}"


class Kind(NamedTuple):
    """One way to be broken."""

    text: str | None
    """Of the module; None where there is none."""
    message: str
    """After the part's name and distribution, from the doctor and in a pipeline."""
    listed: tuple[str, str] = ("ok", "")
    """Status and reason in a listing, which imports nothing."""


def _raised(error: str) -> str:
    return f"cannot be imported: foo_TAG:X raised {error}"


KINDS = {
    "raising": Kind("raise RuntimeError('no luck')", _raised("RuntimeError: no luck")),
    "syntax": Kind("class X(:\n", _raised("SyntaxError: invalid syntax (foo_TAG.py, line 1)")),
    "dependency": Kind(
        "import nowhere_found", _raised("ModuleNotFoundError: No module named 'nowhere_found'")
    ),
    "module": Kind(
        None,
        _raised("ModuleNotFoundError: No module named 'foo_module'"),
        ("broken", "there is no module foo_module"),
    ),
    "attribute": Kind("", _raised("AttributeError: module 'foo_TAG' has no attribute 'X'")),
    "class": Kind("class X: ...", "is no sampler: foo_TAG:X lacks init, draw, step"),
    "number": Kind(
        "X = 3", "is no class or function that makes a sampler: foo_TAG:X is of type int"
    ),
    "function": Kind(
        "def X():\n    return 3",
        "is no sampler: foo_TAG:X makes a int, which lacks init, draw, step",
    ),
    "leaving": Kind("import sys\nsys.exit(3)", _raised("SystemExit: 3")),
}
HANGING = "import time\nprint('begun', flush=True)\nwhile True:\n    time.sleep(60)\n"
HOOK = """
from ebmkit import hookimpl


class H:
    @hookimpl
    def run_start(self, run):
        raise RuntimeError("no luck")
"""
CLASH = "class X: ..."
PIPELINE = """
[model]
use = "mlp"
hidden = [4]

[sampler]
use = "NAME"

[loss]
use = "pcd"
sampler = "@sampler"
k_steps = 1
buffer_size = 8

[dataset]
use = "eight-gaussians"

[training]
steps = 2
batch_size = 4
device = "cpu"
"""
USE = """
import contextlib, io, json, sys
from ebmkit.__main__ import run

found = {}
for name in json.loads(sys.argv[1]):
    file = name.replace(":", "-") + ".toml"
    codes, said = [], io.StringIO()
    for words in (["validate", file], ["train", file, "--out", f"run-{name}"]):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            codes.append(run(words))
    found[name] = codes, said.getvalue()
print(json.dumps(found))
"""


def message(tag: str, text: str) -> str:
    return (
        f"sampler '{tag}' of foo-{tag} 1.0 {text.replace('TAG', tag)}; mend or update the "
        f"distribution, or switch it off with --no-plugin foo-{tag}"
    )


@pytest.fixture
def there(install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes distributions that interpreters started in the test's folder see."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    return install


def make(there: Any, tag: str, text: str | None, name: str | None = None) -> None:
    modules = {} if text is None else {f"foo_{tag}.py": text}
    there(f"foo-{tag}", {"ebmkit.samplers": {name or tag: f"foo_{tag}:X"}}, modules)


def listing(python: Run) -> list[list[str]]:
    """The rows of a listing of third parties. It takes less than two seconds of a processor, and no
    longer by the clock than a machine busy with other work may make of them."""
    before, began = os.times(), time.perf_counter()
    done = python("-m", "ebmkit", "list-plugins", "--long")
    after, took = os.times(), time.perf_counter() - began
    spent = after.children_user + after.children_system
    assert spent - before.children_user - before.children_system < 2
    assert took < 15
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [row for row in rows if row[2].startswith("foo-")]


def everything(there: Any) -> None:
    """All of them at once."""
    for tag, kind in KINDS.items():
        make(there, tag, kind.text)
    make(there, "clash", CLASH, "langevin")
    make(there, "hanging", HANGING)
    there("foo-hook", {"ebmkit.hooks": {"hook": "foo_hook:H"}}, {"foo_hook.py": HOOK})


@pytest.mark.parametrize("tag", KINDS)
def test_listing(tag: str, there: Any, python: Run) -> None:
    make(there, tag, KINDS[tag].text)
    [row] = listing(python)
    assert row[:5] == ["sampler", tag, f"foo-{tag}", "1.0", KINDS[tag].listed[0]]
    assert row[6:] == [f"foo_{tag}:X", KINDS[tag].listed[1]]


def test_listing_of_all(there: Any, python: Run) -> None:
    everything(there)
    status = {row[2]: (row[4], row[7]) for row in listing(python)}
    assert status.pop("foo-clash") == ("conflict", "also offered by ebmkit-core")
    assert status.pop("foo-hook") == status.pop("foo-hanging") == ("ok", "")
    assert status == {f"foo-{tag}": kind.listed for tag, kind in KINDS.items()}


def test_use_in_a_pipeline(there: Any, python: Run) -> None:
    everything(there)
    names = [*KINDS, "langevin", "ebmkit-core:langevin"]
    for name in names:
        text = PIPELINE.replace("NAME", name)
        if "langevin" in name:
            text = text.replace("[loss]", "step_size = 0.01\n\n[loss]")
        Path(f"{name.replace(':', '-')}.toml").write_text(text, encoding="utf-8")
    done = python("-c", USE, json.dumps(names))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for tag, kind in KINDS.items():
        line = f"error: {message(tag, kind.message)}\n"
        assert found[tag] == [[1, 1], line * 2], tag
    clash = (
        f"error: langevin.toml:7: sampler.use: sampler 'langevin' is offered by {HOME} and foo-clash "
        "1.0; choose one by writing 'ebmkit-core:langevin' or 'foo-clash:langevin'\n"
    )
    assert found["langevin"] == [[2, 2], clash * 2]
    # A sampler that hangs holds nobody up who does not use it; a hook plugin is used by all.
    codes, said = found["ebmkit-core:langevin"]
    assert codes == [0, 1]
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if line.startswith("error: ")] == [
        "error: hook run_start of foo-hook:hook raised RuntimeError: no luck; mend or update the "
        "plugin, or switch it off with --no-plugin"
    ]


def test_use_of_one_whose_import_hangs(there: Any, python: Run) -> None:
    make(there, "hanging", HANGING)
    assert listing(python)[0][4] == "ok"
    Path("mine.toml").write_text(PIPELINE.replace("NAME", "hanging"), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "ebmkit", "validate", "mine.toml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "begun\n"
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=60)
    assert (waiting.returncode, said) == (130, "interrupted\n")


def test_the_doctor_finds_all_of_them(there: Any, python: Run) -> None:
    everything(there)
    done = python("-m", "ebmkit", "doctor", "--timeout", 8)
    assert (done.returncode, done.stderr) == (1, "")
    found = re.findall(r"^problem: (.*)$", done.stdout, re.MULTILINE)
    # What a function makes is known when it is called, and a hook plugin is not run.
    expected = {message(tag, kind.message) for tag, kind in KINDS.items() if tag != "function"}
    expected -= {message("module", KINDS["module"].message)}
    expected |= {
        "sampler 'module' of foo-module: broken: there is no module foo_module",
        message("hanging", "cannot be imported: its import took longer than 8 s"),
        message("clash", KINDS["class"].message).replace("'clash'", "'langevin'"),
        "sampler 'langevin' of foo-clash: conflict: also offered by ebmkit-core",
        "sampler 'langevin' of ebmkit-core: conflict: also offered by foo-clash",
    }
    assert set(found) == expected
    assert len(found) == len(expected)
    states = {row[2]: row[3] for row in map(str.split, done.stdout.splitlines()) if len(row) > 3}
    assert states["foo-hanging"] == "broken" and states["foo-hook"] == "ok"
