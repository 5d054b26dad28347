"""Wheels built from this checkout, and fresh environments to install them in. torch and the other
requirements are borrowed from the present environment, so that nothing is fetched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
OFFLINE = ("-q", "--no-deps", "--no-index")
IN_TURN = """
import json, sys
from ebmkit.__main__ import run

for words in json.loads(sys.argv[1]):
    if code := run(words):
        sys.exit(code)
"""


def run(*words: str | Path, cwd: Path, timeout: float = 300) -> str:
    """What a command says, started without this process's paths; it has to succeed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "EBMKIT"))}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Environment(NamedTuple):
    """A fresh environment, and a folder to work in."""

    python: Path
    work: Path

    def install(self, *wheels: Path) -> None:
        run(*PIP, "--python", self.python, "install", *OFFLINE, *wheels, cwd=self.work)

    def uninstall(self, *names: str) -> None:
        run(*PIP, "--python", self.python, "uninstall", "-q", "-y", *names, cwd=self.work)

    def run(self, *words: str | Path, timeout: float = 300) -> str:
        """What Python says, run in the environment; it has to succeed."""
        return run(self.python, *words, cwd=self.work, timeout=timeout)

    def ebmkit(self, *commands: Sequence[str | Path], timeout: float = 300) -> str:
        """What our commands say, one after another in one process: most of a short one is the import
        of torch."""
        words = json.dumps([[str(word) for word in command] for command in commands])
        return self.run("-c", IN_TURN, words, timeout=timeout)

    def types(self, *files: str | Path) -> str:
        """What mypy says of files by the types of what is installed here; it has to find no fault."""
        pytest.importorskip("mypy")
        mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", self.python)
        cache = ("--cache-dir", self.work / "mypy")
        return run(*mypy, *cache, *files, cwd=self.work, timeout=900)


class Workshop(NamedTuple):
    """Where wheels and environments are made."""

    work: Path

    def checkout(self) -> Path:
        """A copy of what our wheel is built from."""
        place = self.work / "checkout"
        ignored = shutil.ignore_patterns(".*", "__pycache__", "tests", "docs", "runs", "build")
        shutil.copytree(ROOT, place, ignore=ignored)
        return place

    def wheels(self, *packages: Path) -> dict[str, Path]:
        """The wheel of each package, by what a distribution's name is in the names of files."""
        place = self.work / "wheels"
        run(
            *(*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", place, *packages),
            cwd=self.work,
        )
        return {path.name.partition("-")[0]: path for path in place.glob("*.whl")}

    def environment(self) -> Environment:
        """An environment that sees the packages of the present one, but nothing of this checkout."""
        place = self.work / "env"
        venv.create(place, with_pip=False)
        made = Environment(
            place / ("Scripts/python.exe" if os.name == "nt" else "bin/python"), self.work
        )
        own = made.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        # A line of a .pth file comes after the environment's own packages, and the .pth files of the
        # folder that it names are not read.
        Path(own, "borrowed.pth").write_text(f"{self._borrowed()}\n", encoding="utf-8")
        return made

    def _borrowed(self) -> Path:
        """A folder of what is installed in the present environment, without what is ours: where it is
        no checkout that was made editable, its modules would be found there."""
        place = self.work / "borrowed"
        place.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if not path.name.startswith(("ebmkit", "_ebmkit", "__pycache__")):
                (place / path.name).symlink_to(path)
        return place


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Workshop]:
    """Makes a workshop in a folder of a given name."""
    for needed in ("hatchling", "pip"):
        pytest.importorskip(needed)
    return lambda name: Workshop(tmp_path_factory.mktemp(name))


@pytest.fixture(scope="session")
def ours(workshop: Callable[[str], Workshop]) -> tuple[Workshop, Environment]:
    """A workshop, and an environment with our wheel in it."""
    made = workshop("ours")
    wheels, environment = made.wheels(made.checkout()), made.environment()
    environment.install(wheels["ebmkit_core"])
    where = environment.run("-c", "import ebmkit; print(ebmkit.__file__)")
    assert Path(where.strip()).is_relative_to(made.work / "env")
    return made, environment
