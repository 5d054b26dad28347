"""Each way in which a plugin can be broken, end to end: what commands say of it.

Every plugin is a package of its own, built as a wheel by its backend and installed by pip into an
environment made for it. The kernel is a wheel of ours, installed once; torch and the kernel's other
requirements are borrowed from the present environment, so that nothing is fetched.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
import venv
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
CORE = f"ebmkit-core {version('ebmkit-core')}"
LISTING_SECONDS = 2.0
TRIES = 5
"""A listing is timed until it has been quick, so often at most: other work on the machine may slow any
one of them. Where more processes want to run than there are processors, none can be quick by the clock,
and the processor's time counts."""


class Kind(NamedTuple):
    """One way to be broken: a distribution foo-TAG with the module foo_TAG."""

    text: str | None
    """Of the module; None where there is none."""
    message: str = ""
    """After the part's name and distribution, wherever the part is imported."""
    status: str = "ok"
    """In a listing, which imports nothing; with the reason."""
    reason: str = ""
    name: str = ""
    """Of the part; TAG where it is empty."""
    group: str = "ebmkit.samplers"
    requires: Sequence[str] = ("ebmkit-core>=1,<2",)
    keywords: Sequence[str] = ()


def _raised(error: str) -> str:
    return f"cannot be imported: foo_TAG:X raised {error}"


WALK = """
from typing import NamedTuple

import torch
from torch import Tensor


class State(NamedTuple):
    x: Tensor


class X:
    def init(self, energy, x):
        return State(x)

    def draw(self, state, *, generator):
        return torch.randn(state.x.shape, generator=generator)

    def step(self, energy, state, noise):
        return State(state.x + 0.1 * noise), {}
"""
HANGING = "import time\nprint('begun', flush=True)\nwhile True:\n    time.sleep(60)\n"
HOOK = """
from ebmkit import hookimpl


class X:
    @hookimpl
    def run_start(self, run):
        raise RuntimeError("no luck")
"""
SERVES = f"it serves protocol ~=9.1 and {CORE} has protocol 1.0; update one of the two"
KINDS = {
    "raising": Kind("raise RuntimeError('no luck')", _raised("RuntimeError: no luck")),
    "syntax": Kind("class X(:\n", _raised("SyntaxError: invalid syntax (foo_TAG.py, line 1)")),
    "dependency": Kind(
        "import nowhere_found", _raised("ModuleNotFoundError: No module named 'nowhere_found'")
    ),
    "module": Kind(
        None,
        _raised("ModuleNotFoundError: No module named 'foo_module'"),
        "broken",
        "there is no module foo_module",
    ),
    "attribute": Kind("", _raised("AttributeError: module 'foo_TAG' has no attribute 'X'")),
    "class": Kind("class X: ...", "is no sampler: foo_TAG:X lacks init, draw, step"),
    "number": Kind(
        "X = 3", "is no class or function that makes a sampler: foo_TAG:X is of type int"
    ),
    "function": Kind(
        "def X():\n    return 3",
        "is no sampler: foo_TAG:X makes an object of type int, which lacks init, draw, step",
    ),
    "leaving": Kind("import sys\nsys.exit(3)", _raised("SystemExit: 3")),
    "built-in": Kind(
        WALK, status="conflict", reason="also offered by ebmkit-core", name="langevin"
    ),
    "left": Kind(WALK, status="conflict", reason="also offered by foo-right", name="twin"),
    "right": Kind(WALK, status="conflict", reason="also offered by foo-left", name="twin"),
    "hook": Kind(HOOK, group="ebmkit.hooks"),
    "hanging": Kind(HANGING),
    "protocol": Kind(WALK, status="incompatible", reason=SERVES, keywords=["ebmkit-protocol~=9.1"]),
    "stranger": Kind(WALK, requires=["ebmkit>=0.1"]),
}
RAISING = [tag for tag, kind in KINDS.items() if kind.message]
"""Those of which using them says what their message is."""
ALONE = {"left": ["left", "right"], "right": []}
"""With what a kind is installed where that is not itself alone."""
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

[evaluation]
n_samples = 20
chain_steps = 2
"""
BUILD = """
import os, sys
from hatchling.build import build_wheel

for folder in sys.argv[2:]:
    os.chdir(folder)
    build_wheel(sys.argv[1])
"""
USE = """
import contextlib, io, json, sys
from ebmkit.__main__ import run

found = []
for words in json.loads(sys.argv[1]):
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = run(words)
    found.append([code, out.getvalue(), errors.getvalue()])
print(json.dumps(found))
"""


def message(tag: str, text: str) -> str:
    return (
        f"{KINDS[tag].group[7:-1]} '{KINDS[tag].name or tag}' of foo-{tag} 1.0 "
        f"{text.replace('TAG', tag)}; mend or update the distribution, or switch it off with "
        f"--no-plugin foo-{tag}"
    )


SEEN = {
    message("module", "leads nowhere: there is no module foo_module"),
    f"sampler 'langevin' is offered by {CORE} and foo-built-in 1.0; choose one by writing "
    "'ebmkit-core:langevin' or 'foo-built-in:langevin'",
    "sampler 'twin' is offered by foo-left 1.0 and foo-right 1.0; choose one by writing "
    "'foo-left:twin' or 'foo-right:twin'",
    f"sampler 'protocol' of foo-protocol 1.0 cannot be used: {SERVES}",
}
"""What is known of all of them without an import."""


def write(tag: str, folder: Path) -> Path:
    """The package of a kind, ready to be built."""
    kind, module = KINDS[tag], f"foo_{tag.replace('-', '_')}"
    project = folder / f"foo-{tag}"
    project.mkdir(parents=True)
    chosen = (
        f'only-include = ["{module}.py"]' if kind.text is not None else "bypass-selection = true"
    )
    text = f"""
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"

        [project]
        name = "foo-{tag}"
        version = "1.0"
        keywords = {json.dumps([*kind.keywords])}
        dependencies = {json.dumps([*kind.requires])}

        [project.entry-points."{kind.group}"]
        {kind.name or tag} = "{module}:X"

        [tool.hatch.build.targets.wheel]
        {chosen}
        """
    (project / "pyproject.toml").write_text(textwrap.dedent(text), encoding="utf-8")
    if kind.text is not None:
        (project / f"{module}.py").write_text(kind.text, encoding="utf-8")
    return project


class Environments:
    """Environments with the kernel and with whichever of the broken plugins, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        checkout = folder / "checkout"
        left_out = (".*", "__pycache__", "tests", "docs", "runs", "dist", "build")
        shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*left_out))
        projects = [checkout, *(write(tag, folder / "sources") for tag in KINDS)]
        self.wheels.mkdir()
        run([sys.executable, "-c", BUILD, self.wheels, *projects], folder)
        self._borrowed = [sysconfig.get_path("purelib")]
        self.kernel = self.make("kernel", ["ebmkit_core"])
        """The interpreter of the one with the kernel alone, which the others borrow it from."""
        self._borrowed.insert(0, self._purelib(self.kernel))

    def make(self, name: str, tags: Iterable[str]) -> Path:
        """The interpreter of an environment of that name, with the plugins of these tags."""
        place = self.folder / "environments" / name
        venv.create(place, with_pip=False)
        python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        # What stands in a .pth file comes after the environment's own packages.
        path = Path(self._purelib(python), "borrowed.pth")
        path.write_text("\n".join(self._borrowed) + "\n", encoding="utf-8")
        names = [t if t == "ebmkit_core" else f"foo_{t.replace('-', '_')}" for t in tags]
        wheels = [next(self.wheels.glob(f"{name}-*.whl")) for name in names]
        pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
        run([*pip, "install", "-q", "--no-deps", "--no-index", *wheels], self.folder)
        return python

    def _purelib(self, python: Path) -> str:
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        return run([python, "-c", code], self.folder).stdout.strip()


def run(words: Sequence[object], folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A command that ends with this code, run in a folder without this process's paths."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


def surroundings() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "EBMKIT_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def listing(python: Path, folder: Path) -> list[list[str]]:
    """The rows of a listing that are of broken plugins. It has to be quick."""
    quickest = float("inf")
    for _ in range(TRIES):
        before, began = os.times(), time.perf_counter()
        done = run([python, "-m", "ebmkit", "list-plugins", "--long"], folder)
        took, after = time.perf_counter() - began, os.times()
        if os.getloadavg()[0] > (os.cpu_count() or 1):
            took = after.children_user + after.children_system
            took -= before.children_user + before.children_system
        quickest = min(quickest, took)
        if quickest < LISTING_SECONDS:
            break
    assert quickest < LISTING_SECONDS
    assert done.stderr == ""
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [row for row in rows if row[2].startswith("foo-")]


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Environments:
    for needed in ("hatchling", "pip"):
        pytest.importorskip(needed)
    return Environments(tmp_path_factory.mktemp("broken"))


@pytest.fixture(scope="module")
def everything(environments: Environments) -> Path:
    """The interpreter of an environment with all of them."""
    return environments.make("everything", KINDS)


@pytest.mark.parametrize("tag", [tag for tag in KINDS if ALONE.get(tag) != []])
def test_listing(tag: str, environments: Environments, tmp_path: Path) -> None:
    there = ALONE.get(tag, [tag])
    rows = listing(environments.make(tag, there), tmp_path)
    assert [row[2] for row in rows] == [f"foo-{name}" for name in there]
    for name, row in zip(there, rows, strict=True):
        kind = KINDS[name]
        assert row[:2] == [kind.group[7:-1], kind.name or name]
        assert row[3:5] == ["1.0", kind.status]
        assert row[6:] == [f"foo_{name.replace('-', '_')}:X", kind.reason]


def said(
    python: Path, folder: Path, commands: Sequence[Sequence[str]]
) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of commands, all in one process: most of each would be the import of
    torch."""
    done = run([python, "-c", USE, json.dumps(commands)], folder)
    return [(code, out, errors) for code, out, errors in json.loads(done.stdout.splitlines()[-1])]


def pipeline(folder: Path, name: str) -> str:
    """The file of a pipeline with a sampler of that name."""
    text = PIPELINE.replace("NAME", name)
    if name == "ebmkit-core:langevin":
        text = text.replace("[loss]", "step_size = 0.01\n\n[loss]")
    path = folder / f"{name.replace(':', '-')}.toml"
    path.write_text(text, encoding="utf-8")
    return path.name


def test_listing_of_all(everything: Path, tmp_path: Path) -> None:
    rows = listing(everything, tmp_path)
    assert len(rows) == len(KINDS)
    for row in rows:
        kind = KINDS[row[2].removeprefix("foo-")]
        assert (row[4], row[7]) == (kind.status, kind.reason)


def test_a_short_listing_notes_what_cannot_be_used(everything: Path, tmp_path: Path) -> None:
    said = run([everything, "-m", "ebmkit", "list-plugins"], tmp_path)
    notes = {line.removeprefix("note: ") for line in said.stderr.splitlines()}
    assert notes == SEEN
    assert len(notes) == len(said.stderr.splitlines())


def test_use_in_a_pipeline(everything: Path, tmp_path: Path) -> None:
    names = [*RAISING, "langevin", "twin", "protocol"]
    files = {name: pipeline(tmp_path, name) for name in names}
    commands = [[w, files[n]] for n in names for w in ("validate", "train")]
    told = said(everything, tmp_path, commands)
    found = dict(zip(names, zip(told[::2], told[1::2], strict=True), strict=True))
    for tag in RAISING:
        assert found[tag] == ((1, "", f"error: {message(tag, KINDS[tag].message)}\n"),) * 2, tag
    place = ".toml:7: sampler.use: sampler"
    for name, one, other in (
        ("langevin", CORE, "foo-built-in 1.0"),
        ("twin", "foo-left 1.0", "foo-right 1.0"),
    ):
        choices = " or ".join(f"'{o.split()[0]}:{name}'" for o in (one, other))
        clash = f"{name!r} is offered by {one} and {other}; choose one by writing {choices}"
        assert found[name] == ((2, "", f"error: {name}{place} {clash}\n"),) * 2
    unfit = f"protocol{place} 'protocol' of foo-protocol 1.0 cannot be used: {SERVES}"
    assert found["protocol"] == ((2, "", f"error: {unfit}\n"),) * 2


def test_use_beside_them(everything: Path, tmp_path: Path) -> None:
    """They hold nobody up who does not use them; but a hook plugin is used by every run."""
    names = ["ebmkit-core:langevin", "foo-built-in:langevin", "stranger"]
    files = [pipeline(tmp_path, name) for name in names]
    words = ["train", files[0], "--out", "run", "--no-plugin", "foo-hook:hook"]
    found = said(
        everything, tmp_path, [*(["validate", file] for file in files), ["train", files[0]], words]
    )
    assert [(code, errors) for code, _, errors in found[:3]] == [(0, "")] * 3
    code, _, errors = found[3]
    assert code == 1
    assert [line for line in errors.splitlines() if line.startswith("error: ")] == [
        "error: hook run_start of foo-hook:hook raised RuntimeError: no luck; mend or update the "
        "plugin, or switch it off with --no-plugin foo-hook:hook"
    ]
    assert found[4][0] == 0, found[4]


def test_the_kit_tries_none_of_them(everything: Path, tmp_path: Path) -> None:
    tags = [*RAISING, "protocol"]
    [(code, out, errors)] = said(everything, tmp_path, [["check", *(f"foo-{t}" for t in tags)]])
    assert (code, errors) == (1, "")
    lines = out.splitlines()
    assert lines.pop() == (
        f"{len(tags)} parts, 0 laws, 0 cases: {len(tags)} parts could not be tried in full"
    )
    told = dict(zip(lines[::2], lines[1::2], strict=True))
    assert told.pop("sampler foo-protocol:protocol") == f"  cannot be checked: {SERVES}"
    for tag in RAISING:
        line = f"  cannot be checked: {message(tag, KINDS[tag].message)}"
        assert told[f"sampler foo-{tag}:{tag}"] == line


@pytest.mark.parametrize("words", [["validate", "hanging.toml"], ["check", "foo-hanging"]])
def test_use_of_one_whose_import_hangs(words: list[str], everything: Path, tmp_path: Path) -> None:
    pipeline(tmp_path, "hanging")
    with subprocess.Popen(
        [str(everything), "-m", "ebmkit", *words],
        cwd=tmp_path,
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        assert waiting.stdout is not None
        # check names the part that it is about to try.
        assert "begun\n" in iter(waiting.stdout.readline, "")
        waiting.send_signal(signal.SIGINT)
        _, errors = waiting.communicate(timeout=60)
    # The first line ends the one on which a terminal shows ^C.
    expected = (
        "\ninterrupted during the import of sampler 'hanging' of foo-hanging 1.0 (foo_hanging:X), "
        "which --no-plugin foo-hanging switches off\n"
    )
    assert (waiting.returncode, errors) == (130, expected)


def test_the_doctor_finds_all_of_them(everything: Path, tmp_path: Path) -> None:
    done = run([everything, "-m", "ebmkit", "doctor", "--timeout", 8], tmp_path, 1)
    assert done.stderr == ""
    found = re.findall(r"^problem: (.*)$", done.stdout, re.MULTILINE)
    # What a function makes is known when it is called, and a hook plugin is not run.
    expected = {message(tag, KINDS[tag].message) for tag in RAISING if tag != "function"}
    expected -= {message("module", KINDS["module"].message)}
    expected |= SEEN | {
        message("hanging", "cannot be imported: its import took longer than 8 s"),
        "foo-stranger requires 'ebmkit', which is another project's distribution; its author should "
        "require 'ebmkit-core'",
    }
    assert set(found) == expected
    assert len(found) == len(expected)
    assert done.stdout.splitlines()[-1] == f"{len(expected)} problems"
    states = {row[2]: row[4] for row in map(str.split, done.stdout.splitlines()) if len(row) > 4}
    assert states["foo-hanging"] == "broken" and states["foo-hook"] == "ok"


def test_the_doctor_of_a_healthy_environment(environments: Environments, tmp_path: Path) -> None:
    """The kernel alone, and with a plugin that nothing is wrong with."""
    done = run([environments.kernel, "-m", "ebmkit", "doctor", "--json", "--timing"], tmp_path)
    found = json.loads(done.stdout)
    assert (found["healthy"], found["problems"], done.stderr) == (True, [], "")
    assert {part["status"] for part in found["parts"]} == {"ok"}
