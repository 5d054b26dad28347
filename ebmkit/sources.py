"""What a component's source says of it, read without importing it: summary, docstring, fields."""

from __future__ import annotations

import functools
import re
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ast

    from ebmkit.registry import Component

    Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


_HEADER = re.compile(r'^class (\w+)\b[^\n]*:\n\s+[rR]?"""[ ]*([^\n"]+)', re.MULTILINE)


class Field(NamedTuple):
    """One keyword parameter of a component, as its source states it."""

    name: str
    type: str
    default: str | None
    """None where the field is required."""
    bounds: str = ""
    doc: str = ""
    keyword_only: bool = False


class Source(NamedTuple):
    """A component as its source states it."""

    doc: str
    fields: tuple[Field, ...]
    path: Path
    line: int


_DEEPEST = 30
"""Packages in one another."""


@functools.cache
def find_module(name: str) -> ModuleSpec | None:
    """A module's spec. Unlike importlib.util.find_spec this never imports the parent package."""
    parent, _, last = name.rpartition(".")
    if not last or name.count(".") > _DEEPEST:
        return None
    if parent:
        above = find_module(parent)
        if above is None or above.submodule_search_locations is None:
            return None
        return PathFinder.find_spec(name, list(above.submodule_search_locations))
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = find(name, None) if find else None
        if spec is not None:
            return spec
    return None


def recipe_path(component: Component) -> Path | None:
    """The file of a recipe: ``package:stem`` stands for ``stem.toml`` inside ``package``, and for
    nothing outside of it."""
    if not re.fullmatch(r"\w[\w.-]*", component.attribute):
        return None
    spec = find_module(component.module)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / f"{component.attribute}.toml"
        if path.is_file():
            return path
    return None


def missing(component: Component) -> str:
    """Why a component's source cannot be there, as far as that can be told without importing."""
    if component.kind == "recipe":
        return "" if recipe_path(component) else f"there is no file for {component.target}"
    if find_module(component.module) is None:
        return f"there is no module {component.module or repr(component.target)}"
    return ""


def fault(component: Component) -> str:
    """Why a component's source is no Python; empty where it is, or where there is none to read."""
    import ast

    spec = find_module(component.module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return ""
    try:
        ast.parse(_text(spec.origin), spec.origin)
    except (SyntaxError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def summary(component: Component) -> str:
    """The first line of a component's docstring, or of a recipe's leading comment."""
    if component.kind == "recipe":
        path = recipe_path(component)
        first = path.read_text(encoding="utf-8").partition("\n")[0] if path else ""
        return first.lstrip("# ").strip() if first.startswith("#") else ""
    spec = find_module(component.module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return ""
    # Parsing every module would double the time of a listing; the usual layout needs no parser.
    for name, first_line in _HEADER.findall(_text(spec.origin)):
        if name == component.attribute:
            return str(first_line).strip()
    source = read(component)
    return source.doc.strip().partition("\n")[0] if source else ""


def read(component: Component) -> Source | None:
    """Docstring and fields of a component, or None where its source does not tell."""
    found = _definition(component.module, component.attribute)
    if found is None:
        return None
    import ast

    node, path, module = found
    fields: dict[str, Field] = {}
    _collect(node, module, fields)
    ordered = sorted(fields.values(), key=lambda f: f.keyword_only)
    return Source(ast.get_docstring(node) or "", tuple(ordered), path, node.lineno)


@functools.cache
def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


@functools.cache
def _tree(path: str) -> ast.Module:
    import ast

    try:
        return ast.parse(_text(path))
    except (SyntaxError, ValueError):  # a null byte is the latter before Python 3.11.4
        return ast.parse("")


def _definition(module: str, name: str, hops: int = 4) -> tuple[Definition, Path, str] | None:
    """The class or function called ``name``, following ``from … import name`` to where it stands."""
    import ast

    spec = find_module(module) if hops else None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    for node in _tree(spec.origin).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node, Path(spec.origin), module
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    package = module if spec.submodule_search_locations else spec.parent or ""
                    base = package.rsplit(".", node.level - 1)[0] if node.level else ""
                    target = ".".join(part for part in (base, node.module) if part)
                    return _definition(target, alias.name, hops - 1)
    return None


def _collect(node: Definition, module: str, fields: dict[str, Field]) -> None:
    import ast

    if not isinstance(node, ast.ClassDef):
        _from_arguments(node, fields, skip=0)
        return
    for base in node.bases:
        if isinstance(base, ast.Name) and (above := _definition(module, base.id)):
            _collect(above[0], above[2], fields)
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            fields.clear()
            _from_arguments(statement, fields, skip=1)
            return
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            _from_attribute(statement.target.id, statement, fields)


def _from_arguments(
    node: ast.FunctionDef | ast.AsyncFunctionDef, fields: dict[str, Field], skip: int
) -> None:
    import ast

    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    padding = [None] * (len(positional) - len(arguments.defaults))
    pairs = [*zip(positional, [*padding, *arguments.defaults], strict=True)][skip:]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    for argument, default in pairs:
        kind = ast.unparse(argument.annotation) if argument.annotation else ""
        value = None if default is None else ast.unparse(default)
        fields[argument.arg] = Field(argument.arg, kind, value)


def _from_attribute(name: str, node: ast.AnnAssign, fields: dict[str, Field]) -> None:
    import ast

    kind = ast.unparse(node.annotation)
    if kind.startswith("ClassVar"):
        return
    value = node.value
    if not (isinstance(value, ast.Call) and ast.unparse(value.func) in ("field", "attrs.field")):
        fields[name] = Field(name, kind, None if value is None else ast.unparse(value))
        return
    said = {keyword.arg: keyword.value for keyword in value.keywords}
    if "init" in said and ast.unparse(said["init"]) == "False":
        return
    default = said.get("default")
    text = ast.unparse(default) if default is not None else None
    if "factory" in said:
        factory = said["factory"]
        called = factory.body if isinstance(factory, ast.Lambda) else None
        text = ast.unparse(called) if called else f"{ast.unparse(factory)}()"
    if default_call := re.fullmatch(r"(?:attrs\.)?Factory\((?:lambda: )?(.*)\)", text or ""):
        text = default_call[1]
    bounds = _bounds(said["validator"]) if "validator" in said else ""
    keyword_only = "kw_only" in said and ast.unparse(said["kw_only"]) == "True"
    fields.pop(name, None)  # a field that is stated again stands where it is stated last
    fields[name] = Field(name, kind, text, bounds, _doc(said.get("metadata")), keyword_only)


def _doc(node: ast.expr | None) -> str:
    import ast

    if isinstance(node, ast.Call) and node.args:
        try:
            return str(ast.literal_eval(node.args[0]))
        except ValueError:
            return ""
    return ""


_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def _bounds(node: ast.expr) -> str:
    """A validator in words: ``scheduled(gt(0))`` -> ``> 0``."""
    import ast

    if isinstance(node, ast.List | ast.Tuple):
        return ", ".join(filter(None, map(_bounds, node.elts)))
    if not isinstance(node, ast.Call):
        return ast.unparse(node).rpartition(".")[2].replace("_", " ")
    name = ast.unparse(node.func).rpartition(".")[2]
    words = [ast.unparse(argument) for argument in node.args]
    if name in _SIGNS and words:
        return f"{_SIGNS[name]} {words[0]}"
    if name == "in_" and words:
        return f"one of {words[0]}"
    if name in ("min_len", "max_len") and words:
        return f"at {'least' if name == 'min_len' else 'most'} {words[0]} of them"
    if name in ("optional", "scheduled", "and_", "or_"):
        joiner = " or " if name == "or_" else ", "
        return joiner.join(filter(None, map(_bounds, node.args)))
    if name in ("deep_iterable", "member_validator"):
        inner = [*node.args[:1], *(k.value for k in node.keywords if k.arg == "member_validator")]
        return f"each {_bounds(inner[0])}" if inner else ""
    if name == "instance_of":
        return ""
    return f"{name}({', '.join(words)})"
