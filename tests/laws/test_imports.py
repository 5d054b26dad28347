"""Who may import whom: the kernel no plugin, a plugin the kernel's public face and no other plugin."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import ebmkit

ROOT = Path(__file__).parents[2]
KERNEL = sorted((ROOT / "ebmkit").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
PUBLIC = {*ebmkit.__all__, "__version__"}
ERRORS = "ebmkit.errors"


def imported(path: Path) -> Iterator[tuple[str, str | None]]:
    """Each (module, name) that a file imports, wherever in it; name None for a whole module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide what is imported"
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            if isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), None


def top(module: str) -> str:
    return module.partition(".")[0]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_walk() -> None:
    assert len(KERNEL) > 20
    assert len({relative(path).split("/")[1] for path in PLUGINS}) >= 7


@pytest.mark.parametrize("path", KERNEL, ids=relative)
def test_the_kernel_imports_no_plugin(path: Path) -> None:
    assert not [module for module, _ in imported(path) if top(module).startswith("ebmkit_")]


@pytest.mark.parametrize("path", PLUGINS, ids=relative)
def test_a_plugin_imports_no_other_plugin_and_nothing_private(path: Path) -> None:
    own = path.relative_to(ROOT / "plugins").parts[0]
    for module, name in imported(path):
        if top(module).startswith("ebmkit_"):
            assert top(module) == own, f"{module} is another plugin"
        elif module == "ebmkit":
            assert name is None or name in PUBLIC, f"ebmkit.{name} is no public name"
        elif top(module) == "ebmkit":
            assert module == ERRORS, f"{module} is a room of the kernel's own"


@pytest.mark.parametrize("path", PLUGINS, ids=relative)
def test_attributes_that_a_plugin_takes_from_the_kernel_are_public(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    taken = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "ebmkit"
    }
    assert taken <= PUBLIC


@pytest.mark.parametrize("path", [*KERNEL, *PLUGINS], ids=relative)
def test_no_file_is_longer_than_a_person_reads(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_every_public_name_is_there() -> None:
    for name in ebmkit.__all__:
        assert getattr(ebmkit, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        ebmkit.nothing  # noqa: B018


def test_every_package_under_plugins_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    there = {relative(path.parent) for path in (ROOT / "plugins").glob("*/__init__.py")}
    assert set(packed) == {"ebmkit", *there}


def test_the_kernel_names_no_part_of_its_own() -> None:
    """Nothing in the kernel treats a built-in otherwise: none of their distinctive names is in it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    modules = {
        top(target)
        for name, group in project["project"]["entry-points"].items()
        for target in group.values()
        if name.startswith("ebmkit.")
    }
    for path in KERNEL:
        text = path.read_text(encoding="utf-8")
        assert not [module for module in modules if module in text], path
