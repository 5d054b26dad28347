"""The page "Write a sampler in ten minutes", followed to the letter in a fresh environment: its
commands, its files, and what it says that they say. Packages are taken from the present environment
and not fetched."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ten-minutes.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
OTHERS = {"A loss": "loss", "A data set": "dataset", "A hook": "hook"}
QUICK = ("training.steps=3", "evaluation.n_samples=50", "evaluation.chain_steps=2")
MOST_COMMANDS, MOST_LINES = 6, 40


def files(text: str) -> dict[str, str]:
    """The files whose text stands on the page, by their names."""
    return dict(re.findall(r"^`([\w./-]+)`\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def commands(text: str) -> list[str]:
    return re.findall(r"^\$ (.+)$", text, re.MULTILINE)


def own_lines(source: str) -> int:
    """Lines of code: neither empty, nor imports, nor docstrings."""
    tree = ast.parse(source)
    others: set[int] = set()
    for node in ast.walk(tree):
        said = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if said or isinstance(node, ast.Import | ast.ImportFrom):
            others |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(bool(line.strip()) and number not in others for number, line in lines)


class Desk(NamedTuple):
    """A folder to work in, and an environment."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """A line as typed. A run is kept short, and what is not at hand is not fetched."""
        words = shlex.split(line)
        if words[:2] == ["ebmkit", "train"]:
            words += [word for setting in QUICK for word in ("--set", setting)]
        if words[:2] == ["pip", "install"]:
            words += ["-q", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
        if words[0] == "pip":
            words[:1] = ["python", "-m", "pip"]
        found = shutil.which(words[0], path=self.environment["PATH"])
        assert found, words[0]
        return subprocess.run(
            [found, *words[1:]],
            cwd=self.folder,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def good(self, line: str) -> str:
        done = self.run(line)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def write(self, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            path = self.folder / name
            # Of the package that new-plugin wrote.
            assert path.is_file(), name
            path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def desk(workshop: Callable[[str], Any]) -> Desk:
    made = workshop("desk")
    wheels, environment = made.wheels(made.checkout()), made.environment()
    environment.install(wheels["ebmkit_core"])
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL", "EBMKIT"))
    }
    path = os.pathsep.join([str(environment.python.parent), variables.get("PATH", "")])
    folder = made.work / "mine"
    folder.mkdir()
    return Desk(folder, {**variables, "PATH": path, "OMP_NUM_THREADS": "1"})


def test_six_commands_and_forty_lines() -> None:
    steps = "".join(text for title, text in SECTIONS.items() if title[0].isdigit())
    assert len(commands(steps)) <= MOST_COMMANDS - 1, "and the one that installs ebmkit"
    for name, text in files(PAGE).items():
        if name.endswith(".py"):
            assert own_lines(text) <= MOST_LINES, name


def test_the_sampler(desk: Desk) -> None:
    """Each step's commands in turn, once its files are written."""
    said: dict[str, str] = {}
    for title, text in SECTIONS.items():
        if title[0].isdigit():
            if title.startswith("5"):
                # What the page shows is what the package has.
                for name, told in files(text).items():
                    assert (desk.folder / name).read_text(encoding="utf-8") == told
            else:
                desk.write(files(text))
            for line in commands(text):
                said[line] = desk.good(line)
    listed = next(text for line, text in said.items() if "list-plugins" in line)
    assert re.search(r"^sampler\tbarker\tebmkit-barker\t0\.1\.0\tok\t", listed, re.MULTILINE)
    checked = next(text for line, text in said.items() if "check" in line)
    shown, broken = re.findall(r"```text\n(.*?)```", SECTIONS["4. Is it correct?"], re.DOTALL)
    assert without_numbers(checked) == without_numbers(shown)
    run = desk.folder / "runs" / "barker"
    assert json.loads((run / "status.json").read_text(encoding="utf-8"))["step"] == 3
    assert (run / "evaluation.json").is_file()
    # The mistake that the page speaks of.
    [(name, text)] = files(SECTIONS["2. Your idea"]).items()
    forgotten = re.search(r"take `(.+?)` out", SECTIONS["4. Is it correct?"])
    assert forgotten and forgotten[1] in text
    desk.write({name: text.replace(" " + forgotten[1], "")})
    try:
        done = desk.run("ebmkit check ebmkit-barker")
    finally:
        desk.write({name: text})
    assert done.returncode == 1
    assert without_numbers(broken) in without_numbers(done.stdout)


@pytest.mark.parametrize("title", OTHERS)
def test_the_other_kinds(title: str, desk: Desk) -> None:
    text = SECTIONS[title]
    new = re.search(r"`(ebmkit new-plugin [\w-]+ --kind (\w+))`", text)
    assert new and new[2] == OTHERS[title]
    desk.good(new[1])
    name = new[1].split()[2]
    desk.write(files(text))
    desk.good(f'pip install -e "./{name}[test]"')
    assert f"\t{name}\t0.1.0\tok\t" in desk.good(f"ebmkit list-plugins --kind {new[2]}")
    checked = desk.good(f"ebmkit check {name}")
    assert checked.splitlines()[-1].endswith("all laws kept")
    desk.good(f"ebmkit train {name}/pipeline.toml --out runs/{name}")
    assert (desk.folder / "runs" / name / "evaluation.json").is_file()


def without_numbers(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?(e-\d+)?", "0", text)
