"""Every folder of built-in parts is a plugin like anybody else's: put into the package that `ebmkit
new-plugin` writes, built as a wheel of its own, and installed beside a wheel of the kernel alone, it is
found, imported and checked.

That each part keeps its laws is tested elsewhere; here one of each kind is checked of each folder, for
what a folder lacks alone, all its parts lack: a module of another folder, a file, a built-in that
laws or parts took for granted. EBMKIT_EXTRACTED=all checks every part (`tox -e extraction`).
"""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from ebmkit.registry import GROUPS
from ebmkit.scaffold import Scaffold

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py"))
ALL = os.environ.get("EBMKIT_EXTRACTED") == "all"
ALONE = """
import importlib.util, json, sys
from ebmkit.__main__ import run
from ebmkit.registry import registry

folder, others, checked = json.loads(sys.argv[1])
for component in registry().components:
    if component.kind != "recipe":
        registry().load(component)
print(importlib.util.find_spec(folder).origin)
for other in others:
    assert importlib.util.find_spec(other) is None, other
sys.exit(run(["check", *checked]) if checked else 0)
"""


def entry_points(folder: str) -> dict[str, dict[str, str]]:
    """What our distribution offers of a folder, by kind."""
    groups = PYPROJECT["project"]["entry-points"]
    found = {
        kind: {n: t for n, t in groups[group].items() if t.split(":")[0].split(".")[0] == folder}
        for kind, group in GROUPS.items()
    }
    return {kind: names for kind, names in found.items() if names}


def distribution(folder: str) -> str:
    return folder.replace("_", "-")


def extracted(folder: str, place: Path) -> Path:
    """The package that `new-plugin` writes, with the folder in place of the part that it comes with."""
    offered = entry_points(folder)
    # There is no template of recipes; all have their metadata from one.
    kind = next((kind for kind in offered if kind != "recipe"), "model")
    files = Scaffold(distribution(folder), kind, author="Ann").files()
    metadata = tomllib.loads(files["pyproject.toml"])
    project = metadata["project"]
    project["entry-points"] = {GROUPS[kind]: names for kind, names in offered.items()}
    kernel = [text for text in project["dependencies"] if text.startswith("ebmkit-core")]
    project["dependencies"] = [*kernel, *PYPROJECT["project"]["dependencies"]]
    files["pyproject.toml"] = tomli_w.dumps(metadata)
    for name, text in files.items():
        if not name.startswith(("src/", "tests/")):
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "plugins" / folder, place / "src" / folder, ignore=ignored)
    return place


def kernel_alone(checkout: Path) -> Path:
    """Our distribution without a part."""
    metadata = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    for group in GROUPS.values():
        del metadata["project"]["entry-points"][group]
    metadata["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] = ["ebmkit"]
    (checkout / "pyproject.toml").write_text(tomli_w.dumps(metadata), encoding="utf-8")
    shutil.rmtree(checkout / "plugins")
    return checkout


@pytest.fixture(scope="module")
def wheels(workshop: Callable[[str], Any]) -> tuple[Any, dict[str, Path]]:
    """An environment with the kernel alone in it, and the wheel of each folder."""
    made = workshop("extracted")
    kernel = kernel_alone(made.checkout())
    packages = [extracted(folder, made.work / "sources" / folder) for folder in FOLDERS]
    built = made.wheels(kernel, *packages)
    assert set(built) == {"ebmkit_core", *FOLDERS}
    environment = made.environment()
    environment.install(built["ebmkit_core"])
    return environment, built


def listed(environment: Any) -> set[tuple[str, ...]]:
    """Kind, name, distribution and status of each part that is listed."""
    rows = [line.split("\t") for line in environment.ebmkit(["list-plugins"]).splitlines()]
    return {(kind, name, owner, status) for kind, name, owner, _, status, *_ in rows[1:]}


def offered(*folders: str) -> set[tuple[str, ...]]:
    return {
        (kind, name, distribution(folder), "ok")
        for folder in folders
        for kind, names in entry_points(folder).items()
        for name in names
    }


def test_the_kernel_alone_offers_nothing(wheels: Any) -> None:
    environment, _ = wheels
    assert listed(environment) == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_a_plugin_of_its_own(folder: str, wheels: Any) -> None:
    environment, built = wheels
    parts = entry_points(folder)
    assert parts
    environment.install(built[folder])
    try:
        assert listed(environment) == offered(folder)
        others = [other for other in FOLDERS if other != folder]
        name = distribution(folder)
        checked = [f"{name}:{min(names)}" for kind, names in parts.items() if kind != "recipe"]
        if checked and ALL:
            checked = [name]
        words = json.dumps([folder, others, checked])
        origin, *said = environment.run("-c", ALONE, words, timeout=3600).splitlines()
        assert Path(origin).is_relative_to(environment.work / "env")
        assert not checked or said[-1].endswith("all laws kept"), said
    finally:
        environment.uninstall(distribution(folder))


def test_together_they_are_what_our_wheel_offers(wheels: Any) -> None:
    """And train: recipes name parts of most folders."""
    environment, built = wheels
    environment.install(*(built[folder] for folder in FOLDERS))
    try:
        assert listed(environment) == offered(*FOLDERS)
        quick = ("training.steps=3", "evaluation.n_samples=50", "evaluation.chain_steps=2")
        words = [word for setting in quick for word in ("--set", setting)]
        recipes = set(entry_points("ebmkit_recipes")["recipe"])
        environment.ebmkit(
            # The data of `wine` are a file that its user brings.
            *(["validate", recipe] for recipe in sorted(recipes - {"wine"})),
            ["train", "two-moons", "--device", "cpu", "--out", "run", *words],
        )
        spec = tomllib.loads((environment.work / "run" / "spec.toml").read_text(encoding="utf-8"))
        assert spec["parts"]["sampler:mala"].startswith("ebmkit-langevin==0.1.0")
    finally:
        environment.uninstall(*map(distribution, FOLDERS))
