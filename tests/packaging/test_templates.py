"""Packages that `ebmkit new-plugin` writes, built as wheels and installed beside a wheel of ours in a
fresh environment. torch and the other requirements are borrowed from the present one, so that nothing
is fetched."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from ebmkit.cli import COMMANDS
from ebmkit.scaffold import SUMMARIES, Scaffold
from ebmkit.testing.reports import laws_of

ROOT = Path(__file__).parents[2]
QUICK = (
    "training.steps=3",
    "training.batch_size=32",
    "training.device=cpu",
    "evaluation.n_samples=50",
    "evaluation.chain_steps=2",
)
OVERRIDES = [word for setting in QUICK for word in ("--set", setting)]
IN_TURN = """
import json, sys
from ebmkit.__main__ import run

for words in json.loads(sys.argv[1]):
    if code := run(words):
        sys.exit(code)
"""


class Fresh(NamedTuple):
    """An environment with six packages in it, and where their sources are."""

    python: Path
    sources: Path

    def run(self, *words: str | Path, cwd: Path) -> str:
        """What a module says, run in the environment; it has to succeed."""
        return run(self.python, "-m", *words, cwd=cwd)


def run(*words: str | Path, cwd: Path) -> str:
    """What a command says, started without this process's paths; it has to succeed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    for needed in ("hatchling", "pip"):
        pytest.importorskip(needed)
    work = tmp_path_factory.mktemp("packages")
    sources, wheels = work / "sources", work / "wheels"
    checkout = work / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "tests", "docs", "runs", "dist", "build")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    for kind in SUMMARIES:
        name = f"ebmkit-fresh-{kind}"
        Scaffold(name, kind, author="Ann", email="ann@example.org").write(sources / name)
    pip = (sys.executable, "-m", "pip")
    quiet = ("-q", "--no-deps", "--no-index", "--disable-pip-version-check")
    packages = [checkout, *sorted(sources.iterdir())]
    run(*pip, "wheel", *quiet, "--no-build-isolation", "-w", wheels, *packages, cwd=work)
    venv.create(work / "env", with_pip=False)
    python = work / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    built = sorted(wheels.glob("*.whl"))
    assert len(built) == 1 + len(SUMMARIES)
    run(*pip, "--python", python, "install", *quiet, *built, cwd=work)
    borrowed = sysconfig.get_path("purelib")
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=work)
    # A line of a .pth file comes after the environment's own packages, and its .pth files are not read.
    Path(own.strip(), "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")
    where = run(python, "-c", "import ebmkit; print(ebmkit.__file__)", cwd=work)
    assert Path(where.strip()).is_relative_to(work / "env")
    return Fresh(python, sources)


def test_they_are_listed_and_train(fresh: Fresh, tmp_path: Path) -> None:
    listed = fresh.run("ebmkit", "list-plugins", cwd=tmp_path).splitlines()
    commands = []
    for kind in SUMMARIES:
        name = f"ebmkit-fresh-{kind}"
        [line] = [line for line in listed if f"\t{name}\t" in line]
        assert line.startswith(f"{kind}\tfresh-{kind}\t{name}\t0.1.0\tok\t")
        pipeline = fresh.sources / name / "pipeline.toml"
        commands.append(["train", str(pipeline), "--out", kind, *OVERRIDES])
        if "check" in COMMANDS:
            commands.append(["check", name])
    # One process for all: most of a short run is the import of torch.
    run(fresh.python, "-c", IN_TURN, json.dumps(commands), cwd=tmp_path)
    for kind in SUMMARIES:
        spec = tomllib.loads((tmp_path / kind / "spec.toml").read_text(encoding="utf-8"))
        assert spec["parts"][f"{kind}:fresh-{kind}"] == f"ebmkit-fresh-{kind}==0.1.0"
        assert (tmp_path / kind / "speed.txt").is_file()


def test_their_own_tests_pass(fresh: Fresh, tmp_path: Path) -> None:
    asked = [kind for kind in SUMMARIES if laws_of(kind)]
    tests = [fresh.sources / f"ebmkit-fresh-{kind}" / "tests" for kind in asked]
    said = fresh.run("pytest", "-v", "-p", "no:cacheprovider", *tests, cwd=tmp_path)
    for kind in asked:
        assert re.search(rf"test_ebmkit_fresh_{kind}\.py::test_it\[.* PASSED", said), said


def test_their_types_are_strict(fresh: Fresh, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    files = [
        str(path)
        for kind in SUMMARIES
        for path in sorted((fresh.sources / f"ebmkit-fresh-{kind}").rglob("*.py"))
    ]
    assert len(files) == 2 * len(SUMMARIES)
    mypy = ("-m", "mypy", "--strict", "--python-executable", fresh.python)
    run(sys.executable, *mypy, "--cache-dir", tmp_path / "cache", *files, cwd=tmp_path)


def test_the_wheel_holds_the_templates(fresh: Fresh) -> None:
    [wheel] = (fresh.sources.parent / "wheels").glob("ebmkit_core-*.whl")
    there = {name for name in zipfile.ZipFile(wheel).namelist() if "/templates/" in name}
    wanted = {p for p in (ROOT / "ebmkit" / "templates").rglob("*") if p.is_file()}
    assert there == {p.relative_to(ROOT).as_posix() for p in wanted}


@pytest.mark.parametrize("kind", SUMMARIES)
def test_a_wheel_holds_the_part_and_its_licence(kind: str, fresh: Fresh) -> None:
    [wheel] = (fresh.sources.parent / "wheels").glob(f"ebmkit_fresh_{kind}-*.whl")
    record = f"ebmkit_fresh_{kind}-0.1.0.dist-info"
    package = f"ebmkit_fresh_{kind}"
    assert set(zipfile.ZipFile(wheel).namelist()) == {
        *(f"{package}/__init__.py", f"{package}/py.typed"),
        *(f"{record}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")),
        f"{record}/licenses/LICENSE",
    }
